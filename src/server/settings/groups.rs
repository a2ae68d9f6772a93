//! Groups of settings that several modules use, and values that are made of several settings.

use std::fmt;
use std::iter::zip;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::Checked;
use super::kind::{Form, Refused};
use super::listen::ListenSettings;
use super::processes::Processes;
use super::secret::{SecretText, SecretUrl};
use super::typed::SettingsError;
use crate::listening::tls::{CertificateFiles, OldestVersion, ServerTlsFiles};
use crate::telemetry::logging::LogFormat;
use crate::{flag, group};
use weirgate_core::{DrainPlan, Limits};
use weirgate_wire::auth::ClaimRules;

/// A token is often used in the second in which it was made, and the provider's clock may be ahead of ours.
const BEGIN_LEEWAY_MS: i64 = 5_000;

/// The least time for which messages are kept: on a quiet name, the position that a client has is up to 10 s old.
const HISTORY_US_MIN: u64 = 20_000_000;

/// Bytes of a missed message in a send queue.
pub(super) const RESUME_BYTES: u64 = 16;

group! {
    /// TLS towards clients.
    #[derive(Clone, Debug)]
    pub struct TlsSettings {
        /// PEM files of certificate chains.
        pub certificates: Vec<PathBuf> = Vec::new(),
        /// PEM files of their keys, in the same order.
        pub keys: Vec<PathBuf> = Vec::new(),
        /// The authorities of client certificates.
        pub client_ca: Option<PathBuf> = None,
        /// The oldest version of the protocol.
        pub oldest: OldestVersion = OldestVersion::default(),
        /// Handshakes under way at once.
        pub handshakes_max: u64 = 1024,
        /// The bytes that TLS may hold for all clients together.
        pub held_bytes_max: u64 = 64 * 1024 * 1024,
    }
}

group! {
    /// The log, the stop, and what the process may use.
    #[derive(Clone, Debug)]
    pub struct ProcessSettings {
        /// The format of log lines.
        pub log_format: LogFormat = LogFormat::Text,
        /// The filter of log lines.
        pub log_filter: String = "info".to_owned(),
        /// A file with the filter.
        pub log_filter_file: Option<PathBuf> = None,
        /// The phases of a stop.
        pub drain: DrainPlan = DrainPlan::default(),
        /// The time limit of the last phase of a stop.
        pub stop_timeout_us: u64 = 5_000_000,
        /// How long the loop and the bus thread poll after work before they sleep.
        pub spin_us: u64 = 0,
        /// The bytes that the limits over all clients share. 0: each limit has its own default.
        pub memory_max: u64 = 0,
        /// A file with refused users and tokens.
        pub revoked_file: Option<PathBuf> = None,
        /// How many processes serve the clients.
        pub processes: Processes = Processes::Alone,
        /// The CPU of the loop, then the CPU of the bus thread. Empty: any CPU.
        pub cpus: Vec<usize> = Vec::new(),
    }
}

group! {
    /// A bus of any kind.
    #[derive(Clone, Debug)]
    pub struct BusSettings {
        /// How long the bus may be away while `/ready` stays 200, milliseconds.
        pub ready_grace_ms: u64 = 30_000,
        /// How long the bus may be away before the process ends, seconds. `None`: the process does not end.
        pub away_exit_s: Option<u64> = None,
        /// Bytes of messages between the bus and the loop.
        pub queue_bytes_max: usize = 64 * 1024 * 1024,
    }
}

group! {
    /// The stream that is read in place of pub/sub, and the channel of the marks.
    #[derive(Clone, Debug)]
    pub struct StreamSettings {
        /// The stream; `None` for pub/sub.
        pub name: Option<String> = None,
        /// The Redis channel on which each instance publishes a mark every second.
        pub marks_channel: String = "weirgate:mark".to_owned(),
    }
}

group! {
    /// The access to NATS.
    #[derive(Clone, Debug)]
    pub struct NatsAccess {
        /// The servers.
        pub urls: SecretUrl = SecretUrl::new("nats://nats:4222"),
        /// The user, for servers without a login in their URL.
        pub user: Option<String> = None,
        /// The password of the user.
        pub password: Option<SecretText> = None,
        /// The token, for servers without a login in their URL.
        pub token: Option<SecretText> = None,
        /// The credentials file.
        pub creds: Option<PathBuf> = None,
        /// The file with the seed of an nkey.
        pub nkey: Option<PathBuf> = None,
        /// The authorities to trust.
        pub ca: Option<PathBuf> = None,
        /// The client certificate.
        pub cert: Option<PathBuf> = None,
        /// The key of the client certificate.
        pub key: Option<PathBuf> = None,
        /// Whether the consumers are ephemeral.
        pub ephemeral: bool = false,
    }
}

