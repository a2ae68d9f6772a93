//! The shape of `/operator/state`: written by the gateway, read by `weirgate top` and by the operator's page.
//!
//! Gateway and `top` may be of different versions: a missing member has a default, and an unknown member is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hub::{Cut, TopicLook, Traffic};

/// A process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorState {
    /// The subcommand. Every gateway has a name.
    pub gateway: String,
    /// The version of the program.
    pub version: String,
    /// The time of the state, Unix milliseconds.
    pub now_unix_ms: i64,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Whether the process should get traffic.
    pub ready: bool,
    /// The reasons against that, as in `/ready`.
    pub reasons: Vec<String>,
    /// The same for people: ready, not ready with the reasons in words, or the bus away.
    pub status: String,
    /// Time since the last turn of the loop, milliseconds.
    pub last_turn_age_ms: u64,
    /// Whether the loop cannot write every message to every client.
    pub behind: bool,
    /// The numbers of the whole process.
    pub numbers: Numbers,
    /// Ended connections since the start, by reason; only reasons with ends.
    pub closes: BTreeMap<String, u64>,
    /// `None` for a gateway without a bus.
    pub bus: Option<ShownBus>,
    /// The HTTP services of the gateway.
    pub services: Vec<ShownService>,
    /// The bus between instances, if the gateway has this bus.
    pub events_bus: Option<ShownEventsBus>,
    /// `None` without TLS towards clients.
    pub tls: Option<ShownTls>,
    /// `None` before the first survey.
    pub survey: Option<ShownSurvey>,
    /// Slow clients by cause: the labels of [`Why`](crate::hub::Why).
    pub slow: BTreeMap<String, u64>,
    /// Lateness of the event loop in the last second.
    pub late_ms: u64,
    /// Lateness of the event loop since the start.
    pub late_all_ms: u64,
    /// From the arrival of a message until the write to the last client, in the last minute; `None` without messages.
    pub latency: Option<ShownLatency>,
    /// Connections that ended last, the newest first.
    pub ends: Vec<ShownEnd>,
    /// The limits of this gateway that have a present value.
    pub limits: Vec<ShownLimit>,
    /// The users, tokens and addresses that are refused.
    pub revoked: u64,
    /// The newest of these, the newest first.
    pub revoked_newest: Vec<Cut>,
}

impl OperatorState {
    /// Returns the time from a moment to this state, in milliseconds; 0 for a later moment.
    pub fn age_ms(&self, at_unix_ms: i64) -> u64 {
        u64::try_from(self.now_unix_ms.saturating_sub(at_unix_ms)).unwrap_or(0)
    }
}

/// The numbers of the whole process, from the metrics. `None`: unknown, or a gateway of a version without
/// this number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// Open WebSocket connections and event streams.
    pub clients: Option<u64>,
    /// Connections in every phase.
    pub connections: Option<u64>,
    /// Connections allowed at once; `None`: no limit.
    pub connections_max: Option<u64>,
    /// Connections accepted since the start.
    pub connections_accepted: Option<u64>,
    /// Connections ended since the start.
    pub connections_ended: Option<u64>,
    /// Messages taken from the bus.
    pub bus_messages: Option<u64>,
    /// Messages of the bus that were refused.
    pub bus_messages_bad: Option<u64>,
    /// Losses of messages between the bus and weirgate.
    pub bus_gaps: Option<u64>,
    /// Messages between the bus and the event loop.
    pub bus_queue_messages: Option<u64>,
    /// The time of the newest good message, Unix milliseconds; `None` before the first.
    pub bus_last_message_unix_ms: Option<i64>,
    /// Messages for clients, counted once for each client.
    pub messages_queued: Option<u64>,
    /// Messages taken whole by the kernel.
    pub messages_sent: Option<u64>,
    /// Messages replaced by a newer message.
    pub messages_conflated: Option<u64>,
    /// Messages left out because of a rate limit.
    pub messages_shed: Option<u64>,
    /// Messages lost with their connection.
    pub messages_dropped: Option<u64>,
    /// Messages in all send queues.
    pub messages_waiting: Option<u64>,
    /// Bytes in all send queues.
    pub send_queue_bytes: Option<u64>,
    /// Bytes of the largest send queue in the last 10 to 20 seconds.
    pub send_queue_peak_bytes: Option<u64>,
    /// Memory of all frames.
    pub frame_bytes: Option<u64>,
    /// Bytes taken by the kernel for clients.
    pub sent_bytes: Option<u64>,
    /// Messages from clients.
    pub received_messages: Option<u64>,
    /// Bytes from clients.
    pub received_bytes: Option<u64>,
    /// CPU time of the process; `None` without `/proc`.
    pub cpu_seconds: Option<f64>,
    /// Time of the event loop in its turns: its share of a core.
    pub loop_busy_seconds: Option<f64>,
}

