//! The Redis connection.

use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::REDIS,
        "redis-url",
        Kind::OptionalUrl(&["redis", "rediss"]),
        "",
        "Redis, over --redis-host and --redis-port; rediss:// goes through TLS",
    )
    .more("redis://USER:PASSWORD@HOST:PORT/DATABASE; shown without the password.")
    .original_env(&["REDIS_URL"])
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
        "Sentinels, with commas between them: they say where Redis is",
    )
    .more(
        "HOST:PORT each, or redis://USER:PASSWORD@HOST:PORT. Of --redis-url only user, password, \
         database and TLS count then.",
    )
    .original_env(&["REDIS_SENTINELS"])
    .part(Part::Redis),
    Setting::new(
        Heading::REDIS,
        "redis-sentinel-master",
        Kind::Text,
        "",
        "The name under which the sentinels know it",
    )
    .original_env(&["REDIS_SENTINEL_MASTER"])
    .part(Part::Redis),
    Setting::new(
        Heading::REDIS,
        "redis-ca-file",
        Kind::Text,
        "",
        "PEM file with the certificates to trust for rediss://; empty: the system's",
    )
    .part(Part::Redis),
];
