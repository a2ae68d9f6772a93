//! The timeouts of a plain connection for its client, and whether the connection may be evicted for a new one.

use super::settings::HttpSettings;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ConnectionPermit, Rest, RestKind};

/// After this time without a byte of a body, or of an answer, a connection may be evicted, in microseconds: its rest begins
/// then, and before that the permit counts as in use.
const OWED_US: u64 = 1_000_000;

/// On the admin address: a connection may be evicted once its client has owed one body, or the room for one answer, for
/// this time, in microseconds. Single bytes do not extend it.
const OWED_IN_ALL_US: u64 = 2_000_000;

/// On the admin address: the time of a new connection for its first head until others of its address may evict it, in
/// microseconds.
const FIRST_HEAD_US: u64 = 200_000;

/// When a connection may be evicted for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evictable {
    /// While it rests.
    AtRest,
    /// Always, on the admin address: few connections fit there, and the addresses share the permits
    /// ([`Sharing::LargestFirst`]).
    ///
    /// [`Sharing::LargestFirst`]: weirgate_wire::admission::Sharing::LargestFirst
    Always,
}

/// What is under way for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnderWay {
    /// No request.
    Nothing,
    /// A request from whose answer the client only learns something, or whose handler has not begun.
    Question,
    /// A request that may have changed something.
    Change,
}

/// What the client owes weirgate while a request is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// More of the body.
    Body,
    /// Room for more of the answer.
    Room,
}

