//! The settings of a NATS source, the parser of NATS URLs, the credentials for the servers, and the certificates for TLS.
//!
//! Files are read again for every connection, so a replaced file takes effect with the next
//! connection.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nats::Options;
use nkeys::KeyPair;
use rustls::ClientConfig;

use super::error::NatsError;
use crate::base::{tls_roots, without_mark};
use crate::sources::LinkTimes;

/// The port of a NATS URL without a port.
const DEFAULT_PORT: u16 = 4222;

/// The name in the server's connection list.
pub(super) const CLIENT_NAME: &str = "weirgate";

/// The limit on servers remembered beside the servers of the URL.
const LEARNED_MAX: usize = 16;

/// The settings of a [`super::NatsSource`]. Without `Debug`, because of the passwords.
#[derive(Clone)]
pub struct NatsSettings {
    /// NATS URLs, separated by commas: `nats://[user:password@|token@]host[:port]` or `tls://…`.
    /// The servers are tried in turn, then other servers of the cluster, as announced by a server.
    /// Percent signs in user, password and token are decoded.
    pub urls: String,
    /// The place of `urls` for people, such as `--nats-url`, for errors.
    pub urls_from: String,
    /// The credentials for servers without user or token in the URL.
    pub credentials: Credentials,
    /// Certificates, for `tls://` and for servers requiring TLS.
    pub tls: Tls,
    /// Streams to create if missing, never altered if present. Other streams are never created:
    /// their subjects wait for them.
    pub streams: Vec<StreamSpec>,
    /// As long as none of `streams` exists, make none, and leave their subjects out. Once one
    /// exists, this has no effect until the end of the process.
    pub streams_optional: bool,
    /// The subjects to relay, each through a consumer.
    pub subscriptions: Vec<SubscriptionSpec>,
    /// Use ephemeral consumers only, so that several processes each get every message.
    pub ephemeral: bool,
    /// The times of the link to each server.
    pub times: LinkTimes,
    /// After so many milliseconds without an answer of JetStream about a consumer, while the link
    /// is well, the subject is read from another consumer.
    pub consumer_silence_max_ms: u64,
    /// A backlog of more messages than this is quiet: the cache is updated, without a broadcast for
    /// each message (levels contract: 4).
    pub backlog_quiet_min: u64,
    /// The search for the last good message of a subject when the newest message is bad.
    pub look_back: LookBack,
}

/// Whether a message of a subject (the first text) with a payload makes a state.
pub type Judge = dyn Fn(&str, &[u8]) -> bool + Send + Sync;

/// The limit and the test in the search for the last good message of a subject.
#[derive(Clone)]
pub struct LookBack {
    /// The limit on messages fetched of a subject; 0: none.
    pub messages_max: u64,
    /// Whether a message is good.
    pub is_good: Arc<Judge>,
}

/// A stream to create if missing: file storage, limits retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// The stream's name.
    pub name: String,
    /// The subjects to store.
    pub subjects: Vec<String>,
    /// The maximum age of a message, seconds.
    pub max_age_s: u64,
}

/// A subject to relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// The stream holding the subject; `None`: the server is asked for the stream.
    pub stream: Option<String>,
    /// The subject, without wildcards: its last message warms the cache.
    pub subject: String,
    /// The name of the durable consumer.
    pub durable: String,
}

/// The address of a server, and the log-in there. Without `Debug`, because of the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// One of the addresses of the host: the server to connect to.
    pub(super) address: Option<SocketAddr>,
    /// The log-in in the URL, or none.
    pub(super) auth: Credentials,
    /// The name required in the server's certificate: the host of a URL of the settings.
    pub(super) tls_name: String,
}

impl NatsSettings {
    /// Settings for plain subjects: no streams, no consumers, all other values as in the contracts.
    pub fn plain(urls: &str, credentials: Credentials, tls: Tls) -> Self {
        Self {
            urls: urls.to_owned(),
            urls_from: "the URL".to_owned(),
            credentials,
            tls,
            streams: Vec::new(),
            streams_optional: false,
            subscriptions: Vec::new(),
            ephemeral: true,
            times: LinkTimes::default(),
            consumer_silence_max_ms: 30_000,
            backlog_quiet_min: 4,
            look_back: LookBack {
                messages_max: 0,
                is_good: Arc::new(|_, _| true),
            },
        }
    }

