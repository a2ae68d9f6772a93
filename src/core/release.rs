//! Holds states outside of the send queues and releases them: while the loop is behind ([`super::overload`]), or until
//! the pong of a client behind deep buffers.

use std::mem::take;

use super::core::Core;
use super::overload::{HeldState, LINGER_US};
use super::publication::Delivery;
use super::{MaxRate, Place, Retain, SessionKey, TopicName};

impl Core {
    /// Holds the frame if it is a state and the loop is behind, or if it would overtake held states of its topic, and
    /// returns true.
    #[inline]
    pub(super) fn hold_back(&mut self, delivery: Delivery<'_>) -> bool {
        delivery.deliver && self.overload.concerns(delivery.topic) && self.hold_back_now(delivery)
    }

    /// Holds a frame back, while states are held or are to be. Returns false if the frame is to be sent now; then the
    /// held states that it must not overtake were sent.
    fn hold_back_now(&mut self, delivery: Delivery<'_>) -> bool {
        let frame = delivery.frame;
        // A message of a kept feed is never held ([`super::overload`]).
        if frame.is_of_feed() || delivery.place != Place::Outside {
            self.release_before(delivery);
            return false;
        }
        match frame.is_state() {
            true => self.hold_state(delivery),
            false => self.hold_behind_states(delivery),
        }
    }

    /// Holds a state. If there is no room, the oldest held state of its topic is sent to make room. Returns false if
    /// the topic has none: the new state is to be sent now.
    fn hold_state(&mut self, delivery: Delivery<'_>) -> bool {
        if self.overload.is_full() && !self.overload.would_replace(delivery) {
            if !self.overload.holds(delivery.topic) {
                return false;
            }
            self.release_oldest(delivery.topic);
        }
        self.hold(delivery);
        true
    }

    /// Sends the held states of the topic of a frame that is no state, as far as there is time. If some are left, holds the
    /// frame behind them. Returns false if none is left.
    fn hold_behind_states(&mut self, delivery: Delivery<'_>) -> bool {
        // While the frame is held, the bus waits, and with it the messages of all other topics.
        while self.overload.holds(delivery.topic) && self.turn.has_time() {
            self.release_oldest(delivery.topic);
        }
        if self.overload.is_full() {
            self.release_oldest(delivery.topic);
        }
        if !self.overload.holds(delivery.topic) {
            return false;
        }
        self.hold(delivery);
        true
    }

    /// Sends the held states that a message of a kept feed must not overtake: those of its topic as far as there is
    /// time, and those of its key.
    fn release_before(&mut self, delivery: Delivery<'_>) {
        let topic = delivery.topic;
        while self.turn.has_time() && self.release_oldest(topic) {}
        let key = delivery.frame.key();
        let numbers = key.map(|key| self.overload.numbers(topic, key));
        for number in numbers.into_iter().flatten() {
            self.release_state(topic, number);
        }
    }

    /// Begins to hold states if the last message has replaced a state that waited only for the loop. The last period
    /// may have ended only as a try, after the ten seconds of [`super::overload`]: shortly after one, it is enough that
    /// much data waits.
    #[inline]
    pub(super) fn begin_overload_if_behind(&mut self) {
        let has_replaced = take(&mut self.clients.replaced_unsent);
        let was_behind = self.clients.stats.overload.is_behind;
        let is_behind = has_replaced || was_behind && self.much_waits();
        if is_behind && self.laps.is_under_way() && !self.overload.is_holding {
            let stats = &mut self.clients.stats.overload;
            self.overload.begin(self.now.mono_us, stats);
        }
    }

    /// Whether more than a 16th of the soft limit waits for each open client on average.
    fn much_waits(&self) -> bool {
        let stats = &self.clients.stats;
        stats.send_queue_bytes > stats.open * (self.limits.send_queue.soft_bytes as u64 / 16)
    }

    /// Holds a frame for the members; new clients get the state at once.
    fn hold(&mut self, delivery: Delivery<'_>) {
        let Some(topic) = self.topics.key_for(delivery) else {
            return;
        };
        if !self.topics.retain(topic, delivery, self.now) {
            // The topic has no members, and may be gone.
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

    /// Puts the held states of a topic in the queue of one member, which then gets them only once.
    pub(super) fn release_to(&mut self, key: SessionKey, topic: &TopicName) {
        if !self.overload.holds(topic) || !self.topics.has(key, topic) {
            return;
        }
        let content = self.content(key);
        for frame in self.overload.unseen(topic, key) {
            if frame.content() == content {
                self.clients.deliver(self.now, &self.limits, key, &frame);
            }
        }
        self.overload.note_seen(topic, key);
    }

    /// Sends the oldest held state of a topic to the members. Returns false if there is none.
    fn release_oldest(&mut self, topic: &TopicName) -> bool {
        let oldest = self.overload.oldest(topic);
        oldest.is_some_and(|oldest| self.release_state(topic, oldest))
    }

    /// Sends one held state of a topic, the one with this number, to the members. Returns false if it is not there.
    fn release_state(&mut self, topic: &TopicName, number: u64) -> bool {
        let state = self.overload.take(topic, number);
        let is_there = state.is_some();
        if let Some(state) = state {
            self.deliver_held(topic, &state);
        }
        is_there
    }

    /// Sends a state that was taken from the held ones to the members that have not seen it.
    fn deliver_held(&mut self, topic: &TopicName, state: &HeldState) {
        let delivery = Delivery {
            topic,
            frame: &state.frame,
            deliver: true,
            // The topic has retained the frame already.
            retain: Retain::Keep,
            place: Place::Outside,
        };
        if let Some(key) = self.topics.key_for(delivery) {
            self.deliver_counted(delivery, |core| {
                core.deliver_held_to_members(key, delivery, state.number);
            });
        }
        self.overload.tidy(topic);
    }

    /// Whether states wait for the end of the flush.
    pub fn holds_states(&self) -> bool {
        self.overload.states > 0
    }

    /// Begins to send the held states, once a flush has reached all clients.
    pub(super) fn begin_release(&mut self) {
        let (overload, stats) = (&mut self.overload, &mut self.clients.stats.overload);
        let is_due = overload.is_holding || overload.states > 0;
        if stats.is_behind && is_due && !overload.is_in_round() {
            overload.end_round(self.now.mono_us, stats);
        }
    }

    /// Sends the next held states, while there is time.
    pub(super) fn release_states(&mut self) {
        while self.turn.has_time() && self.release_next() {}
    }

    /// Sends the next held state for which the bus waits, or of the round. Returns false if there is none.
    fn release_next(&mut self) -> bool {
        if let Some(topic) = self.overload.awaited() {
            return self.release_oldest(&topic);
        }
        let next = self.overload.take_of_round();
        let is_there = next.is_some();
        if let Some((topic, state)) = next {
            self.deliver_held(&topic, &state);
        }
        is_there
    }

    /// Sends more of a round, and what the bus waits for, in a part of its own, one state at least: the flush may have used
    /// up its time, and a lap for every few states would take longer than the states.
    pub(super) fn continue_release(&mut self) {
        if !self.overload.is_in_round() && self.overload.others == 0 {
            return;
        }
        self.turn.begin(self.limits.work_us);
        while self.release_next() && self.turn.has_time() {}
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

    /// Removes the gate of a client (`session/gate.rs`) if it has nothing left to hold back. Otherwise queues a ping once all
    /// states that it let through are written.
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
