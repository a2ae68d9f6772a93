//! The names that the stream was asked for: all that it has is in the history, so asking again would bring nothing. This
//! holds until the history forgets a newest message, of any name.
//!
//! They stay after the clients that have asked for them, and nobody is charged for them. So of a name only a hash is
//! kept, with a random key. A name with the hash of another one would be taken for it: a client of it would not get the
//! newest messages that only the stream has. For a name that is asked for the chance is one in 2^48, and nobody can
//! look for such a name, because nobody sees a hash. It would last until the history forgets something.

use std::cell::Cell;
use std::hash::BuildHasher as _;

use foldhash::quality::RandomState;

use super::PastOf;
use weirgate_core::{RetainedCut, TopicName};
use weirgate_wire::base::{ChunkedQueue, ExtendibleMap};

/// The most names. Each takes up to 45 bytes, in tables that have just grown.
const NAMES_MAX: usize = 65_536;
/// How many names that were asked for again are passed over to forget one that was not.
const PASSED_OVER_MAX: usize = 8;

/// The hashes of these names.
#[derive(Debug, Default)]
pub(super) struct KnownNames {
    hasher: RandomState,
    names: ExtendibleMap<u64, Known>,
    /// The hashes in `names`, the next one to be forgotten first.
    order: ChunkedQueue<u64>,
    /// How many newest messages the history had forgotten when `names` was filled. With another count nothing is known.
    forgotten: u64,
}

#[derive(Debug)]
struct Known {
    /// Why the history does not have all.
    cut: Option<RetainedCut>,
    /// It was asked for again since it was last put into `order`.
    is_wanted: Cell<bool>,
}

impl KnownNames {
    /// Nothing is known any more: the stream may have other messages.
    pub(super) fn clear(&mut self) {
        (self.names, self.order) = Default::default();
    }

    /// Adds a name that was asked for when the history had forgotten `forgotten` newest messages. `cut`: why the history
    /// does not have all.
    pub(super) fn add(&mut self, name: &TopicName, forgotten: u64, cut: Option<RetainedCut>) {
        if forgotten < self.forgotten {
            return;
        }
        if forgotten > self.forgotten {
            // The history may lack messages of all names from before.
            self.clear();
            self.forgotten = forgotten;
        }
        let hash = self.hash(name);
        let known = Known {
            cut,
            is_wanted: Cell::default(),
        };
        if self.names.insert(hash, known).is_none() {
            self.order.push_back(hash);
        }
        if self.names.len() > NAMES_MAX {
            self.forget_one();
        }
    }

    /// What is known of a name, while the history has forgotten `forgotten` newest messages.
    pub(super) fn past_of(&self, name: &TopicName, forgotten: u64) -> PastOf {
        let known = self.names.get(&self.hash(name));
        match known.filter(|_| self.forgotten == forgotten) {
            Some(known) => {
                known.is_wanted.set(true);
                PastOf::Here(known.cut)
            }
            None => PastOf::Missing,
        }
    }

    fn hash(&self, name: &TopicName) -> u64 {
        self.hasher.hash_one(name.as_str())
    }

    /// Forgets the oldest name (second chance, or CLOCK). Names that are asked for again and again stay, so a client
    /// that asks for one name after the other does not make the stream answer for the names of others.
    fn forget_one(&mut self) {
        for passed_over in 0..=PASSED_OVER_MAX {
            let Some(hash) = self.order.pop_front() else {
                return;
            };
            let known = self.names.get(&hash);
            let is_wanted = known.is_some_and(|known| known.is_wanted.take());
            if !is_wanted || passed_over == PASSED_OVER_MAX {
                self.names.remove(&hash);
                return;
            }
            self.order.push_back(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> TopicName {
        TopicName::from(format!("a:{n}"))
    }

    #[test]
    fn over_the_limit_the_names_that_nobody_asks_for_go_one_by_one() {
        let mut known = KnownNames::default();
        let is_known = |known: &KnownNames, n| known.past_of(&name(n), 0) != PastOf::Missing;
        for n in 0..NAMES_MAX {
            known.add(&name(n), 0, None);
        }
        assert!(is_known(&known, 0) && is_known(&known, 5));
        for n in NAMES_MAX..NAMES_MAX + 100 {
            known.add(&name(n), 0, Some(RetainedCut::Large));
            assert_eq!(known.names.len(), NAMES_MAX);
            assert_eq!(known.order.len(), NAMES_MAX);
        }
        let gone: Vec<_> = (0..NAMES_MAX + 100)
            .filter(|n| !is_known(&known, *n))
            .collect();
        let not_wanted = (0..102).filter(|n| ![0, 5].contains(n));
        assert!(gone.iter().copied().eq(not_wanted), "{gone:?}");
        // All are wanted now: one goes all the same.
        known.add(&name(1), 0, None);
        assert_eq!(known.names.len(), NAMES_MAX);
        let large = PastOf::Here(Some(RetainedCut::Large));
        assert_eq!(known.past_of(&name(NAMES_MAX + 99), 0), large);
    }

    /// Of a question that was on its way meanwhile, the answer is from before.
    #[test]
    fn nothing_is_known_from_before_the_history_has_forgotten_something() {
        let mut known = KnownNames::default();
        let known_at = |known: &KnownNames, forgotten| {
            [1, 2, 3].map(|n| known.past_of(&name(n), forgotten) != PastOf::Missing)
        };
        known.add(&name(1), 4, None);
        assert_eq!(known_at(&known, 4), [true, false, false]);
        assert_eq!(known_at(&known, 5), [false; 3]);
        known.add(&name(2), 5, None);
        known.add(&name(3), 4, None);
        assert_eq!(known_at(&known, 5), [false, true, false]);
        assert_eq!((known.names.len(), known.order.len()), (1, 1));
        known.clear();
        assert_eq!(known_at(&known, 5), [false; 3]);
    }
}
