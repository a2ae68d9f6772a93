//! The named limits of the core. The process passes the values; every limit has a counter or a close reason that shows
//! when it is exceeded.

use super::revoked::Revoked;
use super::{AddressLimits, CloseReason};
use weirgate_wire::admission::{Quota, TrustedProxies};

/// If a pong takes longer than this, bytes are queued on the way to the client.
pub(super) const LATE_PONG_US: u32 = 1_000_000;

/// The time of a client's messages in a turn; the last message may exceed it.
pub(crate) const SHARE_US: u64 = 1_000;

/// The time in a turn for one kind of work that no event causes: deadlines, walks over all clients, work of the gateway.
pub(crate) const WORK_US: u64 = 1_000;

/// The most missed messages that wait for all resuming clients together: each takes 16 bytes in a send queue.
const RESUME_MESSAGES_MAX: u64 = 4_194_304;

/// The most bytes of plain HTTP requests, of all clients together, that are read and not used yet.
const HTTP_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The most memory of all connections together, bytes, if no limit of memory is known: as good as no limit.
pub(crate) const CONNECTION_BYTES_MAX: u64 = 1 << 40;

/// Limits of one send queue (`send_queue.rs`).
#[derive(Clone, Debug)]
pub struct SendQueueLimits {
    /// Above this many bytes a queue of keyed frames starts conflating; without keys the client has
    /// `soft_for_us` to get below the limit again.
    pub soft_bytes: usize,
    /// Drops the client if more bytes than this would wait in a queue without keys.
    pub hard_bytes: usize,
    /// How long a queue without keys may stay above `soft_bytes`.
    pub soft_for_us: u64,
    /// A keyed queue starts conflating when the oldest whole frame is older than this.
    pub conflate_after_us: u64,
    /// Drops the client if the kernel accepts no byte for this long.
    pub stall_us: u64,
    /// Bytes of pongs that may wait; above the limit the client is not read until the pongs are out.
    pub control_bytes_max: usize,
}

impl SendQueueLimits {
    /// The lower of the two limits of bytes.
    #[inline]
    pub(super) fn least_bytes(&self) -> usize {
        self.soft_bytes.min(self.hard_bytes)
    }
}

impl Default for SendQueueLimits {
    fn default() -> Self {
        Self {
            soft_bytes: 256 * 1024,
            hard_bytes: 1024 * 1024,
            soft_for_us: 10_000_000,
            conflate_after_us: 1_000_000,
            stall_us: 30_000_000,
            control_bytes_max: 4 * 1024,
        }
    }
}

/// The limits of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// How long a message is kept, microseconds; 0 keeps none, and there are no positions.
    pub keep_us: u64,
    /// Memory of all kept messages, and of the names of their topics; the oldest go first.
    pub bytes_max: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            keep_us: 0,
            bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// All limits of the core.
