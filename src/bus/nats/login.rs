//! The beginning of a connection: what the server says of itself in its first line, the credentials for it, and the
//! certificates for TLS.
//!
//! Files are read again for every connection, so a replaced file takes effect with the next connection.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use weirgate_runtime::tls_roots;
use weirgate_wire::base::{Secret, without_bom};
use weirgate_wire::json::{Json, JsonError};

/// The longest version to show, characters.
const VERSION_CHARS_MAX: usize = 40;

/// The server's first line, sent before TLS. A field that is missing, `null` or of another type counts as empty,
/// without effect on the other fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Info {
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
    pub(super) max_payload: Option<i64>,
    /// The addresses of the other servers of the cluster.
    #[serde(deserialize_with = "or_empty")]
    pub(super) connect_urls: Vec<String>,
    /// Whether the server is about to stop: it is in lame duck mode, and takes no more connections.
    #[serde(deserialize_with = "or_empty")]
    pub(super) ldm: bool,
}

/// Reads a field, or returns the empty value if the field is of another type: `tls_required` must count whatever the
/// other fields are, or a password would be sent without TLS.
fn or_empty<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(
    field: D,
) -> Result<T, D::Error> {
    let value = sonic_rs::Value::deserialize(field)?;
    Ok(sonic_rs::from_value(&value).unwrap_or_default())
}

impl Info {
    /// Reads the server's `INFO` line.
    ///
    /// # Errors
    /// The line is not JSON, or nested too deeply.
    pub(super) fn read(line: &str) -> Result<Self, JsonError> {
        let json = line.trim_start_matches("INFO ");
        Json::read(json.as_bytes())?.parse()
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

/// Credentials: of a URL, or for the servers whose URL has none. Without `Debug`, because of the passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Connect without credentials.
    #[default]
    None,
    /// User and password.
    UserPassword(String, Secret),
    /// A token.
    Token(Secret),
    /// A credentials file as written by `nsc`: the user's JWT and the seed of the user's key.
    CredsFile(PathBuf),
    /// A file with the seed of a user's key (`SU…`).
    NkeyFile(PathBuf),
}

/// The TLS settings beside a `tls://` URL. If either is set, every connection uses TLS, whatever the URL and the server
/// say.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// A PEM file with the certificates trusted to sign the server's; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM files: the client certificate with its chain, and the key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Whether TLS is used even where neither URL nor server ask for it.
    pub(super) fn is_demanded(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

impl Credentials {
    /// Reads the part of a URL before the `@`.
    pub(super) fn parse(user_info: &str) -> Self {
        match user_info.split_once(':') {
            Some((user, password)) => Self::UserPassword(
                percent_decoded(user),
                Secret::new(&percent_decoded(password)),
            ),
            None => Self::Token(Secret::new(&percent_decoded(user_info))),
        }
    }

    /// The setting that gives these credentials, without the prefix; named in the error about their file.
    pub(super) fn setting(&self) -> &'static str {
        match self {
            Self::CredsFile(_) => "creds",
            Self::NkeyFile(_) => "nkey",
            Self::None | Self::Token(_) => "token",
            Self::UserPassword(..) => "user",
        }
    }
}

/// Decodes `%41` to `A`; a percent sign without two hex digits stays.
fn percent_decoded(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text);
    decoded.decode_utf8_lossy().into_owned()
}

/// The credentials themselves, as sent to a server. Without `Debug`, because of the secrets.
pub(super) enum Login {
    None,
    Token(String),
    UserPassword(String, String),
    /// A user's JWT and key.
    Jwt(String, KeyPair),
    Nkey(KeyPair),
}

impl Login {
    /// Reads the credentials of the URL or, if the URL has none, `credentials`.
    ///
    /// # Errors
    /// A file cannot be read or has the wrong content. The text names the file and quotes nothing of its content.
    pub(super) fn read(of_url: &Credentials, credentials: &Credentials) -> io::Result<Self> {
        let credentials = match of_url {
            Credentials::None => credentials,
            of_url => of_url,
        };
        Ok(match credentials {
            Credentials::None => Self::None,
            Credentials::Token(token) => Self::Token(token.expose().to_string()),
            Credentials::UserPassword(user, password) => {
                Self::UserPassword(user.clone(), password.expose().to_string())
            }
            Credentials::CredsFile(path) => creds(path)?,
            Credentials::NkeyFile(path) => nkey(path)?,
        })
    }

    /// The fields of a CONNECT line with this log-in, for a server with `nonce` in the INFO line.
    pub(super) fn fields(&self, nonce: &str) -> Vec<(&'static str, String)> {
        let signature = |key| ("sig", URL_SAFE_NO_PAD.encode(sign(key, nonce.as_bytes())));
        match self {
            Self::None => Vec::new(),
            Self::Token(token) => vec![("auth_token", token.clone())],
            Self::UserPassword(user, password) => {
                vec![("user", user.clone()), ("pass", password.clone())]
            }
            Self::Jwt(jwt, key) => vec![("jwt", jwt.clone()), signature(key)],
            Self::Nkey(key) => vec![("nkey", key.public_key()), signature(key)],
        }
    }
}

