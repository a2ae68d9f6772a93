//! The Redis connection.

use super::super::kind::Kind;
use super::super::redis::TLS_NAME;
use super::super::setting::{Heading, Part, Setting};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::REDIS,
        "redis-url",
        Kind::OptionalUrl(&["redis", "rediss"]),
        "",
        "URL of Redis; rediss:// uses TLS",
    )
    .more(
        "Overrides --redis-host and --redis-port. redis://USER:PASSWORD@HOST:PORT/DATABASE; shown \
         without the password.",
    )
    .original_env(&["REDIS_URL"])
    .in_short_help()
    .part(Part::Redis),
    Setting::new(
        Heading::REDIS,
        "redis-host",
        Kind::Text,
        "localhost",
        "Host name or address of Redis",
    )
    .original_env(&["REDIS_HOST"])
    .part(Part::RedisHost),
    Setting::new(
        Heading::REDIS,
        "redis-port",
        Kind::Port,
        "6379",
        "Port of Redis",
    )
    .original_env(&["REDIS_PORT"])
    .part(Part::RedisHost),
    Setting::new(
        Heading::REDIS,
        "redis-sentinels",
        Kind::OptionalUrls(&["redis", "rediss"]),
        "",
        "Sentinels, separated by commas: the sentinels name the Redis master",
    )
    .more(
        "HOST:PORT each, or redis://USER:PASSWORD@HOST:PORT. Then only user, password, database \
            and TLS of --redis-url are used.",
    )
    .original_env(&["REDIS_SENTINELS"])
    .part(Part::Redis),
    Setting::new(
        Heading::REDIS,
        "redis-sentinel-master",
        Kind::Text,
        "",
        "Name of the Redis master in the configuration of the sentinels",
    )
    .original_env(&["REDIS_SENTINEL_MASTER"])
    .part(Part::Redis),
    Setting::new(
        Heading::REDIS,
        "redis-ca-file",
        Kind::Path,
        "",
        "PEM file with the certificates to trust for rediss://; empty: the system's",
    )
    .part(Part::Redis),
    Setting::new(
        Heading::REDIS,
        "redis-tls-name",
        Kind::Form(&TLS_NAME),
        "",
        "Name that the certificate of the Redis server must have",
    )
    .more(
        "Default: the host of --redis-url, or the address that sentinels name over TLS. Required for \
         a master with TLS behind sentinels without TLS. Not for the certificates of sentinels.",
    )
    .part(Part::Redis),
];