    /// The servers of `urls`, parsed separately: a bad URL does not hide a good URL.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Result<Endpoint, NatsError>> {
        let urls: Vec<&str> = split(&self.urls).collect();
        let urls = if urls.is_empty() { vec![""] } else { urls };
        urls.into_iter().map(Endpoint::parse)
    }
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, NatsError> {
        let bad = |reason| NatsError::BadUrl {
            url: redacted(url),
            reason,
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let tls = match &scheme.to_ascii_lowercase()[..] {
            "nats" => false,
            "tls" => true,
            "ws" | "wss" => return Err(bad("NATS over WebSocket is not supported")),
            _ => return Err(bad("the scheme is neither nats nor tls")),
        };
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, rest),
        };
        let place = place.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = host_and_port(place).ok_or_else(|| bad("the port is not a number"))?;
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            address: None,
            auth: user_info.map_or(Credentials::None, Credentials::parse),
            tls_name: host.to_owned(),
        })
    }

    /// Another server of the same cluster: `address` (host and port) is announced by a server. The
    /// log-in is the same as for this endpoint; `tls` says whether TLS is used. With TLS, the
    /// server must show a certificate for the name of this endpoint, not for `address`: servers
    /// announce addresses before TLS, so an attacker on the path can insert the name of a server
    /// with the attacker's certificate.
    pub(super) fn neighbour(&self, address: &str, tls: bool) -> Option<Self> {
        let (host, port) = host_and_port(address).filter(|(host, _)| !host.is_empty())?;
        Some(Self {
            tls,
            host: host.to_owned(),
            port,
            address: None,
            ..self.clone()
        })
    }

    /// The server at each address of the host, in the order of the system.
    ///
    /// # Errors
    /// The name has no address.
    pub(super) fn servers(&self, settings: &NatsSettings) -> Result<Vec<Self>, NatsError> {
        let unreachable = |source| self.unreachable(settings, source);
        let addresses: Vec<SocketAddr> = match self.address {
            Some(address) => vec![address],
            None => (self.host.as_str(), self.port)
                .to_socket_addrs()
                .map_err(unreachable)?
                .collect(),
        };
        if addresses.is_empty() {
            let none = io::Error::new(ErrorKind::NotFound, "the name has no address");
            return Err(unreachable(none));
        }
        let at = |address| Self {
            address: Some(address),
            ..self.clone()
        };
        Ok(addresses.into_iter().map(at).collect())
    }

    /// The error if nobody answers at this address.
    pub(super) fn unreachable(&self, settings: &NatsSettings, source: io::Error) -> NatsError {
        // The host may have several addresses.
        let source = match self.address {
            Some(at) if at.ip().to_string() != self.host => {
                io::Error::new(source.kind(), format!("{}: {source}", at.ip()))
            }
            _ => source,
        };
        NatsError::Unreachable {
            url: self.url(),
            setting: settings.urls_from.clone(),
            source,
        }
    }

    /// The URL without user, password or token.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        let port = self.port;
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{port}", self.host)
        } else {
            format!("{scheme}://{}:{port}", self.host)
        }
    }
}

/// Adds announced servers to `learned`, newest first, [`LEARNED_MAX`] at most. Servers of the URL
/// are tried before these, and are left out.
pub(super) fn learn(learned: &mut Vec<Endpoint>, told: Vec<Endpoint>, configured: &[Endpoint]) {
    let before = std::mem::take(learned);
    for endpoint in told.into_iter().chain(before) {
        let is_known =
            |known: &Endpoint| known.host == endpoint.host && known.port == endpoint.port;
        if learned.len() < LEARNED_MAX
            && !configured.iter().any(is_known)
            && !learned.iter().any(is_known)
        {
            learned.push(endpoint);
        }
    }
}

/// The URLs with every password and token shown as `***`, for banner, logs and `/health`.
///
/// When in doubt, hides: a part without host and port may be half of a password with a comma.
pub fn redacted(urls: &str) -> String {
    let shown: Vec<String> = urls.split(',').map(redacted_one).collect();
    shown.join(",")
}

