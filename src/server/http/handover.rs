//! A connection on the HTTP thread: the hand-over from and to the reactor, and the timeouts for the client.

use super::caller::ClientAccess;
use crate::listening::tls::TlsSession;
use crossbeam_channel::Sender;
use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;
use tokio::time::Instant;
use weirgate_bus::runtime::Clock;
use weirgate_core::{CloseReason, HTTP_BYTES_MAX};
use weirgate_wire::admission::{ClientAddr, ConnectionPermit, HeldBytes, Peer, Quota, Rest};
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
    /// The same for a trusted proxy. It passes on a body that its client sends, maybe slowly, and many read no answer before they have
    /// sent all of it: after a reset their client would get 502 in place of the answer.
    pub linger_of_proxies: Linger,
}

/// The bounds on reading what nobody wants.
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
            held: Quota::new("http_bytes", HTTP_BYTES_MAX),
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
pub(super) struct Ends {
    to_reactor: Sender<CloseReason>,
    clock: Clock,
    lines: RefCell<LogBudget>,
}

impl Ends {
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

/// After this time without a byte of a body, or of an answer, a connection may be evicted, in microseconds.
const OWED_US: u64 = 1_000_000;

/// The deadlines of a connection for its client, and whether the connection may be evicted for a new one.
///
/// A head has a deadline that single bytes do not extend. Between requests the idle timeout runs from the last byte in
/// either direction. While a handler works, the client has a deadline only for bytes of a body that the handler waits
/// for, and for reading the answer.
///
/// A connection without a request under way rests: since its last whole head or the end of its last answer, or else
/// since its start. An unfinished head is not a request. A connection whose client does not send the rest of a body, or
/// does not take an answer, rests since the last byte.
#[derive(Debug)]
pub(super) struct ConnectionClock {
    in_head: Cell<bool>,
    /// The number of handlers at work or answers in progress: 0 or 1.
    working: Cell<u32>,
    awaits_body: Cell<bool>,
    awaits_room: Cell<bool>,
    since: Cell<Instant>,
    /// The same, microseconds of the monotonic clock.
    since_us: Cell<u64>,
    /// Since when no request has been under way, microseconds of the monotonic clock.
    idle_since_us: Cell<u64>,
    /// Since when a record of TLS is unfinished, while no byte of a head has come.
    record_since: Cell<Option<Instant>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// `None` once the permit has gone on with the connection.
    permit: RefCell<Option<ConnectionPermit>>,
    /// How the connection rests, as its permit knows it; `None` while it works.
    rest: Cell<Option<Rest>>,
    time: Clock,
}

impl ConnectionClock {
    /// `in_head`: bytes of a head have come already, or a silent client has no more time for a head than a slow client.
    pub(super) fn start(
        in_head: bool,
        permit: ConnectionPermit,
        settings: &HttpSettings,
        time: Clock,
    ) -> Self {
        let clock = Self {
            in_head: Cell::new(in_head),
            working: Cell::new(0),
            awaits_body: Cell::new(false),
            awaits_room: Cell::new(false),
            since: Cell::new(Instant::now()),
            since_us: Cell::new(time.mono_us()),
            idle_since_us: Cell::new(time.mono_us()),
            record_since: Cell::new(None),
            head_timeout: Duration::from_millis(settings.head_timeout_ms),
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms),
            permit: RefCell::new(Some(permit)),
            rest: Cell::new(None),
            time,
        };
        clock.note_rest();
        clock
    }

    /// Takes the permit out, for a connection that goes on elsewhere.
    pub(super) fn take_permit(&self) -> Option<ConnectionPermit> {
        let permit = self.permit.take();
        if let Some(permit) = &permit {
            permit.held().progress(u64::MAX);
        }
        permit
    }

