//! Answers that wait until Redis has confirmed what they speak of, and the answers behind them.
//!
//! Each waits for some topics, and for a second at the most. Those of one client go out in their
//! order. An index from topic to clients makes a confirmation cost as much as it sets free; nothing
//! stays in it for topics that are never confirmed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::answer::Answer;
use crate::hub::{SessionKey, TopicName};

/// The longest wait for Redis, microseconds (contract channels: "1 s at the most").
pub(super) const WAIT_US: u64 = 1_000_000;

/// A client with more answers waiting is not read until some have gone out.
pub(super) const ANSWERS_MAX: usize = 64;

/// The same, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
struct Waiting {
    answer: Answer,
    topics: BTreeSet<TopicName>,
    due_us: u64,
}

/// The answers of one client that have not gone out.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Answers {
    /// Too many for more requests to be taken.
    pub(super) fn are_too_many(&self) -> bool {
        self.waiting.len() > ANSWERS_MAX || self.bytes > ANSWER_BYTES_MAX
    }

    /// When the first of them goes out at the latest.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.due_us)
    }

    /// They wait for nothing: the bus is away, so nothing will be confirmed soon.
    pub(super) fn settle_all(&mut self) {
        for waiting in &mut self.waiting {
            waiting.topics.clear();
        }
    }

    /// None of them waits for the topic any more.
    fn settle(&mut self, topic: &TopicName) {
        for waiting in &mut self.waiting {
            waiting.topics.remove(topic);
        }
    }
}

/// Which clients wait for which topic, with how many answers each.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<TopicName, BTreeMap<SessionKey, u32>>);

impl Waits {
    /// Queues an answer behind those of the same client.
    pub(super) fn push(
        &mut self,
        (key, answers): (SessionKey, &mut Answers),
        answer: Answer,
        topics: BTreeSet<TopicName>,
        now_us: u64,
    ) {
        for topic in &topics {
            let clients = self.0.entry(topic.clone()).or_default();
            *clients.entry(key).or_default() += 1;
        }
        answers.bytes += answer.bytes();
        answers.waiting.push_back(Waiting {
            answer,
            topics,
            due_us: now_us + WAIT_US,
        });
    }

    /// The next answer of a client that waits for nothing, or has waited long enough.
    pub(super) fn pop(
        &mut self,
        (key, answers): (SessionKey, &mut Answers),
        now_us: u64,
    ) -> Option<Answer> {
        let ready = |first: &Waiting| first.topics.is_empty() || first.due_us <= now_us;
        answers.waiting.front().filter(|first| ready(first))?;
        let first = answers.waiting.pop_front()?;
        answers.bytes -= first.answer.bytes();
        self.forget(key, &first);
        Some(first.answer)
    }

    /// The topic is settled: who waited for it. To each of them [`Waits::settle_for`] is due.
    pub(super) fn who_waits(&self, topic: &TopicName) -> Vec<SessionKey> {
        let clients = self.0.get(topic);
        clients.into_iter().flatten().map(|(key, _)| *key).collect()
    }

    /// The client waits for the topic no longer.
    pub(super) fn settle_for(
        &mut self,
        (key, answers): (SessionKey, &mut Answers),
        topic: &TopicName,
    ) {
        answers.settle(topic);
        self.take_out(key, topic);
    }

    /// Nobody waits for anything any more; who did.
    pub(super) fn who_waited(&mut self) -> BTreeSet<SessionKey> {
        let waits = std::mem::take(&mut self.0);
        waits.into_values().flat_map(BTreeMap::into_keys).collect()
    }

    /// The client is gone, and its answers with it.
    pub(super) fn drop_all(&mut self, key: SessionKey, answers: &Answers) {
        for waiting in &answers.waiting {
            self.forget(key, waiting);
        }
    }

    /// Nobody waits for anything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn forget(&mut self, key: SessionKey, waiting: &Waiting) {
        for topic in &waiting.topics {
            let count = self.0.get_mut(topic).and_then(|of| of.get_mut(&key));
            let Some(count) = count else { continue };
            *count -= 1;
            if *count == 0 {
                self.take_out(key, topic);
            }
        }
    }

    fn take_out(&mut self, key: SessionKey, topic: &TopicName) {
        let Some(clients) = self.0.get_mut(topic) else {
            return;
        };
        clients.remove(&key);
        if clients.is_empty() {
            self.0.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionKey = SessionKey {
        slot: 1,
        generation: 0,
    };

    fn topics(names: &[&str]) -> BTreeSet<TopicName> {
        let topic = |name: &&str| TopicName::from((*name).to_owned());
        names.iter().map(topic).collect()
    }

    /// However a wait ends, the index forgets it.
    #[test]
    fn nothing_is_left_in_the_index() {
        let pong = || Answer::pong("1");
        for end in 0..4 {
            let (mut waits, mut answers) = (Waits::default(), Answers::default());
            waits.push((A, &mut answers), pong(), topics(&["x", "y"]), 0);
            waits.push((A, &mut answers), pong(), topics(&["x"]), 0);
            assert!(waits.pop((A, &mut answers), 0).is_none());
            assert_eq!(answers.due_us(), Some(WAIT_US));
            match end {
                0 => {
                    for topic in topics(&["x", "y"]) {
                        assert_eq!(waits.who_waits(&topic), [A]);
                        waits.settle_for((A, &mut answers), &topic);
                    }
                }
                1 => assert!(waits.pop((A, &mut answers), WAIT_US).is_some()),
                2 => waits.drop_all(A, &answers),
                _ => {
                    assert_eq!(waits.who_waited().len(), 1);
                    answers.settle_all();
                }
            }
            let now_us = if end == 1 { WAIT_US } else { 0 };
            while end != 2 && waits.pop((A, &mut answers), now_us).is_some() {}
            assert!(waits.is_empty(), "{end}");
            assert_eq!(answers.bytes > 0, end == 2, "{end}");
        }
    }
}
