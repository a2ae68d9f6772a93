//! Messages of requested names that were delivered a short time ago: their streams may store them later. Pure.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::super::super::protocol::Delivery;
use super::STORED_WITHIN;

/// The most delivered messages that are remembered, the newest.
const LIVE_MAX: usize = 32_768;

/// Messages of requested names that were delivered within [`STORED_WITHIN`]: of each subscription the newest of each
/// subject, because a question looks at these alone.
#[derive(Debug, Default)]
pub(super) struct Live {
    hasher: RandomState,
    /// The newest message of each subject, by the hash of the subject, for the number of its subscription.
    newest: HashMap<u64, HashMap<u64, LiveMessage, RandomState>, RandomState>,
    /// All messages in their order, which is that in which they are forgotten.
    order: VecDeque<Noted>,
    /// The number of the last message.
    last: u64,
}

/// The newest message of a subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveMessage {
    pub(super) number: u64,
    at: Instant,
    /// The hash of its payload, which takes less memory than the payload.
    pub(super) payload: u64,
}

/// A message that is to be forgotten, unless a newer one of its subject came.
#[derive(Clone, Copy, Debug)]
struct Noted {
    number: u64,
    at: Instant,
    sid: u64,
    subject: u64,
}

impl Live {
    /// The hash of a payload.
    pub(super) fn payload_hash(&self, payload: &[u8]) -> u64 {
        self.hasher.hash_one(payload)
    }

    /// Remembers a message.
    pub(super) fn note(&mut self, delivery: &Delivery, at: Instant) {
        if self.order.len() >= LIVE_MAX {
            self.forget_first();
        }
        self.forget_stored(at);
        self.last += 1;
        let (sid, subject) = (delivery.sid, self.hasher.hash_one(&*delivery.subject));
        let message = LiveMessage {
            number: self.last,
            at,
            payload: self.payload_hash(&delivery.payload),
        };
        self.newest.entry(sid).or_default().insert(subject, message);
        self.order.push_back(Noted {
            number: self.last,
            at,
            sid,
            subject,
        });
    }

    /// The number of the newest message of a subject in a subscription, if a stream has brought this message now, for a
    /// question that was asked at `begun`, after it was delivered.
    pub(super) fn number_of(
        &self,
        sid: Option<u64>,
        begun: Instant,
        delivery: &Delivery,
    ) -> Option<u64> {
        let subjects = self.newest.get(&sid?)?;
        let live = subjects.get(&self.hasher.hash_one(&*delivery.subject))?;
        let is_it = live.at <= begun && live.payload == self.payload_hash(&delivery.payload);
        is_it.then_some(live.number)
    }

    /// Whether a message of a subscription was delivered before a question, which was asked at `begun`, and has not come
    /// from its stream, which perhaps had not stored it by then. A subject with a message after the question is left
    /// out: the clients have it.
    ///
    /// The search ends at the first such message, so it looks at messages that have come, and at those after the
    /// question.
    pub(super) fn has_unstored(
        &mut self,
        sid: Option<u64>,
        begun: Instant,
        now: Instant,
        has_come: impl Fn(LiveMessage) -> bool,
    ) -> bool {
        self.forget_stored(now);
        let subjects = sid.and_then(|sid| self.newest.get(&sid));
        let mut messages = subjects.into_iter().flat_map(HashMap::values);
        messages.any(|live| live.at <= begun && !has_come(*live))
    }

