//! How weirgate reaches its bus, and the messages from the bus.
//!
//! A pair of numbers is the range of a value. `limit` has the effect beyond the limit, where an operator sees it, and a
//! test that exceeds it.

use super::super::groups::{NatsAccess, RedisAccess, TLS_NAME};
use super::super::kind::Kind;
use super::super::setting::{Heading, Setting, Shows, TablePart};
use super::{GIB, KIB};
use crate::field;
use crate::telemetry::MetricName;
use weirgate_core::FeedSettings;

pub(super) static NATS: &[Setting] = &Heading::NATS.in_part(TablePart::Nats).of([
    Setting::new(
        "nats-url",
        Kind::Urls(&["nats", "tls"]),
        field!(NatsAccess, urls),
        "NATS servers, separated by commas",
    )
    .more(
        "Each is nats://HOST:PORT, or tls://HOST:PORT for TLS. A login comes before HOST: USER:PASSWORD@ or TOKEN@.",
    )
    .original_env(&["NATS_URL"])
    .in_short_help()
    .part(TablePart::JetStream),
    Setting::new(
        "nats-user",
        Kind::Text,
        field!(NatsAccess, user),
        "User for servers without a login in the URL",
    )
    .original_env(&["NATS_USER"]),
    Setting::new(
        "nats-password",
        Kind::Secret,
        field!(NatsAccess, password),
        "Password of --nats-user",
    )
    .more("A flag is visible in the list of processes; the environment is not.")
    .original_env(&["NATS_PASSWORD"]),
    Setting::new(
        "nats-token",
        Kind::Secret,
        field!(NatsAccess, token),
        "Token for servers without a login in the URL",
    )
    .original_env(&["NATS_TOKEN"]),
    Setting::new(
        "nats-creds",
        Kind::Path,
        field!(NatsAccess, creds),
        "Credentials file with the user's JWT and the seed of the user's key",
    )
    .more("The file is read again for each connection.")
    .original_env(&["NATS_CREDS"]),
    Setting::new(
        "nats-nkey",
        Kind::Path,
        field!(NatsAccess, nkey),
        "File with the seed of the user's nkey",
    )
    .original_env(&["NATS_NKEY"]),
    Setting::new(
        "nats-ca",
        Kind::Path,
        field!(NatsAccess, ca),
        "PEM file of the certificate authorities to trust",
    )
    .more("They replace those of the system. If set, every connection uses TLS.")
    .original_env(&["NATS_CA"]),
    Setting::new(
        "nats-cert",
        Kind::Path,
        field!(NatsAccess, cert),
        "PEM file of the client certificate, for servers with mutual TLS",
    )
    .more("If set, every connection uses TLS.")
    .original_env(&["NATS_CERT"]),
    Setting::new(
        "nats-key",
        Kind::Path,
        field!(NatsAccess, key),
        "PEM file of the key of --nats-cert",
    )
    .original_env(&["NATS_KEY"]),
    Setting::new(
        "ephemeral",
        Kind::Switch,
        field!(NatsAccess, ephemeral),
        "Use ephemeral consumers, so every replica gets every message",
    )
    .more(
        "By default weirgate uses the durable consumers gateway_levels and gateway_flow, and only one instance can \
         read from them.",
    )
    .in_short_help()
    .part(TablePart::JetStream),
]);

pub(super) static REDIS: &[Setting] = &Heading::REDIS.in_part(TablePart::Redis).of([
    Setting::new(
        "redis-url",
        Kind::OptionalUrl(&["redis", "rediss", "unix"]),
        field!(RedisAccess, url),
        "URL of Redis; rediss:// uses TLS",
    )
    .more(
        "It overrides REDIS_HOST and REDIS_PORT. The form is redis://USER:PASSWORD@HOST:PORT/DATABASE, or \
         unix://USER:PASSWORD@/PATH?db=DATABASE.",
    )
    .original_env(&["REDIS_URL"])
    .in_short_help()
    .part(TablePart::RedisUrl),
    Setting::new(
        "redis-host",
        Kind::Text,
        field!(RedisAccess, host),
        "Host name or address of Redis",
    )
    .original_env_only(&["REDIS_HOST"])
    .part(TablePart::RedisHost),
    Setting::new(
        "redis-port",
        Kind::Port,
        field!(RedisAccess, port),
        "Port of Redis",
    )
    .original_env_only(&["REDIS_PORT"])
    .part(TablePart::RedisHost),
    Setting::new(
        "redis-sentinels",
        Kind::OptionalUrls(&["redis", "rediss", "unix"]),
        field!(RedisAccess, sentinels),
        "Sentinels, separated by commas: the sentinels name the Redis master",
    )
    .more(
        "Each is HOST:PORT or redis://USER:PASSWORD@HOST:PORT.",
    )
    .original_env(&["REDIS_SENTINELS"]),
    Setting::new(
        "redis-sentinel-master",
        Kind::Text,
        field!(RedisAccess, master_name),
        "Name of the Redis master in the configuration of the sentinels",
    )
    .original_env(&["REDIS_SENTINEL_MASTER"]),
    Setting::new(
        "redis-ca-file",
        Kind::Path,
        field!(RedisAccess, ca_file),
        "PEM file with the certificates to trust for rediss://; empty: the system's",
    ),
    Setting::new(
        "redis-cert",
        Kind::Path,
        field!(RedisAccess, certificate),
        "PEM file of the client certificate, for servers with tls-auth-clients",
    )
    .more("It is shown to the server of rediss:// and to sentinels with TLS."),
    Setting::new(
        "redis-key",
        Kind::Path,
        field!(RedisAccess, key),
        "PEM file of the key of --redis-cert",
    ),
    Setting::new(
        "redis-tls-name",
        Kind::Form(&TLS_NAME),
        field!(RedisAccess, tls_name),
        "Name that the certificate of the Redis server must have",
    )
    .more(
        "The default is the host of the URL, or the address of the master that sentinels name over TLS. It is required \
         if the master has TLS and the sentinels do not.",
    ),
]);

pub(super) static BUS: &[Setting] = &Heading::BUS.in_part(TablePart::BusMessages).of([
    Setting::bytes(
        "bus-message-bytes-max",
        (KIB, GIB),
        field!(FeedSettings, bus_message_bytes_max),
        "Bytes of one message from the bus",
    )
    .limit(
        "the message is counted, logged and skipped; on channels, if only its text is over the limit, for clients of texts",
        Shows::Metric(MetricName::BUS_MESSAGES_BAD),
        "tests/blackbox/test_limits_turns.py::test_bus_messages_over_a_limit_are_skipped_and_counted",
    ),
    Setting::new(
        "stamp",
        Kind::Switch,
        field!(FeedSettings, is_stamped),
        "Add recv_us to each message: when weirgate received it from the bus",
    )
    .more(
        "The value is Unix time in microseconds.",
    ),
]);
