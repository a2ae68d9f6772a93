//! Data of the loop for the operator's page: surveys of clients and topics, and the newest messages of
//! topics. The loop provides the data only on request, and never waits for a reader.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::Slot;
use crate::hub::{Ended, Survey, TAILS_MAX, TailLook};

/// Time from the last request to the end of a tail.
const KEPT_US: u64 = 10_000_000;

/// A watched topic.
#[derive(Clone, Debug)]
struct Wanted {
    topic: String,
    /// Microseconds of the monotonic clock.
    until_us: u64,
}

/// The error if [`TAILS_MAX`] other topics are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTails;

/// The watched topics, and their newest messages.
#[derive(Debug, Default)]
pub struct Tails {
    asked: AtomicBool,
    wanted: Mutex<Vec<Wanted>>,
    newest: Slot<Vec<TailLook>>,
    topics: AtomicU64,
    messages: AtomicU64,
}

impl Tails {
    /// Requests the messages of a topic, and returns the messages so far; `None` before the loop has kept
    /// any.
    ///
    /// # Errors
    /// Too many other topics are watched.
    pub fn ask(&self, topic: &str, now_us: u64) -> Result<Option<TailLook>, TooManyTails> {
        {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.retain(|one| now_us < one.until_us);
            let until_us = now_us + KEPT_US;
            let is_full = wanted.len() == TAILS_MAX;
            match wanted.iter_mut().find(|one| one.topic == topic) {
                Some(one) => one.until_us = until_us,
                None if is_full => return Err(TooManyTails),
                None => wanted.push(Wanted {
                    topic: topic.to_owned(),
                    until_us,
                }),
            }
        }
        self.asked.store(true, Relaxed);
        let of_topic = |look: &&TailLook| &*look.topic == topic;
        Ok(self
            .newest
            .read(|looks| looks.iter().find(of_topic).cloned()))
    }

    /// Returns the number of topics with a tail.
    pub fn topics(&self) -> u64 {
        self.topics.load(Relaxed)
    }

    /// Returns the number of messages copied so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Loop: whether a request came since the last look at the watched topics.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: calls `each` with every watched topic and the end of the watch. Does nothing while a request is
    /// being recorded; the next turn tries again.
    pub fn take_asked(&self, mut each: impl FnMut(&str, u64)) {
        self.asked.store(false, Relaxed);
        let wanted = match self.wanted.try_lock() {
            Ok(wanted) => wanted,
            Err(TryLockError::Poisoned(wanted)) => wanted.into_inner(),
            Err(TryLockError::WouldBlock) => return self.asked.store(true, Relaxed),
        };
        for one in wanted.iter() {
            each(&one.topic, one.until_us);
        }
    }

    /// Loop: publishes the kept messages. Returns false, and changes nothing, while a reader holds the
    /// messages.
    pub fn put(&self, looks: Vec<TailLook>, messages: u64) -> bool {
        self.topics.store(looks.len() as u64, Relaxed);
        self.messages.store(messages, Relaxed);
        self.newest.try_write(|newest| *newest = looks)
    }
}

/// A connection that has ended, for the operator's page.
#[derive(Clone, Debug)]
pub struct EndedAt {
    /// The time of the end, microseconds of the monotonic clock.
    pub at_us: u64,
    /// The data of the log line.
    pub ended: Ended,
}

/// A survey, and the newest ended connections at its end.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Clients and topics.
    pub survey: Survey,
    /// The newest first.
    pub ends: Vec<EndedAt>,
}

/// The newest survey, and whether another survey is requested.
#[derive(Debug, Default)]
pub struct Surveys {
    asked: AtomicBool,
    made: AtomicU64,
    newest: Slot<Option<Arc<Surveyed>>>,
}

impl Surveys {
    /// Requests a survey.
    pub fn ask(&self) {
        self.asked.store(true, Relaxed);
    }

    /// Returns the newest survey; `None` before the first.
    pub fn newest(&self) -> Option<Arc<Surveyed>> {
        self.newest.read(Option::clone)
    }

    /// Returns the number of surveys made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Loop: whether a request came since the last survey began.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: a survey begins.
    pub fn begun(&self) {
        self.asked.store(false, Relaxed);
    }

    /// Loop: publishes a survey. The survey is dropped while a reader holds the last survey: the next survey
    /// comes within a second.
    pub fn put(&self, surveyed: Surveyed) {
        self.made.fetch_add(1, Relaxed);
        let surveyed = Arc::new(surveyed);
        self.newest.try_write(|newest| *newest = Some(surveyed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_topics_are_wanted_and_each_for_some_seconds() {
        let tails = Tails::default();
        for n in 0..TAILS_MAX {
            assert_eq!(tails.ask(&format!("t{n}"), 0), Ok(None));
        }
        assert_eq!(tails.ask("another", 0), Err(TooManyTails));
        assert_eq!(tails.ask("t0", KEPT_US - 1), Ok(None), "asked again");
        assert_eq!(
            tails.ask("another", KEPT_US),
            Ok(None),
            "the others are over"
        );
        assert!(tails.is_asked());
        let mut wanted = Vec::new();
        tails.take_asked(|topic, until_us| wanted.push((topic.to_owned(), until_us)));
        let until = [("t0", KEPT_US * 2 - 1), ("another", KEPT_US * 2)];
        assert_eq!(wanted, until.map(|(topic, us)| (topic.to_owned(), us)));
        assert!(!tails.is_asked());
    }

    #[test]
    fn what_the_loop_kept_is_read_by_topic() {
        let tails = Tails::default();
        let look = TailLook {
            topic: "a".into(),
            began_unix_ms: 1,
            messages: 2,
            left_out: 3,
            lines: Vec::new(),
        };
        assert!(tails.put(vec![look.clone()], 7));
        assert_eq!(tails.ask("a", 0), Ok(Some(look)));
        assert_eq!(tails.ask("b", 0), Ok(None));
        assert_eq!((tails.topics(), tails.messages()), (1, 7));
    }
}
