//! The newest states, held while the loop is behind: one write for each client and round, whatever the rate of the bus.
//!
//! The loop is behind if a newer state replaces an older one in a send queue during a flush, although the kernel takes
//! all bytes of that client: the client has waited only for the loop. Each further push would cost time and deliver
//! nothing. So from then on the newest state of each topic and key is held here, and goes to all members once the flush
//! has reached all clients; from one such moment to the next is a *round*. Meanwhile a write skips the states in a send
//! queue for which the queue has newer states. Holding ends with a round in which no state was replaced, or as a try
//! after [`TRY_AFTER_US`].
//!
//! The states of a topic go out one at a time, oldest first, while there is time; the rest goes out in later turns. A
//! publication of a topic with held states that is no state itself comes after them: they go out before it, in no round, and
//! if there is no time for all of them it waits, and the bus with it
//! ([`Hub::takes_publications`](super::Hub::takes_publications)). A client that joins meanwhile gets nothing of what is
//! held: the topic remembers the newest state at that moment.
//!
//! Frames of a kept feed are never held: they would come after newer messages with later positions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::take;
use std::sync::Arc;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::publication::Delivery;
use super::{ConflationKey, Frame, OverloadStats, SessionKey, TopicName};
use weirgate_wire::base::{ChunkedQueue, ExtendibleMap};

/// The most states that are held. A further state goes into the send queues; if its topic has held states, the oldest
/// of these goes in its place.
const STATES_MAX: usize = 16_384;

/// After this time states go into the send queues again, to try whether the loop keeps up.
const TRY_AFTER_US: u64 = 10_000_000;

/// For this long after the last round the loop still counts as behind, so that a failed try does not count as a new
/// period.
pub(super) const LINGER_US: u64 = 1_500_000;

/// The held states.
#[derive(Debug, Default)]
pub(super) struct Overload {
    held: ExtendibleMap<TopicName, HeldTopic>,
    /// The topics of `held` by [`HeldTopic::place`].
    order: BTreeMap<u64, TopicName>,
    /// All held frames.
    pub(super) states: usize,
    /// The frames among them that are no states, for which the bus waits.
    pub(super) others: usize,
    /// The topics of these, in the order in which the bus began to wait for them.
    awaited: VecDeque<TopicName>,
    /// The number of the state that was held last.
    numbered: u64,
    /// States up to this number go to the members in this round.
    released_up_to: u64,
    /// Whether new states are held.
    pub(super) is_holding: bool,
    replaced_in_round: u64,
    /// When holding ends for a try ([`TRY_AFTER_US`]), microseconds of the monotonic clock.
    try_at_us: u64,
    /// When the time behind was last counted, microseconds of the monotonic clock.
    pub(super) counted_us: u64,
}

/// A held state that is on its way to the members.
#[derive(Debug)]
pub(super) struct HeldState {
    pub(super) number: u64,
    pub(super) frame: Arc<Frame>,
}

/// The held states of a topic.
#[derive(Debug, Default)]
struct HeldTopic {
    /// The number of the topic's oldest state, or of an older one that is gone.
    place: u64,
    /// By number, so oldest first: a pattern may have very many keys.
    states: BTreeMap<u64, Arc<Frame>>,
    /// The numbers of each key's states: the newest, and at most one before it that goes out in this round. A state whose
    /// turn has come is not replaced, or one that changes often would never have its turn.
    numbers: HashMap<ConflationKey, SmallVec<[u64; 2]>, RandomState>,
    /// The frames without a key among `states`.
    others: usize,
    seen: Seen,
}

/// Clients that have joined a topic while it was held, or have got what was held, each with the number of the newest
/// state then. A topic may be held for as long as the loop is behind, and clients may come and go all that time. So a
/// client is forgotten once all states that it has seen are out: only those of about a round are remembered.
#[derive(Debug, Default)]
struct Seen {
    numbers: ExtendibleMap<SessionKey, u64>,
    /// In the order of the numbers. A client that was noted again has another number by now.
    order: ChunkedQueue<(u64, SessionKey)>,
}

/// For each client that is noted, so many others are forgotten, if the states that they have seen are out. With only
/// one, such clients could pile up.
const FORGOTTEN_WITH_EACH: usize = 2;

impl Seen {
    /// Notes a client that has seen the states up to a number. `oldest` is the number of the oldest state that is held.
    fn note(&mut self, key: SessionKey, number: u64, oldest: u64) {
        if self.numbers.insert(key, number) != Some(number) {
            self.order.push_back((number, key));
        }
        for _ in 0..FORGOTTEN_WITH_EACH {
            let first = self.order.front().filter(|(number, _)| *number < oldest);
            let Some((number, key)) = first.copied() else {
                return;
            };
            self.order.pop_front();
            if self.numbers.get(&key) == Some(&number) {
                self.numbers.remove(&key);
            }
        }
    }
}

