//! Positions of a feed without a bus: the gateway publishes the messages, and this instance alone counts them,
//! behind a mark that no other instance knows.

use super::core::Core;
use super::{BusNotice, Mark, Point, Position};

/// The random bits of a mark.
const NONCE_MASK: u64 = (1 << 48) - 1;

impl Core {
    /// Begins the feed: messages have positions from here on. Nothing happens without a history, or after
    /// an earlier call.
    pub fn begin_feed(&mut self) {
        if self.has_history() && self.position().is_none() {
            // Random also after a loss: no earlier position may count from this mark.
            let nonce = self.random() & NONCE_MASK;
            let mark = Mark { nonce, counter: 0 };
            let (names, count) = (0, 0);
            self.note(&BusNotice::Mark { names, mark, count });
        }
    }

    /// Handles a loss: no earlier position is good, and messages have no position until
    /// [`begin_feed`](Self::begin_feed).
    pub fn end_feed(&mut self) {
        self.note(&BusNotice::Gap);
    }

    /// The position of the n-th message from here on; `None` without a history, or before
    /// [`begin_feed`](Self::begin_feed).
    pub fn position_ahead(&self, messages: usize) -> Option<Position> {
        let Position { names, point } = self.position()?;
        match point {
            Point::Counted { mark, count } => {
                Some(Position::counted(names, mark, count + messages as u64))
            }
            Point::Stored(_) => None,
        }
    }
}
