//! Errors in settings, in words for the operator.
//!
//! Settings that were removed: a start with such a setting ends with status 2, and names the replacement.

use super::kind::Refused;
use super::setting::Setting;
use super::typed::Source;

/// One wrong setting. The text never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not allowed.
    #[error("{name} is {value}; allowed: {allowed}")]
    Value {
        /// The flag, plus the env name if the value is from the environment.
        name: String,
        /// The value, quoted; `***` for a value with a possible secret.
        value: String,
        /// The allowed values.
        allowed: String,
    },
    /// An env value that is not UTF-8.
    #[error("{name} is not UTF-8 text")]
    NotText {
        /// The env name, after the flag of its setting, if any.
        name: String,
    },
    /// A required setting is not set.
    #[error("--{flag} (env {env}) is needed; allowed: {allowed}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// The env name to set.
        env: String,
        /// The allowed values.
        allowed: String,
    },
    /// The env name of a setting that was removed.
    #[error("{name} is gone: {instead}")]
    Gone {
        /// The env name.
        name: String,
        /// The replacement of the setting.
        instead: &'static str,
    },
    /// Two exclusive settings are both set.
    #[error("{one} and {other} are both set; allowed: one of them")]
    Either {
        /// A flag with the source of its value.
        one: String,
        /// The other flag with the source of its value.
        other: String,
    },
    /// A setting without its counterpart.
    #[error("{one} is set without --{other}; allowed: both or none")]
    Alone {
        /// The flag with the source of its value.
        one: String,
        /// The missing flag.
        other: &'static str,
    },
    /// Two inconsistent values.
    #[error(
        "{low} is {low_value} ({low_from}); allowed: at most {high}, {high_value} ({high_from})"
    )]
    Order {
        /// The setting with the too large value.
        low: String,
        /// The value of `low`.
        low_value: u64,
        /// The source of `low_value`.
        low_from: Source,
        /// The setting of the upper bound.
        high: String,
        /// The value of `high`.
        high_value: u64,
        /// The source of `high_value`.
        high_from: Source,
    },
}

impl SettingsError {
    /// A value of `setting` that is not allowed.
    pub(super) fn value(setting: &Setting, source: &Source, refused: &Refused) -> Self {
        Self::Value {
            name: match source {
                Source::Env(_) => setting.named(source),
                _ => setting.name(),
            },
            value: setting.kind.shown_when_wrong(&refused.item),
            allowed: refused.allowed.clone(),
        }
    }
}

/// A problem that does not prevent the start. For the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// An address from Kubernetes, for a service of the same name.
    #[error(
        "{name}={value} is ignored: Kubernetes sets it for a service; set a port number, or rename the service"
    )]
    ServiceAddress {
        /// The env name.
        name: String,
        /// The value, such as `tcp://10.0.0.1:80`.
        value: String,
    },
    /// Limits by address that count all clients of a proxy together.
    #[error(
        "--listen has a unix socket and --trusted-proxies does not have unix: --{flag} applies to all clients of the socket together"
    )]
    TogetherOverUnix {
        /// The flag of the limit.
        flag: &'static str,
    },
    /// `--reuse-port` without a TCP port.
    #[error(
        "--reuse-port has no effect: --listen has no IP address; give each process a unix socket"
    )]
    NoPortToShare,
    /// An env name with weirgate's prefix that is not a setting.
    #[error("{name} is not a setting of this gateway and was ignored{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean {n}?")))]
    Unknown {
        /// The env name.
        name: String,
        /// The nearest setting, probably the intended one.
        nearest: Option<String>,
    },
}

/// A line for each flag: its name, a space, and what took its place.
pub(super) const GONE: &str = "\
admin-tail use weirgate tail
listen-backlog the backlog is 4096, which net.core.somaxconn may lower
upstream-answer-bytes-max a response to a call may have 64 MiB
connection-burst-per-ip a burst is 20 connections, with --connection-rate-per-ip
control-bytes-max 4 KiB of pongs may wait for a client
turn-message-bytes-max the budgets of a turn are constants
turn-all-message-bytes-max the budgets of a turn are constants
turn-publication-bytes-max the budgets of a turn are constants
read-bytes-per-turn-max the budgets of a turn are constants
accepts-per-turn-max the budgets of a turn are constants
write-bytes-max the budgets of a turn are constants
health-timeout-ms weirgate health waits 2 s
head-headers-max a request head may have 100 header lines
json-depth-max JSON may nest 512 levels
event-stream-sends-max a request may have 32 parameters send
deflate-min-bytes messages of 256 bytes to 1 MiB are compressed
deflate-max-bytes messages of 256 bytes to 1 MiB are compressed
deflate-window levels and trades share a window, channels and events do not
close-timeout-ms a closed client has 5 s to end the connection
loop-stall-ms /ready is 503 after 2 s without a turn of the loop
bus-queue-messages-max 1024 messages may wait between the bus and the loop
candle-grace-ms a candle takes late trades for 500 ms
candle-pairs-max there are at most 30000 candles
retained-subjects-max a pattern has at most 1000 last values
channel-name-bytes-max a name may have 512 bytes
all-wildcards-max all clients together may hold 1000 different patterns
wildcards-per-ip-max an address gets a pattern only while it holds fewer than are free of 1000
calls-max 100 calls may be in flight
proxy-connections-per-ip-max an address gets a connection only while it holds fewer than are free of --proxy-connections-max
events-bus-waiting-max 1000 pushes may wait for other instances
events-bus-instances-max 64 instances may be on the bus
look-back-messages-max at most 200 messages of a subject are fetched
unfinished-bytes-max a fixed share of --memory-max; --check shows the shares
inflate-windows-bytes-max a fixed share of --memory-max; --check shows the shares
bus-queue-bytes-max a fixed share of --memory-max; --check shows the shares
broadcast-bytes-max a fixed share of --memory-max; --check shows the shares
all-channel-name-bytes-max a fixed share of --memory-max; --check shows the shares
events-bus-sentinels use --redis-sentinels
events-bus-sentinel-master use --redis-sentinel-master
events-bus-tls-name use --redis-tls-name
events-bus-cert use --nats-cert
events-bus-key use --nats-key
events-bus-creds use --nats-creds
events-bus-nkey use --nats-nkey
events-bus-ca use --redis-ca-file or --nats-ca, for the kind of --events-bus
retained-bytes-max a fixed share of --memory-max; --check shows the shares
waiting-bytes-max a fixed share of --memory-max; --check shows the shares
renewals-per-second-max all clients together may send 500 new tokens a second
orphans-max 10000 messages of devices that have gone may wait
revoked-max 10000 users, tokens and addresses may be refused
tls-handshakes-per-ip-max an address gets a handshake only while it holds fewer than are free of --tls-handshakes-max
redis-host use REDIS_HOST in the environment, or --redis-url
redis-port use REDIS_PORT in the environment, or --redis-url
node-env use NODE_ENV in the environment
internal-auth-token use INTERNAL_AUTH_TOKEN in the environment
rate-limit-rps use RATE_LIMIT_RPS in the environment
rate-limit-burst use RATE_LIMIT_BURST in the environment
wildcards-max use MAX_WILDCARD_SUBSCRIPTIONS in the environment
default-role use DEFAULT_ROLE in the environment
gateway-api-key use GATEWAY_API_KEY in the environment
jwt-secret use JWT_SECRET in the environment
jwt-secret-before use JWT_SECRET_BEFORE in the environment";
