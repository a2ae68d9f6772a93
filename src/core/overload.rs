//! The newest states, held while the loop is behind: one write for each client and round, whatever the rate of the bus.
//!
//! The loop is behind if a newer state replaces an older one in a send queue during a flush, although the kernel takes
//! all bytes of that client: the client has waited only for the loop. Each further push would cost time and deliver
//! nothing. So from then on the newest state of each topic and key is held here, and goes to all members once the flush
//! has reached all clients. Meanwhile a write skips the states in a send queue for which the queue has newer states.
//! Holding ends with a round in which no state was replaced, or as a try after [`TRY_AFTER_US`].
//!
//! Frames of a kept feed are never held: they would come after newer messages with later positions. Frames without a key
//! wait at the bus ([`Hub::takes_publications`](super::Hub::takes_publications)).

use std::collections::{BTreeMap, HashMap};
use std::mem::take;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::publication::Delivery;
use super::{ConflationKey, Frame, OverloadStats, Retain, TopicName};

/// The most states that are held; further states go into the send queues.
pub(super) const STATES_MAX: usize = 16_384;

/// After this time states go into the send queues again, to try whether the loop keeps up.
const TRY_AFTER_US: u64 = 10_000_000;

/// For this long after the last round the loop still counts as behind, so that a failed try does not count as a new
/// period.
pub(super) const LINGER_US: u64 = 1_500_000;

/// The held states.
#[derive(Debug, Default)]
pub(super) struct Overload {
    /// The held states of each topic, with the number of the topic in `order`.
    pub(super) held: HashMap<TopicName, HeldTopic, RandomState>,
    /// The topics of `held`, oldest first.
    order: BTreeMap<u64, TopicName>,
    pub(super) states: usize,
    /// The number of the topic that was added last.
    numbered: u64,
    /// Topics up to this number go to their members in this round.
    released_up_to: u64,
    /// Whether new states are held.
    pub(super) is_holding: bool,
    replaced_in_round: u64,
    try_at_us: u64,
    /// When the time behind was last counted, microseconds of the monotonic clock.
    pub(super) counted_us: u64,
}

/// A held state.
#[derive(Debug)]
pub(super) struct HeldState {
    pub(super) frame: Arc<Frame>,
    /// Whether new clients get the state at once.
    pub(super) is_retained: bool,
}

/// The newest state of each key of a topic.
#[derive(Debug, Default)]
pub(super) struct HeldTopic {
    number: u64,
    /// Oldest first, with numbers of the topic's own: a pattern may have very many keys.
    pub(super) states: BTreeMap<u64, HeldState>,
    /// The number of each key's state.
    numbers: HashMap<ConflationKey, u64, RandomState>,
    newest: u64,
}

impl HeldTopic {
    /// Holds a state; returns whether it replaces an older one. A state without a key replaces nothing.
    fn hold(&mut self, delivery: Delivery<'_>) -> bool {
        self.newest += 1;
        let state = HeldState {
            frame: Arc::clone(delivery.frame),
            is_retained: delivery.retain == Retain::Set,
        };
        self.states.insert(self.newest, state);
        let key = delivery.frame.key();
        let older = key.and_then(|key| self.numbers.insert(key, self.newest));
        older.is_some_and(|older| self.states.remove(&older).is_some())
    }
}

impl Overload {
    pub(super) fn begin(&mut self, now_us: u64, stats: &mut OverloadStats) {
        self.is_holding = true;
        self.replaced_in_round = 0;
        self.try_at_us = now_us + TRY_AFTER_US;
        self.count(now_us, stats);
        stats.is_behind = true;
    }

    fn count(&mut self, now_us: u64, stats: &mut OverloadStats) {
        if stats.is_behind {
            stats.behind_us += now_us.saturating_sub(self.counted_us);
        }
        self.counted_us = now_us;
    }

    /// Whether states are being held back, or the publication would overtake a held state of its topic.
    #[inline]
    pub(super) fn concerns(&self, topic: &TopicName) -> bool {
        self.is_holding || self.states > 0 && self.held.contains_key(topic)
    }

    /// Holds the newest state of a topic and key; returns whether an older state was replaced.
    pub(super) fn hold(&mut self, delivery: Delivery<'_>) -> bool {
        let topic = delivery.topic;
        let held = self.held.entry(topic.clone()).or_insert_with(|| {
            self.numbered += 1;
            self.order.insert(self.numbered, topic.clone());
            HeldTopic {
                number: self.numbered,
                ..HeldTopic::default()
            }
        });
        let replaces = held.hold(delivery);
        self.states += usize::from(!replaces);
        self.replaced_in_round += u64::from(replaces);
        replaces
    }

    /// Takes the held states of a topic.
    pub(super) fn take(&mut self, topic: &TopicName) -> impl Iterator<Item = HeldState> + use<> {
        let held = self.held.remove(topic).unwrap_or_default();
        self.order.remove(&held.number);
        self.states -= held.states.len();
        if self.states == 0 {
            self.held = HashMap::default();
        }
        held.states.into_values()
    }

    /// Ends a round: the flush has reached all clients.
    pub(super) fn end_round(&mut self, now_us: u64, stats: &mut OverloadStats) {
        self.count(now_us, stats);
        self.released_up_to = self.numbered;
        let replaced = take(&mut self.replaced_in_round);
        self.is_holding = replaced > 0 && now_us < self.try_at_us;
    }

    /// The next topic of this round.
    pub(super) fn next_released(&self) -> Option<TopicName> {
        let (number, topic) = self.order.first_key_value()?;
        (*number <= self.released_up_to).then(|| topic.clone())
    }
}
