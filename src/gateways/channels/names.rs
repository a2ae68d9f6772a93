//! The names with members, and which of them the gateway requests from the bus: all but those of the kept
//! feed, whose messages come anyway.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use super::ChannelsStats;
use crate::auth::NameSyntax;
use crate::hub::TopicName;

/// Limits of the requests to the bus, over all clients. A name of several clients counts once.
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

/// A limit of [`AllClientsLimits`], in the order of the labels of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Names,
    Patterns,
    NameBytes,
    AddressPatterns,
}

/// A subscription or its end, for the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The channel or pattern.
    pub name: TopicName,
    /// True to subscribe, false to unsubscribe.
    pub wanted: bool,
    /// The number of the request. If a name was given up and requested anew, a late response to the earlier
    /// request has the earlier number.
    pub number: u64,
}

/// The requested names, and the changes that the bus has not got yet.
#[derive(Debug)]
pub(super) struct Names {
    limits: AllClientsLimits,
    syntax: NameSyntax,
    wanted: HashMap<TopicName, Wanted, RandomState>,
    patterns: usize,
    /// The bytes of all names.
    bytes: usize,
    changes: VecDeque<Interest>,
    /// The number of the newest change.
    number: u64,
}

/// A requested name.
#[derive(Debug)]
struct Wanted {
    /// The number of the request.
    number: u64,
    state: State,
}

/// The bus's response to the request for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No response yet, or the confirming connection is lost: the source then repeats the request by itself.
    Asked,
    Stands,
    Refused,
    /// The name is of the kept feed: the bus is not asked.
    Kept,
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

    /// Returns the limit that leaves no room for the name, with its value. A requested name takes no more
    /// room.
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

    /// Counts a name on its first member, and requests the name from the bus if `is_asked`.
    pub(super) fn want(&mut self, name: &TopicName, is_asked: bool) {
        // The name is still requested if its last member ended a moment ago.
        if !self.wanted.contains_key(name) {
            self.patterns += usize::from(self.syntax.is_pattern(name.as_str()));
            self.bytes += name.as_str().len();
            let state = match is_asked {
                true => State::Asked,
                false => State::Kept,
            };
            if is_asked {
                self.change(name, true);
            }
            let wanted = Wanted {
                number: self.number,
                state,
            };
            self.wanted.insert(name.clone(), wanted);
        }
    }

    /// Cancels a name that nothing needs any more.
    pub(super) fn give_up(&mut self, name: &TopicName) {
        if let Some(wanted) = self.wanted.remove(name) {
            self.patterns -= usize::from(self.syntax.is_pattern(name.as_str()));
            self.bytes -= name.as_str().len();
            if wanted.state != State::Kept {
                self.change(name, false);
            }
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

    /// Takes the next change for the bus.
    pub(super) fn next_change(&mut self) -> Option<Interest> {
        self.changes.pop_front()
    }

    /// Records the bus's response to the request `number`. Returns the response before. A
    /// response to an earlier request is ignored: an unsubscription may have followed.
    pub(super) fn settle(&mut self, name: &TopicName, number: u64, stands: bool) -> Option<State> {
        let state = match stands {
            true => State::Stands,
            false => State::Refused,
        };
        let wanted = self.wanted.get_mut(name);
        let wanted = wanted.filter(|w| w.number == number && w.state != State::Kept);
        wanted.map(|wanted| std::mem::replace(&mut wanted.state, state))
    }

    /// Handles the loss of the connection: no name is confirmed any more. Refused names stay refused, and get
    /// no new response on the next connection unless the bus confirms them.
    pub(super) fn lost(&mut self) {
        for wanted in self.wanted.values_mut() {
            if wanted.state == State::Stands {
                wanted.state = State::Asked;
            }
        }
    }

    /// Returns true if the messages of the name come, while the bus is there.
    pub(super) fn stands(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| matches!(wanted.state, State::Stands | State::Kept))
    }

    /// Returns true if the bus has confirmed or refused the newest request for the name.
    pub(super) fn is_settled(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| wanted.state != State::Asked)
    }

    /// Updates the counts; `subscriptions` are clients times names.
    pub(super) fn store(&self, stats: &ChannelsStats, subscriptions: usize) {
        let channels = self.wanted.len() - self.patterns;
        stats.subscriptions.set(subscriptions);
        stats.channels.set(channels);
        stats.patterns.set(self.patterns);
        stats.name_bytes.set(self.bytes);
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
        names.want(&a, true);
        names.want(&a, true);
        names.want(&b, true);
        assert_eq!(names.settle(&a, 1, true), Some(State::Asked));
        assert_eq!(names.settle(&a, 1, true), Some(State::Stands));
        assert!(names.is_settled(&a));
        names.give_up(&a);
        names.give_up(&a);
        assert_eq!(names.settle(&a, 1, true), None, "it may be confirmed late");
        names.want(&a, true);
        assert_eq!(names.settle(&a, 1, true), None, "to the first request");
        assert!(!names.is_settled(&a), "asked anew");
        assert_eq!(names.settle(&a, 4, true), Some(State::Asked));
        assert!(names.is_settled(&a));
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
        assert_eq!((stats.channels.get(), stats.patterns.get()), (1, 1));
    }
}