    /// Whether the connection was evicted. If not, wakes the task once it is.
    pub(super) fn is_evicted(&self, cx: &Context<'_>) -> bool {
        let permit = self.permit.borrow();
        let permit = permit.as_ref().map(ConnectionPermit::held);
        permit.is_some_and(|permit| {
            permit.wake_with(cx.waker());
            permit.is_evicted()
        })
    }

    /// Records the first bytes of a head.
    pub(super) fn head_begun(&self) {
        if !self.in_head.replace(true) {
            self.set_since();
        }
    }

    /// Records the end of the head; the answer follows.
    pub(super) fn head_ended(&self) {
        self.in_head.set(false);
        self.set_since();
        self.idle_since_us.set(self.since_us.get());
        self.note_rest();
    }

    /// Records whether a record of TLS is unfinished while no byte of a head has come. Such a record has the deadline
    /// of a head.
    pub(super) fn record_begun(&self, has_begun: bool) {
        let since = self.record_since.get().filter(|_| has_begun);
        let since = since.or_else(|| has_begun.then(Instant::now));
        self.record_since.set(since);
    }

    /// Records that the body was read, or that the reader must wait.
    pub(super) fn body_read(&self, must_wait: bool) {
        self.moved(&self.awaits_body, must_wait);
    }

    /// Records that bytes were written, or that the writer must wait for room.
    pub(super) fn wrote(&self, must_wait: bool) {
        self.moved(&self.awaits_room, must_wait);
    }

    fn moved(&self, awaits: &Cell<bool>, must_wait: bool) {
        let waited = awaits.replace(must_wait);
        let is_idle = must_wait && (waited || self.working.get() == 0);
        if !is_idle && !self.in_head.get() {
            self.set_since();
        }
        self.note_rest();
    }

    /// Records the begin of a handler's work.
    fn work_begun(&self) {
        self.working.set(self.working.get() + 1);
        self.note_rest();
    }

    /// Records the end of a handler's work: hyper has the whole answer.
    fn work_ended(&self) {
        self.working.set(self.working.get().saturating_sub(1));
        self.set_since();
        self.idle_since_us.set(self.since_us.get());
        self.note_rest();
    }

    /// Whether the client has to send the rest of a body, or to take an answer.
    pub(super) fn is_owed(&self) -> bool {
        self.awaits_room.get() || self.is_working() && self.awaits_body.get()
    }

    fn set_since(&self) {
        self.since.set(Instant::now());
        self.since_us.set(self.time.mono_us());
    }

    /// How the connection rests now; `None` while the client waits for weirgate.
    fn resting(&self) -> Option<Rest> {
        let is_owed = self.is_owed();
        let since_us = match is_owed {
            true => self.since_us.get() + OWED_US,
            false if self.is_working() => return None,
            false => self.idle_since_us.get(),
        };
        Some(Rest { is_owed, since_us })
    }

    /// Tells the permit of the connection whether the connection rests.
    fn note_rest(&self) {
        let (rest, permit) = (self.resting(), self.permit.borrow());
        if self.rest.replace(rest) == rest {
            return;
        }
        if let Some(permit) = permit.as_ref().map(ConnectionPermit::held) {
            match rest {
                Some(rest) => permit.rest(rest),
                None => permit.progress(u64::MAX),
            }
        }
    }

    pub(super) fn is_working(&self) -> bool {
        self.working.get() > 0
    }

    /// When the connection times out; `None` while the client has nothing to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let begun = self.in_head.get().then(|| self.since.get());
        if let Some(since) = begun.or_else(|| self.record_since.get()) {
            return Some(since + self.head_timeout);
        }
        let awaited = !self.is_working() || self.awaits_body.get() || self.awaits_room.get();
        awaited.then(|| self.since.get() + self.idle_timeout)
    }
}

/// A handler is at work for as long as this value exists.
#[derive(Debug)]
pub(super) struct Work(Rc<ConnectionClock>);

impl Work {
    pub(super) fn begin(clock: &Rc<ConnectionClock>) -> Self {
        clock.work_begun();
        Self(Rc::clone(clock))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.work_ended();
    }
}
