//! The newest states, held while the loop is behind: one write for each client and round, whatever the rate of the bus.
//!
//! A client whose kernel has taken everything so far waits only for the loop. If a state of such a client is replaced in
//! its send queue while a flush is under way, the loop is behind: each further push would cost time and deliver nothing.
//! From then on the newest state of each topic and key is held here, and goes to all members once the flush has reached
//! everybody; states that wait in a send queue are skipped for newer ones in the queue. The end is a round in which no
//! state was replaced, or, as a try, [`TRY_AFTER_US`].
//!
//! Frames of a kept feed are never held: they would come after newer messages with later positions. Frames without a key
//! wait at the bus ([`Hub::takes_publications`](super::Hub::takes_publications)).

use std::collections::{BTreeMap, HashMap};
use std::mem::take;

use foldhash::quality::RandomState;

use super::core::Core;
use super::shell::Transmit;
use super::{BehindStats, Place, Publication, Retain, TopicName};

/// States held at most; further states go into the send queues.
const STATES_MAX: usize = 16_384;

/// Time after which states go into the send queues again, as a try.
const TRY_AFTER_US: u64 = 10_000_000;

/// Time after the last round that counts as behind: a try that fails begins no new state.
const LINGER_US: u64 = 1_500_000;

/// The held states.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// By topic, each with its place in `order`.
    held: HashMap<TopicName, Held, RandomState>,
    /// The topics of `held`, oldest first.
    order: BTreeMap<u64, TopicName>,
    states: usize,
    /// Topics so far.
    numbered: u64,
    /// Topics up to this number go to their members in this round.
    released_up_to: u64,
    /// Whether new states are held.
    is_holding: bool,
    replaced_in_round: u64,
    try_at_us: u64,
    /// When the time behind was last counted, microseconds of the monotonic clock.
    counted_us: u64,
}

/// The newest state of each key of a topic, oldest first.
#[derive(Debug, Default)]
struct Held {
    number: u64,
    states: Vec<Publication>,
}

impl Behind {
    fn begin(&mut self, now_us: u64, stats: &mut BehindStats) {
        self.is_holding = true;
        self.replaced_in_round = 0;
        self.try_at_us = now_us + TRY_AFTER_US;
        self.count(now_us, stats);
        stats.is_behind = true;
    }

    fn count(&mut self, now_us: u64, stats: &mut BehindStats) {
        if stats.is_behind {
            stats.behind_us += now_us.saturating_sub(self.counted_us);
        }
        self.counted_us = now_us;
    }

    /// Whether new states are held.
    pub(super) fn is_holding(&self) -> bool {
        self.is_holding
    }

    /// Whether a publication of the topic has to wait, or would overtake what waits.
    #[inline]
    fn concerns(&self, topic: &TopicName) -> bool {
        self.is_holding || self.states > 0 && self.held.contains_key(topic)
    }

    /// Holds the newest state of a topic and key; returns whether an older one was replaced.
    fn hold(&mut self, publication: &Publication) -> bool {
        let topic = &publication.topic;
        let held = self.held.entry(topic.clone()).or_insert_with(|| {
            self.numbered += 1;
            self.order.insert(self.numbered, topic.clone());
            Held {
                number: self.numbered,
                states: Vec::new(),
            }
        });
        let key = publication.frame.key();
        let before = held.states.len();
        held.states.retain(|older| older.frame.key() != key);
        let replaces = held.states.len() < before;
        held.states.push(publication.clone());
        self.states += usize::from(!replaces);
        self.replaced_in_round += u64::from(replaces);
        replaces
    }

    fn take(&mut self, topic: &TopicName) -> Vec<Publication> {
        let held = self.held.remove(topic).unwrap_or_default();
        self.order.remove(&held.number);
        self.states -= held.states.len();
        if self.states == 0 {
            self.held = HashMap::default();
        }
        held.states
    }

