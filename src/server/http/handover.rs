//! What passes between the reactor and the HTTP thread: connections in both directions, and the reasons of ends for the
//! reactor's counts. Also the settings of plain connections.

use super::caller::ClientAccess;
use crate::listening::tls::TlsSession;
use crossbeam_channel::Sender;
use std::cell::RefCell;
use std::net::TcpStream;
use std::sync::Arc;
use weirgate_bus::runtime::Clock;
use weirgate_core::{CloseReason, Limits};
use weirgate_wire::admission::{ClientAddr, ConnectionPermit, HeldBytes, Peer, Quota};
use weirgate_wire::base::LogBudget;

/// Limits of plain HTTP connections.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Limits the bytes of requests that are read before they are used: those after a head at the hand-over, those
    /// after a request in progress, and small bodies for services.
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
    /// The longest time without a request, in milliseconds since the last byte in either direction.
    pub idle_timeout_ms: u64,
    /// How long to read and drop what a client still sends after our end of a connection.
    pub linger: Linger,
    /// The same for a trusted proxy. A proxy passes on a body that its client may send slowly, and many proxies read no
    /// answer before they have sent all of it: after a reset their client would get 502 in place of the answer.
    pub linger_of_proxies: Linger,
}

/// The bounds on reading and dropping bytes that nobody needs.
#[derive(Clone, Copy, Debug)]
pub struct Linger {
    /// The longest time without a byte, milliseconds.
    pub silence_ms: u64,
    /// The longest time, milliseconds.
    pub whole_ms: u64,
    /// The most bytes.
    pub bytes_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            held: Limits::default().http_held,
            access: Arc::default(),
            head_bytes_max: 16 * 1024,
            head_headers_max: 100,
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

/// A connection in transfer: from the reactor with a plain request, or back to the reactor with a request for
/// a WebSocket.
#[derive(Debug)]
pub struct Handover {
    /// The socket, nonblocking.
    pub stream: TcpStream,
    /// The connection's TLS; `None` for a plain connection.
    pub tls: Option<Box<TlsSession>>,
    /// The bytes read so far, from the start of the request line on.
    pub read: HeldBytes,
    /// The other end.
    pub peer: Peer,
    /// Counts the connection towards the limit. Dropped when the connection has ended.
    pub permit: ConnectionPermit,
}

/// Returns a connection with a request for a WebSocket to the reactor. Called on the HTTP thread, so it must not block.
pub type WayBack = Arc<dyn Fn(Handover) + Send + Sync>;

/// The most log lines a second about connections that had to be evicted, broke the protocol of TLS, or were cut off.
const END_LINES_PER_SECOND: u32 = 10;

/// Reports the ends of connections that had to be evicted, broke the protocol of TLS, or were cut off: to the reactor, which counts
/// them, and to the log.
#[derive(Debug)]
pub(super) struct EndReports {
    to_reactor: Sender<CloseReason>,
    clock: Clock,
    lines: RefCell<LogBudget>,
}

impl EndReports {
    pub(super) fn new(to_reactor: Sender<CloseReason>, clock: Clock) -> Self {
        Self {
            to_reactor,
            clock,
            lines: RefCell::new(LogBudget::new(END_LINES_PER_SECOND)),
        }
    }

    /// The clock of all connections.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Counts and logs a head of another protocol.
    pub(super) fn count_other_protocol(&self, peer: Peer, protocol: &'static str) {
        let _ = self.to_reactor.send(CloseReason::BadRequest);
        if let Some(line) = self.lines.borrow_mut().line(self.clock.now()) {
            tracing::warn!(
                %peer,
                refusal = protocol,
                lines_left_out = line.suppressed,
                "a port of HTTP/1.1 got another protocol (http2: HTTP/2 in clear text; tls: TLS): set the protocol of the sender to \
                 HTTP/1.1, without TLS"
            );
        }
    }

    /// Counts and logs the end of a connection of this peer; `client` is the peer itself or a client of a proxy.
    pub(super) fn count(&self, peer: Peer, client: ClientAddr, reason: CloseReason) {
        let _ = self.to_reactor.send(reason);
        if let Some(line) = self.lines.borrow_mut().line(self.clock.now()) {
            tracing::info!(
                %client,
                %peer,
                reason = reason.label(),
                lines_left_out = line.suppressed,
                "plain HTTP connection ended"
            );
        }
    }
}
