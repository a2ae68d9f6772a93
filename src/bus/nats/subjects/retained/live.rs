//! Messages of requested names that were delivered a short time ago: their streams may store them later. Pure.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::super::super::protocol::Delivery;
use super::STORED_WITHIN;
use crate::requests::Question;
use weirgate_wire::auth::{NamePatterns, NameSyntax};

/// The most delivered messages that are remembered, the newest.
const LIVE_MAX: usize = 32_768;
/// The most bytes of their subjects: 128 for each of so many messages. Usual subjects are shorter.
const LIVE_SUBJECT_BYTES_MAX: usize = 128 * LIVE_MAX;

/// The most messages that are forgotten at once because their time is over. After a busy time there are many, and a message
/// that is delivered then must not wait for all of them.
const FORGOTTEN_AT_ONCE: usize = 16;

/// Messages of requested names that were delivered within [`STORED_WITHIN`]: of each subscription the newest of each
/// subject, because a question looks at these alone.
#[derive(Debug, Default)]
pub(super) struct Live {
    hasher: RandomState,
    /// For each number of a subscription, the newest message of each subject, by the hash of the subject.
    newest: HashMap<u64, HashMap<u64, LiveMessage, RandomState>, RandomState>,
    /// All messages in their order, which is that in which they are forgotten.
    order: VecDeque<Noted>,
    /// The number of the last message.
    last: u64,
    /// The bytes of the subjects in `newest`.
    subject_bytes: usize,
}

/// Which live messages a question looks at.
#[derive(Clone, Debug)]
pub(in super::super) struct LiveScope {
    /// The subscription by which they come.
    sid: u64,
    /// If the subscription is to a wider pattern: those of the name that the question is about.
    within: Option<NamePatterns>,
}

impl LiveScope {
    /// The live messages of the name that a question is about; `None` if it is not subscribed. `sid_of` returns the
    /// subscription to a name.
    pub(in super::super) fn of(
        question: &Question,
        sid_of: impl FnOnce(&str) -> Option<u64>,
    ) -> Option<Self> {
        let name = &*question.subscription.name;
        let Some(cover) = &question.cover else {
            let (sid, within) = (sid_of(name)?, None);
            return Some(Self { sid, within });
        };
        // A name that cannot be matched counts as not subscribed.
        let within = NamePatterns::new(NameSyntax::Nats, &[name.to_owned()]).ok()?;
        Some(Self {
            sid: sid_of(cover.as_str())?,
            within: Some(within),
        })
    }

    /// Whether the messages of a subject of the subscription count.
    fn has(&self, subject: &[u8]) -> bool {
        let within = self.within.as_ref();
        within.is_none_or(|within| within.matches_bytes(subject))
    }
}

/// The newest message of a subject.
#[derive(Debug)]
pub(super) struct LiveMessage {
    pub(super) number: u64,
    at: Instant,
    subject: Box<[u8]>,
    /// The hash of its payload, which takes less memory than the payload.
    pub(super) payload: u64,
}