/// Signs `nonce`. On an error the signature is empty, and the server refuses.
fn sign(key: &KeyPair, nonce: &[u8]) -> Vec<u8> {
    key.sign(nonce).unwrap_or_default()
}

/// Reads a file written by `nsc`: the JWT and the seed, each between lines of dashes.
fn creds(path: &Path) -> io::Result<Login> {
    let text = read("credentials file", path)?;
    let is_mark = |line: &str| line.starts_with("---");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let mut bodies = lines.windows(3).filter_map(|three| match three {
        [begin, body, end] if is_mark(begin) && is_mark(end) && !is_mark(body) => Some(*body),
        _ => None,
    });
    let jwt = bodies.next();
    let key = bodies.next().and_then(|seed| KeyPair::from_seed(seed).ok());
    match (jwt, key) {
        (Some(jwt), Some(key)) => Ok(Login::Jwt(jwt.to_owned(), key)),
        _ => Err(not(path, "a credentials file")),
    }
}

/// Reads the seed of a user's nkey: the first line of the file that begins with `SU`.
fn nkey(path: &Path) -> io::Result<Login> {
    let text = read("nkey file", path)?;
    // Tools write the seed alone, or with comments around the seed.
    let seed = text.lines().map(str::trim).find(|l| l.starts_with("SU"));
    let key = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
    let key = key.ok_or_else(|| not(path, "the seed of a user's nkey (SU…)"))?;
    Ok(Login::Nkey(key))
}

/// Reads a file; an error names the kind of the file in `what`, because settings name several files.
fn read(what: &str, path: &Path) -> io::Result<String> {
    let named = |error: io::Error| {
        let text = format!("{what} {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    let text = fs::read(path).and_then(without_bom).map_err(named)?;
    String::from_utf8(text).map_err(|error| named(io::Error::new(ErrorKind::InvalidData, error)))
}

fn not(path: &Path, what: &str) -> io::Error {
    let text = format!("{} does not hold {what}", path.display());
    io::Error::new(ErrorKind::InvalidData, text)
}

/// The TLS configuration of the client: the trusted certificates, and the client's own.
///
/// # Errors
/// A file cannot be read or has the wrong content; the text names the file.
pub(super) fn tls_config(tls: &Tls) -> io::Result<Arc<ClientConfig>> {
    tls_roots::client(tls.ca.as_deref(), tls.client.as_ref())
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_read_field_by_field() {
        let line = "INFO {\"tls_required\":true,\"nonce\":\"n\",\"connect_urls\":[\"a:1\"]} \r\n";
        let read = |line: &str| Info::read(line).expect("a line");
        let is_wanted = |line: &str| read(line).tls_required;
        assert!(is_wanted(line) && !is_wanted("INFO {}\r\n"));
        assert_eq!(read(line).nonce, "n");
        assert_eq!(read(line).connect_urls, ["a:1"]);
        assert!(read("INFO {}").connect_urls.is_empty());
        for odd in ["null", "7", "\"x\"", "[1]", "{}"] {
            let line = format!(
                "INFO {{\"cluster\":{odd},\"max_payload\":{odd},\"connect_urls\":{odd},\"tls_required\":true}}\r\n"
            );
            assert!(is_wanted(&line), "{line}");
        }
        for wrong in [
            "nonsense".to_owned(),
            format!(r#"{{"x":{}"#, "[".repeat(100_000)),
        ] {
            assert!(Info::read(&format!("INFO {wrong}\r\n")).is_err());
        }
    }

    fn refused(of_url: &Credentials, credentials: &Credentials) -> Option<String> {
        let made = Login::read(of_url, credentials);
        made.err().map(|error| error.to_string())
    }

    #[test]
    fn files_that_are_wrong_are_named_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret.txt");
        fs::write(&path, "s3cret\nSUs3cret\n").expect("written");
        for wrong in [
            Credentials::CredsFile(path.clone()),
            Credentials::NkeyFile(path.clone()),
            Credentials::NkeyFile(folder.path().join("nothing.txt")),
        ] {
            let error = refused(&Credentials::None, &wrong).expect("an error");
            assert!(
                error.contains(".txt") && !error.contains("s3cret"),
                "{error}"
            );
            // The log-in of the URL comes first, and then the file does not matter.
            assert_eq!(refused(&Credentials::Token("t".into()), &wrong), None);
        }
    }

    #[test]
    fn a_seed_may_have_comments_around_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("user.nk");
        let seed = KeyPair::new_user().seed().expect("a seed");
        fs::write(&path, format!("# the gateway\n{seed}\r\n")).expect("written");
        assert_eq!(
            refused(&Credentials::None, &Credentials::NkeyFile(path)),
            None
        );
    }
}
