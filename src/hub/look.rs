//! The operators' view of clients, topics and ended connections: plain values, copied out of the core.

use serde::{Deserialize, Serialize};

use super::{CloseReason, Now, TopicName};
use crate::admission::{ClientAddr, Peer};

/// How fast a client takes the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// The request head is not complete.
    Head,
    /// Nothing waits.
    Idle,
    /// Messages wait for the next write.
    Waiting,
    /// The kernel takes no more: the client or the network is slower than the messages.
    Blocked,
    /// Blocked for so long that newer messages replace older ones.
    Conflating,
    /// Messages that cannot be replaced are over the soft limit: the client is dropped unless the
    /// client reads in time.
    OverSoft,
    /// The connection is about to end.
    Closing,
}

impl ClientState {
    /// The label in the JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Conflating => "conflating",
            Self::OverSoft => "over_soft_limit",
            Self::Closing => "closing",
        }
    }
}

/// What one connection has transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Bytes from the client, the request head included.
    pub bytes_in: u64,
    /// Bytes for the client, taken by the kernel.
    pub bytes_out: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages taken whole by the kernel.
    pub messages_out: u64,
    /// Messages replaced by newer messages.
    #[serde(rename = "conflated")]
    pub messages_conflated: u64,
}

/// One client at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLook {
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: ClientAddr,
    /// The user, as the client's token, certificate or message says.
    pub user: Option<Box<str>>,
    /// The version of TLS; `None` for a plain connection.
    pub tls: Option<&'static str>,
    /// Path of the request, without its query.
    pub path: Box<str>,
    /// How fast the client takes the messages.
    pub state: ClientState,
    /// Time since the accept, microseconds.
    pub age_us: u64,
    /// Messages in the send queue, including a message that is half out, and messages that wait for a
    /// slot of the client's own rate.
    pub queue_messages: u64,
    /// Bytes of these messages.
    pub queue_bytes: u64,
    /// Time since the oldest of these messages arrived, microseconds; `None`: the queue is empty.
    pub oldest_us: Option<u64>,
    /// Time since the kernel last took a byte of the queue, microseconds; `None`: nothing waits.
    pub stuck_us: Option<u64>,
    /// The traffic so far.
    pub traffic: Traffic,
    /// Topics of which the client is a member.
    pub topics: u64,
    /// The topic, if the client is a member of a single topic: a device, for example.
    pub topic: Option<TopicName>,
    /// Messages in both directions since the last survey; 0 outside of a survey.
    pub recent_messages: u64,
}

/// One topic at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicLook {
    /// The name: a path of levels, a symbol, a channel, a device.
    pub name: TopicName,
    /// Members.
    pub members: u64,
    /// Messages published since the last survey, each counted once.
    pub recent_messages: u64,
    /// Bytes of these messages, each counted once.
    pub recent_bytes: u64,
}

/// All clients and topics, looked at in slices: few of them by name, the others as counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// When the first slice was looked at.
    pub began: Now,
    /// When the last slice was looked at.
    pub ended: Now,
    /// Number of slices, one for each call.
    pub slices: u32,
    /// Time since the previous survey, microseconds: the interval of the recent numbers. `None` for the
    /// first survey, whose recent numbers count from the start.
    pub interval_us: Option<u64>,
    /// Clients looked at.
    pub clients: u64,
    /// Clients with waiting messages.
    pub clients_waiting: u64,
    /// Clients whose kernel takes no more.
    pub clients_blocked: u64,
    /// Clients for which newer messages replace older ones.
    pub clients_conflating: u64,
    /// The clients with the largest send queues, the largest first.
    pub slowest: Vec<ClientLook>,
    /// The clients with the most messages since the last survey, the most first.
    pub busiest: Vec<ClientLook>,
    /// Topics looked at.
    pub topics: u64,
    /// The topics with the most messages since the last survey, the most first.
    pub busiest_topics: Vec<TopicLook>,
}

/// The state of an ended client, for the log line.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The other end of the socket.
    pub peer: Peer,
    /// The client's address: the peer's, or what a trusted proxy said.
    pub client: ClientAddr,
    /// The user, as the client's token, certificate or message said.
    pub user: Option<Box<str>>,
    /// The version of TLS; `None` for a plain connection.
    pub tls: Option<&'static str>,
    /// The reason of a refusal where a [`CloseReason`] covers several: `origin`, `path`, or the label
    /// of `weirgate_auth_refusals_total`.
    pub refusal: Option<&'static str>,
    /// Path of the request, without its query; empty before a whole head.
    pub path: Box<str>,
    /// The first reason; later events change nothing.
    pub reason: CloseReason,
    /// The code of the first close frame, or the status that refused the handshake.
    pub code: Option<u16>,
    /// How long the connection lived, microseconds.
    pub age_us: u64,
    /// The traffic of the whole connection.
    pub traffic: Traffic,
}
