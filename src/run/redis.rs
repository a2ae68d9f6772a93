//! The Redis source from settings, for the gateways that have one.

use super::RunError;
use crate::settings::{RedisSettings, SentinelSettings};
use crate::sources::redis::{self, Endpoint};

/// What the source is told.
///
/// # Errors
/// An address is no good.
pub(super) fn source_settings(
    settings: &RedisSettings,
    payload_bytes_max: usize,
) -> Result<redis::RedisSettings, RunError> {
    let server = match &settings.url {
        Some(url) => Endpoint::parse(url.expose())
            .map_err(|error| RunError::Settings(format!("--redis-url: {error}")))?,
        None => Endpoint::new(&settings.host, settings.port),
    };
    let mut source = redis::RedisSettings::new(server);
    if let Some(SentinelSettings { urls, master }) = &settings.sentinels {
        let sentinels = urls.expose().split(',').map(Endpoint::parse_sentinel);
        source.sentinels = sentinels
            .collect::<Result<_, _>>()
            .map_err(|error| RunError::Settings(format!("--redis-sentinels: {error}")))?;
        source.master_name.clone_from(master);
    }
    source.tls_ca_file.clone_from(&settings.ca_file);
    source.payload_bytes_max = payload_bytes_max;
    Ok(source)
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
