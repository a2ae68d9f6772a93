//! Values made of several settings: the limits of the core, the files of TLS, the keys and rules for tokens.

use std::fmt;
use std::iter::zip;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::Checked;
use super::error::SettingsError;
use super::kind::{Form, Refused};
use super::secret::SecretText;
use crate::admission::{AddressLimits, Holding};
use crate::auth::ClaimRules;
use crate::hub::{self, HistoryLimits};
use crate::listening::tls::{CertificateFiles, OldestVersion, ServerTlsFiles};

/// A token is often used in the second of its making, and the clock of the provider may be ahead.
const BEGIN_LEEWAY_MS: i64 = 5_000;

/// The position of a client on a quiet name is up to 10 s old.
const HISTORY_US_MIN: u64 = 20_000_000;

/// Thousandths of `--memory-max` for plain HTTP requests that were read before they are used.
pub const HTTP_MEMORY_PART: u16 = 60;

/// Thousandths of `--memory-max` for missed messages that wait in send queues.
pub const RESUME_MEMORY_PART: u16 = 30;

/// Bytes of a missed message in a send queue.
const RESUME_BYTES: u64 = 16;

const RESUME_BYTES_MAX: u64 = hub::RESUME_MESSAGES_MAX * RESUME_BYTES;

impl Checked {
    /// A limit of bytes without a setting of its own: `most`, or the part of `--memory-max` if that is less.
    fn part_of_memory(&self, most: u64, thousandths: u16) -> u64 {
        match self.number::<u64>("memory-max") {
            0 => most,
            bytes => (bytes / 1000 * u64::from(thousandths)).min(most),
        }
    }

    /// The limits of the core.
    pub fn limits(&self) -> hub::Limits {
        hub::Limits {
            send_queue: self.send_queue(),
            history: self.history(),
            resume_messages_max: self.part_of_memory(RESUME_BYTES_MAX, RESUME_MEMORY_PART)
                / RESUME_BYTES,
            frame_bytes_max: self.number("frame-bytes-max"),
            frame_walk_max: hub::FRAME_WALK_MAX,
            head_bytes_max: self.number("head-bytes-max"),
            head_headers_max: self.number("head-headers-max"),
            handshake_us: self.micros("handshake-timeout-ms"),
            http_held: Holding::new(
                "http_bytes",
                self.part_of_memory(hub::HTTP_BYTES_MAX, HTTP_MEMORY_PART),
            ),
            event_stream: self.switch("event-stream"),
            origins_are_listed: !self.origins("allowed-origins").is_empty(),
            event_stream_sends_max: self.number("event-stream-sends-max"),
            message_bytes_max: self.number("message-bytes-max"),
            unfinished_bytes_max: self.number("unfinished-bytes-max"),
            connections_max: self.unless_0("connections-max").unwrap_or(usize::MAX),
            // Set after the process has raised the limit on open files.
            sockets_max: usize::MAX,
            per_ip: AddressLimits {
                connections_max: self.unless_0("connections-per-ip-max"),
                connections_per_second: self.unless_0("connection-rate-per-ip"),
                burst: self.number("connection-burst-per-ip"),
            },
            trusted_proxies: self.networks("trusted-proxies"),
            ping_interval_us: self.micros("ping-interval-ms"),
            pong_timeout_us: self.micros("pong-timeout-ms"),
            close_timeout_us: self.micros("close-timeout-ms"),
            stop_code: self.stop_code(),
            close_retry_after_ms: self.number("close-retry-after-ms"),
            turn_message_bytes_max: self.number("turn-message-bytes-max"),
            turn_all_message_bytes_max: self.number("turn-all-message-bytes-max"),
            write_bytes_max: self.number("write-bytes-max"),
            deflate_window: self.deflate_window(),
            deflate_level: self.number("deflate-level"),
            inflate_windows_bytes_max: self.number("inflate-windows-bytes-max"),
            deflate_min_bytes: self.number("deflate-min-bytes"),
            deflate_max_bytes: self.number("deflate-max-bytes"),
        }
    }

