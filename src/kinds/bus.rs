//! The bus of a gateway, from its settings: which bus URLs name, and the settings of the NATS and Redis
//! sources.

use std::sync::Arc;

use crate::auth::{Acl, is_pattern};
use crate::base::is_host;
use crate::feeds::Subscription;
use crate::run::{Question, RunError};
use crate::settings::{Checked, Kind, SecretUrl};
use crate::sources::nats::{self, Credentials, NatsNeeds, NatsSettings, Tls};
use crate::sources::redis::{
    self, REDIS_PORT, RedisEndpoint, RedisError, RedisNeeds, RedisSettings, RedisStreamSource,
};
use crate::sources::{Source, StreamSettings};
use crate::telemetry::BusStatus;

/// The URL schemes of a bus that may be Redis or NATS.
pub(super) const SCHEMES: &[&str] = &["redis", "rediss", "nats", "tls"];

/// The schemes of Redis; `rediss` is with TLS.
const REDIS_SCHEMES: [&str; 2] = ["redis", "rediss"];

/// The allowed URLs of a bus, for an error.
pub(super) const ALLOWED: &str = "one URL of Redis, or URLs of NATS servers, with their scheme";

/// Whether a URL is of Redis. Returns false if all URLs are of NATS, and without URLs.
pub(super) fn is_redis(urls: &SecretUrl) -> bool {
    let is_one = |scheme: &str| (REDIS_SCHEMES.iter()).any(|one| one.eq_ignore_ascii_case(scheme));
    schemes(urls).any(is_one)
}

/// Whether the URLs name no single bus: a URL has no scheme, or Redis is among several URLs.
pub(super) fn is_wrong(urls: &SecretUrl) -> bool {
    let is_set = !urls.expose().is_empty();
    is_set && (schemes(urls).any(str::is_empty) || is_redis(urls) && schemes(urls).count() > 1)
}

fn schemes(urls: &SecretUrl) -> impl Iterator<Item = &str> {
    urls.expose().split(',').map(|url| {
        url.split_once("://")
            .map_or("", |(scheme, _)| scheme.trim())
    })
}

/// The names of the settings of a bus. A gateway needs only the settings of its own buses.
#[derive(Clone, Copy)]
pub(super) struct BusRows {
    /// The setting of the URL.
    pub(super) url: &'static str,
    /// The beginning of all other names.
    pub(super) prefix: &'static str,
    /// The setting of the certificate authorities of Redis.
    pub(super) redis_ca: &'static str,
}

/// The settings of NATS.
pub(super) const NATS: BusRows = BusRows {
    url: "nats-url",
    prefix: "nats",
    redis_ca: "",
};

/// The settings of Redis.
pub(super) const REDIS: BusRows = BusRows {
    url: "redis-url",
    prefix: "redis",
    redis_ca: "redis-ca-file",
};

/// Whether a text may be a host: no URL, and no port behind a name. An IPv6 address has several colons.
fn is_host_alone(text: &str) -> bool {
    is_host(text) && text.matches(':').count() != 1
}

