//! What operators see of clients, topics and ended connections: plain values, copied out of the core.

use super::{CloseReason, Now, TopicName};
use crate::admission::{ClientAddr, Peer};

/// How a client takes what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// The request head is not complete.
    Head,
    /// Nothing waits.
    Idle,
    /// Messages wait for the next write.
    Waiting,
    /// The kernel takes no more: the client, or the way to it, is slower than the messages.
    Blocked,
    /// The same for so long that newer messages replace older ones.
    Conflating,
    /// Messages that cannot be replaced are over the soft limit: the client is dropped unless it
    /// reads in time.
    OverSoft,
    /// The connection is about to end.
    Closing,
}

impl ClientState {
    /// The word of the JSON.
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

/// One client at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLook {
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: ClientAddr,
    /// Who it says it is, where the gateway tells.
    pub user: Option<Box<str>>,
    /// Path of the request, without its query.
    pub path: Box<str>,
    /// How it takes what it is sent.
    pub state: ClientState,
    /// Since the accept, microseconds.
    pub age_us: u64,
    /// Messages in its send queue, one that is half out included.
    pub queue_messages: u64,
    /// Bytes of these messages.
    pub queue_bytes: u64,
    /// Since the oldest of them arrived, microseconds; `None`: the queue is empty.
    pub oldest_us: Option<u64>,
    /// Since the kernel last took a byte of what waits, microseconds; `None`: nothing waits.
    pub stuck_us: Option<u64>,
    /// Messages that newer ones replaced.
    pub messages_conflated: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages that the kernel took whole.
    pub messages_out: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes that the kernel took.
    pub bytes_out: u64,
    /// Topics that it is a member of.
    pub topics: u64,
    /// The topic, if it is a member of a single one: a device, for one.
    pub topic: Option<TopicName>,
    /// Messages in both directions since the last survey; 0 outside of a survey.
    pub recent_messages: u64,
}

/// One topic at one moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicLook {
    /// Its name: a path of levels, a symbol, a channel, a device.
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
    /// When the last one was.
    pub ended: Now,
    /// Calls that it took, a slice each.
    pub slices: u32,
    /// Since the survey before, microseconds: what the recent numbers are counted over. `None` for
    /// the first survey, whose recent numbers count from the start.
    pub interval_us: Option<u64>,
    /// Clients that were looked at.
    pub clients: u64,
    /// Those of them for which something waits.
    pub clients_waiting: u64,
    /// Those of them whose kernel takes no more.
    pub clients_blocked: u64,
    /// Those of them for which newer messages replace older ones.
    pub clients_conflating: u64,
    /// The clients with the largest send queues, the largest first.
    pub slowest: Vec<ClientLook>,
    /// The clients with the most messages since the last survey, the most first.
    pub busiest: Vec<ClientLook>,
    /// Topics that were looked at.
    pub topics: u64,
    /// The topics with the most messages since the last survey, the most first.
    pub busiest_topics: Vec<TopicLook>,
}

/// How a client that ended looked, for the log line.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The other end of the socket.
    pub peer: Peer,
    /// Who it was: the peer's address, or what a trusted proxy said.
    pub client: ClientAddr,
    /// Who it said it was, where the gateway tells.
    pub user: Option<Box<str>>,
    /// Why it was refused, where one [`CloseReason`] stands for several reasons: `origin`, `path`, or the
    /// label of `weirgate_auth_refusals_total`.
    pub refusal: Option<&'static str>,
    /// Path of the request, without its query; empty before a whole head.
    pub path: Box<str>,
    /// The first reason; what followed from it changed nothing.
    pub reason: CloseReason,
    /// The code of the first close frame, or the status that refused the handshake.
    pub code: Option<u16>,
    /// How long the connection lived, microseconds.
    pub age_us: u64,
    /// Bytes from the client, the request head included.
    pub bytes_in: u64,
    /// Bytes that the kernel took for it.
    pub bytes_out: u64,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages that the kernel took whole.
    pub messages_out: u64,
    /// Messages that newer ones replaced.
    pub messages_conflated: u64,
}