    /// Forgets the messages that their streams have stored or refused by now.
    fn forget_stored(&mut self, now: Instant) {
        let is_over = |first: &Noted| first.at + STORED_WITHIN <= now;
        while self.order.front().is_some_and(is_over) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(first) = self.order.pop_front() else {
            return;
        };
        let Entry::Occupied(mut subjects) = self.newest.entry(first.sid) else {
            return;
        };
        if let Entry::Occupied(newest) = subjects.get_mut().entry(first.subject)
            && newest.get().number == first.number
        {
            newest.remove();
        }
        if subjects.get().is_empty() {
            subjects.remove();
        }
        if self.order.is_empty() {
            // Gives back the memory of a busy time.
            self.newest = HashMap::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn message(sid: u64, subject: u64, payload: u64) -> Delivery {
        Delivery {
            subject: subject.to_string().into(),
            sid,
            payload: payload.to_string().into(),
            ..Delivery::default()
        }
    }

    /// The messages that were delivered, and what is unstored by its definition: of the messages of the last seconds
    /// the newest of each subject, unless another one came after the question.
    #[derive(Default)]
    struct Model(Vec<(Instant, Delivery)>);

    impl Model {
        fn has_unstored(&self, sid: u64, begun: Instant, now: Instant, came: &[Delivery]) -> bool {
            let mut newest = std::collections::BTreeMap::new();
            for (at, message) in &self.0 {
                if message.sid != sid || now >= *at + STORED_WITHIN {
                    continue;
                }
                match *at <= begun {
                    true => newest.insert(&message.subject, &message.payload),
                    false => newest.remove(&message.subject),
                };
            }
            newest.into_iter().any(|(subject, payload)| {
                !came
                    .iter()
                    .any(|one| (&one.subject, &one.payload) == (subject, payload))
            })
        }
    }

    /// A message, and the time before it in milliseconds.
    type Delivered = (Delivery, u64);

    fn deliveries(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Delivered>> {
        let one = (1..3_u64, 0..4_u64, 0..3_u64, 0..2_000_u64);
        let one = one.prop_map(|(sid, subject, payload, ms)| (message(sid, subject, payload), ms));
        prop::collection::vec(one, sizes)
    }

    proptest! {
        #[test]
        fn what_is_unstored_is_what_its_definition_says(
            before in deliveries(0..20),
            after in deliveries(0..4),
            brought in deliveries(0..6),
            wait_ms in 0..6_000_u64,
        ) {
            let (mut live, mut model, mut now) = (Live::default(), Model::default(), Instant::now());
            let mut come = |live: &mut Live, delivered: Vec<Delivered>| {
                for (message, pause_ms) in delivered {
                    now += Duration::from_millis(pause_ms);
                    live.note(&message, now);
                    model.0.push((now, message));
                }
                now
            };
            let begun = come(&mut live, before);
            let came: Vec<Delivery> = brought.into_iter().map(|(message, _)| message).collect();
            let numbers: Vec<_> = came.iter().filter_map(|one| live.number_of(Some(1), begun, one)).collect();
            let later = after.into_iter().map(|(message, pause_ms)| (message, pause_ms + 1));
            let now = come(&mut live, later.collect()) + Duration::from_millis(wait_ms);
            let has = live.has_unstored(Some(1), begun, now, |live| numbers.contains(&live.number));
            prop_assert_eq!(has, model.has_unstored(1, begun, now, &came));
            prop_assert!(!live.has_unstored(None, begun, now, |_| false));
        }
    }

    #[test]
    fn the_search_ends_at_the_first_message_and_looks_at_no_other_subscription() {
        let (mut live, now) = (Live::default(), Instant::now());
        for n in 0..2 * LIVE_MAX as u64 {
            live.note(&message(1 + n % 2, n % 20_000, n), now);
        }
        let looked = Cell::new(0);
        let mut look = |sid, has_come| {
            looked.set(0);
            let has = live.has_unstored(Some(sid), now, now, |_| {
                looked.set(looked.get() + 1);
                has_come
            });
            (has, looked.get())
        };
        assert_eq!(look(1, false), (true, 1));
        assert_eq!(look(2, true), (false, 10_000));
        assert_eq!(look(3, false), (false, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let (mut live, now) = (Live::default(), Instant::now());
        for n in 0..2 * LIVE_MAX as u64 {
            live.note(&message(n % 100, n, n), now);
        }
        let kept: usize = live.newest.values().map(HashMap::len).sum();
        assert_eq!((live.order.len(), kept), (LIVE_MAX, LIVE_MAX));
        live.note(&message(7, 7, 7), now + STORED_WITHIN);
        assert_eq!((live.order.len(), live.newest.len()), (1, 1));
        assert!(!live.has_unstored(Some(7), now, now + 2 * STORED_WITHIN, |_| false));
        assert_eq!((live.order.len(), live.newest.len()), (0, 0));
    }
}