impl BusRows {
    fn row(self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// A text of the settings, if the gateway has the setting and the text is not empty.
    fn text(self, checked: &Checked, name: &str) -> Option<String> {
        let row = self.row(name);
        checked.has(&row).then(|| checked.some_text(&row)).flatten()
    }

    fn secret(self, checked: &Checked, name: &str) -> Option<String> {
        let row = self.row(name);
        let secret = checked.has(&row).then(|| checked.secret(&row)).flatten()?;
        Some(secret.expose().to_owned())
    }

    /// The NATS connection: servers, log-in and TLS; no streams.
    ///
    /// # Errors
    /// A file with credentials or certificates cannot be used.
    pub(super) fn nats(self, checked: &Checked) -> Result<NatsSettings, RunError> {
        let path = |name| checked.path(&self.row(name));
        let user = self.text(checked, "user");
        let password = user.zip(self.secret(checked, "password"));
        // `Checked::new` and the checks of the gateways allow at most one of these.
        let logins = [
            password.map(|(user, password)| Credentials::UserPassword(user, password)),
            self.secret(checked, "token").map(Credentials::Token),
            path("creds").map(Credentials::CredsFile),
            path("nkey").map(Credentials::NkeyFile),
        ];
        let login = logins.into_iter().flatten().next();
        let tls = Tls {
            ca: path("ca"),
            client: path("cert").zip(path("key")),
        };
        let urls = checked.url(self.url);
        let login = login.unwrap_or(Credentials::None);
        let settings = NatsSettings {
            urls_from: format!("--{}", self.url),
            ..NatsSettings::plain(urls.expose(), login, tls)
        };
        let files = settings.check_files(self.prefix);
        files.map(|()| settings).map_err(RunError::Settings)
    }

    /// The Redis server, or the sentinels that name the server.
    ///
    /// # Errors
    /// An address is not valid, or a name is set for the certificate of a server without TLS.
    pub(super) fn redis(self, checked: &Checked) -> Result<RedisSettings, RunError> {
        let wrong = |flag: &str, error: &RedisError| {
            RunError::Settings(format!("{}: {error}", checked.named(flag)))
        };
        let host = self.text(checked, "host");
        let port = self.row("port");
        let port = checked.has(&port).then(|| checked.number(&port));
        let url = checked.url(self.url);
        if let Some(host) = host.as_deref().filter(|host| !is_host_alone(host))
            && url.expose().is_empty()
        {
            return Err(RunError::Settings(format!(
                "{} is {}; allowed: a name or an address, without scheme and port; --{} takes a URL",
                checked.named(&self.row("host")),
                Kind::Text.shown_when_wrong(host),
                self.url
            )));
        }
        let server = match url {
            url if !url.expose().is_empty() => RedisEndpoint::parse(url.expose()),
            _ => Ok(RedisEndpoint::new(
                &host.unwrap_or_else(|| "localhost".to_owned()),
                port.unwrap_or(REDIS_PORT),
            )),
        };
        let server = server.map_err(|error| wrong(self.url, &error))?;
        let mut settings = RedisSettings::new(server);
        let flag = self.row("sentinels");
        let sentinels = checked.url(&flag);
        if !sentinels.expose().is_empty() {
            let sentinels = sentinels
                .expose()
                .split(',')
                .map(RedisEndpoint::parse_sentinel);
            settings.sentinels = sentinels
                .collect::<Result<_, _>>()
                .map_err(|error| wrong(&flag, &error))?;
        }
        settings.master_name = checked.text(&self.row("sentinel-master"));
        settings.tls_ca_file = checked.path(self.redis_ca);
        let flag = self.row("tls-name");
        settings.server.tls_name = checked.some_text(&flag);
        if settings.server.tls_name.is_some() && !settings.server.tls {
            let text =
                format!("--{flag}: a server without TLS has no certificate; write rediss://");
            return Err(RunError::Settings(text));
        }
        Ok(settings)
    }

    /// Turns an error of the Redis source into a settings error that names the wrong setting.
    pub(super) fn redis_error(self, error: RedisError) -> RunError {
        let Self {
            prefix, redis_ca, ..
        } = self;
        RunError::Settings(match error {
            RedisError::NobodyTrusted(error) => format!("--{redis_ca}: {error}"),
            RedisError::PlainSentinel { .. } => format!(
                "--{prefix}-sentinels: {error}; write rediss:// for each sentinel, or set \
                 --{prefix}-tls-name"
            ),
            error => error.to_string(),
        })
    }
}

/// Which bus the settings name, with the settings of its source.
pub(super) enum Bus {
    Redis(RedisSettings),
    Nats(NatsSettings),
}

impl Bus {
    /// `redis` or `nats`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Nats(_) => "nats",
        }
    }

    /// The address for people, without passwords and tokens.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Redis(settings) => shown_redis(settings),
            Self::Nats(settings) => SecretUrl::new(&settings.urls).to_string(),
        }
    }
}

