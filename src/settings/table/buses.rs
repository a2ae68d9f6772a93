//! The access to a bus: the NATS connection, the Redis connection.

use super::super::field::field;
use super::super::groups::{NatsAccess, RedisAccess, TLS_NAME};
use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting};

pub(super) static NATS: &[Setting] = &Heading::NATS.of_part(
    Part::Nats,
    [
        Setting::new(
            "nats-url",
            Kind::Urls(&["nats", "tls"]),
            field!(NatsAccess, urls),
            "NATS servers, separated by commas",
        )
        .more("nats://USER:PASSWORD@HOST:PORT or nats://TOKEN@HOST:PORT; shown without the secret.")
        .original_env(&["NATS_URL"])
        .in_short_help()
        .part(Part::JetStream),
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
        .more(
            "weirgate reads the files for every connection, so a replaced file takes effect with \
        the next connection.",
        )
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
            "PEM file of the certificate authorities to trust for the servers",
        )
        .more(
            "Replaces the certificate authorities of the system. If set, every connection uses \
        TLS, whatever the URL says.",
        )
        .original_env(&["NATS_CA"]),
        Setting::new(
            "nats-cert",
            Kind::Path,
            field!(NatsAccess, cert),
            "PEM file of the client certificate, for servers with mutual TLS",
        )
        .more("If set, every connection uses TLS, whatever the URL says.")
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
            "By default one instance holds the durable consumers gateway_levels and gateway_flow.",
        )
        .in_short_help()
        .part(Part::JetStream),
    ],
);

pub(super) static REDIS: &[Setting] = &Heading::REDIS.of_part(Part::Redis, [
    Setting::new(
        "redis-url",
        Kind::OptionalUrl(&["redis", "rediss", "unix"]),
        field!(RedisAccess, url),
        "URL of Redis; rediss:// uses TLS",
    )
    .more(
        "Overrides REDIS_HOST and REDIS_PORT. redis://USER:PASSWORD@HOST:PORT/DATABASE, or \
         unix://USER:PASSWORD@/PATH?db=DATABASE; shown without the password.",
    )
    .original_env(&["REDIS_URL"])
    .in_short_help()
    .part(Part::RedisUrl),
    Setting::new(
        "redis-host",
        Kind::Text,
        field!(RedisAccess, host),
        "Host name or address of Redis",
    )
    .original_env_only(&["REDIS_HOST"])
    .part(Part::RedisHost),
    Setting::new(
        "redis-port",
        Kind::Port,
        field!(RedisAccess, port),
        "Port of Redis",
    )
    .original_env_only(&["REDIS_PORT"])
    .part(Part::RedisHost),
    Setting::new(
        "redis-sentinels",
        Kind::OptionalUrls(&["redis", "rediss", "unix"]),
        field!(RedisAccess, sentinels),
        "Sentinels, separated by commas: the sentinels name the Redis master",
    )
    .more(
        "HOST:PORT each, or redis://USER:PASSWORD@HOST:PORT. Then only user, password, database \
            and TLS of --redis-url are used.",
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
    .more("For the server of rediss:// and for sentinels with TLS."),
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
        "Default: the host of --redis-url, or the address that sentinels name over TLS. Required for \
         a master with TLS behind sentinels without TLS. Not for the certificates of sentinels.",
    ),
]);
