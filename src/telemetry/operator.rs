//! What the operator's page shows of the loop: surveys of clients and topics, and the newest messages of
//! topics. The loop makes them only while somebody asks, and never waits for who reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::Slot;
use crate::hub::{Ended, Survey, TAILS_MAX, TailLook};

/// How long a tail outlives the last question for it.
const KEPT_US: u64 = 10_000_000;

/// A topic that somebody looks at.
#[derive(Clone, Debug)]
struct Wanted {
    topic: String,
    /// Microseconds of the monotonic clock.
    until_us: u64,
}

/// [`TAILS_MAX`] other topics are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTails;

/// The topics that are looked at, and their newest messages.
#[derive(Debug, Default)]
pub struct Tails {
    asked: AtomicBool,
    wanted: Mutex<Vec<Wanted>>,
    newest: Slot<Vec<TailLook>>,
    topics: AtomicU64,
    messages: AtomicU64,
}

impl Tails {
    /// Asks for the messages of a topic, and returns those that there are; `None` before the loop has
    /// begun to keep any.
    ///
    /// # Errors
    /// Too many other topics are looked at.
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

    /// Topics with a tail.
    pub fn topics(&self) -> u64 {
        self.topics.load(Relaxed)
    }

    /// Messages copied so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Loop: somebody has asked since the last look at what is wanted.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: calls `each` with every topic that is wanted, and until when. Nothing happens while
    /// somebody asks; the next turn looks again.
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

    /// Loop: what was kept. Returns `false`, and changes nothing, while somebody reads.
    pub fn put(&self, looks: Vec<TailLook>, messages: u64) -> bool {
        self.topics.store(looks.len() as u64, Relaxed);
        self.messages.store(messages, Relaxed);
        self.newest.try_write(|newest| *newest = looks)
    }
}

/// A connection that has ended, as the operator's page shows it.
#[derive(Clone, Debug)]
pub struct EndedAt {
    /// When, Unix milliseconds.
    pub at_unix_ms: i64,
    /// What the log line says of it.
    pub ended: Ended,
}

/// A survey, and the connections that had ended last at its end.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Clients and topics.
    pub survey: Survey,
    /// The newest first.
    pub ends: Vec<EndedAt>,
}

/// The newest survey, and whether another one is wanted.
#[derive(Debug, Default)]
pub struct Surveys {
    asked: AtomicBool,
    made: AtomicU64,
    newest: Slot<Option<Arc<Surveyed>>>,
}

impl Surveys {
    /// Asks for a survey, and returns the newest that there is; `None` before the first.
    pub fn ask(&self) -> Option<Arc<Surveyed>> {
        self.asked.store(true, Relaxed);
        self.newest.read(Option::clone)
    }

    /// Surveys made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Loop: somebody has asked since the last survey began.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: a survey begins.
    pub fn begun(&self) {
        self.asked.store(false, Relaxed);
    }

    /// Loop: a survey is there. It is left out if somebody reads in this moment: the next one comes
    /// within a second.
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
