//! Settings of plain HTTP connections: limits, time-outs, who may call.

use super::caller::ClientAccess;
use std::sync::Arc;
use weirgate_core::Limits;
use weirgate_wire::admission::Quota;

/// The settings of plain HTTP connections.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Limits the bytes of requests that are read before they are used: those that came with the head of a connection that
    /// the loop hands over, those after a request in progress, and small bodies for services.
    pub held: Quota,
    /// Who the clients are, and who is refused.
    pub access: Arc<ClientAccess>,
    /// The most bytes of a request head; a larger head gets a 431.
    pub head_bytes_max: usize,
    /// The most headers of a request; more headers get a 431.
    pub head_headers_max: usize,
    /// Whether the reactor serves requests for event streams.
    pub event_stream: bool,
    /// The longest time from the first byte of a head to its end, in milliseconds.
    pub head_timeout_ms: u64,
    /// The longest time without a byte in either direction, in milliseconds: between requests, and while weirgate waits
    /// for a body or for the client to read an answer.
    pub idle_timeout_ms: u64,
    /// How long to read and drop what a client still sends after our end of a connection.
    pub linger: Linger,
    /// How long to read and drop what a trusted proxy still sends after our end of a connection. A proxy passes on a body
    /// that its client may send slowly, and many proxies read no answer before they have sent all of it: after a reset
    /// their client would get 502 in place of the answer.
    pub linger_of_proxies: Linger,
}

/// The bounds on reading and dropping bytes that nobody needs.
#[derive(Clone, Copy, Debug)]
pub struct Linger {
    /// The longest time without a byte, milliseconds.
    pub silence_ms: u64,
    /// The longest time in all, milliseconds.
    pub whole_ms: u64,
    /// The most bytes.
    pub bytes_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            head_bytes_max: limits.head_bytes_max,
            head_headers_max: limits.head_headers_max,
            held: limits.http_held,
            access: Arc::default(),
            event_stream: false,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            linger: Linger {
                silence_ms: 1_000,
                whole_ms: 1_000,
                bytes_max: 256 * 1024,
            },
            linger_of_proxies: Linger {
                silence_ms: 5_000,
                whole_ms: 30_000,
                bytes_max: 64 * 1024 * 1024,
            },
        }
    }
}
