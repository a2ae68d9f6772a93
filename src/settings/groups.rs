//! Values made of several settings: the limits of the core, the rules for tokens, and the access to NATS and
//! Redis.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::Checked;
use super::error::SettingsError;
use super::kind::{Form, Refused};
use super::secret::{SecretText, SecretUrl};
use crate::admission::AddressLimits;
use crate::auth::ClaimRules;
use crate::hub;

impl Checked {
    /// The limits of the core.
    pub fn limits(&self) -> hub::Limits {
        hub::Limits {
            send_queue: self.send_queue(),
            frame_bytes_max: self.number("frame-bytes-max"),
            frame_walk_max: hub::FRAME_WALK_MAX,
            head_bytes_max: self.number("head-bytes-max"),
            head_headers_max: self.number("head-headers-max"),
            handshake_us: self.micros("handshake-timeout-ms"),
            event_stream: self.switch("event-stream"),
            event_stream_sends_max: self.number("event-stream-sends-max"),
            message_bytes_max: self.number("message-bytes-max"),
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
    /// PEM files.
    pub public_key_files: Vec<PathBuf>,
    /// A JSON Web Key Set.
    pub jwks_file: Option<PathBuf>,
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
            public_key_files: self
                .list("jwt-public-key-files")
                .map(PathBuf::from)
                .collect(),
            jwks_file: self.path("jwt-jwks-file"),
            rules: ClaimRules {
                audiences: self.list("jwt-audience").collect(),
                issuers: self.list("jwt-issuer").collect(),
                leeway_ms: self.number("jwt-leeway-ms"),
                role: self.text("jwt-role-claim"),
                user: self.text("jwt-user-claim"),
                symbols_max: self.text("jwt-symbols-claim"),
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

/// NATS servers, and the login for them.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsAccess {
    /// NATS servers, separated by commas; shown without the secret.
    pub url: SecretUrl,
    /// The user for servers without a user in the URL.
    pub user: NatsUser,
    /// The authorities for the servers' certificates; `None` for the system's authorities.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The login of weirgate at NATS.
#[derive(Clone, Debug, PartialEq)]
pub enum NatsUser {
    /// No user: the server must accept anonymous connections.
    None,
    /// User and password.
    Password(String, SecretText),
    /// A token.
    Token(SecretText),
    /// A file of credentials.
    Creds(PathBuf),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
}

impl Checked {
    /// The access to NATS.
    pub fn nats(&self) -> NatsAccess {
        self.nats_at(self.url("nats-url"))
    }

    /// The access to the NATS servers of `url`.
    pub fn nats_at(&self, url: SecretUrl) -> NatsAccess {
        NatsAccess {
            url,
            user: self.nats_user(),
            ca: self.path("nats-ca"),
            client: self.path("nats-cert").zip(self.path("nats-key")),
        }
    }

    /// [`Checked::new`] has checked that at most one is set.
    fn nats_user(&self) -> NatsUser {
        let password = self.secret("nats-password");
        let pair = self.some_text("nats-user").zip(password);
        let ways = [
            pair.map(|(user, password)| NatsUser::Password(user, password)),
            self.secret("nats-token").map(NatsUser::Token),
            self.path("nats-creds").map(NatsUser::Creds),
            self.path("nats-nkey").map(NatsUser::Nkey),
        ];
        ways.into_iter().flatten().next().unwrap_or(NatsUser::None)
    }
}

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

/// The access to Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisAccess {
    /// The URL overrides host and port; shown without the password.
    pub url: Option<SecretUrl>,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The sentinels override URL, host and port; shown without passwords.
    pub sentinels: Option<SentinelSettings>,
    /// Certificates to trust, for TLS.
    pub ca_file: Option<PathBuf>,
    /// The required name in the certificate of the server; `None` for its host.
    pub tls_name: Option<String>,
}

/// The sentinels, with the name of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct SentinelSettings {
    /// URLs, separated by commas.
    pub urls: SecretUrl,
    /// The name of the server at the sentinels.
    pub master: String,
}

impl Checked {
    /// The access to Redis. [`Checked::new`] has checked that a gateway without host and port has a URL or
    /// sentinels.
    pub fn redis(&self) -> RedisAccess {
        let urls = self.some_url("redis-sentinels");
        let master = self.text("redis-sentinel-master");
        let host = self.has("redis-host").then(|| self.text("redis-host"));
        let port = self.has("redis-port").then(|| self.number("redis-port"));
        RedisAccess {
            url: self.some_url("redis-url"),
            host: host.unwrap_or_default(),
            port: port.unwrap_or_default(),
            sentinels: urls.map(|urls| SentinelSettings { urls, master }),
            ca_file: self.path("redis-ca-file"),
            tls_name: self.some_text("redis-tls-name"),
        }
    }

    /// Returns an error if no setting has the address of Redis, on a gateway without defaults for host and
    /// port.
    pub(super) fn no_redis(&self) -> Option<SettingsError> {
        let url = self.find("redis-url")?;
        let has_default = self.has("redis-host");
        let is_set = ["redis-url", "redis-sentinels"].map(|flag| self.some_url(flag).is_some());
        let known = has_default || is_set.contains(&true);
        (!known).then(|| SettingsError::Missing {
            flag: url.setting.flag,
            env: url.setting.env_names().swap_remove(0),
            allowed: url.setting.kind.allowed(),
        })
    }

    fn some_url(&self, flag: &str) -> Option<SecretUrl> {
        Some(self.url(flag)).filter(|url| !url.expose().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Part, Rows};

    #[test]
    fn the_defaults_are_the_cores() {
        let made = Checked::defaults().limits();
        assert_eq!(format!("{made:?}"), format!("{:?}", hub::Limits::default()));
    }

    fn nats_of(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<NatsAccess, String> {
        let rows = Rows::gateway(&[Part::JetStream, Part::Nats]);
        Checked::of(rows, flags, env).map(|checked| checked.nats())
    }

    #[test]
    fn there_is_one_way_to_be_somebody() {
        let password = NatsUser::Password("u".into(), SecretText::new("s3cret"));
        for (args, env, want) in [
            (&[][..], &[][..], NatsUser::None),
            (&[], &[("NATS_CREDS", "")], NatsUser::None),
            (
                &[],
                &[("NATS_CREDS", "/a b")],
                NatsUser::Creds("/a b".into()),
            ),
            (&[("nats-nkey", "n")], &[], NatsUser::Nkey("n".into())),
            (
                &[],
                &[("NATS_TOKEN", "s3cret")],
                NatsUser::Token(SecretText::new("s3cret")),
            ),
            (
                &[("nats-user", "u")],
                &[("WEIRGATE_NATS_PASSWORD", "s3cret")],
                password,
            ),
        ] {
            let got = nats_of(args, env).expect("good settings");
            assert_eq!(got.user, want);
            assert!(!format!("{got:?}").contains("s3cret"), "{got:?}");
        }
        let both = nats_of(&[("nats-creds", "c")], &[("NATS_TOKEN", "s3cret")]).unwrap_err();
        assert!(both.contains("--nats-token (env NATS_TOKEN) and --nats-creds (flag)"));
        assert!(!both.contains("s3cret"), "{both}");
        let alone = nats_of(&[], &[("NATS_PASSWORD", "s3cret")]).unwrap_err();
        assert!(alone.contains("without --nats-user") && !alone.contains("s3cret"));
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let error = nats_of(&[("nats-cert", "c.pem")], &[]).unwrap_err();
        assert!(error.contains("--nats-cert (flag) is set without --nats-key"));
        let env = [("NATS_CERT", "c"), ("NATS_KEY", "k"), ("NATS_CA", "a")];
        let access = nats_of(&[], &env).expect("good settings");
        assert_eq!(access.client, Some(("c".into(), "k".into())));
        assert_eq!(access.ca, Some("a".into()));
    }

    const NAMED: Rows = Rows::gateway(&[Part::Redis]);
    const WITH_HOST: Rows = Rows::gateway(&[Part::Redis, Part::RedisHost]);

    fn redis_of(rows: Rows, env: &[(&str, &str)]) -> Result<RedisAccess, String> {
        Checked::of(rows, &[], env).map(|checked| checked.redis())
    }

    #[test]
    fn without_a_default_host_redis_has_to_be_named() {
        let missing = redis_of(NAMED, &[]).unwrap_err();
        assert!(missing.contains("--redis-url (env REDIS_URL) is needed"));
        assert_eq!(redis_of(NAMED, &[("REDIS_URL", " ")]).unwrap_err(), missing);
        let wrong = redis_of(NAMED, &[("REDIS_URL", "localhost:6379")]).unwrap_err();
        assert!(wrong.contains("--redis-url (env REDIS_URL) is "), "{wrong}");
        let url = redis_of(NAMED, &[("REDIS_URL", "redis://u:s3cret@h/2")]).expect("good settings");
        assert!(!format!("{url:?}").contains("s3cret"), "{url:?}");
        let default = redis_of(WITH_HOST, &[]).expect("good settings");
        assert_eq!((default.host.as_str(), default.port), ("localhost", 6379));
    }

    #[test]
    fn sentinels_stand_in_for_a_url_and_need_a_name() {
        let env = [
            ("REDIS_SENTINELS", "a:1, rediss://u:s3cret@b:2"),
            ("REDIS_SENTINEL_MASTER", "main"),
        ];
        for rows in [NAMED, WITH_HOST] {
            let redis = redis_of(rows, &env).expect("good settings");
            assert!(!format!("{redis:?}").contains("s3cret"), "{redis:?}");
            let sentinels = redis.sentinels.expect("sentinels");
            assert_eq!(sentinels.master, "main");
            for (half, other) in [(&env[..1], "master"), (&env[1..], "sentinels")] {
                let alone = redis_of(rows, half).unwrap_err();
                assert!(
                    alone.contains("is set without") && alone.contains(other),
                    "{alone}"
                );
                assert!(!alone.contains("s3cret"), "{alone}");
            }
        }
    }
}
