//! The bus of a gateway: which bus the URLs in the settings name, and the settings of the NATS or Redis source.

use std::fmt;

use weirgate_bus::nats::{Credentials, NatsNeeds, NatsSettings, Tls};
use weirgate_bus::redis::{RedisEndpoint, RedisError, RedisNeeds, RedisSettings};
use weirgate_runtime::tls_roots::ClientTlsError;
use weirgate_server::flag;
use weirgate_server::run::{RunError, StartQuestion};
use weirgate_server::settings::{Checked, Kind, NatsAccess, RedisAccess, SecretText, SecretUrl};
use weirgate_wire::base::is_host;

/// The URL schemes of a bus that may be Redis or NATS.
pub(in crate::gateways) const SCHEMES: &[&str] = &["redis", "rediss", "unix", "nats", "tls"];

/// The allowed URLs of a bus, for an error.
pub(in crate::gateways) const ALLOWED: &str =
    "one URL of Redis, or URLs of NATS servers, with their scheme";

/// Whether one of the URLs is of Redis. False for URLs of NATS, and if there are none.
pub(in crate::gateways) fn is_redis(urls: &SecretUrl) -> bool {
    schemes(urls).any(|scheme| RedisEndpoint::has_scheme(&scheme))
}

/// Whether the URLs leave open which bus is meant: one has no scheme, or one of several is of Redis.
pub(in crate::gateways) fn are_ambiguous(urls: &SecretUrl) -> bool {
    let is_set = !urls.expose().is_empty();
    is_set
        && (schemes(urls).any(|scheme| scheme.is_empty())
            || is_redis(urls) && schemes(urls).count() > 1)
}

/// Returns the scheme of each URL of the list; an empty text for one without a scheme.
fn schemes(urls: &SecretUrl) -> impl Iterator<Item = String> {
    let urls = urls.expose();
    let scheme = |url: &str| {
        let found = url.split_once("://");
        found.map_or_else(String::new, |(scheme, _)| scheme.trim().to_owned())
    };
    let schemes: Vec<String> = urls.split(',').map(scheme).collect();
    schemes.into_iter()
}

/// Whether a text is a host without a scheme and without a port. Several colons are those of an IPv6 address.
fn is_host_alone(text: &str) -> bool {
    is_host(text) && text.matches(':').count() != 1
}

/// The NATS connection: servers, login and TLS, but no streams. `flag` is the setting with the URLs.
///
/// # Errors
/// A file with credentials or certificates cannot be used.
pub(in crate::gateways) fn nats(
    checked: &Checked,
    flag: &str,
    urls: &SecretUrl,
) -> Result<NatsSettings, RunError> {
    let access: NatsAccess = checked.get();
    let exposed = |text: SecretText| text.secret().clone();
    let password = access.user.zip(access.password.map(exposed));
    // `Checked::read` allows at most one of these.
    let logins = [
        password.map(|(user, password)| Credentials::UserPassword(user, password)),
        access.token.map(exposed).map(Credentials::Token),
        access.creds.map(Credentials::CredsFile),
        access.nkey.map(Credentials::NkeyFile),
    ];
    let login = logins.into_iter().flatten().next();
    let tls = Tls {
        ca: access.ca,
        client: access.cert.zip(access.key),
    };
    let settings = NatsSettings {
        urls: urls.secret().clone(),
        urls_from: format!("--{flag}"),
        processes: checked.processes_to_start(),
        // The empty text is not used: the URLs are above.
        ..NatsSettings::plain("", login.unwrap_or(Credentials::None), tls)
    };
    let files = settings.check_files("nats");
    files.map(|()| settings).map_err(RunError::Settings)
}

