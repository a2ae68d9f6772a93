//! A connection on the HTTP thread: the hand-over from and to the reactor, and the timeouts for the client.

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::time::Instant;

use crate::listening::tls::TlsSession;
use weirgate_bus::runtime::Clock;
use weirgate_core::{CloseReason, HTTP_BYTES_MAX, Permit};
use weirgate_wire::admission::{HeldBytes, Holding, Peer};
use weirgate_wire::base::LogBudget;

/// Limits of plain HTTP connections.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Limits the bytes of requests that are read before they are used: those after a head at the hand-over, those
    /// after a request in progress, and small bodies for services.
    pub held: Holding,
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
    /// The longest wait for the client to close after our end of a connection, in milliseconds.
    pub linger_ms: u64,
    /// The most bytes to read and drop after our end of a connection.
    pub linger_bytes_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            held: Holding::new("http_bytes", HTTP_BYTES_MAX),
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
    pub permit: Permit,
}

/// Returns a connection with a request for a WebSocket to the reactor. Called on the HTTP thread, so it must not block.
pub type WayBack = Arc<dyn Fn(Handover) + Send + Sync>;

/// The most log lines a second about connections that had to give way or broke the protocol of TLS.
const END_LINES_PER_SECOND: u32 = 10;

/// Reports the ends of connections that had to give way or broke the protocol of TLS: to the reactor, which counts
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

    pub(super) fn count(&self, peer: Peer, reason: CloseReason) {
        let _ = self.to_reactor.send(reason);
        if let Some(line) = self.lines.borrow_mut().line(self.clock.now()) {
            tracing::info!(
                %peer,
                reason = reason.label(),
                lines_left_out = line.suppressed,
                "plain HTTP connection ended"
            );
        }
    }
}

/// The deadlines of a connection for its client.
///
/// A head has a deadline that single bytes do not extend. Between requests the idle timeout runs from the last byte in
/// either direction. While a handler works, the client has a deadline only for bytes of a body that the handler waits
/// for, and for reading the answer.
#[derive(Debug)]
pub(super) struct ConnectionClock {
    in_head: Cell<bool>,
    /// The number of handlers at work or answers in progress: 0 or 1.
    working: Cell<u32>,
    awaits_body: Cell<bool>,
    awaits_room: Cell<bool>,
    since: Cell<Instant>,
    /// Since when a record of TLS is unfinished, while no byte of a head has come.
    record_since: Cell<Option<Instant>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// Tells the admin listener how long the connection has been idle.
    idle: Option<Idle>,
}

/// Since when a connection has no request in progress. An unfinished head is not a request.
#[derive(Clone, Debug)]
pub(super) struct Idle {
    since: Rc<Cell<Option<Instant>>>,
    awaited: AwaitedIdle,
}

/// The task to wake when a connection becomes idle.
pub(super) type AwaitedIdle = Rc<RefCell<Option<Waker>>>;

impl Idle {
    /// A new connection.
    pub(super) fn now(awaited: &AwaitedIdle) -> Self {
        Self {
            since: Rc::new(Cell::new(Some(Instant::now()))),
            awaited: Rc::clone(awaited),
        }
    }

    fn set(&self, since: Option<Instant>) {
        self.since.set(since);
        if since.is_some()
            && let Some(waker) = self.awaited.take()
        {
            waker.wake();
        }
    }

    /// The time of the last whole head or of the end of the last answer, or else the start of the connection; `None`
    /// while a handler works.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since.get()
    }
}

impl ConnectionClock {
    /// `in_head`: bytes of a head have come already. With `idle` the time for a head also runs from the start, so that
    /// a silent client has no more time than a slow client.
    pub(super) fn start(
        in_head: bool,
        idle: Option<Idle>,
        head_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            in_head: Cell::new(in_head || idle.is_some()),
            working: Cell::new(0),
            awaits_body: Cell::new(false),
            awaits_room: Cell::new(false),
            since: Cell::new(Instant::now()),
            record_since: Cell::new(None),
            head_timeout,
            idle_timeout,
            idle,
        }
    }

    /// Records the first bytes of a head.
    pub(super) fn head_begun(&self) {
        if !self.in_head.replace(true) {
            self.since.set(Instant::now());
        }
    }

    /// Records the end of the head; the answer follows.
    pub(super) fn head_ended(&self) {
        self.in_head.set(false);
        self.since.set(Instant::now());
        self.set_idle(Some(Instant::now()));
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
        let stands_still = must_wait && (waited || self.working.get() == 0);
        if !stands_still && !self.in_head.get() {
            self.since.set(Instant::now());
        }
    }

    /// Records the begin of a handler's work.
    fn work_begun(&self) {
        self.working.set(self.working.get() + 1);
        self.set_idle(None);
    }

    /// Records the end of a handler's work: hyper has the whole answer.
    fn work_ended(&self) {
        self.working.set(self.working.get().saturating_sub(1));
        self.since.set(Instant::now());
        self.set_idle(Some(Instant::now()).filter(|_| !self.is_working()));
    }

    fn set_idle(&self, since: Option<Instant>) {
        if let Some(idle) = &self.idle {
            idle.set(since);
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
