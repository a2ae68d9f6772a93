//! The clients that hold the most of something, found by a walk over all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::SessionKey;

/// At most `MAX` clients with what they hold; those that hold least are left out.
#[derive(Debug, Default)]
pub(super) struct Largest<const MAX: usize>(BinaryHeap<Reverse<(u64, SessionKey)>>);

impl<const MAX: usize> Largest<MAX> {
    /// Adds a client, unless it holds nothing.
    pub(super) fn add(&mut self, held: u64, key: SessionKey) {
        if held == 0 {
            return;
        }
        self.0.push(Reverse((held, key)));
        if self.0.len() > MAX {
            self.0.pop();
        }
    }

    /// The clients, the largest first.
    pub(super) fn into_sorted(self) -> Vec<Reverse<(u64, SessionKey)>> {
        self.0.into_sorted_vec()
    }
}
