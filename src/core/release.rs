//! Holds states outside of the send queues and releases them: while the loop is behind ([`super::overload`]), or until
//! the pong of a client behind deep buffers.

use std::mem::take;

use super::core::Core;
use super::overload::{HeldTopic, LINGER_US, STATES_MAX};
use super::publication::Delivery;
use super::{MaxRate, Place, Retain, SessionKey, TopicName};

impl Core {
    /// Holds the frame if it is a state and the loop is behind, and returns true. If not, releases the held states of its
    /// topic first, so that messages keep their order.
    #[inline]
    pub(super) fn hold_or_release(&mut self, delivery: Delivery<'_>) -> bool {
        if !self.overload.concerns(delivery.topic) {
            return false;
        }
        let frame = delivery.frame;
        let may_wait =
            frame.key().is_some() && !frame.is_of_feed() && delivery.place == Place::Outside;
        let waits = may_wait && self.overload.states < STATES_MAX;
        match waits {
            true => self.hold_state(delivery),
            false => self.release(delivery.topic),
        }
        waits
    }

    /// Begins to hold states if the last message has replaced a state that waited only for the loop. Shortly after such
    /// a period it is enough that much data waits, because the period may have ended as a try.
    #[inline]
    pub(super) fn note_replaced(&mut self) {
        let replaces = take(&mut self.clients.replaced_unsent);
        let is_late = replaces || self.clients.stats.overload.is_behind && self.much_waits();
        if is_late && self.laps.is_under_way() && !self.overload.is_holding {
            let stats = &mut self.clients.stats.overload;
            self.overload.begin(self.now.mono_us, stats);
        }
    }

    /// Whether more than a 16th of the soft limit waits for each open client on average.
    fn much_waits(&self) -> bool {
        let stats = &self.clients.stats;
        stats.send_queue_bytes > stats.open * (self.limits.send_queue.soft_bytes as u64 / 16)
    }

    /// Holds a state for the members; new clients get the state at once.
    fn hold_state(&mut self, delivery: Delivery<'_>) {
        let Some(topic) = self.topics.key_for(delivery) else {
            return;
        };
        if !self.topics.retain(topic, delivery, self.now) {
            return;
        }
        let members = self.topics.receiver_count(topic, delivery.frame) as u64;
        if members > 0 && self.overload.hold(delivery) {
            let stats = &mut self.clients.stats;
            stats.overload.states_replaced += 1;
            stats.messages_queued += members;
            stats.messages_conflated += members;
        }
    }

    /// Sends the held states of a topic before a client joins, so that the new member gets no message from before the
    /// join. Retained states may stay held: the client gets such a state as its first frame, and not a second time.
    pub(super) fn release_before_join(&mut self, topic: &TopicName) {
        let held = (self.overload.states > 0).then(|| self.overload.held.get(topic));
        let is_other = |held: &HeldTopic| !held.states.values().all(|state| state.is_retained);
        if held.flatten().is_some_and(is_other) {
            self.release(topic);
        }
    }

    pub(super) fn release(&mut self, topic: &TopicName) {
        for state in self.overload.take(topic) {
            let delivery = Delivery {
                topic,
                frame: &state.frame,
                deliver: true,
                // The topic has retained the frame already.
                retain: Retain::Keep,
                place: Place::Outside,
            };
            if let Some(topic) = self.topics.key_for(delivery) {
                self.deliver(topic, delivery);
            }
        }
    }

    /// Whether states wait for the end of the flush.
    pub fn holds_states(&self) -> bool {
        self.overload.states > 0
    }

    /// Sends held states while there is time, once a flush has reached all clients.
    pub(super) fn release_states(&mut self) {
        let stats = &mut self.clients.stats.overload;
        if !stats.is_behind {
            return;
        }
        let in_round = self.overload.next_released().is_some();
        if !in_round && (self.overload.is_holding || self.overload.states > 0) {
            self.overload.end_round(self.now.mono_us, stats);
        }
        while let Some(topic) = self.overload.next_released()
            && self.turn.has_time()
        {
            self.release(&topic);
        }
    }

    /// The loop no longer counts as behind if no round has held states for some time.
    pub(super) fn check_overload(&mut self) {
        let overload = &self.overload;
        let until_us = overload.counted_us + LINGER_US;
        if !overload.is_holding && overload.states == 0 && self.now.mono_us >= until_us {
            self.clients.stats.overload.is_behind = false;
        }
    }
}

impl Core {
    /// Sets or ends the client's own rate. Messages that the throttle held go into the send queue first.
    pub fn set_max_rate(&mut self, key: SessionKey, rate: Option<MaxRate>) {
        self.clients.open_throttle(self.now, &self.limits, key);
        let session = self.clients.session_mut(key);
        if let Some(session) = session.filter(|session| session.takes_data()) {
            session.set_max_rate(self.now, rate);
        }
    }

    /// Queues a ping after the last state of a client with a gate, and removes the gate if it has nothing left to hold
    /// back.
    pub(super) fn check_gate(&mut self, key: SessionKey) {
        let now = self.now;
        let session = self.clients.session_mut(key);
        let Some(session) = session.filter(|session| session.has_gate()) else {
            return;
        };
        let gated_us = session.take_wide_gate(now);
        session.ping_after_states(now);
        self.clients.stats.slow.count_gate(gated_us);
    }
}