/// The address of Redis for people, without user and password.
pub(super) fn shown_redis(source: &RedisSettings) -> String {
    let scheme = if source.server.tls { "rediss" } else { "redis" };
    if source.sentinels.is_empty() {
        return format!("{scheme}://{}", source.server.address());
    }
    let sentinels: Vec<_> = source
        .sentinels
        .iter()
        .map(RedisEndpoint::address)
        .collect();
    format!(
        "{} (sentinels {})",
        source.master_name,
        sentinels.join(", ")
    )
}

/// The stream that is read in place of pub/sub.
pub(super) fn stream_settings(checked: &Checked) -> Option<StreamSettings> {
    Some(StreamSettings {
        name: checked.stream()?,
        history_ms: checked.number("history-ms"),
        only: None,
    })
}

/// The source of a Redis stream, and its check for `--check --connect`.
///
/// # Errors
/// The certificates to trust cannot be read, or the system has no descriptor left.
pub(super) fn redis_stream(
    settings: RedisSettings,
    stream: StreamSettings,
    status: Arc<BusStatus>,
) -> Result<(Box<dyn Source>, Question), RedisError> {
    let needs = RedisNeeds {
        stream: Some(stream.name.clone()),
        ..RedisNeeds::default()
    };
    let question = redis_question(&settings, needs);
    let source = RedisStreamSource::new(settings, stream, status)?;
    Ok((Box::new(source), question))
}

/// The check of Redis for `--check --connect`.
pub(super) fn redis_question(source: &RedisSettings, needs: RedisNeeds) -> Question {
    let asked = format!("Redis at {}", shown_redis(source));
    let source = source.clone();
    Question::new(asked, move || redis::ask(&source, &needs))
}

/// The check of NATS, without streams, for `--check --connect`.
pub(super) fn nats_question(source: &NatsSettings, needs: NatsNeeds) -> Question {
    let asked = format!("NATS at {}", SecretUrl::new(&source.urls));
    let source = source.clone();
    Question::new(asked, move || nats::ask_plain(&source, &needs))
}

