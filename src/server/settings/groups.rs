//! The groups of settings that several modules use, with their defaults.

use std::iter::zip;
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::Checked;
use super::key_set_url::KeySetUrl;
use super::kind::{Form, RefusedValue};
use super::listen::ListenSettings;
use super::processes::Processes;
use super::secret::{SecretText, SecretUrl};
use crate::listening::tls::{CertificateFiles, OldestVersion, ServerTlsFiles};
use crate::telemetry::LogFormat;
use crate::{flag, group};
use weirgate_core::DrainPlan;
use weirgate_wire::auth::ClaimRules;

/// A token is often used in the second in which it was made, and the provider's clock may be ahead of ours.
const NBF_LEEWAY_MS: i64 = 5_000;

/// Bytes of a missed message in a send queue.
pub(super) const RESUME_BYTES: u64 = 16;

group! {
    /// TLS towards clients.
    #[derive(Clone, Debug)]
    pub(crate) struct TlsSettings {
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
    pub(crate) struct ProcessSettings {
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
    pub(crate) struct BusSettings {
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
    pub(crate) struct StreamSettings {
        /// The stream; `None` for pub/sub.
        pub name: Option<String> = None,
        /// The Redis channel on which each instance publishes a mark every second.
        pub marks_channel: String = "weirgate:mark".to_owned(),
        /// Bytes of the payloads in an answer of a Redis stream.
        pub answer_bytes_max: usize = 64 * 1024 * 1024,
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
pub(super) struct TailSettings {
    /// The token for the gateway.
    pub token: Option<SecretText>,
}

/// `weirgate top`.
#[derive(Clone, Debug, Default)]
pub(super) struct TopSettings {
    /// The header for a proxy with a login.
    pub authorization: Option<SecretText>,
}

impl Checked {
    /// The stream that is read in place of pub/sub.
    pub fn stream(&self) -> Option<String> {
        self.get::<StreamSettings>().name
    }

    /// Bytes of the payloads in an answer of a Redis stream.
    pub fn stream_answer_bytes_max(&self) -> usize {
        self.get::<StreamSettings>().answer_bytes_max
    }

    /// The Redis channel on which each instance publishes a mark every second.
    pub fn marks_channel(&self) -> String {
        self.get::<StreamSettings>().marks_channel
    }

    /// The first file of certificates for TLS towards clients.
    pub fn first_certificate(&self) -> Option<PathBuf> {
        self.get::<TlsSettings>().certificates.into_iter().next()
    }

    /// The token with which `weirgate tail` connects.
    pub fn tail_token(&self) -> Option<SecretText> {
        self.get::<TailSettings>().token
    }

    /// The header with which `weirgate top` passes a proxy with a login.
    pub fn top_authorization(&self) -> Option<SecretText> {
        self.get::<TopSettings>().authorization
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
        /// PEM files with public keys.
        pub public_key_files: Vec<PathBuf> = Vec::new(),
        /// A JSON Web Key Set.
        pub jwks_file: Option<PathBuf> = None,
        /// The address of a JSON Web Key Set.
        pub jwks_url: Option<KeySetUrl> = None,
        /// The authorities to trust at that address, in place of the system's.
        pub jwks_ca_file: Option<PathBuf> = None,
        /// The rules for claims, and the names of the claims.
        pub rules: ClaimRules = ClaimRules {
            nbf_leeway_ms: NBF_LEEWAY_MS,
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

/// The form of a name in a certificate.
pub(crate) static TLS_NAME: Form = Form::new("NAME", TLS_NAME_ALLOWED, |text| {
    match text.is_empty() || ServerName::try_from(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err(RefusedValue::new(text, TLS_NAME_ALLOWED)),
    }
});

const TLS_NAME_ALLOWED: &str = "a DNS name or an IP address";
