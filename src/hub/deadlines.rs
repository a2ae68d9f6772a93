//! When the core has to be called again though nothing happened.
//!
//! A heap with lazy removal: a session is armed for its earliest deadline, and whoever moves that
//! deadline later leaves the entry to fire early and be armed again. So pushing back a deadline,
//! which happens at every pong, costs nothing. When stale entries outnumber the sessions by far, they
//! are swept out: what a sweep costs was paid for by as many calls of [`Deadlines::arm`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{SessionKey, room};

/// Entries for each session before stale ones are swept out.
const SWEEP_ENTRIES_PER_SESSION: usize = 4;

/// And at least so many.
const SWEEP_ENTRIES_MIN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, SessionKey)>>,
}

impl Deadlines {
    pub(super) fn arm(&mut self, at_us: u64, session: SessionKey) {
        self.heap.push(Reverse((at_us, session)));
    }

    /// Entries, stale ones among them.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Stale entries are to be swept out.
    pub(super) fn is_overfull(&self, sessions: usize) -> bool {
        self.heap.len() > SWEEP_ENTRIES_MIN.max(SWEEP_ENTRIES_PER_SESSION * sessions)
    }

    /// Keeps the entries that `is_current` names.
    pub(super) fn sweep(&mut self, is_current: impl Fn(u64, SessionKey) -> bool) {
        self.heap.retain(|Reverse((at, key))| is_current(*at, *key));
    }

    /// The earliest entry, which may be stale.
    pub(super) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one entry that is due.
    pub(super) fn pop_due(&mut self, now_us: u64) -> Option<(u64, SessionKey)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now_us {
            return None;
        }
        let due = self.heap.pop().map(|Reverse(entry)| entry);
        if room::is_too_large(self.heap.len(), self.heap.capacity()) {
            self.heap.shrink_to(2 * self.heap.len());
        }
        due
    }
}