/// The Redis server, or the sentinels that know its address. `flag` is the setting with the URL.
///
/// # Errors
/// An address or the host is not valid, or a certificate name is set for a server without TLS.
pub(in crate::gateways) fn redis(
    checked: &Checked,
    flag: &str,
    url: &SecretUrl,
) -> Result<RedisSettings, RunError> {
    let access: RedisAccess = checked.get();
    let mut settings = RedisSettings::new(redis_server(checked, &access, flag, url)?);
    // Kept as texts too: if a file with a login has changed, the next connection reads it again.
    settings.url = url.secret().clone();
    settings.sentinel_urls = access.sentinels.secret().clone();
    let sentinels = access.sentinels.expose();
    if !sentinels.is_empty() {
        let sentinels = sentinels.split(',');
        let parsed: Result<_, _> = sentinels.map(RedisEndpoint::parse_sentinel).collect();
        let parsed = parsed.map_err(|error| wrong(checked, flag!("redis-sentinels"), &error));
        settings.sentinels = parsed?;
    }
    settings.master_name = access.master_name;
    settings.tls_ca_file = access.ca_file;
    settings.tls_client = access.certificate.zip(access.key);
    settings.server.tls_name = access.tls_name;
    if settings.server.tls_name.is_some() && !settings.server.tls {
        let text = "--redis-tls-name: a server without TLS has no certificate; write rediss://";
        return Err(RunError::Settings(text.to_owned()));
    }
    Ok(settings)
}

/// The server at the URL, which is the value of `flag`; without a URL, at `--redis-host`.
///
/// # Errors
/// The URL or the host is not valid.
fn redis_server(
    checked: &Checked,
    access: &RedisAccess,
    flag: &str,
    url: &SecretUrl,
) -> Result<RedisEndpoint, RunError> {
    let url = url.expose();
    if !url.is_empty() {
        return RedisEndpoint::parse(&url).map_err(|error| wrong(checked, flag, &error));
    }
    let host = access.host.as_deref().unwrap_or("localhost");
    match is_host_alone(host) {
        true => Ok(RedisEndpoint::new(host, access.port)),
        false => Err(RunError::Settings(format!(
            "{} is {}; allowed: a name or an address, without scheme and port; --{flag} takes a URL",
            checked.named(flag!("redis-host")),
            Kind::Text.shown_when_wrong(host),
        ))),
    }
}

/// The error about the value of a setting.
fn wrong(checked: &Checked, flag: &str, error: &RedisError) -> RunError {
    RunError::Settings(format!("{}: {error}", checked.named(flag)))
}

/// Makes an error of the Redis source an error in the settings, and names the wrong setting.
pub(in crate::gateways) fn redis_error(error: RedisError) -> RunError {
    RunError::Settings(match error {
        RedisError::ClientTls(error @ ClientTlsError::NobodyTrusted { .. }) => {
            format!("--redis-ca-file: {error}")
        }
        RedisError::ClientTls(error @ ClientTlsError::OwnCertificate(_)) => {
            format!("--redis-cert and --redis-key: {error}")
        }
        RedisError::PlainSentinel(_) => format!(
            "--redis-sentinels: {error}; write rediss:// for each sentinel, or set --redis-tls-name"
        ),
        error => error.to_string(),
    })
}

/// Makes an error of a NATS source an error in the settings.
pub(in crate::gateways) fn nats_error(error: impl fmt::Display) -> RunError {
    RunError::Settings(error.to_string())
}

/// The bus that the settings name, with the settings of its source.
pub(in crate::gateways) enum Bus {
    Redis(RedisSettings),
    Nats(NatsSettings),
}

impl Bus {
    /// Returns the bus at `urls`, the value of `flag`. Without a URL, this is Redis.
    ///
    /// # Errors
    /// An address is not valid, or a file cannot be used.
    pub(in crate::gateways) fn at(
        checked: &Checked,
        flag: &str,
        urls: &SecretUrl,
    ) -> Result<Self, RunError> {
        Ok(match urls.expose().is_empty() || is_redis(urls) {
            true => Self::Redis(redis(checked, flag, urls)?),
            false => Self::Nats(nats(checked, flag, urls)?),
        })
    }

    /// `redis` or `nats`.
    pub(in crate::gateways) fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Nats(_) => "nats",
        }
    }

    /// The kind for people.
    pub(in crate::gateways) fn title(&self) -> &'static str {
        match self {
            Self::Redis(_) => "Redis",
            Self::Nats(_) => "NATS",
        }
    }

    /// The address for people, without passwords and tokens.
    pub(in crate::gateways) fn address(&self) -> String {
        match self {
            Self::Redis(settings) => shown_redis(settings),
            Self::Nats(settings) => SecretUrl::new(&settings.urls.expose()).to_string(),
        }
    }
}