impl HeldTopic {
    /// Holds a state; returns whether it replaces an older one. A state without a key replaces nothing.
    fn hold(&mut self, number: u64, frame: &Arc<Frame>, released_up_to: u64) -> bool {
        self.states.insert(number, Arc::clone(frame));
        let Some(key) = frame.key() else {
            return false;
        };
        let numbers = self.numbers.entry(key).or_default();
        let older = numbers
            .last()
            .copied()
            .filter(|newest| *newest > released_up_to);
        if older.is_some() {
            numbers.pop();
        }
        numbers.push(number);
        older.is_some_and(|older| self.states.remove(&older).is_some())
    }

    /// The number of the first state that a client has to get: it has seen those before, or has joined since.
    fn first_for(&self, key: SessionKey) -> u64 {
        let seen = self.seen.numbers.get(&key);
        seen.map_or(0, |seen| seen + 1)
    }
}

impl Overload {
    /// Begins a period in which states are held.
    pub(super) fn begin(&mut self, now_us: u64, stats: &mut OverloadStats) {
        self.is_holding = true;
        self.replaced_in_round = 0;
        self.try_at_us = now_us + TRY_AFTER_US;
        self.count(now_us, stats);
        stats.is_behind = true;
    }

    /// Adds the time since the last call to the time behind, if the loop is behind.
    fn count(&mut self, now_us: u64, stats: &mut OverloadStats) {
        if stats.is_behind {
            stats.behind_us += now_us.saturating_sub(self.counted_us);
        }
        self.counted_us = now_us;
    }

    /// Whether states are being held back, or the publication would overtake a held state of its topic.
    #[inline]
    pub(super) fn concerns(&self, topic: &TopicName) -> bool {
        self.is_holding || self.holds(topic)
    }

    /// Whether no further state may be held, except in place of another.
    pub(super) fn is_full(&self) -> bool {
        self.states >= STATES_MAX
    }

    /// Whether states of the topic are held.
    pub(super) fn holds(&self, topic: &TopicName) -> bool {
        self.states > 0 && self.held.contains_key(topic)
    }

    /// Whether the frame would replace a held state.
    pub(super) fn would_replace(&self, delivery: Delivery<'_>) -> bool {
        let numbers = || {
            let held = self.held.get(delivery.topic)?;
            held.numbers.get(&delivery.frame.key()?)?.last()
        };
        numbers().is_some_and(|newest| *newest > self.released_up_to)
    }

    /// Holds a frame of a topic; returns whether an older state was replaced.
    pub(super) fn hold(&mut self, delivery: Delivery<'_>) -> bool {
        self.numbered += 1;
        let number = self.numbered;
        let topic = delivery.topic;
        let held = self.held.get_or_insert_with(topic.clone(), || {
            self.order.insert(number, topic.clone());
            HeldTopic {
                place: number,
                ..HeldTopic::default()
            }
        });
        let replaces = held.hold(number, delivery.frame, self.released_up_to);
        self.states += usize::from(!replaces);
        if !delivery.frame.is_state() {
            self.others += 1;
            held.others += 1;
            if held.others == 1 {
                self.awaited.push_back(topic.clone());
            }
        }
        self.replaced_in_round += u64::from(replaces);
        replaces
    }

    /// Takes the next state of this round. [`Self::tidy`] has to follow once the members have it.
    pub(super) fn take_of_round(&mut self) -> Option<(TopicName, HeldState)> {
        while let Some((place, topic)) = self.order.first_key_value()
            && *place <= self.released_up_to
        {
            let (place, topic) = (*place, topic.clone());
            let oldest = self.oldest(&topic)?;
            if oldest <= self.released_up_to {
                return Some((topic.clone(), self.take(&topic, oldest)?));
            }
            // What is left of the topic came since the round began.
            self.order.remove(&place);
            self.held.get_mut(&topic)?.place = oldest;
            self.order.insert(oldest, topic);
        }
        None
    }

    /// The topic for whose states the bus has waited for the longest time.
    pub(super) fn awaited(&self) -> Option<TopicName> {
        self.awaited.front().cloned()
    }

    /// The number of the oldest held state of a topic.
    pub(super) fn oldest(&self, topic: &TopicName) -> Option<u64> {
        let (oldest, _) = self.held.get(topic)?.states.first_key_value()?;
        Some(*oldest)
    }

    /// The numbers of the held states of a key, oldest first.
    pub(super) fn numbers(&self, topic: &TopicName, key: ConflationKey) -> SmallVec<[u64; 2]> {
        let held = self.held.get(topic);
        let numbers = held.and_then(|held| held.numbers.get(&key));
        numbers.cloned().unwrap_or_default()
    }

