//! What the program takes: plain structs, read, checked against each other, units in the names.
//!
//! The second stage. [`Checked`] holds the values of one subcommand with their sources (that is
//! what `--check` prints); the structs are made from it, those of a gateway in a file of its own.

mod auth;
mod channels;
mod checked;
mod events;
mod levels;
mod nats;
mod redis;
mod trades;

use std::net::SocketAddr;

use super::error::Warning;
use super::kind::Value;
use crate::admission::{AddressLimits, TrustedProxies};
use crate::hub;

pub use self::auth::AuthSettings;
pub use self::channels::ChannelsSettings;
pub use self::checked::{Checked, CheckedValue};
pub use self::events::EventsSettings;
pub use self::levels::{DemoSettings, LevelsSettings};
pub use self::nats::{NatsAccess, NatsUser};
pub use self::redis::{RedisSettings, SentinelSettings};
pub use self::trades::TradesSettings;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What every gateway has.
#[derive(Clone, Debug, PartialEq)]
pub struct CommonSettings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Connections that may wait to be accepted.
    pub listen_backlog: i32,
    /// Where `/metrics`, `/stats`, `/ready` and `/internal/*` are instead of the public port.
    pub admin_addr: Option<SocketAddr>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written, as `RUST_LOG` says it.
    pub log_filter: String,
    /// At a stop: how long to go on accepting while `/ready` says 503.
    pub drain_delay_ms: u64,
    /// At a stop: the closes are spread over this time.
    pub drain_ms: u64,
    /// At a stop: the longest time for it, `drain_delay_ms` and `drain_ms` apart.
    pub stop_timeout_ms: u64,
    /// How long the bus may be away before `/ready` says 503.
    pub ready_bus_grace_ms: u64,
    /// How long the bus may be away before the process ends; `None` for ever.
    pub bus_away_exit_s: Option<u64>,
    /// Age of the last turn of the loop from which `/ready` says 503.
    pub loop_stall_ms: u64,
    /// Origins that may connect, as browsers write them; empty for any.
    pub allowed_origins: Vec<String>,
    /// Who may say which address a client has.
    pub trusted_proxies: TrustedProxies,
    /// `TCP_NOTSENT_LOWAT`; 0 leaves the kernel's default.
    pub tcp_notsent_lowat_bytes: u32,
    /// Everything that can grow.
    pub limits: LimitSettings,
    /// What to log once there is a log.
    pub warnings: Vec<Warning>,
}

/// The limits of one client's send queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendQueueSettings {
    /// Waiting bytes from which a client counts as slow.
    pub soft_bytes: usize,
    /// How long a queue that cannot be conflated may stay over `soft_bytes`.
    pub soft_for_ms: u64,
    /// Waiting bytes from which a queue that cannot be conflated drops its client.
    pub hard_bytes: usize,
    /// Age of the oldest waiting frame from which a queue is conflated.
    pub conflate_after_ms: u64,
    /// A client that takes no byte for this long is dropped.
    pub stall_ms: u64,
    /// Bytes of waiting pongs; over it the client is not read.
    pub control_bytes_max: usize,
}

/// Everything that can grow, and the deadlines of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// One send queue.
    pub send_queue: SendQueueSettings,
    /// All frames in memory together, each counted once.
    pub frame_bytes_max: u64,
    /// One request head.
    pub head_bytes_max: usize,
    /// Header lines of a request head.
    pub head_headers_max: usize,
    /// From accept to the whole request head.
    pub handshake_timeout_ms: u64,
    /// One message from a client, inflated.
    pub message_bytes_max: usize,
    /// Connections at once, HTTP included; `None` for no limit.
    pub connections_max: Option<usize>,
    /// Connections of one address, at once and new ones.
    pub per_ip: AddressLimits,
    /// Between pings; 0 sends none.
    pub ping_interval_ms: u64,
    /// From a ping to its pong.
    pub pong_timeout_ms: u64,
    /// From our close frame to the end of the connection.
    pub close_timeout_ms: u64,
    /// Message bytes of one client, inflated, in one turn.
    pub turn_message_bytes_max: usize,
    /// Bytes handed to one client in one write.
    pub write_bytes_max: usize,
    /// zlib level of permessage-deflate, 1 to 9; 0 refuses the offers.
    pub deflate_level: u32,
    /// Messages below this are not compressed.
    pub deflate_min_bytes: usize,
    /// Messages above this are not compressed.
    pub deflate_max_bytes: usize,
    /// Bytes read from one client in one turn.
    pub read_bytes_per_turn_max: usize,
    /// Connections accepted in one turn.
    pub accepts_per_turn_max: usize,
    /// Bytes of publications queued before a flush; at most half of the soft limit.
    pub turn_publication_bytes_max: usize,
    /// Messages between the bus and the loop.
    pub bus_queue_messages_max: usize,
    /// One message from the bus.
    pub bus_message_bytes_max: usize,
    /// Nesting of JSON.
    pub json_depth_max: usize,
}

