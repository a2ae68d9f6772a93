//! What a server says of itself, in its first line and later. Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::settings::{Endpoint, NatsSettings};
use crate::wire::json::{self, JsonError};

/// The longest version to show, characters.
const VERSION_CHARS_MAX: usize = 40;

/// The server's first line, sent before TLS. A field that is missing, `null` or of another type is
/// empty, and says nothing about the other fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Info {
    /// The server's name for itself.
    #[serde(deserialize_with = "or_empty")]
    pub(super) server_id: String,
    #[serde(deserialize_with = "or_empty")]
    version: String,
    /// The name of the cluster, if the server is part of a cluster or may become so.
    #[serde(deserialize_with = "or_empty")]
    cluster: String,
    /// The text to sign for a log-in with a key.
    #[serde(deserialize_with = "or_empty")]
    pub(super) nonce: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) tls_required: bool,
    #[serde(deserialize_with = "or_empty")]
    max_payload: Option<i64>,
    /// The addresses of the other servers of the cluster.
    #[serde(deserialize_with = "or_empty")]
    pub(super) connect_urls: Vec<String>,
    /// Whether the server is about to stop: it is in lame duck mode, and takes no more connections.
    #[serde(deserialize_with = "or_empty")]
    pub(super) ldm: bool,
}

/// Reads a field, or returns the empty value if the field is of another type: `tls_required` must count whatever
/// the other fields are, or a password would leave without TLS.
fn or_empty<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(
    field: D,
) -> Result<T, D::Error> {
    let value = sonic_rs::Value::deserialize(field)?;
    Ok(sonic_rs::from_value(&value).unwrap_or_default())
}

impl Info {
    /// # Errors
    /// The line is not JSON, or nested too deeply.
    pub(super) fn read(line: &str) -> Result<Self, JsonError> {
        let json = line.trim_start_matches("INFO ");
        json::read(json.as_bytes())?.parse()
    }

    /// Whether to speak TLS with this server.
    pub(super) fn is_tls(&self, endpoint: &Endpoint, settings: &NatsSettings) -> bool {
        endpoint.tls || settings.tls.is_demanded() || self.tls_required
    }

    /// The largest message that the server takes, bytes.
    pub(super) fn max_payload(&self) -> usize {
        let bytes = self
            .max_payload
            .and_then(|bytes| usize::try_from(bytes).ok());
        bytes.unwrap_or(usize::MAX)
    }

    /// The version of the server, to show.
    pub(super) fn version(&self) -> String {
        self.version.chars().take(VERSION_CHARS_MAX).collect()
    }

    pub(super) fn is_clustered(&self) -> bool {
        !self.cluster.is_empty()
    }
}