    /// Takes a state of a topic, the oldest of its key. [`Self::tidy`] has to follow.
    pub(super) fn take(&mut self, topic: &TopicName, number: u64) -> Option<HeldState> {
        let held = self.held.get_mut(topic)?;
        let frame = held.states.remove(&number)?;
        self.states -= 1;
        match frame.key() {
            None => {
                self.others -= 1;
                held.others -= 1;
                if held.others == 0 {
                    self.awaited.retain(|awaited| awaited != topic);
                }
            }
            Some(key) => {
                if let Some(numbers) = held.numbers.get_mut(&key) {
                    numbers.retain(|other| *other != number);
                    if numbers.is_empty() {
                        held.numbers.remove(&key);
                    }
                }
            }
        }
        Some(HeldState { number, frame })
    }

    /// Which members have to get a state that was taken.
    pub(super) fn receives(
        &self,
        topic: &TopicName,
        number: u64,
    ) -> impl Fn(SessionKey) -> bool + use<'_> {
        let held = self.held.get(topic);
        let held = held.filter(|held| !held.seen.numbers.is_empty());
        move |key| held.is_none_or(|held| number >= held.first_for(key))
    }

    /// Forgets a topic of which nothing is held any more.
    pub(super) fn tidy(&mut self, topic: &TopicName) {
        if let Some(held) = self.held.get(topic)
            && held.states.is_empty()
        {
            self.order.remove(&held.place);
            self.held.remove(topic);
        }
        if self.states == 0 {
            self.held = ExtendibleMap::default();
        }
    }

    /// Notes that a client is to get nothing of what a topic holds now.
    pub(super) fn note_seen(&mut self, topic: &TopicName, key: SessionKey) {
        if self.states > 0
            && let Some(held) = self.held.get_mut(topic)
        {
            // If none is held any more, all that clients have seen is out.
            let oldest = held.states.first_key_value();
            let oldest = oldest.map_or(u64::MAX, |(number, _)| *number);
            held.seen.note(key, self.numbered, oldest);
        }
    }

    /// The held frames of a topic that a member has to get, oldest first.
    pub(super) fn unseen(&self, topic: &TopicName, key: SessionKey) -> Vec<Arc<Frame>> {
        let Some(held) = self.held.get(topic) else {
            return Vec::new();
        };
        let unseen = held.states.range(held.first_for(key)..);
        unseen.map(|(_, frame)| Arc::clone(frame)).collect()
    }

    /// Ends a round: the flush has reached all clients.
    pub(super) fn end_round(&mut self, now_us: u64, stats: &mut OverloadStats) {
        self.count(now_us, stats);
        self.released_up_to = self.numbered;
        let replaced = take(&mut self.replaced_in_round);
        self.is_holding = replaced > 0 && now_us < self.try_at_us;
    }

    /// Whether states of this round have yet to go out.
    pub(super) fn is_in_round(&self) -> bool {
        let oldest = self.order.first_key_value();
        oldest.is_some_and(|(place, _)| *place <= self.released_up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameBytes, Place, Retain};

    /// A pattern with so many states that it is never without a held one, in an hour of clients that come and go.
    #[test]
    fn of_a_topic_that_stays_held_the_clients_of_a_round_are_remembered() {
        let (topic, alive) = (TopicName::fixed("*"), FrameBytes::default());
        let (mut overload, mut stats) = (Overload::default(), OverloadStats::default());
        overload.begin(0, &mut stats);
        let hold = |overload: &mut Overload, key: u64| {
            let frame = Frame::text(&alive).key(ConflationKey(key)).body(b"x");
            overload.hold(Delivery {
                topic: &topic,
                frame: &frame.finish(),
                deliver: true,
                retain: Retain::Keep,
                place: Place::Outside,
            });
        };
        (0..10).for_each(|key| hold(&mut overload, key));
        let mut slot = 0;
        for round in 0..1_000 {
            overload.end_round(0, &mut stats);
            for n in 0..10 {
                let (_, state) = overload.take_of_round().expect("a state of the round");
                let key = SessionKey {
                    slot,
                    generation: 7,
                };
                overload.note_seen(&topic, key);
                assert!(!overload.receives(&topic, state.number)(key), "{round}");
                hold(&mut overload, n);
                let newest = overload.numbered;
                assert!(overload.receives(&topic, newest)(key), "{round}");
                overload.tidy(&topic);
                slot += 1;
            }
            let seen = &overload.held.get(&topic).expect("held").seen;
            assert!(seen.numbers.len() <= 40, "{}", seen.numbers.len());
            assert!(seen.order.len() <= 40, "{}", seen.order.len());
        }
    }
}
