//! The messages from before a client's subscription: how they enter the send queue, the permit for them, and when the
//! queue is drained.

use std::sync::Arc;

use super::{Awaited, Intake, Session};
use crate::history::merge_charge;
use crate::{Frame, Now};
use weirgate_wire::admission::Permit;

impl Session {
    /// Puts a replayed frame in the send queue, if the client takes data; returns whether it does.
    pub(crate) fn replay(&mut self, now: Now, frame: Arc<Frame>) -> bool {
        let is_open = self.intake == Intake::Open;
        if is_open {
            self.queue.replay(now, frame);
        }
        is_open
    }

    /// Makes [`Self::take_drained`] return `true` once, as soon as the queue is drained.
    pub(crate) fn await_drained(&mut self) {
        self.awaited = Awaited::Drained;
    }

    /// Whether the kernel has taken what the gateway waits for. Returns true once: then the gateway waits no longer.
    #[inline]
    pub(crate) fn take_drained(&mut self) -> bool {
        let is_drained = match self.awaited {
            Awaited::Nothing => return false,
            Awaited::Drained => self.queue.is_drained(),
            Awaited::AnswersTaken => self.unread_answer_bytes() == 0,
        };
        if is_drained {
            self.awaited = Awaited::Nothing;
        }
        is_drained
    }

    /// Bytes of replayed messages in the send queue, and of missed messages that will be.
    pub(crate) fn replayed_bytes(&self) -> usize {
        let (_, missed_bytes) = self.postponed_missed();
        self.queue.replayed_bytes() + missed_bytes
    }

    /// Keeps the permit of missed messages until the kernel has taken the messages.
    pub(crate) fn hold_resumed(&mut self, charge: Option<Permit>) {
        let mut held = self.cold.resumed.take().map(|held| *held);
        merge_charge(&mut held, charge);
        self.cold.resumed = held.map(Box::new);
        self.has_resumed = self.cold.resumed.is_some();
    }

    /// Gives back the permit of the missed messages that the kernel has taken.
    pub(super) fn give_back_resumed(&mut self, now: Now) {
        let (missed, _) = self.postponed_missed();
        let left = (self.queue.replayed() + missed) as u64;
        match &mut self.cold.resumed {
            Some(charge) if left > 0 => charge.set(left.min(charge.amount()), now.mono_us),
            resumed => (*resumed, self.has_resumed) = (None, false),
        }
    }
}
