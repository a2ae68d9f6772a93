//! The named limits that the core keeps. Values are handed in; every one has a counter or a
//! close reason that shows when it was hit.

use crate::admission::{AddressLimits, TrustedProxies};

/// Sessions and frames that one flush looks at while frames are over their limit: about 0.3 ms.
pub const FRAME_WALK_MAX: usize = 8_192;

/// Limits of one send queue (DESIGN of the queue: see `send_queue`).
#[derive(Clone, Debug)]
pub struct SendQueueLimits {
    /// Past this many bytes a queue of keyed frames turns conflating; without keys the client has
    /// `soft_for_us` to get below it again.
    pub soft_bytes: usize,
    /// A queue without keys that would wait with more bytes than this drops its client.
    pub hard_bytes: usize,
    /// How long a queue without keys may stay past `soft_bytes`.
    pub soft_for_us: u64,
    /// A keyed queue whose oldest whole frame is older than this turns conflating.
    pub conflate_after_us: u64,
    /// No byte accepted by the kernel for this long drops the client.
    pub stall_us: u64,
    /// Bytes of pongs that may wait; over it the client is not read until they are out.
    pub control_bytes_max: usize,
}

impl Default for SendQueueLimits {
    fn default() -> Self {
        Self {
            soft_bytes: 256 * 1024,
            hard_bytes: 1024 * 1024,
            soft_for_us: 10_000_000,
            conflate_after_us: 1_000_000,
            stall_us: 30_000_000,
            control_bytes_max: 16 * 1024,
        }
    }
}

/// What compressed messages may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeflateWindow {
    /// Only to themselves.
    None,
    /// To earlier messages of their topic. Only for topics in which nobody can cause a message
    /// between the secrets of others: the size of a message tells what it shares with the one
    /// before (BREACH).
    Shared,
}

/// All limits of the core.
#[derive(Clone, Debug)]
pub struct Limits {
    /// One send queue.
    pub send_queue: SendQueueLimits,
    /// All frames alive together, each counted once; over it the clients with the largest queues go.
    pub frame_bytes_max: u64,
    /// Sessions and frames that one flush looks at to find out who holds those; at least one queue.
    pub frame_walk_max: usize,
    /// Request head: bytes (RFC 9112; 431 beyond).
    pub head_bytes_max: usize,
    /// Request head: header lines.
    pub head_headers_max: usize,
    /// From accept to the whole head.
    pub handshake_us: u64,
    /// Clients may ask for an event stream (Server-Sent Events) where they may connect.
    pub event_stream: bool,
    /// Messages in the query of a request for an event stream; 400 beyond.
    pub event_stream_sends_max: usize,
    /// One message from a client, over fragments and after inflating; larger closes 1009.
    pub message_bytes_max: usize,
    /// Connections at once, those handed to HTTP included; `usize::MAX` for none.
    pub connections_max: usize,
    /// Connections at once, those included that are refused; a new one beyond is not answered.
    pub sockets_max: usize,
    /// Connections of one address, at once and new ones.
    pub per_ip: AddressLimits,
    /// Who may say which address it comes from.
    pub trusted_proxies: TrustedProxies,
    /// Between pings; 0 sends none.
    pub ping_interval_us: u64,
    /// From a ping that has left for the kernel to its pong.
    pub pong_timeout_us: u64,
    /// From our close frame to the end of the socket.
    pub close_timeout_us: u64,
    /// The close code at a stop, where the gateway has none of its own.
    pub stop_code: u16,
    /// How long clients that are closed at a stop, or with 1013, are asked to wait before they come
    /// back; 0 asks for nothing.
    pub close_retry_after_ms: u32,
    /// Payload bytes of one client, inflated, that are looked at in one turn; at least one message.
    pub turn_message_bytes_max: usize,
    /// The same of all clients together, between two calls of
    /// [`Hub::renew_reading`](super::Hub::renew_reading); at least one message.
    pub turn_all_message_bytes_max: usize,
    /// Bytes handed to one socket in one write.
    pub write_bytes_max: usize,
    /// Whether the frames of a topic may refer to earlier frames of the topic, for clients whose
    /// window holds those.
    pub deflate_window: DeflateWindow,
    /// Compression level for clients that offer permessage-deflate, 1 to 9; 0 accepts no offer.
    pub deflate_level: u32,
    /// What compressed messages of all clients may refer to, each window counted whole; clients beyond
    /// get `client_no_context_takeover` in the answer.
    pub inflate_windows_bytes_max: u64,
    /// Payloads below this go in stored blocks.
    pub deflate_min_bytes: usize,
    /// Payloads above this go in stored blocks: all clients wait while one is compressed.
    pub deflate_max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            send_queue: SendQueueLimits::default(),
            frame_bytes_max: 512 * 1024 * 1024,
            frame_walk_max: FRAME_WALK_MAX,
            head_bytes_max: 16 * 1024,
            head_headers_max: 100,
            handshake_us: 10_000_000,
            event_stream: false,
            event_stream_sends_max: 32,
            message_bytes_max: 1024 * 1024,
            connections_max: usize::MAX,
            sockets_max: usize::MAX,
            per_ip: AddressLimits::default(),
            trusted_proxies: TrustedProxies::None,
            ping_interval_us: 20_000_000,
            pong_timeout_us: 20_000_000,
            close_timeout_us: 5_000_000,
            stop_code: 1012,
            close_retry_after_ms: 0,
            turn_message_bytes_max: 256 * 1024,
            turn_all_message_bytes_max: 512 * 1024,
            write_bytes_max: 128 * 1024,
            deflate_window: DeflateWindow::None,
            deflate_level: 4,
            inflate_windows_bytes_max: 512 * 1024 * 1024,
            deflate_min_bytes: 256,
            deflate_max_bytes: 1024 * 1024,
        }
    }
}