impl CommonSettings {
    /// The limits of the core, which counts in microseconds.
    pub fn core(&self) -> hub::Limits {
        let limits = &self.limits;
        let queue = &limits.send_queue;
        hub::Limits {
            send_queue: hub::SendQueueLimits {
                soft_bytes: queue.soft_bytes,
                hard_bytes: queue.hard_bytes,
                soft_for_us: queue.soft_for_ms * 1000,
                conflate_after_us: queue.conflate_after_ms * 1000,
                stall_us: queue.stall_ms * 1000,
                control_bytes_max: queue.control_bytes_max,
            },
            frame_bytes_max: limits.frame_bytes_max,
            head_bytes_max: limits.head_bytes_max,
            head_headers_max: limits.head_headers_max,
            handshake_us: limits.handshake_timeout_ms * 1000,
            message_bytes_max: limits.message_bytes_max,
            connections_max: limits.connections_max.unwrap_or(usize::MAX),
            per_ip: limits.per_ip,
            trusted_proxies: self.trusted_proxies.clone(),
            ping_interval_us: limits.ping_interval_ms * 1000,
            pong_timeout_us: limits.pong_timeout_ms * 1000,
            close_timeout_us: limits.close_timeout_ms * 1000,
            turn_message_bytes_max: limits.turn_message_bytes_max,
            write_bytes_max: limits.write_bytes_max,
            deflate_level: limits.deflate_level,
            deflate_min_bytes: limits.deflate_min_bytes,
            deflate_max_bytes: limits.deflate_max_bytes,
        }
    }
}

impl Checked {
    /// What every gateway has.
    fn common(&self, warnings: Vec<Warning>) -> CommonSettings {
        CommonSettings {
            listen: self.listen(),
            listen_backlog: self.number("listen-backlog"),
            admin_addr: match self.value("admin-addr") {
                &Value::SocketAddr(addr) => addr,
                other => unreachable!("--admin-addr is no address: {other:?}"),
            },
            log_format: match self.value("log-format") {
                Value::Choice("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
            log_filter: match self.value("log-filter") {
                Value::Text(filter) => filter.clone(),
                other => unreachable!("--log-filter is no text: {other:?}"),
            },
            drain_delay_ms: self.number("drain-delay-ms"),
            drain_ms: self.number("drain-ms"),
            stop_timeout_ms: self.number("stop-timeout-ms"),
            ready_bus_grace_ms: self.number_or_0("ready-bus-grace-ms"),
            bus_away_exit_s: match self.number_or_0("bus-away-exit-s") {
                0 => None,
                n => Some(n),
            },
            loop_stall_ms: self.number("loop-stall-ms"),
            allowed_origins: match self.value("allowed-origins") {
                Value::Origins(origins) => origins.clone(),
                other => unreachable!("--allowed-origins is no list: {other:?}"),
            },
            trusted_proxies: match self.value("trusted-proxies") {
                Value::Networks(proxies) => proxies.clone(),
                other => unreachable!("--trusted-proxies is no list: {other:?}"),
            },
            tcp_notsent_lowat_bytes: self.number("tcp-notsent-lowat-bytes"),
            limits: self.limits(),
            warnings,
        }
    }

    fn limits(&self) -> LimitSettings {
        LimitSettings {
            send_queue: SendQueueSettings {
                soft_bytes: self.number("send-queue-soft-bytes"),
                soft_for_ms: self.number("send-queue-soft-for-ms"),
                hard_bytes: self.number("send-queue-hard-bytes"),
                conflate_after_ms: self.number("send-queue-conflate-after-ms"),
                stall_ms: self.number("send-queue-stall-ms"),
                control_bytes_max: self.number("control-bytes-max"),
            },
            frame_bytes_max: self.number("frame-bytes-max"),
            head_bytes_max: self.number("head-bytes-max"),
            head_headers_max: self.number("head-headers-max"),
            handshake_timeout_ms: self.number("handshake-timeout-ms"),
            message_bytes_max: self.number("message-bytes-max"),
            connections_max: self.unless_0("connections-max"),
            per_ip: self.per_ip(),
            ping_interval_ms: self.number("ping-interval-ms"),
            pong_timeout_ms: self.number("pong-timeout-ms"),
            close_timeout_ms: self.number("close-timeout-ms"),
            turn_message_bytes_max: self.number("turn-message-bytes-max"),
            write_bytes_max: self.number("write-bytes-max"),
            deflate_level: self.number("deflate-level"),
            deflate_min_bytes: self.number("deflate-min-bytes"),
            deflate_max_bytes: self.number("deflate-max-bytes"),
            read_bytes_per_turn_max: self.number("read-bytes-per-turn-max"),
            accepts_per_turn_max: self.number("accepts-per-turn-max"),
            turn_publication_bytes_max: self.number("turn-publication-bytes-max"),
            bus_queue_messages_max: self.number_or_0("bus-queue-messages-max"),
            bus_message_bytes_max: self.number_or_0("bus-message-bytes-max"),
            json_depth_max: self.number("json-depth-max"),
        }
    }

    fn per_ip(&self) -> AddressLimits {
        AddressLimits {
            connections_max: self.unless_0("connections-per-ip-max"),
            connections_per_second: self.unless_0("connection-rate-per-ip"),
            burst: self.number("connection-burst-per-ip"),
        }
    }
}
