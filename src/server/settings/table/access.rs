//! Access: the logins at NATS and Redis; and the tokens of clients, with their keys, rules and claims.

use super::super::field::With;
use super::super::groups::{AuthSettings, NatsAccess, RedisAccess, TLS_NAME};
use super::super::key_set_url::{KEY_SET_URL, KeySetUrl};
use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting};
use super::HOUR_MS;
use crate::field;

pub(super) static NATS: &[Setting] = &Heading::NATS.in_part(Part::Nats).of([
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
    .part(Part::JetStream),
]);

pub(super) static REDIS: &[Setting] = &Heading::REDIS.in_part(Part::Redis).of([
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
        "Each is HOST:PORT or redis://USER:PASSWORD@HOST:PORT. weirgate then takes only user, password, database and \
         TLS from the URL of Redis.",
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
         if the master has TLS and the sentinels do not. Certificates of sentinels are not checked against it.",
    ),
]);

pub(super) static TOKENS: &[Setting] = &Heading::TOKENS.in_part(Part::Tokens).of([
    Setting::new(
        "require-auth",
        Kind::Switch,
        field!(AuthSettings, required),
        "Refuse clients without a valid token: close with 1008",
    )
    .more("By default tokens are ignored.")
    .original_env(&["REQUIRE_AUTH"])
    .in_short_help()
    .part(Part::RequireAuth),
    Setting::new(
        "gateway-api-key",
        Kind::Secret,
        field!(AuthSettings, api_key),
        "API key; a client with this key as token is an admin",
    )
    .original_env_only(&["GATEWAY_API_KEY"]),
    Setting::new(
        "token-cookie",
        Kind::Text,
        field!(AuthSettings, token_cookie),
        "Cookie with the token, for pages of --allowed-origins",
    )
    .more(
        "It is read if the request has no other token. It needs --allowed-origins; otherwise any web page could use \
         its visitor's cookie.",
    ),
    Setting::new(
        "jwt-secret",
        Kind::Secret,
        field!(AuthSettings, jwt_secret),
        "Secret of HS256 tokens; 32 bytes or more",
    )
    .original_env_only(&["JWT_SECRET"]),
    Setting::new(
        "jwt-secret-before",
        Kind::Secret,
        field!(AuthSettings, jwt_secret_before),
        "The previous JWT_SECRET; tokens signed with either are valid",
    )
    .more("Set it while clients still have tokens of the previous secret.")
    .original_env_only(&["JWT_SECRET_BEFORE"]),
    Setting::new(
        "jwt-public-key-files",
        Kind::Paths,
        field!(AuthSettings, public_key_files),
        "PEM files with public keys, for RS256, ES256 (P-256) and EdDSA (Ed25519)",
    )
    .more("Several are separated by commas. Changed files are read again.")
    .original_env(&["JWT_PUBLIC_KEY_FILES"]),
    Setting::new(
        "jwt-jwks-file",
        Kind::Path,
        field!(AuthSettings, jwks_file),
        "File with a JSON Web Key Set, for RS256, ES256 and EdDSA",
    )
    .more("A changed file is read again; a broken file leaves the keys unchanged.")
    .original_env(&["JWT_JWKS_FILE"]),
    Setting::new(
        "jwt-jwks-url",
        Kind::Form(&KEY_SET_URL),
        &With::<AuthSettings, String> {
            set: |auth, url| auth.jwks_url = KeySetUrl::parse(&url),
            get: |_| String::new(),
        },
        "URL of a JSON Web Key Set, for RS256, ES256 and EdDSA",
    )
    .more(
        "It is fetched each hour, at SIGHUP, and if no key fits a token (then at most once a minute). While the server \
         is away, the last good keys stay in use.",
    )
    .original_env(&["JWT_JWKS_URL"]),
    Setting::new(
        "jwt-jwks-ca-file",
        Kind::Path,
        field!(AuthSettings, jwks_ca_file),
        "PEM file with the authorities for --jwt-jwks-url, instead of the system's",
    )
    .original_env(&["JWT_JWKS_CA_FILE"]),
    Setting::new(
        "jwt-audience",
        Kind::Text,
        field!(AuthSettings, rules.audiences),
        "Required aud of tokens; several are separated by commas",
    )
    .more("If it is empty, a token with an audience is refused.")
    .original_env(&["JWT_AUDIENCE"]),
    Setting::new(
        "jwt-issuer",
        Kind::Text,
        field!(AuthSettings, rules.issuers),
        "Required iss of tokens; several are separated by commas; empty for any",
    )
    .original_env(&["JWT_ISSUER"]),
    Setting::ms(
        "jwt-leeway-ms",
        (0, HOUR_MS),
        field!(AuthSettings, rules.leeway_ms),
        "How far the issuer's clock may differ, for exp and nbf",
    )
    .more("nbf always has at least 5 s."),
    Setting::new(
        "jwt-role-claim",
        Kind::Text,
        field!(AuthSettings, rules.role),
        "The claim with the role or a list of roles; a dot leads into an object",
    )
    .more(
        "For example realm_access.roles. If a token has several roles, the one that comes first in the table counts. A \
         token without the claim has the default role.",
    ),
    Setting::new(
        "jwt-user-claim",
        Kind::Text,
        field!(AuthSettings, rules.user),
        "The claim with the user",
    ),
    Setting::new(
        "jwt-symbols-claim",
        Kind::Text,
        field!(AuthSettings, rules.symbols_max),
        "The claim with the user's symbol limit, a whole number",
    ),
    Setting::new(
        "jwt-channels-claim",
        Kind::Text,
        field!(AuthSettings, rules.names),
        "The claim with a list of names that the token grants beside the role",
    )
    .more(
        "The list may have patterns, and at most as many entries as a client may hold. Only channels reads it.",
    ),
]);
