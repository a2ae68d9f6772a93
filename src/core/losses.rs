//! The losses of the bus so far, and the topics that they concern.

use std::sync::Arc;

use super::Frame;

/// The losses so far.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) count: u64,
    /// The number of the newest loss that concerned the kept feed too, and not only names beside a stream.
    pub(super) of_kept: u64,
    /// The number of losses that all clients know of.
    pub(super) known: u64,
    /// The frame that notifies a client of losses, if it gets statuses.
    pub(super) frame: Option<Arc<Frame>>,
    /// Clients whose `seq` skipped a number for a loss since [`Core::take_gaps_notified`](super::Core::take_gaps_notified).
    pub(super) gaps_notified: u64,
}

/// How long the bus delivers the messages of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    /// Not yet, or not at all.
    No,
    /// Until the connection is lost.
    UntilLoss,
    /// The bus delivers the messages whatever clients ask for.
    Always,
}

/// The last two times at which a topic was active, each as the number of losses before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    before: u64,
    /// [`u64::MAX`]: at all times from `before` on.
    last: u64,
}

impl Times {
    /// Adds whether the topic is active now, after `losses` losses.
    pub(super) fn add(times: Option<Self>, losses: u64, active: Active) -> Option<Self> {
        // The last time with fewer losses before it.
        let before = times.map(|times| match times.last < losses {
            true => times.last,
            false => times.before,
        });
        let before = before.filter(|before| *before < losses);
        let (before, last) = match active {
            Active::No => (before?, before?),
            Active::UntilLoss => (before.unwrap_or(losses), losses),
            Active::Always => (before.unwrap_or(losses), u64::MAX),
        };
        Some(Self { before, last })
    }

    /// Whether the topic was active at a loss after the first `known` losses. A topic that is always active is of the kept
    /// feed: it was at the losses up to the number `of_kept`.
    pub(super) fn meet_loss(self, known: u64, losses: u64, of_kept: u64) -> bool {
        match self.last {
            u64::MAX => self.before < of_kept && known < of_kept,
            last if last < losses => known <= last,
            _ => known <= self.before && self.before < losses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_meets_the_losses_behind_which_it_was_active() {
        let times = |all: &[(u64, Active)]| {
            let add = |times, &(losses, active)| Times::add(times, losses, active);
            all.iter().fold(None, add)
        };
        let meet = |all: &[(u64, Active)], known, losses| {
            times(all).is_some_and(|times| times.meet_loss(known, losses, losses))
        };
        use Active::{Always, No, UntilLoss};
        assert!(!meet(&[(0, No)], 0, 1));
        assert!(meet(&[(0, UntilLoss)], 0, 1) && !meet(&[(1, UntilLoss)], 0, 1));
        let again = [(0, UntilLoss), (0, UntilLoss), (3, UntilLoss)];
        assert!(meet(&again, 0, 3), "before the first of three losses");
        assert!(!meet(&again, 1, 3), "the first is known");
        assert!(meet(&again, 3, 4) && !meet(&again, 4, 5));
        let refused = [(0, UntilLoss), (1, No)];
        assert!(meet(&refused, 0, 1) && !meet(&refused, 1, 2));
        let revoked = [(0, UntilLoss), (1, UntilLoss), (1, No)];
        assert!(meet(&revoked, 0, 1) && !meet(&revoked, 1, 2));
        assert!(!meet(&[(1, UntilLoss), (1, No)], 1, 2));
        assert!(meet(&[(1, Always)], 8, 9) && !meet(&[(1, Always)], 0, 1));
        let always = times(&[(1, Always)]).expect("active");
        assert!(!always.meet_loss(8, 9, 8), "beside the stream alone");
        assert!(always.meet_loss(7, 9, 8));
    }
}