/// The deadlines of a connection for its client, and whether the connection may be evicted for a new one.
///
/// A head has a deadline that single bytes do not extend. Between requests the idle timeout runs from the last byte in
/// either direction. While a handler works, the client has a deadline only for bytes of a body that the handler waits
/// for, and for reading the answer.
///
/// A connection that may be evicted *rests* ([`Rest`]), perhaps only from a time in the future on. One without a request
/// under way rests since its last whole head or the end of its last answer, or else since its start. An unfinished head is
/// not a request. A connection whose client does not send more of a body, or does not take an answer, rests from a
/// while after the last byte ([`OWED_US`]).
///
/// If a connection is [always evictable](Evictable::Always), single bytes do not extend the time for a body or an
/// answer. It rests even while a request is under way: the [`RestKind`] says of what kind the request is.
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
    deadline_from: Cell<Instant>,
    /// The same time, microseconds of the monotonic clock.
    deadline_from_us: Cell<u64>,
    /// Since when the connection rests if no request is under way: its last whole head, the end of its last answer, or its
    /// start (on the admin address [`FIRST_HEAD_US`] later). Microseconds of the monotonic clock.
    idle_since_us: Cell<u64>,
    evictable: Evictable,
    under_way: Cell<UnderWay>,
    /// Whether the client was waited for since the last answer. Otherwise the next request was there already.
    has_paused: Cell<bool>,
    /// Since when requests have followed each other without a pause, microseconds of the monotonic clock.
    busy_since_us: Cell<u64>,
    /// Whether the request under way has followed an answer without a pause.
    is_pipelined: Cell<bool>,
    /// What the client has owed last for the request under way, and since when, microseconds of the monotonic clock.
    owed: Cell<Option<(Owed, u64)>>,
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
        evictable: Evictable,
        permit: ConnectionPermit,
        settings: &HttpSettings,
        time: Clock,
    ) -> Self {
        let first_head_us = match evictable {
            Evictable::AtRest => 0,
            Evictable::Always => FIRST_HEAD_US,
        };
        let clock = Self {
            in_head: Cell::new(in_head),
            working: Cell::new(0),
            awaits_body: Cell::new(false),
            awaits_room: Cell::new(false),
            deadline_from: Cell::new(Instant::now()),
            deadline_from_us: Cell::new(time.mono_us()),
            idle_since_us: Cell::new(time.mono_us() + first_head_us),
            evictable,
            // A first request that has come is not read yet.
            under_way: Cell::new(UnderWay::Question),
            has_paused: Cell::new(true),
            busy_since_us: Cell::new(time.mono_us()),
            is_pipelined: Cell::new(false),
            owed: Cell::new(None),
            record_since: Cell::new(None),
            head_timeout: Duration::from_millis(settings.head_timeout_ms),
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms),
            permit: RefCell::new(Some(permit)),
            rest: Cell::new(None),
            time,
        };
        clock.update_rest();
        clock
    }

    /// Takes the permit out, for a connection that goes on elsewhere.
    pub(super) fn take_permit(&self) -> Option<ConnectionPermit> {
        let permit = self.permit.take();
        if let Some(permit) = &permit {
            permit.held().work();
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
            self.restart_deadline();
        }
    }

    /// Records the end of the head; the answer follows.
    pub(super) fn note_head_ended(&self) {
        self.in_head.set(false);
        self.restart_deadline();
        self.idle_since_us.set(self.deadline_from_us.get());
        self.update_rest();
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
        // No byte moved, and no handler begins to wait.
        let is_idle = must_wait && (waited || self.working.get() == 0);
        if !is_idle && !self.in_head.get() {
            self.restart_deadline();
        }
        self.update_rest();
    }

    /// Records that the next head, or more of it, is waited for.
    pub(super) fn note_pause(&self) {
        self.has_paused.set(true);
        self.under_way.set(UnderWay::Nothing);
        self.update_rest();
    }

    /// Records that a request is under way: hyper has passed it on.
    fn note_request_begun(&self) {
        self.owed.set(None);
        // So it counts until its handler begins, which says whether it may change something.
        self.under_way.set(UnderWay::Question);
        let has_paused = self.has_paused.replace(false);
        self.is_pipelined.set(!has_paused);
        if has_paused {
            self.busy_since_us.set(self.time.mono_us());
        }
        self.update_rest();
    }

    /// Records the begin of a handler's work. `may_change`: not only to answer a question.
    fn note_work_begun(&self, may_change: bool) {
        self.working.set(self.working.get() + 1);
        if may_change {
            self.under_way.set(UnderWay::Change);
        }
        self.update_rest();
    }

    /// Records the end of a request, and of the handler's work if there was any: hyper has the whole answer.
    fn note_request_ended(&self, had_work: bool) {
        self.owed.set(None);
        self.under_way.set(UnderWay::Nothing);
        if had_work {
            self.working.set(self.working.get().saturating_sub(1));
            self.restart_deadline();
            self.idle_since_us.set(self.deadline_from_us.get());
        }
        self.update_rest();
    }

    /// Whether the client has to send more of a body, or to take an answer.
    pub(super) fn is_owed(&self) -> bool {
        self.awaits_room.get() || self.is_working() && self.awaits_body.get()
    }

    /// The deadline runs anew from now on.
    fn restart_deadline(&self) {
        self.deadline_from.set(Instant::now());
        self.deadline_from_us.set(self.time.mono_us());
    }

    /// Whether the connection may be evicted with a request under way.
    pub(super) fn is_always_evictable(&self) -> bool {
        self.evictable == Evictable::Always
    }

    /// How the connection rests now; `None` while it may not be evicted, because the client waits for weirgate.
    fn resting(&self) -> Option<Rest> {
        let (kind, since_us) = match (self.is_owed(), self.evictable) {
            (true, Evictable::AtRest) => (RestKind::Owed, self.deadline_from_us.get() + OWED_US),
            (true, Evictable::Always) if self.is_pipelined.get() => {
                (RestKind::Pipelined, self.busy_since_us.get())
            }
            (true, Evictable::Always) => {
                // Always there: `note_owed` has recorded it.
                let owed_us = self.owed.get().map_or(0, |(_, since_us)| since_us);
                (RestKind::Owed, owed_us + OWED_IN_ALL_US)
            }
            (false, Evictable::AtRest) if self.is_working() => return None,
            (false, Evictable::AtRest) => (RestKind::Idle, self.idle_since_us.get()),
            (false, Evictable::Always) => self.resting_unowed(),
        };
        Some(Rest { kind, since_us })
    }

    /// How a connection rests that is [always evictable](Evictable::Always) and whose client owes nothing, and since when,
    /// microseconds of the monotonic clock. The kinds are evicted in the order of [`RestKind`]; while a request is under
    /// way, the time is that of the first of the requests that followed each other without a pause.
    fn resting_unowed(&self) -> (RestKind, u64) {
        let kind = match self.under_way.get() {
            UnderWay::Nothing => return (RestKind::Idle, self.idle_since_us.get()),
            UnderWay::Change => RestKind::Changing,
            UnderWay::Question if self.is_pipelined.get() => RestKind::Pipelined,
            UnderWay::Question => RestKind::Asked,
        };
        (kind, self.busy_since_us.get())
    }

    /// Records what the client owes. The time since when does not begin anew while it is the same: single bytes do not
    /// extend it.
    fn note_owed(&self) {
        if !self.is_owed() {
            return;
        }
        let what = match self.awaits_room.get() {
            true => Owed::Room,
            false => Owed::Body,
        };
        if self.owed.get().is_none_or(|(before, _)| before != what) {
            self.owed.set(Some((what, self.time.mono_us())));
        }
    }

    /// Updates the permit if the connection has begun or ended a rest.
    fn update_rest(&self) {
        self.note_owed();
        let (rest, permit) = (self.resting(), self.permit.borrow());
        if self.rest.replace(rest) == rest {
            return;
        }
        if let Some(permit) = permit.as_ref().map(ConnectionPermit::held) {
            match rest {
                Some(rest) => permit.rest(rest),
                None => permit.work(),
            }
        }
    }

    /// Whether a handler is at work, or its answer is in progress.
    pub(super) fn is_working(&self) -> bool {
        self.working.get() > 0
    }

    /// When the connection times out; `None` while the client has nothing to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let begun = self.in_head.get().then(|| self.deadline_from.get());
        if let Some(since) = begun.or_else(|| self.record_since.get()) {
            return Some(since + self.head_timeout);
        }
        let awaited = !self.is_working() || self.awaits_body.get() || self.awaits_room.get();
        awaited.then(|| self.deadline_from.get() + self.idle_timeout)
    }
}

/// A request is under way for as long as this value exists, and so is the work of its handler.
#[derive(Debug)]
pub(super) struct Work {
    clock: Rc<ConnectionClock>,
    /// Whether a handler has begun to work on the request.
    of_handler: bool,
}

impl Work {
    /// A request has come.
    pub(super) fn begin(clock: &Rc<ConnectionClock>) -> Self {
        clock.note_request_begun();
        Self {
            clock: Rc::clone(clock),
            of_handler: false,
        }
    }

    /// A handler is at work from now on. `may_change`: not only to answer a question.
    pub(super) fn begin_handler(&mut self, may_change: bool) {
        self.of_handler = true;
        self.clock.note_work_begun(may_change);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.clock.note_request_ended(self.of_handler);
    }
}
