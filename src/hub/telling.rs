//! Losses of the bus: each client is notified of a loss before it gets anything that came after the loss.
//!
//! Notifying a hundred thousand clients in one turn would delay every message, so the gateway does it in a round
//! over several turns ([`Core::walk`]). If a client gets a message or an answer meanwhile, the notice of the loss
//! goes first. Therefore each session has the number of losses that its client knows of; all later losses are a
//! single loss for the client.

use std::sync::Arc;

use super::core::Core;
use super::limits::{CLIENT_COST, TOPIC_COST, WALK_SLOTS_MAX};
use super::losses::Active;
use super::session::Session;
use super::{ByClient, Frame, SessionKey, TopicName};

impl Core {
    /// Handles a loss.
    pub fn lose(&mut self) {
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
        self.losses.told = losses;
        if !self.is_notifying() {
            self.losses.frame = None;
        }
    }

    /// Whether some clients may not know of a loss.
    #[inline]
    pub fn is_notifying(&self) -> bool {
        self.losses.count != self.losses.told
    }

    /// Notes that the client knows of all losses from here on. Returns true if it did not know of all. If the bus
    /// delivered a topic of the client at one of these losses, the client's next `seq` number is skipped, once for all
    /// of these losses.
    pub fn take_loss(&mut self, key: SessionKey) -> bool {
        let all = self.losses.count;
        let session = self.clients.session_mut(key);
        let Some(known) = session.map(|session| session.know_losses(all)) else {
            return false;
        };
        if known != all && self.topics.was_active(key.slot, known, all) {
            self.skip_number(key);
            self.losses.gaps_told += 1;
        }
        known != all
    }

    /// Returns the number of clients whose `seq` skipped a number for a loss since the last call.
    pub fn take_gaps_told(&mut self) -> u64 {
        std::mem::take(&mut self.losses.gaps_told)
    }

    /// Skips the client's next number ([`super::Lead::Seq`]), so that the client sees a gap.
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

    #[cold]
    fn notify_now(&mut self, key: SessionKey) {
        if self.take_loss(key)
            && self.gets_status(key)
            && let Some(frame) = &self.losses.frame
        {
            self.clients.deliver(self.now, &self.limits, key, frame);
        }
    }

    /// Adds the cost of work to the budget of the turn, in bytes of messages.
    pub(super) fn charge(&mut self, cost: usize) {
        self.message_bytes = self.message_bytes.saturating_add(cost);
    }

    /// Adds the cost of a message that goes to `topics` topics.
    pub fn charge_topics(&mut self, topics: usize) {
        self.charge(CLIENT_COST * topics);
    }

    /// Whether the budget of the turn is used up: the rest of the work is for the next turn.
    pub(super) fn has_spent(&self) -> bool {
        self.message_bytes > self.limits.turn_all_message_bytes_max
    }

    /// Calls `each` for the clients in the next slots from `first` on, at most `WALK_SLOTS_MAX`, until the budget of
    /// the turn is used up; the first client is always reached. Returns the slot at which the walk continues; `None`
    /// after the last.
    pub fn walk<C>(
        &mut self,
        clients: &mut ByClient<C>,
        first: usize,
        mut each: impl FnMut(&mut Self, SessionKey, &mut C),
    ) -> Option<usize> {
        let slots = clients.slots();
        let mut next = first + WALK_SLOTS_MAX;
        for (key, client) in clients.slots_mut(first, WALK_SLOTS_MAX) {
            self.charge(CLIENT_COST + TOPIC_COST * self.joined_count(key));
            each(self, key, client);
            if self.has_spent() {
                next = key.slot as usize + 1;
                break;
            }
        }
        (next < slots).then_some(next)
    }
}
