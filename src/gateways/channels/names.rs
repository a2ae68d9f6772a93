//! The names that the bus is asked for: those with a member. Who the members are, the hub knows.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use super::ChannelsStats;
use crate::auth::NameSyntax;
use crate::hub::TopicName;

/// What the bus may be asked for, for all clients together. A name that several clients hold counts
/// once.
#[derive(Clone, Copy, Debug)]
pub struct AllClientsLimits {
    /// Names, patterns among them.
    pub names_max: usize,
    /// Patterns. Redis compares every publication with each of them.
    pub patterns_max: usize,
    /// Patterns of the clients of one address; `None` for no limit.
    pub address_patterns_max: Option<usize>,
    /// Bytes of all names.
    pub name_bytes_max: usize,
}

/// A limit of [`AllClientsLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Names,
    Patterns,
    NameBytes,
    AddressPatterns,
}

/// A change of what the bus is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// A channel, or a pattern.
    pub name: TopicName,
    /// Subscribe, or unsubscribe.
    pub wanted: bool,
    /// Counts the requests. The answer of the bus to a request for a name that was given up and
    /// requested anew in the meantime has the number of the earlier request.
    pub number: u64,
}

/// What the bus is asked for, and the changes that it has not been asked for yet.
#[derive(Debug)]
pub(super) struct Names {
    limits: AllClientsLimits,
    syntax: NameSyntax,
    wanted: HashMap<TopicName, Wanted, RandomState>,
    patterns: usize,
    /// Of all names.
    bytes: usize,
    changes: VecDeque<Interest>,
    /// Of the newest change.
    number: u64,
}

/// A name that the bus is asked for.
#[derive(Debug)]
struct Wanted {
    /// Of the request for it.
    number: u64,
    state: State,
}

/// What the bus has said to the request for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing, or the connection on which the name stood is gone: the source asks again by itself.
    Asked,
    Stands,
    Refused,
}

impl Names {
    pub(super) fn new(limits: AllClientsLimits, syntax: NameSyntax) -> Self {
        Self {
            limits,
            syntax,
            wanted: HashMap::default(),
            patterns: 0,
            bytes: 0,
            changes: VecDeque::new(),
            number: 0,
        }
    }

    /// The limit that leaves no room for the name, and its value. A name that is wanted already
    /// takes no room.
    pub(super) fn full(&self, name: &str) -> Option<(Full, usize)> {
        let limits = &self.limits;
        if self.wanted.contains_key(name) {
            None
        } else if self.wanted.len() >= limits.names_max {
            Some((Full::Names, limits.names_max))
        } else if self.syntax.is_pattern(name) && self.patterns >= limits.patterns_max {
            Some((Full::Patterns, limits.patterns_max))
        } else if self.bytes + name.len() > limits.name_bytes_max {
            Some((Full::NameBytes, limits.name_bytes_max))
        } else {
            None
        }
    }

    /// A name has its first member.
    pub(super) fn want(&mut self, name: &TopicName) {
        // It is wanted still if its last member ended a moment ago.
        if !self.wanted.contains_key(name) {
            self.patterns += usize::from(self.syntax.is_pattern(name.as_str()));
            self.bytes += name.as_str().len();
            self.change(name, true);
            let wanted = Wanted {
                number: self.number,
                state: State::Asked,
            };
            self.wanted.insert(name.clone(), wanted);
        }
    }

    /// A name has no member any more.
    pub(super) fn give_up(&mut self, name: &TopicName) {
        if self.wanted.remove(name).is_some() {
            self.patterns -= usize::from(self.syntax.is_pattern(name.as_str()));
            self.bytes -= name.as_str().len();
            self.change(name, false);
        }
    }

    fn change(&mut self, name: &TopicName, wanted: bool) {
        self.number += 1;
        self.changes.push_back(Interest {
            name: name.clone(),
            wanted,
            number: self.number,
        });
    }

    /// The next change that the bus has not been asked for.
    pub(super) fn next_change(&mut self) -> Option<Interest> {
        self.changes.pop_front()
    }

    /// The bus has answered the request of this number; `true` if a member may have waited for that.
    /// An answer to an earlier request says nothing: the bus may have been told to unsubscribe since.
    pub(super) fn settle(&mut self, name: &TopicName, number: u64, stands: bool) -> bool {
        let state = match stands {
            true => State::Stands,
            false => State::Refused,
        };
        let wanted = self.wanted.get_mut(name);
        let wanted = wanted.filter(|wanted| wanted.number == number);
        wanted.is_some_and(|wanted| std::mem::replace(&mut wanted.state, state) == State::Asked)
    }

    /// The connection to the bus is gone, and nothing stands any more. Refused names are not answered
    /// again on the next connection, unless the bus thinks otherwise.
    pub(super) fn lost(&mut self) {
        for wanted in self.wanted.values_mut() {
            if wanted.state == State::Stands {
                wanted.state = State::Asked;
            }
        }
    }

    /// What is published on the name comes.
    pub(super) fn stands(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| wanted.state == State::Stands)
    }

    /// The bus has confirmed or refused the newest request for the name.
    pub(super) fn is_settled(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| wanted.state != State::Asked)
    }

    /// Shows the counts; `subscriptions` are clients times names.
    pub(super) fn store(&self, stats: &ChannelsStats, subscriptions: usize) {
        let channels = self.wanted.len() - self.patterns;
        stats.store_names(subscriptions, channels, self.patterns, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_asked_once_for_each_change() {
        let limits = AllClientsLimits {
            names_max: 2,
            patterns_max: 2,
            address_patterns_max: None,
            name_bytes_max: 10,
        };
        let mut names = Names::new(limits, NameSyntax::Redis);
        let [a, b] = ["a", "b*"].map(TopicName::fixed);
        let change = |name: &TopicName, wanted, number| {
            let name = name.clone();
            Some(Interest {
                name,
                wanted,
                number,
            })
        };
        names.want(&a);
        names.want(&a);
        names.want(&b);
        assert!(names.settle(&a, 1, true) && !names.settle(&a, 1, true) && names.is_settled(&a));
        names.give_up(&a);
        names.give_up(&a);
        assert!(!names.settle(&a, 1, true), "it may be confirmed late");
        names.want(&a);
        assert!(
            !names.settle(&a, 1, true),
            "the answer to the first request"
        );
        assert!(!names.is_settled(&a), "asked anew");
        assert!(names.settle(&a, 4, true) && names.is_settled(&a));
        for want in [
            change(&a, true, 1),
            change(&b, true, 2),
            change(&a, false, 3),
            change(&a, true, 4),
            None,
        ] {
            assert_eq!(names.next_change(), want);
        }
        let stats = ChannelsStats::default();
        names.store(&stats, 3);
        assert_eq!((stats.channels(), stats.patterns()), (1, 1));
    }
}