/// Latency of messages in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownLatency {
    /// Messages.
    pub messages: u64,
    /// Half of the messages took no longer.
    pub p50_ms: f64,
    /// 99 of 100 messages took no longer.
    pub p99_ms: f64,
    /// 999 of 1,000 messages took no longer.
    pub p999_ms: f64,
}

/// The bus of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownBus {
    /// Whether the bus responds.
    pub connected: bool,
    /// Whether every subscription is active.
    pub subscribed: bool,
    /// Time since the subscriptions were last active; `None` while active.
    pub away_ms: Option<u64>,
    /// Connections after the first.
    pub reconnects: u64,
    /// Subscriptions that the bus refused.
    pub refused: u64,
    /// Messages of the stream (`--stream`) that were not read; `None` without a stream, and if the server does not say.
    pub stream_behind: Option<u64>,
    /// The time from the storage of the last message that was read to that of the newest one; `None` without a stream.
    pub stream_behind_ms: Option<u64>,
    /// The JetStream consumers.
    pub consumers: Vec<ShownConsumer>,
}

/// A JetStream consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownConsumer {
    /// The name.
    pub name: String,
    /// The subject.
    pub subject: String,
    /// Messages that the server holds for the consumer; `None` while unknown.
    pub lag: Option<u64>,
    /// Time since the last read although the connection works.
    pub away_ms: Option<u64>,
    /// Whether no messages come although the server holds some.
    pub stalled: bool,
}

/// An HTTP service behind the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownService {
    /// The name.
    pub name: String,
    /// Whether the service does not answer.
    pub away: bool,
}

/// The bus between instances of the events gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownEventsBus {
    /// Whether the bus carries what this instance publishes.
    pub up: bool,
    /// Instances on the bus, this one included.
    pub instances: u64,
}

/// TLS towards clients. The handshakes count from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownTls {
    /// The end of the certificate that ends first, Unix milliseconds.
    pub certificate_ends_unix_ms: i64,
    /// Whole handshakes.
    pub handshakes_full: u64,
    /// Handshakes of clients with a ticket.
    pub handshakes_resumed: u64,
    /// Failed handshakes.
    pub handshakes_failed: u64,
    /// Handshakes under way, or waiting for their turn.
    pub handshakes_open: u64,
}

/// A survey of all clients and topics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownSurvey {
    /// Time since the survey.
    pub age_ms: u64,
    /// Time from the first to the last slice.
    pub took_us: u64,
    /// Slices.
    pub slices: u32,
    /// Time since the survey before; `None` for the first survey.
    pub interval_ms: Option<u64>,
    /// Clients.
    pub clients: u64,
    /// Clients with waiting messages.
    pub clients_waiting: u64,
    /// Clients whose kernel takes no more.
    pub clients_blocked: u64,
    /// Clients for which newer messages replace older ones.
    pub clients_conflating: u64,
    /// The clients with the largest send queues, the largest first.
    pub slowest: Vec<ShownClient>,
    /// The clients with the most recent messages, the most first.
    pub busiest: Vec<ShownClient>,
    /// Topics.
    pub topics: u64,
    /// The topics with the most recent messages, the most first.
    pub busiest_topics: Vec<TopicLook>,
}

