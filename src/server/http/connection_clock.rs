//! The timeouts of a plain connection for its client, and whether the connection may be evicted for a new one.

use super::settings::HttpSettings;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use weirgate_bus::runtime::Clock;
use weirgate_wire::admission::{ConnectionPermit, Rest};

/// After this time without a byte of a body, or of an answer, a connection may be evicted, in microseconds: its rest begins
/// then, and before that the permit counts as in use.
const OWED_US: u64 = 1_000_000;

/// The deadlines of a connection for its client, and whether the connection may be evicted for a new one.
///
/// A head has a deadline that single bytes do not extend. Between requests the idle timeout runs from the last byte in
/// either direction. While a handler works, the client has a deadline only for bytes of a body that the handler waits
/// for, and for reading the answer.
///
/// A connection without a request under way rests: since its last whole head or the end of its last answer, or else
/// since its start. An unfinished head is not a request. A connection whose client does not send the rest of a body, or
/// does not take an answer, rests from a while after the last byte ([`OWED_US`]).
#[derive(Debug)]
pub(super) struct ConnectionClock {
    /// Whether a head is being read, which has a deadline of its own.
    in_head: Cell<bool>,
    /// The number of handlers at work or answers in progress: 0 or 1.
    working: Cell<u32>,
    /// Whether the handler waits for the client to send more of the body.
    awaits_body: Cell<bool>,
    /// Whether the answer waits for the client to read.
    awaits_room: Cell<bool>,
    /// Since when the present deadline runs: the begin or the end of a head, or the last byte in either direction.
    since: Cell<Instant>,
    /// The time of `since`, microseconds of the monotonic clock.
    since_us: Cell<u64>,
    /// Since when no request has been under way, microseconds of the monotonic clock.
    idle_since_us: Cell<u64>,
    /// Since when a record of TLS is unfinished, while no byte of a head has come.
    record_since: Cell<Option<Instant>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// `None` once the permit has gone on with the connection.
    permit: RefCell<Option<ConnectionPermit>>,
    /// The rest that the permit was last given; `None` while the connection works.
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
    pub(super) fn note_head_begun(&self) {
        if !self.in_head.replace(true) {
            self.set_since();
        }
    }

    /// Records the end of the head; the answer follows.
    pub(super) fn note_head_ended(&self) {
        self.in_head.set(false);
        self.set_since();
        self.idle_since_us.set(self.since_us.get());
        self.note_rest();
    }

    /// Records that a record of TLS is unfinished while no byte of a head has come. Such a record has the deadline of a
    /// head.
    pub(super) fn note_unfinished_record(&self) {
        let since = self.record_since.get();
        self.record_since
            .set(since.or_else(|| Some(Instant::now())));
    }

    /// Records that no record of TLS is unfinished, or that bytes of a head have come.
    pub(super) fn note_no_unfinished_record(&self) {
        self.record_since.set(None);
    }

    /// Records a read of the body. Pending: the reader waits for the client.
    pub(super) fn note_body_read<T>(&self, read: &Poll<T>) {
        self.note_moved(&self.awaits_body, read.is_pending());
    }

    /// Records a write. Pending: the writer waits for room.
    pub(super) fn note_write<T>(&self, write: &Poll<T>) {
        self.note_moved(&self.awaits_room, write.is_pending());
    }

    /// Records a read or a write in `awaits`. If bytes moved, or a wait begins, the deadline runs anew.
    fn note_moved(&self, awaits: &Cell<bool>, must_wait: bool) {
        let waited = awaits.replace(must_wait);
        let is_idle = must_wait && (waited || self.working.get() == 0);
        if !is_idle && !self.in_head.get() {
            self.set_since();
        }
        self.note_rest();
    }

    /// Records the begin of a handler's work.
    fn note_work_begun(&self) {
        self.working.set(self.working.get() + 1);
        self.note_rest();
    }

    /// Records the end of a handler's work: hyper has the whole answer.
    fn note_work_ended(&self) {
        self.working.set(self.working.get().saturating_sub(1));
        self.set_since();
        self.idle_since_us.set(self.since_us.get());
        self.note_rest();
    }

    /// Whether the client has to send the rest of a body, or to take an answer.
    pub(super) fn is_owed(&self) -> bool {
        self.awaits_room.get() || self.is_working() && self.awaits_body.get()
    }

    /// The deadline runs anew from now on.
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

    /// Updates the permit if the connection has begun or ended a rest.
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

    /// Whether a handler is at work, or its answer is in progress.
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
        clock.note_work_begun();
        Self(Rc::clone(clock))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.note_work_ended();
    }
}
