//! A key set at a URL.

use std::sync::Arc;
use std::time::Duration;

use super::keys::KeyFileError;
use crate::base::tls_roots;
use crate::http::{Fetch, FetchError, FetchLimits};
use crate::settings::{AuthSettings, KeySetUrl};

/// The time for a whole fetch, from the look-up of the name to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A larger answer has other content.
const KEY_SET_BYTES_MAX: usize = 1024 * 1024;

/// A key set at a URL, ready to be fetched.
#[derive(Clone, Debug)]
pub struct KeyUrl {
    url: KeySetUrl,
    fetch: Fetch,
}

impl KeyUrl {
    /// The URL in the settings, if any. Reads the file with the authorities.
    ///
    /// # Errors
    /// There are no authorities to trust.
    pub fn of(settings: &AuthSettings) -> Result<Option<Self>, KeyFileError> {
        let Some(url) = &settings.jwks_url else {
            return Ok(None);
        };
        let tls = match url.wants_tls() {
            true => {
                let config = tls_roots::client_config(settings.jwks_ca_file.as_deref());
                let config = config.map_err(KeyFileError::Authorities)?;
                Some(Arc::new(config.with_no_client_auth()))
            }
            false => None,
        };
        let limits = FetchLimits {
            whole: FETCH_TIMEOUT,
            bytes_max: KEY_SET_BYTES_MAX,
        };
        // The form of the setting allows only URLs that can be fetched.
        let fetch = Fetch::new(url.url(), tls, limits);
        Ok(fetch.map(|fetch| Self {
            url: url.clone(),
            fetch,
        }))
    }

    /// The URL without its query, for people.
    pub fn shown(&self) -> String {
        self.url.to_string()
    }

    /// Fetches the text of the set. Blocks for five seconds at the most.
    ///
    /// # Errors
    /// There is no answer, or the answer is no document of at most 1 MiB.
    pub fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        self.fetch.get()
    }
}
