//! The names that Redis is asked for: those with a member. Who the members are, the hub knows.

use std::collections::{BTreeMap, VecDeque};

use super::ChannelsStats;
use crate::auth::is_pattern;
use crate::hub::TopicName;

/// A change of what Redis is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// A channel, or a pattern.
    pub name: TopicName,
    /// Subscribe, or unsubscribe.
    pub wanted: bool,
}

/// What Redis is asked for, and the changes that it has not been asked for yet.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Whether Redis has confirmed (or refused) the name since it was wanted.
    wanted: BTreeMap<TopicName, bool>,
    patterns: u64,
    changes: VecDeque<Interest>,
}

impl Names {
    /// A name has its first member.
    pub(super) fn want(&mut self, name: &TopicName) {
        // It is wanted still if its last member ended a moment ago.
        if !self.wanted.contains_key(name) {
            self.wanted.insert(name.clone(), false);
            self.patterns += u64::from(is_pattern(name.as_str()));
            self.change(name, true);
        }
    }

    /// A name has no member any more.
    pub(super) fn give_up(&mut self, name: &TopicName) {
        if self.wanted.remove(name).is_some() {
            self.patterns -= u64::from(is_pattern(name.as_str()));
            self.change(name, false);
        }
    }

    fn change(&mut self, name: &TopicName, wanted: bool) {
        let name = name.clone();
        self.changes.push_back(Interest { name, wanted });
    }

    /// The next change that Redis has not been asked for.
    pub(super) fn next_change(&mut self) -> Option<Interest> {
        self.changes.pop_front()
    }

    /// Redis has answered for the name; `true` if a member may have waited for that.
    pub(super) fn confirm(&mut self, name: &TopicName) -> bool {
        let confirmed = self.wanted.get_mut(name);
        confirmed.is_some_and(|confirmed| !std::mem::replace(confirmed, true))
    }

    pub(super) fn is_confirmed(&self, name: &TopicName) -> bool {
        self.wanted.get(name).is_some_and(|confirmed| *confirmed)
    }

    /// Shows the counts; `subscriptions` are clients times names.
    pub(super) fn store(&self, stats: &ChannelsStats, subscriptions: usize) {
        let channels = self.wanted.len() as u64 - self.patterns;
        stats.store_names(subscriptions as u64, channels, self.patterns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_asked_once_for_each_change() {
        let mut names = Names::default();
        let [a, b] = ["a", "b*"].map(TopicName::fixed);
        let change = |name: &TopicName, wanted| {
            let name = name.clone();
            Some(Interest { name, wanted })
        };
        names.want(&a);
        names.want(&a);
        names.want(&b);
        assert!(names.confirm(&a) && !names.confirm(&a) && names.is_confirmed(&a));
        names.give_up(&a);
        names.give_up(&a);
        assert!(!names.confirm(&a), "it may be confirmed late");
        names.want(&a);
        assert!(!names.is_confirmed(&a), "asked anew");
        for want in [
            change(&a, true),
            change(&b, true),
            change(&a, false),
            change(&a, true),
            None,
        ] {
            assert_eq!(names.next_change(), want);
        }
        let stats = ChannelsStats::default();
        names.store(&stats, 3);
        assert_eq!((stats.channels(), stats.patterns()), (1, 1));
    }
}