/// The address of Redis for people, without user and password.
pub(in crate::gateways) fn shown_redis(source: &RedisSettings) -> String {
    if source.sentinels.is_empty() {
        return format!("{}://{}", source.server.scheme(), source.server.address());
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

/// The check of Redis for `--check --connect`.
pub(in crate::gateways) fn redis_question(
    source: &RedisSettings,
    needs: RedisNeeds,
) -> StartQuestion {
    let asked = format!("Redis at {}", shown_redis(source));
    let source = source.clone();
    StartQuestion::new(asked, move |limit| needs.check(&source, limit))
}

/// The check of NATS, without streams, for `--check --connect`.
pub(in crate::gateways) fn nats_question(source: &NatsSettings, needs: NatsNeeds) -> StartQuestion {
    let asked = format!("NATS at {}", SecretUrl::new(&source.urls.expose()));
    let source = source.clone();
    StartQuestion::new(asked, move |_| needs.check(&source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_server::settings::{Env, Rows, TablePart};

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
            ("unix://u:p@/run/r.sock?db=1", true, false),
            ("redis+unix:///run/r.sock", true, false),
            ("redis://a,redis://b", true, true),
            ("redis://a,nats://b", true, true),
            ("localhost", false, true),
        ] {
            let urls = SecretUrl::new(urls);
            assert_eq!(
                (is_redis(&urls), are_ambiguous(&urls)),
                (redis, wrong),
                "{urls}"
            );
        }
    }

    #[test]
    fn a_host_is_no_url_and_has_no_port() {
        let host = |env: &[(&str, &str)]| Ok::<_, String>(redis_of(WITH_HOST, env)?.server.host);
        for good in ["redis", "10.0.0.1", "::1"] {
            assert_eq!(host(&[("REDIS_HOST", good)]).as_deref(), Ok(good));
        }
        for (bad, shown) in [
            ("$(HOST)", "$(HOST)"),
            (r#"'"127.0.0.1"'"#, "127.0.0.1"),
            ("redis://:s3cret", "redis://***"),
            ("redis:6379", "redis:6379"),
        ] {
            let error = host(&[("REDIS_HOST", bad)]).expect_err(bad);
            assert!(
                error.contains(shown)
                    && error.contains("REDIS_HOST is ")
                    && error.contains("--redis-url"),
                "{error}"
            );
            // Beside a URL the host has no effect.
            let url = ("REDIS_URL", "redis://a");
            assert_eq!(host(&[("REDIS_HOST", bad), url]).as_deref(), Ok("a"));
        }
    }

    fn checked(
        rows: Rows,
        flags: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Result<Checked, String> {
        let typed = |name: &str| {
            let flags = flags.iter().filter(|(flag, _)| *flag == name);
            flags.map(|(_, text)| (*text).to_owned()).collect()
        };
        let env = Env::new(env.iter().copied());
        Checked::read(rows.settings(), typed, &env, Vec::new(), |_| Vec::new())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn nats_of(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<NatsSettings, String> {
        let rows = Rows::gateway(&[TablePart::JetStream, TablePart::Nats]);
        let checked = checked(rows, flags, env)?;
        let urls = checked.get::<NatsAccess>().urls;
        nats(&checked, "nats-url", &urls).map_err(|error| error.to_string())
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

    const NAMED: Rows = Rows::gateway(&[TablePart::Redis, TablePart::RedisUrl]);
    const WITH_HOST: Rows =
        Rows::gateway(&[TablePart::Redis, TablePart::RedisUrl, TablePart::RedisHost]).defaults(
            |groups| {
                groups.get_mut::<RedisAccess>().host = Some("localhost".to_owned());
            },
        );

    fn redis_of(rows: Rows, env: &[(&str, &str)]) -> Result<RedisSettings, String> {
        let checked = checked(rows, &[], env)?;
        let url = checked.get::<RedisAccess>().url;
        redis(&checked, "redis-url", &url).map_err(|error| error.to_string())
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
