//! When a plain HTTP connection has waited long enough for its client.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// A head has a deadline that no dribble of bytes moves; between requests the connection may idle,
/// counted from the last byte either way. While a handler works the client owes nothing, except
/// bytes of a body that the handler asked for, or to take what is written.
#[derive(Debug)]
pub(super) struct ConnectionClock {
    in_head: Cell<bool>,
    /// Handlers at work, or their answers on the way: 0 or 1.
    working: Cell<u32>,
    awaits_body: Cell<bool>,
    awaits_room: Cell<bool>,
    since: Cell<Instant>,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// Told of the end of each head.
    first_head: Option<FirstHead>,
}

/// Whether a new connection has sent its first head.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstHead(Rc<Cell<bool>>);

impl FirstHead {
    pub(super) fn is_there(&self) -> bool {
        self.0.get()
    }
}

impl ConnectionClock {
    /// Starts in a head when bytes of one are there already. So does a connection whose first
    /// head is awaited: silence has no more time than a dribble.
    pub(super) fn start(
        in_head: bool,
        first_head: Option<FirstHead>,
        head_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            in_head: Cell::new(in_head || first_head.is_some()),
            working: Cell::new(0),
            awaits_body: Cell::new(false),
            awaits_room: Cell::new(false),
            since: Cell::new(Instant::now()),
            head_timeout,
            idle_timeout,
            first_head,
        }
    }

    /// Bytes of a head are there.
    pub(super) fn head_begun(&self) {
        if !self.in_head.replace(true) {
            self.since.set(Instant::now());
        }
    }

    /// The head is whole; what follows is written.
    pub(super) fn head_ended(&self) {
        self.in_head.set(false);
        self.since.set(Instant::now());
        if let Some(first_head) = &self.first_head {
            first_head.0.set(true);
        }
    }

    /// The body was read, or has to be waited for.
    pub(super) fn body_read(&self, must_wait: bool) {
        self.moved(&self.awaits_body, must_wait);
    }

    /// Something was written, or has to wait for room.
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

    /// A handler works from here on.
    fn work_begun(&self) {
        self.working.set(self.working.get() + 1);
    }

    /// It has answered, and all of the answer is handed over.
    fn work_ended(&self) {
        self.working.set(self.working.get().saturating_sub(1));
        self.since.set(Instant::now());
    }

    pub(super) fn is_working(&self) -> bool {
        self.working.get() > 0
    }

    /// When the client has had its time; `None` while nothing is asked of it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.in_head.get() {
            return Some(self.since.get() + self.head_timeout);
        }
        let awaited = !self.is_working() || self.awaits_body.get() || self.awaits_room.get();
        awaited.then(|| self.since.get() + self.idle_timeout)
    }
}

/// A handler is at work while this lives.
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