    /// The limits of the history; nothing is kept on a gateway without this part.
    pub fn history(&self) -> HistoryLimits {
        match self.has("history-ms") {
            true => HistoryLimits {
                keep_us: self.micros("history-ms"),
                bytes_max: self.number("history-bytes-max"),
            },
            false => HistoryLimits::default(),
        }
    }

    /// The stream that is read in place of pub/sub.
    pub fn stream(&self) -> Option<String> {
        self.has("stream").then(|| self.some_text("stream"))?
    }

    /// A time that is shorter than the positions of quiet names are old, and more memory than slow clients
    /// leave.
    pub(super) fn history_errors(&self) -> Vec<SettingsError> {
        let limits = self.history();
        let mut errors = Vec::new();
        if limits.keep_us == 0 {
            if self.stream().is_some() {
                let refused = Refused::new("0", "at least 20000, with --stream");
                errors.push(self.refused("history-ms", &refused));
            }
            return errors;
        }
        if limits.keep_us < HISTORY_US_MIN {
            let shown = self.number::<u64>("history-ms").to_string();
            errors.push(self.refused("history-ms", &Refused::new(&shown, "0, or at least 20000")));
        }
        let frames: u64 = self.number("frame-bytes-max");
        if limits.bytes_max as u64 > frames / 2 {
            let allowed = "at most half of --frame-bytes-max";
            let shown = limits.bytes_max.to_string();
            errors.push(self.refused("history-bytes-max", &Refused::new(&shown, allowed)));
        }
        errors
    }

    /// The files of TLS towards clients; `None` without `--tls-port`.
    pub fn server_tls(&self) -> Option<ServerTlsFiles> {
        if self.is_off("tls-port") {
            return None;
        }
        let pairs = zip(self.paths("tls-cert"), self.paths("tls-key"));
        let oldest = match self.choice("tls-min") {
            "1.3" => OldestVersion::Tls13,
            _ => OldestVersion::Tls12,
        };
        Some(ServerTlsFiles {
            certificates: pairs
                .map(|(chain, key)| CertificateFiles { chain, key })
                .collect(),
            client_ca: self.path("tls-client-ca"),
            oldest,
        })
    }

    /// The first file of `--tls-cert`.
    pub fn tls_certificate(&self) -> Option<PathBuf> {
        self.paths("tls-cert").into_iter().next()
    }

    /// Certificates without a key, and a process without an address.
    pub(super) fn tls_errors(&self) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        if !self.has("tls-port") {
            return errors;
        }
        let [certificates, keys] = ["tls-cert", "tls-key"].map(|flag| self.paths(flag).len());
        if certificates != keys && keys > 0 {
            let shown = self.text("tls-key");
            let allowed = format!("as many files as --tls-cert, {certificates}");
            errors.push(self.refused("tls-key", &Refused::new(&shown, allowed)));
        }
        if self.listen().is_empty() && self.is_off("tls-port") {
            let allowed = "a port, unless --tls-port or a unix socket in --listen is set";
            errors.push(self.refused("port", &Refused::new("off", allowed)));
        }
        errors
    }

    fn paths(&self, flag: &str) -> Vec<PathBuf> {
        self.list(flag).map(PathBuf::from).collect()
    }

    /// Gateways without this row have a code of their own.
    fn stop_code(&self) -> u16 {
        match self.has("stop-code") && self.choice("stop-code") == "1001" {
            true => 1001,
            false => 1012,
        }
    }

    /// Gateways without this row share no window.
    fn deflate_window(&self) -> hub::DeflateWindow {
        match self.has("deflate-window") && self.choice("deflate-window") == "shared" {
            true => hub::DeflateWindow::Shared,
            false => hub::DeflateWindow::None,
        }
    }

    fn send_queue(&self) -> hub::SendQueueLimits {
        hub::SendQueueLimits {
            soft_bytes: self.number("send-queue-soft-bytes"),
            soft_for_us: self.micros("send-queue-soft-for-ms"),
            hard_bytes: self.number("send-queue-hard-bytes"),
            conflate_after_us: self.micros("send-queue-conflate-after-ms"),
            stall_us: self.micros("send-queue-stall-ms"),
            control_bytes_max: self.number("control-bytes-max"),
        }
    }
}

