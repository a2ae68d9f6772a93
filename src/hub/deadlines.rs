//! When the core has to be called again though nothing happened.
//!
//! A heap with lazy removal: a session is armed for its earliest deadline, and whoever moves that
//! deadline later leaves the entry to fire early and be armed again. So pushing back a deadline,
//! which happens at every pong, costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::SessionKey;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, SessionKey)>>,
}

impl Deadlines {
    pub(super) fn arm(&mut self, at_us: u64, session: SessionKey) {
        self.heap.push(Reverse((at_us, session)));
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
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