group! {
    /// The access to Redis.
    #[derive(Clone, Debug)]
    pub struct RedisAccess {
        /// The server. With sentinels, only its user, password, database and TLS are used. May be empty.
        pub url: SecretUrl = SecretUrl::new(""),
        /// The host, if there is no URL. `None`: the URL is required.
        pub host: Option<String> = None,
        /// The port without a URL.
        pub port: u16 = 6379,
        /// The sentinels; may be empty.
        pub sentinels: SecretUrl = SecretUrl::new(""),
        /// The name under which sentinels know the master.
        pub master_name: String = String::new(),
        /// Certificates to trust in place of the system's.
        pub ca_file: Option<PathBuf> = None,
        /// The client's own certificate.
        pub certificate: Option<PathBuf> = None,
        /// The key of the client's own certificate.
        pub key: Option<PathBuf> = None,
        /// The name that the server's certificate must have.
        pub tls_name: Option<String> = None,
    }
}

/// `weirgate tail`.
#[derive(Clone, Debug, Default)]
pub struct TailSettings {
    /// The token for the gateway.
    pub token: Option<SecretText>,
}

/// `weirgate top`.
#[derive(Clone, Debug, Default)]
pub struct TopSettings {
    /// The header for a proxy with a login.
    pub authorization: Option<SecretText>,
}

impl Checked {
    /// The stream that is read in place of pub/sub.
    pub fn stream(&self) -> Option<String> {
        self.get::<StreamSettings>().name
    }

    /// The errors in the settings of the history: messages are kept for a shorter time than the position of a quiet
    /// name may be old, or may take more memory than half of `--frame-bytes-max`.
    pub(super) fn history_errors(&self) -> Vec<SettingsError> {
        let limits = self.get::<Limits>();
        let history = limits.history;
        let mut errors = Vec::new();
        if history.keep_us == 0 {
            if self.stream().is_some() {
                let refused = Refused::new("0", "at least 20000, with --stream");
                errors.push(self.refused(flag!("history-ms"), &refused));
            }
            return errors;
        }
        if history.keep_us < HISTORY_US_MIN {
            let shown = (history.keep_us / 1000).to_string();
            let refused = Refused::new(&shown, "0, or at least 20000");
            errors.push(self.refused(flag!("history-ms"), &refused));
        }
        if history.bytes_max as u64 > limits.frame_bytes_max / 2 {
            let allowed = "at most half of --frame-bytes-max";
            let refused = Refused::new(&history.bytes_max.to_string(), allowed);
            errors.push(self.refused(flag!("history-bytes-max"), &refused));
        }
        errors
    }

    /// The files of TLS towards clients; `None` without `--tls-port`.
    pub(crate) fn server_tls(&self) -> Option<ServerTlsFiles> {
        self.get::<ListenSettings>().tls_port?;
        let tls = self.get::<TlsSettings>();
        let pairs = zip(tls.certificates, tls.keys);
        Some(ServerTlsFiles {
            certificates: pairs
                .map(|(chain, key)| CertificateFiles { chain, key })
                .collect(),
            client_ca: tls.client_ca,
            oldest: tls.oldest,
        })
    }

    /// The errors in the settings of TLS and ports: not as many keys as certificates, or no address to listen on.
    pub(super) fn tls_errors(&self) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        let tls = self.get::<TlsSettings>();
        let [certificates, keys] = [&tls.certificates, &tls.keys].map(Vec::len);
        if certificates != keys && keys > 0 {
            let allowed = format!("as many files as --tls-cert, {certificates}");
            errors.push(self.refused_as_it_is(flag!("tls-key"), allowed));
        }
        let listen = self.get::<ListenSettings>();
        if listen.addrs().is_empty() && listen.tls_port.is_none() {
            let allowed = "a port, unless --tls-port or a unix socket in --listen is set";
            errors.push(self.refused(flag!("port"), &Refused::new("off", allowed)));
        }
        errors
    }
}

