//! Answers that wait until the bus has confirmed what they speak of, and the answers behind them.
//!
//! Each waits for some names, and for a second at the most. Those of one client go out in their
//! order.

use std::collections::{BTreeSet, VecDeque};

use super::answer::Answer;
use crate::hub::TopicName;

/// The longest wait for the bus, microseconds (contract channels: "1 s at the most").
pub(super) const WAIT_US: u64 = 1_000_000;

/// A client with more answers waiting is not read until some have gone out.
pub(super) const ANSWERS_MAX: usize = 64;

/// The same, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What stands before and behind an answer.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Names that the answer waits for.
    pub(super) unconfirmed: BTreeSet<TopicName>,
    /// Names whose last values go to the client behind the answer.
    pub(super) retained: BTreeSet<TopicName>,
}

#[derive(Debug)]
struct Waiting {
    answer: Answer,
    behind: Behind,
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

    /// Queues an answer that waits until its names are confirmed.
    pub(super) fn push(&mut self, answer: Answer, behind: Behind, now_us: u64) {
        self.bytes += answer.bytes();
        self.waiting.push_back(Waiting {
            answer,
            behind,
            due_us: now_us + WAIT_US,
        });
    }

    /// The next answer, if it waits for nothing, or has waited long enough; with the names whose last
    /// values go behind it.
    pub(super) fn pop(&mut self, now_us: u64) -> Option<(Answer, BTreeSet<TopicName>)> {
        let ready =
            |first: &&Waiting| first.behind.unconfirmed.is_empty() || first.due_us <= now_us;
        self.waiting.front().filter(ready)?;
        let first = self.waiting.pop_front()?;
        self.bytes -= first.answer.bytes();
        Some((first.answer, first.behind.retained))
    }

    /// The names whose last values go behind the answers that wait.
    pub(super) fn retained(&self) -> impl Iterator<Item = &TopicName> {
        let waiting = self.waiting.iter();
        waiting.flat_map(|waiting| &waiting.behind.retained)
    }

    /// None of them waits for the name any more.
    pub(super) fn settle(&mut self, name: &TopicName) {
        for waiting in &mut self.waiting {
            waiting.behind.unconfirmed.remove(name);
        }
    }

    /// They wait for nothing: the bus is away, so nothing will be confirmed soon.
    pub(super) fn settle_all(&mut self) {
        for waiting in &mut self.waiting {
            waiting.behind.unconfirmed.clear();
        }
    }

    /// No answer waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&'static str]) -> Behind {
        Behind {
            unconfirmed: names.iter().copied().map(TopicName::fixed).collect(),
            ..Behind::default()
        }
    }

    /// However a wait ends, its answer goes out, and those behind it.
    #[test]
    fn answers_go_out_in_their_order() {
        let pong = || Answer::pong("1");
        for end in 0..3 {
            let mut answers = Answers::default();
            answers.push(pong(), names(&["x", "y"]), 0);
            answers.push(pong(), names(&["x"]), 0);
            answers.push(pong(), names(&[]), 0);
            assert!(answers.pop(0).is_none());
            assert_eq!(answers.due_us(), Some(WAIT_US));
            let now_us = match end {
                0 => {
                    answers.settle(&TopicName::fixed("x"));
                    assert!(answers.pop(0).is_none());
                    answers.settle(&TopicName::fixed("y"));
                    0
                }
                1 => WAIT_US,
                _ => {
                    answers.settle_all();
                    0
                }
            };
            assert!((0..3).all(|_| answers.pop(now_us).is_some()), "{end}");
            assert_eq!((answers.is_empty(), answers.bytes), (true, 0), "{end}");
        }
    }
}
