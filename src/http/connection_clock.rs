//! When a plain HTTP connection has waited long enough.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// A head has a deadline that no dribble of bytes moves; between requests the connection may idle,
/// counted from the last byte either way.
#[derive(Debug)]
pub(super) struct ConnectionClock {
    in_head: Cell<bool>,
    since: Cell<Instant>,
    head_timeout: Duration,
    idle_timeout: Duration,
}

impl ConnectionClock {
    /// Starts in a head when bytes of one are there already.
    pub(super) fn start(in_head: bool, head_timeout: Duration, idle_timeout: Duration) -> Self {
        Self {
            in_head: Cell::new(in_head),
            since: Cell::new(Instant::now()),
            head_timeout,
            idle_timeout,
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
    }

    pub(super) fn wrote(&self) {
        if !self.in_head.get() {
            self.since.set(Instant::now());
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        let timeout = if self.in_head.get() {
            self.head_timeout
        } else {
            self.idle_timeout
        };
        self.since.get() + timeout
    }
}
