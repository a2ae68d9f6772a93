//! The losses of the bus so far, the topics that they concern, and how clients are notified of them.
//!
//! Each client is notified of a loss before it gets any message from after the loss. Notifying a hundred thousand clients
//! in one turn would delay every message, so the gateway does it in a round over several turns ([`Core::walk`]). If a client
//! gets a message or an answer meanwhile, the notice of the loss goes first. Therefore each session has the number of losses
//! that its client knows of; all later losses are a single loss for the client.

use std::sync::Arc;

use super::core::Core;
use super::session::Session;
use super::{Frame, SessionKey, TopicName};

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
    /// Copies that members have missed since [`Core::take_copies_skipped`].
    pub(super) copies_skipped: u64,
}

/// Whether the bus delivers the messages of a topic now, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    /// Not yet, or not at all.
    No,
    /// Until the connection is lost.
    UntilLoss,
    /// The bus delivers the messages whatever clients ask for.
    Always,
}

/// The last two times at which a topic was active, each as the number of losses before it: with n, the topic was active
/// after n losses, so loss n + 1 hits it, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    before: u64,
    /// [`u64::MAX`]: at all times from `before` on.
    last: u64,
}

impl Times {
    /// Adds whether the topic is active now, after `losses` losses.
    pub(super) fn add(times: Option<Self>, losses: u64, active: Active) -> Option<Self> {
        // The last time from before the newest loss.
        let before = times.map(|times| match times.last < losses {
            true => times.last,
            false => times.before,
        });
        let before = before.filter(|before| *before < losses);
        let (before, last) = match active {
            // A time since the newest loss does not count. Without an earlier one, no loss has hit the topic; with one,
            // that is the only one.
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
            // Active at all times from `before` on.
            u64::MAX => self.before < of_kept && known < of_kept,
            // A loss came after the last time.
            last if last < losses => known <= last,
            // No loss has come since the last time, so the one before it counts.
            _ => known <= self.before && self.before < losses,
        }
    }
}

impl Core {
    /// Handles a loss.
    pub fn lose(&mut self) {
        self.lose_beside();
        self.losses.of_kept = self.losses.count;
    }

    /// Handles a loss of names beside the stream that is the kept feed.
    pub fn lose_beside(&mut self) {
        self.losses.count += 1;
    }

    /// Sets the frame that notifies a client of all losses so far. It has no position.
    pub fn set_loss_frame(&mut self, frame: Arc<Frame>) {
        self.losses.frame = Some(frame);
    }

    /// The losses so far.
    pub fn losses(&self) -> u64 {
        self.losses.count
    }

    /// Notes that all clients know of `losses` losses.
    pub fn note_losses_known(&mut self, losses: u64) {
        self.losses.known = losses;
        if !self.is_notifying() {
            self.losses.frame = None;
        }
    }

    /// Whether some clients may not know of a loss.
    #[inline]
    pub fn is_notifying(&self) -> bool {
        self.losses.count != self.losses.known
    }

    /// Notes that the client knows of all losses from here on. Returns true if it did not know of all that concern it: a
    /// loss beside the stream concerns the members of topics that were delivered then. If the bus delivered a topic of
    /// the client at one of these losses, the client's next `seq` number is skipped, once for all of these losses.
    pub fn take_loss(&mut self, key: SessionKey) -> bool {
        let all = self.losses.count;
        let session = self.clients.session_mut(key);
        let Some(known) = session.map(|session| session.know_losses(all)) else {
            return false;
        };
        let of_kept = self.losses.of_kept;
        let was_active = known != all && self.topics.was_active(key.slot, known, all, of_kept);
        if was_active {
            self.skip_number(key);
            self.losses.gaps_notified += 1;
        }
        was_active || known < of_kept
    }

    /// Returns the number of clients whose `seq` skipped a number for a loss since the last call.
    pub fn take_gaps_notified(&mut self) -> u64 {
        std::mem::take(&mut self.losses.gaps_notified)
    }

    /// Skips the client's next number ([`super::Prefix::Seq`]), so that the client sees a gap.
    pub fn skip_number(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.skip_number();
        }
    }

    /// Sets whether the bus delivers the messages of a topic with members.
    pub fn set_active(&mut self, topic: &TopicName, active: Active) {
        self.topics.set_active(topic, self.losses.count, active);
    }

    /// Notifies the client of losses that it does not know of, before anything else.
    #[inline]
    pub(super) fn notify_loss(&mut self, key: SessionKey) {
        if self.is_notifying() {
            self.notify_now(key);
        }
    }

    /// Notifies the members of a topic.
    #[inline]
    pub(super) fn notify_members(&mut self, topic: &TopicName) {
        if self.is_notifying() {
            let members: Vec<_> = self.members(topic).collect();
            members.into_iter().for_each(|key| self.notify_now(key));
        }
    }

    /// Notes that the client wants the status of the bus. Returns true the first time.
    pub fn ask_status(&mut self, key: SessionKey) -> bool {
        let session = self.clients.session_mut(key);
        session.is_some_and(|session| !session.ask_status())
    }

    /// Whether the client gets the status of the bus: with a history every client, otherwise those that have asked.
    pub fn gets_status(&self, key: SessionKey) -> bool {
        let asked = || self.clients.session(key).is_some_and(Session::asks_status);
        self.has_history() || asked()
    }

    /// Sends the notice of a loss to the client if it is about messages of the client, and if the client gets the
    /// status of the bus.
    #[cold]
    fn notify_now(&mut self, key: SessionKey) {
        if self.take_loss(key)
            && self.gets_status(key)
            && let Some(frame) = &self.losses.frame
        {
            self.clients.deliver(self.now, &self.limits, key, frame);
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
