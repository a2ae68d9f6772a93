//! The Redis source from settings, for the gateways that have one.

use crate::auth::{Acl, is_pattern};
use crate::feeds::Subscription;
use crate::run::{Question, RunError};
use crate::settings::{Checked, RedisSettings, SentinelSettings};
use crate::sources::redis::{self, Endpoint, RedisNeeds};

/// What the source is told.
///
/// # Errors
/// An address is no good.
pub(super) fn source_settings(checked: &Checked) -> Result<redis::RedisSettings, RunError> {
    settings_of(checked.redis(), checked.number("bus-message-bytes-max"))
}

/// What a source of this server is told, which takes payloads of up to so many bytes.
///
/// # Errors
/// An address is no good.
pub(super) fn settings_of(
    settings: RedisSettings,
    payload_bytes_max: usize,
) -> Result<redis::RedisSettings, RunError> {
    let RedisSettings {
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

/// Has these sentinels name the server; `flag` is the setting that has them.
///
/// # Errors
/// An address is no good.
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

/// Has the certificate of the server be good for this name; `flag` is the setting that has it.
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

/// Why there is no source, with the setting that is at fault.
pub(super) fn source_error(error: redis::RedisError) -> RunError {
    RunError::Settings(match error {
        redis::RedisError::NobodyTrusted(error) => format!("--redis-ca-file: {error}"),
        redis::RedisError::PlainSentinel { .. } => plain_sentinel(&error, "redis"),
        error => error.to_string(),
    })
}

/// What to do about sentinels without TLS; `flags` is how the names of the settings begin.
pub(super) fn plain_sentinel(error: &redis::RedisError, flags: &str) -> String {
    format!(
        "--{flags}-sentinels: {error}; write rediss:// for each sentinel, or set --{flags}-tls-name"
    )
}

/// Where Redis is, for people: without user and password.
pub(super) fn shown_address(source: &redis::RedisSettings) -> String {
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

/// What `--check --connect` asks Redis.
pub(super) fn question(source: &redis::RedisSettings, needs: RedisNeeds) -> Question {
    let asked = format!("Redis at {}", shown_address(source));
    let source = source.clone();
    Question::new(asked, move || redis::ask(&source, &needs))
}

/// What clients may ask for by this table: its names, its patterns, and for each pattern a name that
/// it matches. Redis has rules of its own for patterns.
pub(super) fn wishes(acl: &Acl) -> RedisNeeds {
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