    /// Ends a round: the flush has reached everybody.
    fn end_round(&mut self, now_us: u64, stats: &mut BehindStats) {
        self.count(now_us, stats);
        self.released_up_to = self.numbered;
        let replaced = take(&mut self.replaced_in_round);
        self.is_holding = replaced > 0 && now_us < self.try_at_us;
    }

    /// The next topic of this round.
    fn next_released(&self) -> Option<TopicName> {
        let (number, topic) = self.order.first_key_value()?;
        (*number <= self.released_up_to).then(|| topic.clone())
    }
}

impl Core {
    /// Whether the publication is to be held. If not, nothing of its topic is held any more: messages keep their order.
    #[inline]
    pub(super) fn has_to_wait(&mut self, publication: &Publication) -> bool {
        if !self.behind.concerns(&publication.topic) {
            return false;
        }
        let may_wait = publication.frame.key().is_some() && publication.place == Place::Outside;
        let waits = may_wait && self.behind.states < STATES_MAX;
        if !waits {
            self.release(&publication.topic);
        }
        waits
    }

    /// Begins to hold states, if the last message has replaced a state that waited only for the loop. Shortly after an end
    /// it is enough that much waits: the end was a try.
    #[inline]
    pub(super) fn note_replaced(&mut self) {
        let replaces = take(&mut self.clients.replaced_unsent);
        let is_late = replaces || self.clients.stats.behind.is_behind && self.much_waits();
        if is_late && self.scratch.is_under_way() && !self.behind.is_holding {
            let stats = &mut self.clients.stats.behind;
            self.behind.begin(self.now.mono_us, stats);
        }
    }

    /// Whether more than a 16th of the soft limit waits for a client on average.
    fn much_waits(&self) -> bool {
        let stats = &self.clients.stats;
        stats.send_queue_bytes > stats.open * (self.limits.send_queue.soft_bytes as u64 / 16)
    }

    /// Holds a state for the members; new clients get the state at once.
    pub(super) fn hold_state(&mut self, publication: &Publication) {
        self.topics.retain(publication);
        let members = self.topics.member_count(&publication.topic) as u64;
        if members > 0 && self.behind.hold(publication) {
            let stats = &mut self.clients.stats;
            stats.behind.states_replaced += 1;
            stats.messages_queued += members;
            stats.messages_conflated += members;
        }
    }

    /// Sends what is held of a topic, before a client joins that must not get a message from before the join. A retained
    /// state is the client's first frame, and does not come twice.
    pub(super) fn release_before_join(&mut self, topic: &TopicName) {
        let held = (self.behind.states > 0).then(|| self.behind.held.get(topic));
        let is_retained = |p: &Publication| p.retain == Retain::Set;
        if held
            .flatten()
            .is_some_and(|held| !held.states.iter().all(is_retained))
        {
            self.release(topic);
        }
    }

    fn release(&mut self, topic: &TopicName) {
        for mut publication in self.behind.take(topic) {
            // The topic has retained the frame already.
            publication.retain = Retain::Keep;
            self.link(&publication);
            self.deliver(&publication);
        }
    }

    /// Whether states wait for the end of the flush.
    pub fn holds_states(&self) -> bool {
        self.behind.states > 0
    }

    /// Sends what is held while `tx` has time, after a flush that has reached everybody.
    pub(super) fn release_states(&mut self, tx: &dyn Transmit) {
        let stats = &mut self.clients.stats.behind;
        if !stats.is_behind {
            return;
        }
        let in_round = self.behind.next_released().is_some();
        if !in_round && (self.behind.is_holding || self.behind.states > 0) {
            self.behind.end_round(self.now.mono_us, stats);
        }
        while tx.has_time()
            && let Some(topic) = self.behind.next_released()
        {
            self.release(&topic);
        }
    }

    /// Ends the time behind, if no round has held states for some time.
    pub(super) fn look_at_behind(&mut self) {
        let behind = &self.behind;
        let until_us = behind.counted_us + LINGER_US;
        if !behind.is_holding && behind.states == 0 && self.now.mono_us >= until_us {
            self.clients.stats.behind.is_behind = false;
        }
    }
}