fn redacted_one(url: &str) -> String {
    // Text before `://` that is not a scheme may be a password.
    let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
    let (scheme, rest) = match url.find("://") {
        Some(at) if is_scheme(&url[..at]) => url.split_at(at + 3),
        Some(_) => return "***".to_owned(),
        None => ("", url),
    };
    match rest.rsplit_once('@') {
        Some((user_info, place)) => match user_info.split_once(':') {
            Some((user, _)) => format!("{scheme}{user}:***@{place}"),
            None => format!("{scheme}***@{place}"),
        },
        None if host_and_port(rest.split(['/', '?', '#']).next().unwrap_or_default()).is_some() => {
            url.to_owned()
        }
        None => format!("{scheme}***"),
    }
}

fn split(urls: &str) -> impl Iterator<Item = &str> {
    urls.split(',').map(str::trim).filter(|url| !url.is_empty())
}

/// Returns `None` if the port is not a number.
fn host_and_port(place: &str) -> Option<(&str, u16)> {
    if let Some(v6) = place.strip_prefix('[') {
        let (host, rest) = v6.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => rest.is_empty().then_some((host, DEFAULT_PORT)),
        };
    }
    match place.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((place, DEFAULT_PORT)),
    }
}

/// The credentials for a server without user or token in its URL. Without `Debug`, because of the
/// passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Connect without credentials.
    #[default]
    None,
    /// User and password.
    UserPassword(String, String),
    /// A token.
    Token(String),
    /// A credentials file as written by `nsc`: the user's JWT and the seed of the user's key.
    CredsFile(PathBuf),
    /// A file with the seed of a user's key (`SU…`).
    NkeyFile(PathBuf),
}

/// The TLS settings beside a `tls://` URL. If either is set, every connection uses TLS, whatever
/// the URL and the server say.
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
            Some((user, password)) => {
                Self::UserPassword(percent_decoded(user), percent_decoded(password))
            }
            None => Self::Token(percent_decoded(user_info)),
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
    /// Returns the log-in `of_url`, or else of `credentials`.
    ///
    /// # Errors
    /// A file cannot be read or has the wrong content. The text names the file and quotes nothing
    /// of its content.
    pub(super) fn read(of_url: &Credentials, credentials: &Credentials) -> io::Result<Self> {
        let credentials = match of_url {
            Credentials::None => credentials,
            of_url => of_url,
        };
        Ok(match credentials {
            Credentials::None => Self::None,
            Credentials::Token(token) => Self::Token(token.clone()),
            Credentials::UserPassword(user, password) => {
                Self::UserPassword(user.clone(), password.clone())
            }
            Credentials::CredsFile(path) => creds(path)?,
            Credentials::NkeyFile(path) => nkey(path)?,
        })
    }

    /// The crate's options with this log-in.
    pub(super) fn options(self) -> Options {
        match self {
            Self::None => Options::new(),
            Self::Token(token) => Options::with_token(&token),
            Self::UserPassword(user, password) => Options::with_user_pass(&user, &password),
            Self::Jwt(jwt, key) => {
                Options::with_jwt(move || Ok(jwt.clone()), move |nonce| sign(&key, nonce))
            }
            Self::Nkey(key) => {
                Options::with_nkey(&key.public_key(), move |nonce| sign(&key, nonce))
            }
        }
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

fn nkey(path: &Path) -> io::Result<Login> {
    let text = read("nkey file", path)?;
    // Tools write the seed alone, or with comments around the seed.
    let seed = text.lines().map(str::trim).find(|l| l.starts_with("SU"));
    let key = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
    let key = key.ok_or_else(|| not(path, "the seed of a user's nkey (SU…)"))?;
    Ok(Login::Nkey(key))
}

/// Reads a file; an error names the kind of the file in `what`, because settings name several
/// files.
fn read(what: &str, path: &Path) -> io::Result<String> {
    let named = |error: io::Error| {
        let text = format!("{what} {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    let text = fs::read(path).and_then(without_mark).map_err(named)?;
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
pub(super) fn tls_config(tls: &Tls) -> io::Result<ClientConfig> {
    let trusting = tls_roots::client_config(tls.ca.as_deref());
    let builder = trusting.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let showing = tls_roots::showing(builder, tls.client.as_ref());
    showing.map_err(|text| io::Error::new(ErrorKind::InvalidData, text))
}

#[cfg(test)]
mod tests;