/// Keys, and the rules for claims.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    /// Whether clients without a valid token are refused.
    pub required: bool,
    /// A shared key that clients send unchanged.
    pub api_key: Option<SecretText>,
    /// The secret for HS256.
    pub jwt_secret: Option<SecretText>,
    /// The secret before, whose tokens are valid too.
    pub jwt_secret_before: Option<SecretText>,
    /// PEM files.
    pub public_key_files: Vec<PathBuf>,
    /// A JSON Web Key Set.
    pub jwks_file: Option<PathBuf>,
    /// The address of a JSON Web Key Set.
    pub jwks_url: Option<KeySetUrl>,
    /// Authorities to trust at that address, instead of the system's.
    pub jwks_ca_file: Option<PathBuf>,
    /// The rules for claims, and the names of the claims.
    pub rules: ClaimRules,
}

impl Checked {
    /// The keys and rules for tokens. A subcommand without a row does without its feature.
    pub fn auth(&self) -> AuthSettings {
        AuthSettings {
            required: self.has("require-auth") && self.switch("require-auth"),
            api_key: self.secret("gateway-api-key"),
            jwt_secret: self.secret("jwt-secret"),
            jwt_secret_before: self.secret("jwt-secret-before"),
            public_key_files: self.paths("jwt-public-key-files"),
            jwks_file: self.path("jwt-jwks-file"),
            jwks_url: self
                .some_text("jwt-jwks-url")
                .and_then(|url| KeySetUrl::parse(&url)),
            jwks_ca_file: self.path("jwt-jwks-ca-file"),
            rules: ClaimRules {
                audiences: self.list("jwt-audience").collect(),
                issuers: self.list("jwt-issuer").collect(),
                leeway_ms: self.number("jwt-leeway-ms"),
                begin_leeway_ms: BEGIN_LEEWAY_MS,
                role: self.text("jwt-role-claim"),
                role_is_named: self.is_set("jwt-role-claim"),
                user: self.text("jwt-user-claim"),
                symbols_max: self.text("jwt-symbols-claim"),
                names: self.text("jwt-channels-claim"),
            },
        }
    }

    /// The entries of a comma-separated list.
    fn list(&self, flag: &str) -> impl Iterator<Item = String> {
        let text = self.text(flag);
        let entries: Vec<_> = text
            .split(',')
            .map(|entry| entry.trim().to_owned())
            .collect();
        entries.into_iter().filter(|entry| !entry.is_empty())
    }
}

/// The address of a JSON Web Key Set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetUrl(Url);

impl KeySetUrl {
    /// Parses a URL without a user and without a fragment. `None` for any other text: over plain HTTP
    /// everybody on the way could replace the keys, so plain HTTP needs a loopback address.
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
pub(super) static KEY_SET_URL: Form = Form {
    placeholder: "URL",
    allowed: KEY_SET_ALLOWED,
    repeats: false,
    is_url: true,
    read: |text| match text.is_empty() || KeySetUrl::parse(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err(Refused::new(text, KEY_SET_ALLOWED)),
    },
};

/// The form of a name in a certificate.
pub static TLS_NAME: Form = Form {
    placeholder: "NAME",
    allowed: TLS_NAME_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| match text.is_empty() || ServerName::try_from(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err(Refused::new(text, TLS_NAME_ALLOWED)),
    },
};

const TLS_NAME_ALLOWED: &str = "a DNS name or an IP address";

impl Checked {
    /// Returns an error if no setting has the address of Redis, on a gateway without defaults for host and
    /// port.
    pub(super) fn no_redis(&self) -> Option<SettingsError> {
        let url = self.find("redis-url")?;
        let has_default = self.has("redis-host");
        let is_set = |flag| !self.url(flag).expose().is_empty();
        let known = has_default || is_set("redis-url") || is_set("redis-sentinels");
        (!known).then(|| SettingsError::Missing {
            flag: url.setting.flag,
            env: url.setting.env_names().swap_remove(0),
            allowed: url.setting.kind.allowed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_cores() {
        let made = Checked::defaults().limits();
        assert_eq!(format!("{made:?}"), format!("{:?}", hub::Limits::default()));
    }

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
