//! The bus of a gateway, from its settings: which bus URLs name, and the settings of the NATS and Redis
//! sources.

use crate::auth::{Acl, is_pattern};
use crate::feeds::Subscription;
use crate::run::{Question, RunError};
use crate::settings::{Checked, NatsAccess, NatsUser, RedisAccess, SecretUrl, SentinelSettings};
use crate::sources::nats::{Credentials, NatsSettings, Tls};
use crate::sources::redis::{self, Endpoint, RedisNeeds};

/// The URL schemes of a bus that may be Redis or NATS.
pub(super) const SCHEMES: &[&str] = &["redis", "rediss", "nats", "tls"];

/// The schemes of Redis; `rediss` is with TLS.
const REDIS_SCHEMES: [&str; 2] = ["redis", "rediss"];

/// The allowed URLs of a bus, for an error.
pub(super) const ALLOWED: &str = "one URL of Redis, or URLs of NATS servers, with their scheme";

/// Whether a URL is of Redis. Returns false if all URLs are of NATS, and without URLs.
pub(super) fn is_redis(urls: &SecretUrl) -> bool {
    schemes(urls).any(|scheme| REDIS_SCHEMES.contains(&scheme))
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

/// The NATS connection from settings: servers, log-in and TLS; no streams.
pub(super) fn nats_settings(access: &NatsAccess) -> NatsSettings {
    let tls = Tls {
        ca: access.ca.clone(),
        client: access.client.clone(),
    };
    NatsSettings::plain(access.url.expose(), credentials(&access.user), tls)
}

fn credentials(user: &NatsUser) -> Credentials {
    match user {
        NatsUser::None => Credentials::None,
        NatsUser::Password(user, password) => {
            Credentials::UserPassword(user.clone(), password.expose().to_owned())
        }
        NatsUser::Token(token) => Credentials::Token(token.expose().to_owned()),
        NatsUser::Creds(path) => Credentials::CredsFile(path.clone()),
        NatsUser::Nkey(path) => Credentials::NkeyFile(path.clone()),
    }
}

/// The settings of the Redis source.
///
/// # Errors
/// An address is not valid.
pub(super) fn redis_settings(checked: &Checked) -> Result<redis::RedisSettings, RunError> {
    redis_settings_of(checked.redis(), checked.number("bus-message-bytes-max"))
}

/// The settings of a source of this server, with payloads up to `payload_bytes_max`.
///
/// # Errors
/// An address is not valid.
pub(super) fn redis_settings_of(
    settings: RedisAccess,
    payload_bytes_max: usize,
) -> Result<redis::RedisSettings, RunError> {
    let RedisAccess {
        url,
        host,
        port,
        sentinels,
        ca_file,
        tls_name,
    } = settings;
    let server = match url {
        Some(url) => Endpoint::parse(url.expose())
            .map_err(|error| RunError::Settings(format!("--redis-url: {error}")))?,
        None => Endpoint::new(&host, port),
    };
    let mut source = redis::RedisSettings::new(server);
    if let Some(sentinels) = sentinels {
        set_sentinels(&mut source, sentinels, "redis-sentinels")?;
    }
    source.tls_ca_file = ca_file;
    set_tls_name(&mut source, tls_name, "redis-tls-name")?;
    source.payload_bytes_max = payload_bytes_max;
    Ok(source)
}

/// Sets the sentinels that name the server; `flag` is the setting with the sentinels.
///
/// # Errors
/// An address is not valid.
pub(super) fn set_sentinels(
    source: &mut redis::RedisSettings,
    SentinelSettings { urls, master }: SentinelSettings,
    flag: &str,
) -> Result<(), RunError> {
    let sentinels = urls.expose().split(',').map(Endpoint::parse_sentinel);
    source.sentinels = sentinels
        .collect::<Result<_, _>>()
        .map_err(|error| RunError::Settings(format!("--{flag}: {error}")))?;
    source.master_name = master;
    Ok(())
}

/// Sets the name that the certificate of the server must have; `flag` is the setting with the name.
///
/// # Errors
/// The server has no TLS.
pub(super) fn set_tls_name(
    source: &mut redis::RedisSettings,
    name: Option<String>,
    flag: &str,
) -> Result<(), RunError> {
    if name.is_some() && !source.server.tls {
        let text = format!("--{flag}: a server without TLS has no certificate; write rediss://");
        return Err(RunError::Settings(text));
    }
    source.server.tls_name = name;
    Ok(())
}

/// Turns an error of the Redis source into a settings error that names the wrong setting.
pub(super) fn redis_error(error: redis::RedisError) -> RunError {
    RunError::Settings(match error {
        redis::RedisError::NobodyTrusted(error) => format!("--redis-ca-file: {error}"),
        redis::RedisError::PlainSentinel { .. } => plain_sentinel(&error, "redis"),
        error => error.to_string(),
    })
}

/// The advice for sentinels without TLS; the names of the settings begin with `flags`.
pub(super) fn plain_sentinel(error: &redis::RedisError, flags: &str) -> String {
    format!(
        "--{flags}-sentinels: {error}; write rediss:// for each sentinel, or set --{flags}-tls-name"
    )
}

/// The address of Redis for people, without user and password.
pub(super) fn shown_redis(source: &redis::RedisSettings) -> String {
    let scheme = if source.server.tls { "rediss" } else { "redis" };
    if source.sentinels.is_empty() {
        return format!("{scheme}://{}", source.server.address());
    }
    let sentinels: Vec<_> = source.sentinels.iter().map(Endpoint::address).collect();
    format!(
        "{} (sentinels {})",
        source.master_name,
        sentinels.join(", ")
    )
}

/// The check of Redis for `--check --connect`.
pub(super) fn redis_question(source: &redis::RedisSettings, needs: RedisNeeds) -> Question {
    let asked = format!("Redis at {}", shown_redis(source));
    let source = source.clone();
    Question::new(asked, move || redis::ask(&source, &needs))
}

/// All subscriptions that the table permits: its names, its patterns, and for each pattern an example of a
/// matching name, because Redis has separate rules for patterns.
pub(super) fn redis_needs(acl: &Acl) -> RedisNeeds {
    let mut wishes = Vec::new();
    for name in acl.all_names() {
        if !is_pattern(name) {
            wishes.push(Subscription::channel(name));
            continue;
        }
        wishes.push(Subscription::pattern(name));
        if !name.contains(['[', '\\']) {
            let example = name.replace('*', "example").replace('?', "x");
            wishes.push(Subscription::channel(example));
        }
    }
    RedisNeeds {
        wishes,
        ..RedisNeeds::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_one_bus() {
        for (urls, redis, wrong) in [
            ("", false, false),
            ("redis://a", true, false),
            ("rediss://u:p@a:1/2", true, false),
            ("nats://a", false, false),
            ("nats://a, tls://b:1", false, false),
            ("nats://a,b", false, true),
            ("redis://a,redis://b", true, true),
            ("redis://a,nats://b", true, true),
            ("localhost", false, true),
        ] {
            let urls = SecretUrl::new(urls);
            assert_eq!((is_redis(&urls), is_wrong(&urls)), (redis, wrong), "{urls}");
        }
    }
}
