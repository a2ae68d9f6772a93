//! What goes between the reactor and the HTTP thread, and the limits of connections on the thread.

use std::net::TcpStream;
use std::sync::Arc;

use crate::admission::Peer;
use crate::hub::Permit;

/// Limits of plain HTTP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// A request head may have this many bytes; 431 beyond.
    pub head_bytes_max: usize,
    /// A request head may have this many headers; 431 beyond.
    pub head_headers_max: usize,
    /// The reactor takes requests for event streams.
    pub event_stream: bool,
    /// From the first byte of a head to its end, in milliseconds.
    pub head_timeout_ms: u64,
    /// A connection without a request may stay for this long, in milliseconds, counted from the
    /// last byte either way.
    pub idle_timeout_ms: u64,
    /// After our end of a connection, the client's is awaited for this long, in milliseconds.
    pub linger_ms: u64,
    /// Bytes that are still read from a client after our end.
    pub linger_bytes_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 * 1024,
            head_headers_max: 100,
            event_stream: false,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            linger_ms: 1_000,
            linger_bytes_max: 256 * 1024,
        }
    }
}

/// A connection on its way from one side to the other: from the reactor with a plain request, or
/// back to it with one for a WebSocket.
#[derive(Debug)]
pub struct Handover {
    /// The socket, nonblocking.
    pub stream: TcpStream,
    /// The bytes read so far, from the start of the request line on.
    pub read: Vec<u8>,
    /// The other end.
    pub peer: Peer,
    /// Its place in the connection limits: dropped when the connection has ended.
    pub permit: Permit,
}

/// Takes a connection back whose client asks for a WebSocket; called on the HTTP thread, must not
/// block.
pub type WayBack = Arc<dyn Fn(Handover) + Send + Sync>;
