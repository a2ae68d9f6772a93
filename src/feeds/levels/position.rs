//! Which of two messages of a subject is the newer one.

use crate::feeds::StreamPosition;

/// The newest place in a stream that was seen of one subject.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastSeen(Option<StreamPosition>);

impl LastSeen {
    /// Remembers `position`; `false` when it is not newer than what was seen before: a redelivery,
    /// a replay, or a stream that is gone. A message without a position always counts as newer.
    pub(super) fn advance(&mut self, position: Option<StreamPosition>) -> bool {
        let Some(position) = position else {
            return true;
        };
        if self.0.is_some_and(|last| position <= last) {
            return false;
        }
        self.0 = Some(position);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: i64, sequence: u64) -> Option<StreamPosition> {
        Some(StreamPosition { epoch, sequence })
    }

    #[test]
    fn sequence_decides_within_an_epoch_and_epochs_before_it() {
        let mut last = LastSeen::default();
        assert!(last.advance(at(10, 5)));
        assert!(!last.advance(at(10, 5)), "redelivered");
        assert!(!last.advance(at(10, 4)), "replayed");
        assert!(last.advance(None), "no position");
        assert!(last.advance(at(10, 7)));
        assert!(last.advance(at(11, 1)), "a new stream starts over");
        assert!(!last.advance(at(10, 100)), "the old stream is over");
        assert!(last.advance(at(11, 2)));
    }
}