#[derive(Clone, Debug)]
pub struct Limits {
    /// One send queue.
    pub send_queue: SendQueueLimits,
    /// Messages kept for resuming clients.
    pub history: HistoryLimits,
    /// The [hash](super::Position::feed_hash) of the stream that is the kept feed; `None`: the feed is no stream.
    pub kept_stream: Option<u32>,
    /// Missed messages that wait for all resuming clients together, with a share for each address.
    pub resume_messages_max: u64,
    /// Memory of all frames together, each counted once. If blocked clients alone hold more, those with the largest
    /// shares are dropped (`core/memory.rs`).
    pub frame_bytes_max: u64,
    /// Bytes of a request head (RFC 9112); 431 above.
    pub head_bytes_max: usize,
    /// Header lines of a request head.
    pub head_headers_max: usize,
    /// Time from accept to the whole head.
    pub handshake_us: u64,
    /// Bytes of plain HTTP requests that are read before they are used, on every thread.
    pub http_held: Quota,
    /// Whether clients may ask for an event stream (Server-Sent Events) wherever clients may connect.
    pub event_stream: bool,
    /// Only pages of listed origins may connect, so their browsers may send cookies.
    pub origins_are_listed: bool,
    /// Messages in the query of a request for an event stream; 400 above.
    pub event_stream_sends_max: usize,
    /// Bytes of a message from a client, over fragments and after inflating; a larger message closes
    /// with 1009.
    pub message_bytes_max: usize,
    /// Memory of the unfinished messages of all clients together, or of one client's message; above the limit
    /// clients are dropped.
    pub unfinished_bytes_max: u64,
    /// Connections at once, including those handed to HTTP; `usize::MAX` for no limit.
    pub connections_max: usize,
    /// The reason of a refusal over `connections_max`, which is the lowest of several limits.
    pub connections_max_is: CloseReason,
    /// Memory of all connections together, including those handed to HTTP.
    pub connection_bytes_max: u64,
    /// Connections at once, including refused connections; a new connection above the limit gets no
    /// response.
    pub sockets_max: usize,
    /// Connections of one address, at once and new ones.
    pub per_ip: AddressLimits,
    /// The proxies that may say which address a client comes from.
    pub trusted_proxies: TrustedProxies,
    /// The users, tokens and addresses that are refused.
    pub revoked: Revoked,
    /// Time between pings; 0 sends none.
    pub ping_interval_us: u64,
    /// Time from a ping that has left for the kernel to the pong.
    pub pong_timeout_us: u64,
    /// Time from a ping to the pong after which the client counts as behind deep buffers, and its states wait for pongs.
    pub buffered_after_us: u64,
    /// Time from the hub's close frame to the end of the socket.
    pub close_timeout_us: u64,
    /// The close code at a stop, for gateways without a stop code.
    pub stop_code: u16,
    /// How long clients closed at a stop, or with 1013, are asked to wait before a new connection; 0
    /// asks for no wait.
    pub close_retry_after_ms: u32,
    /// The time of one client's messages in a turn, microseconds; at least one message.
    pub share_us: u64,
    /// The time of one kind of due work in a turn, microseconds: of the core, and again of the gateway.
    pub work_us: u64,
    /// The longest wait of a message for others to the same client, microseconds; 0 for none.
    pub gather_us: u64,
    /// Bytes handed to one socket in one write.
    pub write_bytes_max: usize,
    /// Compression level for clients that offer permessage-deflate, 1 to 9; 0 accepts no offer.
    pub deflate_level: u32,
    /// Memory of the windows for clients' compressed messages, each counted whole; above the limit a
    /// new client gets `client_no_context_takeover` in the response.
    pub inflate_windows_bytes_max: u64,
    /// Smaller payloads go out in stored blocks, unless they refer to earlier messages.
    pub deflate_min_bytes: usize,
    /// Larger payloads go out in stored blocks: all clients wait while a payload is compressed.
    pub deflate_max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            send_queue: SendQueueLimits::default(),
            history: HistoryLimits::default(),
            kept_stream: None,
            resume_messages_max: RESUME_MESSAGES_MAX,
            frame_bytes_max: 512 * 1024 * 1024,
            head_bytes_max: 16 * 1024,
            head_headers_max: 100,
            handshake_us: 10_000_000,
            http_held: Quota::new("http_bytes", HTTP_BYTES_MAX),
            event_stream: false,
            origins_are_listed: false,
            event_stream_sends_max: 32,
            message_bytes_max: 1024 * 1024,
            unfinished_bytes_max: 64 * 1024 * 1024,
            connections_max: usize::MAX,
            connections_max_is: CloseReason::ConnectionLimit,
            connection_bytes_max: CONNECTION_BYTES_MAX,
            sockets_max: usize::MAX,
            per_ip: AddressLimits::default(),
            trusted_proxies: TrustedProxies::None,
            revoked: Revoked::default(),
            ping_interval_us: 20_000_000,
            pong_timeout_us: 20_000_000,
            buffered_after_us: u64::from(LATE_PONG_US),
            close_timeout_us: 5_000_000,
            stop_code: 1012,
            close_retry_after_ms: 0,
            share_us: SHARE_US,
            work_us: WORK_US,
            gather_us: 0,
            write_bytes_max: 128 * 1024,
            deflate_level: 4,
            inflate_windows_bytes_max: 512 * 1024 * 1024,
            deflate_min_bytes: 256,
            deflate_max_bytes: 1024 * 1024,
        }
    }
}