/// All subscriptions that the table permits: its names, its patterns, and for each pattern an example of a
/// matching name, because Redis has separate rules for patterns.
pub(super) fn redis_needs(acl: &Acl) -> RedisNeeds {
    let mut requests = Vec::new();
    for name in acl.all_names() {
        if !is_pattern(name) {
            requests.push(Subscription::channel(name));
            continue;
        }
        requests.push(Subscription::pattern(name));
        if !name.contains(['[', '\\']) {
            let example = name.replace('*', "example").replace('?', "x");
            requests.push(Subscription::channel(example));
        }
    }
    RedisNeeds {
        requests,
        ..RedisNeeds::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Part, Rows};

    #[test]
    fn urls_are_of_one_bus() {
        for (urls, redis, wrong) in [
            ("", false, false),
            ("redis://a", true, false),
            ("rediss://u:p@a:1/2", true, false),
            ("nats://a", false, false),
            ("nats://a, tls://b:1", false, false),
            ("nats://a,b", false, true),
            ("NATS://a", false, false),
            ("REDISS://a", true, false),
            ("redis://a,redis://b", true, true),
            ("redis://a,nats://b", true, true),
            ("localhost", false, true),
        ] {
            let urls = SecretUrl::new(urls);
            assert_eq!((is_redis(&urls), is_wrong(&urls)), (redis, wrong), "{urls}");
        }
    }

    #[test]
    fn a_host_is_no_url_and_has_no_port() {
        let host = |env: &[(&str, &str)]| {
            let rows = Rows::gateway(&[Part::Redis, Part::RedisHost]);
            let checked = Checked::of(rows, &[], env)?;
            let settings = REDIS.redis(&checked).map_err(|error| error.to_string())?;
            Ok::<_, String>(settings.server.host)
        };
        for good in ["redis", "10.0.0.1", "::1"] {
            assert_eq!(host(&[("REDIS_HOST", good)]).as_deref(), Ok(good));
        }
        for (bad, shown) in [
            ("$(HOST)", "$(HOST)"),
            (r#"'"127.0.0.1"'"#, "127.0.0.1"),
            ("redis://:s3cret", "redis://***"),
            ("redis:6379", "redis:6379"),
        ] {
            let told = host(&[("REDIS_HOST", bad)]).expect_err(bad);
            assert!(
                told.contains(shown)
                    && told.contains("--redis-host (env REDIS_HOST)")
                    && told.contains("--redis-url"),
                "{told}"
            );
            // Beside a URL the host has no effect.
            let url = ("REDIS_URL", "redis://a");
            assert_eq!(host(&[("REDIS_HOST", bad), url]).as_deref(), Ok("a"));
        }
    }

    fn nats_of(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<NatsSettings, String> {
        let rows = Rows::gateway(&[Part::JetStream, Part::Nats]);
        let checked = Checked::of(rows, flags, env)?;
        NATS.nats(&checked).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_one_way_to_log_in_to_nats() {
        let dir = std::env::temp_dir();
        let seed = dir.join(format!("weirgate-bus-{}.nk", std::process::id()));
        let user = nkeys::KeyPair::new_user();
        std::fs::write(&seed, user.seed().expect("a seed")).expect("a file");
        let nkey = seed.to_str().expect("a path");
        let password = Credentials::UserPassword("u".into(), "s3cret".into());
        for (args, env, want) in [
            (&[][..], &[][..], Credentials::None),
            (&[], &[("NATS_CREDS", "")], Credentials::None),
            (
                &[("nats-nkey", nkey)],
                &[],
                Credentials::NkeyFile(seed.clone()),
            ),
            (
                &[],
                &[("NATS_TOKEN", "s3cret")],
                Credentials::Token("s3cret".into()),
            ),
            (
                &[("nats-user", "u")],
                &[("WEIRGATE_NATS_PASSWORD", "s3cret")],
                password,
            ),
        ] {
            let got = nats_of(args, env).expect("good settings");
            assert!(got.credentials == want);
        }
        std::fs::remove_file(&seed).expect("the file");
        let both = nats_of(&[("nats-creds", "c")], &[("NATS_TOKEN", "s3cret")]).err();
        let both = both.expect("an error");
        assert!(both.contains("--nats-token (env NATS_TOKEN) and --nats-creds (flag)"));
        assert!(!both.contains("s3cret"), "{both}");
        let alone = nats_of(&[], &[("NATS_PASSWORD", "s3cret")]).err();
        let alone = alone.expect("an error");
        assert!(alone.contains("without --nats-user") && !alone.contains("s3cret"));
        let cert = nats_of(&[("nats-cert", "c.pem")], &[]).err();
        let cert = cert.expect("an error");
        assert!(cert.contains("--nats-cert (flag) is set without --nats-key"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_setting() {
        for flag in ["nats-creds", "nats-nkey", "nats-ca"] {
            let missing = nats_of(&[(flag, "/nowhere/x")], &[]).err();
            let missing = missing.expect("an error");
            assert!(missing.contains(&format!("--{flag}: ")), "{missing}");
        }
    }

    const NAMED: Rows = Rows::gateway(&[Part::Redis]);
    const WITH_HOST: Rows = Rows::gateway(&[Part::Redis, Part::RedisHost]);

    fn redis_of(rows: Rows, env: &[(&str, &str)]) -> Result<RedisSettings, String> {
        let checked = Checked::of(rows, &[], env)?;
        REDIS.redis(&checked).map_err(|error| error.to_string())
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
        assert_eq!(default.server.address(), "localhost:6379");
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
            assert_eq!((redis.sentinels.len(), &*redis.master_name), (2, "main"));
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