/// A client, without its peer: limits count by the client's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownClient {
    /// The connection, for `weirgate disconnect --session`.
    pub session: String,
    /// The client's address.
    pub client: String,
    /// The user, as the client's token, certificate or message says.
    pub user: Option<String>,
    /// The version of TLS; `None` for a plain connection.
    pub tls: Option<String>,
    /// Path of the request, without its query.
    pub path: String,
    /// The label of a [`ClientState`](crate::hub::ClientState).
    pub state: String,
    /// Time since the accept.
    pub age_ms: u64,
    /// Messages in the send queue.
    pub queue_messages: u64,
    /// Bytes of these messages.
    pub queue_bytes: u64,
    /// Time since the oldest of these messages arrived.
    pub oldest_ms: Option<u64>,
    /// Time since the kernel last took a byte of the queue.
    pub stuck_ms: Option<u64>,
    /// The traffic so far.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Topics of which the client is a member.
    pub topics: u64,
    /// The topic, if there is only one.
    pub topic: Option<String>,
    /// Messages in both directions since the survey before.
    pub recent_messages: u64,
    /// Why the client is slow: a label of [`Why`](crate::hub::Why). `None` if it is not, or no cause is known yet.
    pub why: Option<String>,
    /// The same for a person, with figures.
    pub say: Option<String>,
    /// For how long the client has been slow; 0 if it is not.
    pub slow_ms: u64,
    /// What the kernel said last about the connection of a slow client.
    pub kernel: Option<ShownKernel>,
}

/// The kernel's numbers about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownKernel {
    /// Bytes that were not sent yet.
    pub unsent: u64,
    /// Bytes that were sent and not acknowledged.
    pub in_flight: u64,
    /// Bytes that the client's kernel takes now.
    pub window: u64,
    /// Round trip.
    pub rtt_ms: u64,
    /// Percent of the bytes that were sent again.
    pub lost_pct: f64,
}

/// A connection that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownEnd {
    /// The time of the end, Unix milliseconds.
    pub at_unix_ms: i64,
    /// The client's address.
    pub client: String,
    /// The other end of the socket.
    pub peer: String,
    /// The user, as the client's token, certificate or message said.
    pub user: Option<String>,
    /// The version of TLS; `None` for a plain connection.
    pub tls: Option<String>,
    /// Path of the request, without its query.
    pub path: String,
    /// The label of a [`CloseReason`](crate::hub::CloseReason).
    pub reason: String,
    /// The reason of a refusal where `reason` covers several, as in the log line.
    pub refusal: Option<String>,
    /// The close code, or the status that refused the handshake.
    pub code: Option<u16>,
    /// How long the connection lived.
    pub age_ms: u64,
    /// The traffic of the whole connection.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// The limit behind the reason, and its number.
    pub limit: Option<String>,
    /// Why a dropped client was slow; `None` if it was not.
    pub why: Option<String>,
    /// The same for a person, with figures.
    pub say: Option<String>,
    /// Messages that waited for a dropped client; `None` for any other end, here and below.
    pub waited_messages: Option<u64>,
    /// Bytes of these messages.
    pub waited_bytes: Option<u64>,
    /// How long the kernel had taken nothing for the client.
    pub untaken_ms: Option<u64>,
}

impl ShownEnd {
    /// The reason in full: `policy (expired)`.
    pub fn full_reason(&self) -> String {
        match &self.refusal {
            Some(refusal) => format!("{} ({refusal})", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// A limit with its present value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShownLimit {
    /// The flag on the command line.
    pub name: String,
    /// The limited quantity.
    pub about: String,
    /// Whether the numbers are bytes.
    pub is_bytes: bool,
    /// The present value.
    pub now: u64,
    /// The limit in force; `None`: no limit.
    pub max: Option<u64>,
}