group! {
    /// Keys, and the rules for claims.
    #[derive(Clone, Debug, PartialEq)]
    pub struct AuthSettings {
        /// Whether clients without a valid token are refused.
        pub required: bool = false,
        /// A shared key that clients send unchanged.
        pub api_key: Option<SecretText> = None,
        /// The secret for HS256.
        pub jwt_secret: Option<SecretText> = None,
        /// The secret before, whose tokens are valid too.
        pub jwt_secret_before: Option<SecretText> = None,
        /// PEM files.
        pub public_key_files: Vec<PathBuf> = Vec::new(),
        /// A JSON Web Key Set.
        pub jwks_file: Option<PathBuf> = None,
        /// The address of a JSON Web Key Set.
        pub jwks_url: Option<KeySetUrl> = None,
        /// The authorities to trust at that address, in place of the system's.
        pub jwks_ca_file: Option<PathBuf> = None,
        /// The rules for claims, and the names of the claims.
        pub rules: ClaimRules = ClaimRules {
            begin_leeway_ms: BEGIN_LEEWAY_MS,
            ..ClaimRules::default()
        },
        /// The name of the cookie with the token. Empty: cookies are ignored.
        pub token_cookie: String = String::new(),
    }
}

impl Checked {
    /// The keys and rules for tokens.
    pub fn auth(&self) -> AuthSettings {
        let mut auth = self.get::<AuthSettings>();
        auth.rules.role_is_named = self.is_set(flag!("jwt-role-claim"));
        auth
    }
}

/// The address of a JSON Web Key Set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetUrl(Url);

impl KeySetUrl {
    /// Parses a URL without a user and without a fragment; `None` for any other text. Plain HTTP is allowed only to a
    /// loopback address: elsewhere anybody on the network path could replace the keys.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_safe = match url.scheme() {
            "https" => true,
            "http" => url.host().is_some_and(|host| is_loopback(&host)),
            _ => false,
        };
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && url.port() != Some(0);
        (is_safe && is_plain).then_some(Self(url))
    }

    /// The whole URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Whether the key set is at `https://`.
    pub fn wants_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

/// The URL without its query, for people.
impl fmt::Display for KeySetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        url.set_query(None);
        url.fmt(f)
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => Ipv4Addr::is_loopback(address),
        Host::Ipv6(address) => Ipv6Addr::is_loopback(address),
    }
}

const KEY_SET_ALLOWED: &str =
    "https://HOST:PORT/PATH, or http:// with localhost or a loopback address";

/// The form of `--jwt-jwks-url`; empty for none.
pub(super) static KEY_SET_URL: Form = Form::new("URL", KEY_SET_ALLOWED, |text| {
    match text.is_empty() || KeySetUrl::parse(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err(Refused::new(text, KEY_SET_ALLOWED)),
    }
})
.url();

/// The form of a name in a certificate.
pub(crate) static TLS_NAME: Form = Form::new("NAME", TLS_NAME_ALLOWED, |text| {
    match text.is_empty() || ServerName::try_from(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err(Refused::new(text, TLS_NAME_ALLOWED)),
    }
});

const TLS_NAME_ALLOWED: &str = "a DNS name or an IP address";

impl Checked {
    /// Returns an error if no setting names Redis, on a gateway without a default host.
    pub(super) fn no_redis(&self) -> Option<SettingsError> {
        let url = self.find(flag!("redis-url"))?;
        let redis = self.get::<RedisAccess>();
        let is_named = [&redis.url, &redis.sentinels].map(|url| !url.expose().is_empty());
        (is_named == [false, false] && redis.host.is_none())
            .then(|| SettingsError::missing(&url.setting, &url.setting.kind.allowed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_give_keys() {
        for url in [
            "https://idp.example.com/.well-known/jwks.json",
            "https://idp.example.com:8443/keys?appid=1",
            "http://localhost:8080/realms/a/protocol/openid-connect/certs",
            "http://127.8.0.1/keys",
            "http://[::1]:9/keys",
        ] {
            let parsed = KeySetUrl::parse(url).expect(url);
            let shown = url.split('?').next().unwrap_or_default();
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(parsed.wants_tls(), url.starts_with("https"));
            assert_eq!(parsed.url().as_str(), url);
        }
        for url in [
            "idp.example.com/keys",
            "http://idp.example.com/keys",
            "http://10.0.0.7/keys",
            "http://localhost.example.com/keys",
            "http://0.0.0.0/keys",
            "ftp://localhost/keys",
            "file:///keys",
            "https://user:pass@idp.example.com/keys",
            "https://idp.example.com/keys#a",
            "https://idp.example.com:0/keys",
            "https:///",
        ] {
            assert_eq!(KeySetUrl::parse(url), None, "{url}");
            assert!((KEY_SET_URL.read)(url).is_err(), "{url}");
        }
        assert_eq!((KEY_SET_URL.read)(""), Ok(String::new()));
    }
}
