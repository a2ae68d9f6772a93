//! The access to a bus: the NATS connection, the Redis connection.

use super::super::groups::TLS_NAME;
use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting, Shows};
use crate::telemetry::names;

pub(super) static NATS: &[Setting] = &[
    Setting::new(
        Heading::NATS,
        "nats-url",
        Kind::Urls(&["nats", "tls"]),
        "nats://nats:4222",
        "NATS servers, separated by commas",
    )
    .more("nats://USER:PASSWORD@HOST:PORT or nats://TOKEN@HOST:PORT; shown without the secret.")
    .original_env(&["NATS_URL"])
    .in_short_help()
    .part(Part::JetStream),
    Setting::new(
        Heading::NATS,
        "nats-user",
        Kind::Text,
        "",
        "User for servers without a login in the URL",
    )
    .original_env(&["NATS_USER"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-password",
        Kind::Secret,
        "",
        "Password of --nats-user",
    )
    .more("A flag is visible in the list of processes; the environment is not.")
    .original_env(&["NATS_PASSWORD"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-token",
        Kind::Secret,
        "",
        "Token for servers without a login in the URL",
    )
    .original_env(&["NATS_TOKEN"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-creds",
        Kind::Path,
        "",
        "Credentials file with the user's JWT and the seed of the user's key",
    )
    .more(
        "weirgate reads the files for every connection, so a replaced file takes effect with \
        the next connection.",
    )
    .original_env(&["NATS_CREDS"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-nkey",
        Kind::Path,
        "",
        "File with the seed of the user's nkey",
    )
    .original_env(&["NATS_NKEY"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-ca",
        Kind::Path,
        "",
        "PEM file of the certificate authorities to trust for the servers",
    )
    .more(
        "Replaces the certificate authorities of the system. If set, every connection uses \
        TLS, whatever the URL says.",
    )
    .original_env(&["NATS_CA"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-cert",
        Kind::Path,
        "",
        "PEM file of the client certificate, for servers with mutual TLS",
    )
    .more("If set, every connection uses TLS, whatever the URL says.")
    .original_env(&["NATS_CERT"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-key",
        Kind::Path,
        "",
        "PEM file of the key of --nats-cert",
    )
    .original_env(&["NATS_KEY"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "ephemeral",
        Kind::Switch,
        "false",
        "Use ephemeral consumers, so every replica gets every message",
    )
    .more("By default one instance holds the durable consumers gateway_levels and gateway_flow.")
    .in_short_help()
    .part(Part::JetStream),
    Setting::count(
        Heading::NATS,
        "look-back-messages-max",
        (0, 10_000),
        "200",
        "Messages fetched of a subject to find its last good one, if the newest is bad",
    )
    .more("At a start, and after an outage with more than 4 messages. 0 fetches none.")
    .limit(
        "clients get no state of the subject until its next good message; a log line",
        Shows::Metric(names::BUS_LOOK_BACKS_LIMITED),
        "tests/blackbox/test_last_good_state.py::\
        test_the_look_back_has_a_limit_that_is_logged_and_counted",
    )
    .part(Part::JetStream),
];

pub(super) static REDIS: &[Setting] = &[
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