impl LiveMessage {
    /// Whether its stream has stored or refused it by now.
    fn is_over(&self, now: Instant) -> bool {
        self.at + STORED_WITHIN <= now
    }
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
        let (number, payload) = (self.last, self.payload_hash(&delivery.payload));
        match self.newest.entry(sid).or_default().entry(subject) {
            Entry::Occupied(mut newest) => {
                let newest = newest.get_mut();
                (newest.number, newest.at, newest.payload) = (number, at, payload);
            }
            Entry::Vacant(newest) => {
                self.subject_bytes += delivery.subject.len();
                newest.insert(LiveMessage {
                    number,
                    at,
                    subject: delivery.subject.as_slice().into(),
                    payload,
                });
            }
        }
        self.order.push_back(Noted {
            number: self.last,
            at,
            sid,
            subject,
        });
        while self.subject_bytes > LIVE_SUBJECT_BYTES_MAX {
            self.forget_first();
        }
    }

    /// If a stream has now brought the newest message of its subject, which was delivered before the question was asked
    /// at `begun`: the number of that message.
    pub(super) fn number_of(
        &self,
        scope: Option<&LiveScope>,
        begun: Instant,
        delivery: &Delivery,
    ) -> Option<u64> {
        let subjects = self.newest.get(&scope?.sid)?;
        let live = subjects.get(&self.hasher.hash_one(&*delivery.subject))?;
        let is_it = live.at <= begun && live.payload == self.payload_hash(&delivery.payload);
        is_it.then_some(live.number)
    }

    /// Whether a message of a subscription was delivered before a question, which was asked at `begun`, and has not come
    /// from its stream, which perhaps had not stored it by then. A subject with a message after the question is left
    /// out: the clients have it.
    ///
    /// The search ends at the first such message, so it looks at messages that have come, and at those after the
    /// question. Of a subscription to a wider pattern it also looks at messages of other subjects.
    pub(super) fn has_unstored(
        &mut self,
        scope: Option<&LiveScope>,
        begun: Instant,
        now: Instant,
        has_come: impl Fn(&LiveMessage) -> bool,
    ) -> bool {
        self.forget_stored(now);
        let Some(scope) = scope else {
            return false;
        };
        let subjects = self.newest.get(&scope.sid);
        let mut messages = subjects.into_iter().flat_map(HashMap::values);
        messages.any(|live| {
            live.at <= begun && !live.is_over(now) && !has_come(live) && scope.has(&live.subject)
        })
    }

    /// Forgets some of the messages that their streams have stored or refused by now: after each new message up to
    /// [`FORGOTTEN_AT_ONCE`], so they cannot pile up.
    fn forget_stored(&mut self, now: Instant) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            if self
                .order
                .front()
                .is_none_or(|first| first.at + STORED_WITHIN > now)
            {
                return;
            }
            self.forget_first();
        }
    }

    /// Forgets the oldest message of `order`. The newest message of its subject stays if it is a later one.
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
            self.subject_bytes -= newest.remove().subject.len();
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
            subject: format!("{}.{subject}", subject % 2).into(),
            sid,
            payload: payload.to_string().into(),
            ..Delivery::default()
        }
    }

    fn patterns(pattern: &str) -> NamePatterns {
        NamePatterns::new(NameSyntax::Nats, &[pattern.to_owned()]).expect("a pattern")
    }

    /// All messages of a subscription.
    fn whole(sid: u64) -> LiveScope {
        LiveScope { sid, within: None }
    }

    /// The messages that were delivered, and what is unstored by its definition: of the messages of the last seconds
    /// the newest of each subject, unless another one came after the question.
    #[derive(Default)]
    struct Model(Vec<(Instant, Delivery)>);

    impl Model {
        fn has_unstored(
            &self,
            within: &str,
            begun: Instant,
            now: Instant,
            came: &[Delivery],
        ) -> bool {
            let mut newest = std::collections::BTreeMap::new();
            for (at, message) in &self.0 {
                let is_within = message.subject.starts_with(within.as_bytes());
                if message.sid != 1 || !is_within || now >= *at + STORED_WITHIN {
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
            let numbers: Vec<_> = came.iter().filter_map(|one| live.number_of(Some(&whole(1)), begun, one)).collect();
            let later = after.into_iter().map(|(message, pause_ms)| (message, pause_ms + 1));
            let now = come(&mut live, later.collect()) + Duration::from_millis(wait_ms);
            let has_come = |live: &LiveMessage| numbers.contains(&live.number);
            for (pattern, prefix) in [(None, ""), (Some("0.>"), "0."), (Some("1.*"), "1.")] {
                let within = pattern.map(patterns);
                let scope = LiveScope { sid: 1, within };
                let has = live.has_unstored(Some(&scope), begun, now, has_come);
                prop_assert_eq!(has, model.has_unstored(prefix, begun, now, &came));
            }
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
            let has = live.has_unstored(Some(&whole(sid)), now, now, |_| {
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
        let (later, long_after) = (now + STORED_WITHIN, now + 2 * STORED_WITHIN);
        live.note(&message(7, 7, 7), later);
        // The first goes because there is no room.
        let left = LIVE_MAX - 1 - FORGOTTEN_AT_ONCE + 1;
        assert_eq!(live.order.len(), left, "a message waits for few");
        assert!(
            !live.has_unstored(Some(&whole(8)), later, later, |_| false),
            "old"
        );
        (0..LIVE_MAX).for_each(|_| live.note(&message(7, 7, 7), later));
        assert_eq!((live.order.len(), live.newest.len()), (LIVE_MAX, 1));
        while !live.order.is_empty() {
            assert!(!live.has_unstored(Some(&whole(7)), later, long_after, |_| false));
        }
        assert_eq!(live.newest.capacity(), 0, "the memory of a busy time");
        assert_eq!(live.subject_bytes, 0);
        for n in 0..LIVE_MAX {
            let mut long = message(n as u64 % 100, 0, 0);
            long.subject = format!("{n:01000}").into();
            live.note(&long, now);
        }
        let subjects = live.newest.values().flat_map(HashMap::values);
        let bytes: usize = subjects.map(|live| live.subject.len()).sum();
        assert_eq!(bytes, live.subject_bytes);
        assert_eq!(bytes, LIVE_SUBJECT_BYTES_MAX / 1_000 * 1_000);
    }
}
