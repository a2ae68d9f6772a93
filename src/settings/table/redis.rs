//! The Redis connection.

use super::super::kind::Kind;
use super::super::setting::Heading::Redis;
use super::super::setting::Setting;
use super::super::setting::Subcommand::{Channels, Trades};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Redis,
        "redis-url",
        Kind::OptionalUrl(&["redis", "rediss"]),
        "",
        "Redis, over --redis-host and --redis-port; rediss:// goes through TLS",
    )
    .more("redis://USER:PASSWORD@HOST:PORT/DATABASE; shown without the password.")
    .original_env(&["REDIS_URL"])
    .on(&[Channels]),
    Setting::new(
        Redis,
        "redis-url",
        Kind::OptionalUrl(&["redis", "rediss"]),
        "",
        "Redis; needed, unless there are --redis-sentinels; rediss:// goes through TLS",
    )
    .more("redis://USER:PASSWORD@HOST:PORT/DATABASE; shown without the password.")
    .original_env(&["REDIS_URL"])
    .on(&[Trades]),
    Setting::new(
        Redis,
        "redis-host",
        Kind::Text,
        "localhost",
        "Host name or address of Redis",
    )
    .original_env(&["REDIS_HOST"])
    .on(&[Channels]),
    Setting::new(Redis, "redis-port", Kind::Port, "6379", "Port of Redis")
        .original_env(&["REDIS_PORT"])
        .on(&[Channels]),
    Setting::new(
        Redis,
        "redis-sentinels",
        Kind::OptionalUrls(&["redis", "rediss"]),
        "",
        "Sentinels, with commas between them: they say where Redis is",
    )
    .more(
        "HOST:PORT each, or redis://USER:PASSWORD@HOST:PORT. Of --redis-url only user, password, \
         database and TLS count then.",
    )
    .original_env(&["REDIS_SENTINELS"])
    .on(&[Trades, Channels]),
    Setting::new(
        Redis,
        "redis-sentinel-master",
        Kind::Text,
        "",
        "The name under which the sentinels know it",
    )
    .original_env(&["REDIS_SENTINEL_MASTER"])
    .on(&[Trades, Channels]),
    Setting::new(
        Redis,
        "redis-ca-file",
        Kind::Text,
        "",
        "PEM file with the certificates to trust for rediss://; empty: the system's",
    )
    .on(&[Trades, Channels]),
];
