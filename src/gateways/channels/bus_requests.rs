//! How the bus comes to send the messages of a name. [`BusRequests`]: the gateway's requests to the bus, each name once, and the
//! bus's responses. [`KeptNames`]: the kept feed, whose messages the bus sends without a request, once and in one order,
//! whatever names clients hold. The gateway finds the clients' names that match ([`super::patterns`]), so a message has the
//! same position for all clients.

use std::collections::{HashSet, VecDeque};

use foldhash::quality::RandomState;

use weirgate_core;
use weirgate_core::TopicName;
use weirgate_wire::auth::{NameError, NamePatterns, NameSyntax};
use weirgate_wire::base::ExtendibleMap;

/// A subscription or its end, for the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The channel or pattern.
    pub name: TopicName,
    /// True to subscribe, false to unsubscribe.
    pub wanted: bool,
    /// The number of the request. If a name is given up and requested again, a late response to the earlier request has
    /// the earlier number.
    pub number: u64,
}

/// The requested names, and the changes that the bus has not received yet.
#[derive(Debug, Default)]
pub(super) struct BusRequests {
    wanted: ExtendibleMap<TopicName, RequestedName>,
    changes: VecDeque<Interest>,
    /// The number of the newest change.
    number: u64,
    /// Losses of the connection so far.
    losses: u32,
    /// Patterns that covered patterns of clients and that the bus has refused on this connection; it may grant narrower
    /// patterns.
    pub(super) refused_covers: HashSet<TopicName, RandomState>,
}

/// A requested name. There are many, so the fields are small.
#[derive(Debug)]
struct RequestedName {
    /// The number of the request.
    number: u64,
    /// The response, and how many losses of the connection came before it.
    response: (BusAnswer, u32),
    /// How many names get their messages by this request.
    uses: u32,
    /// How many of these are other names, which this pattern covers.
    covers: u32,
}

/// The bus's response to the request for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusAnswer {
    /// No response yet, or the connection that confirmed is lost: the source then repeats the request by itself.
    Waits,
    Confirmed,
    Refused,
}

impl BusRequests {
    /// Requests a name from the bus, unless it is requested already. `covers`: the name is a pattern that covers
    /// another name.
    pub(super) fn want(&mut self, name: &TopicName, covers: bool) {
        if let Some(wanted) = self.wanted.get_mut(name) {
            wanted.uses += 1;
            wanted.covers += u32::from(covers);
            return;
        }
        self.change(name, true);
        let wanted = RequestedName {
            number: self.number,
            response: (BusAnswer::Waits, self.losses),
            uses: 1,
            covers: u32::from(covers),
        };
        self.wanted.insert(name.clone(), wanted);
    }

    /// Takes a [`want`](Self::want) back. If nothing needs the name any more, cancels the request.
    pub(super) fn give_up(&mut self, name: &TopicName, covers: bool) {
        let wanted = self.wanted.get_mut(name);
        let is_last = wanted.is_some_and(|wanted| {
            wanted.uses -= 1;
            wanted.covers -= u32::from(covers);
            wanted.uses == 0
        });
        if is_last {
            self.wanted.remove(name);
            self.change(name, false);
        }
    }

    /// Whether the messages of other names come through this pattern.
    pub(super) fn covers(&self, name: &TopicName) -> bool {
        let wanted = self.wanted.get(name);
        wanted.is_some_and(|wanted| wanted.covers > 0)
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

    /// Records the bus's response to the request `number`, and returns the state before. A response to an earlier
    /// request is ignored, because the name may have been given up since.
    pub(super) fn settle(
        &mut self,
        name: &TopicName,
        number: u64,
        is_confirmed: bool,
    ) -> Option<BusAnswer> {
        let state = match is_confirmed {
            true => BusAnswer::Confirmed,
            false => BusAnswer::Refused,
        };
        let before = self.state(name);
        let wanted = self.wanted.get_mut(name);
        let wanted = wanted.filter(|wanted| wanted.number == number)?;
        wanted.response = (state, self.losses);
        before
    }

    /// Handles the loss of the connection: no name is confirmed any more. Refused names stay refused; only a
    /// confirmation on the next connection changes that.
    pub(super) fn lost(&mut self) {
        self.losses += 1;
        // The next connection may have other rights.
        self.refused_covers.clear();
    }

    /// Returns true if the bus has confirmed the newest request for the name on this connection.
    pub(super) fn is_confirmed(&self, name: &TopicName) -> bool {
        self.state(name) == Some(BusAnswer::Confirmed)
    }

    /// Returns true if the bus has confirmed or refused the newest request for the name.
    pub(super) fn is_settled(&self, name: &TopicName) -> bool {
        self.state(name)
            .is_some_and(|state| state != BusAnswer::Waits)
    }

    /// Returns true if the bus has refused the newest request for the name.
    pub(super) fn is_refused(&self, name: &TopicName) -> bool {
        self.state(name) == Some(BusAnswer::Refused)
    }

    fn state(&self, name: &TopicName) -> Option<BusAnswer> {
        let (state, losses) = self.wanted.get(name)?.response;
        match state {
            BusAnswer::Confirmed if losses != self.losses => Some(BusAnswer::Waits),
            state => Some(state),
        }
    }
}

/// The names read from the start.
#[derive(Debug)]
pub(super) struct KeptNames {
    syntax: NameSyntax,
    names: Vec<String>,
    patterns: NamePatterns,
    /// The names that the bus refuses, and the matcher of the others while there are any.
    refused: HashSet<String, RandomState>,
    accepted: Option<NamePatterns>,
    /// The feed is a stream, which weirgate reads whole. The names are then its subjects, once these are known.
    is_stream: bool,
}

impl KeptNames {
    /// The list of names and patterns.
    ///
    /// # Errors
    /// The first text that is neither, and why.
    pub(super) fn new(
        syntax: NameSyntax,
        names: Vec<String>,
        is_stream: bool,
    ) -> Result<Self, (String, NameError)> {
        Ok(Self {
            syntax,
            patterns: NamePatterns::new(syntax, &names)?,
            names,
            refused: HashSet::default(),
            accepted: None,
            is_stream,
        })
    }

    /// Records the bus's response for a name of the list, and ignores other names.
    pub(super) fn settle(&mut self, name: &str, is_accepted: bool) {
        let is_changed = match is_accepted {
            true => self.refused.remove(name),
            false if self.names.iter().any(|kept| kept == name) => {
                self.refused.insert(name.to_owned())
            }
            false => false,
        };
        if is_changed {
            let accepted: Vec<String> = self.accepted().cloned().collect();
            let accepted = NamePatterns::new(self.syntax, &accepted).ok();
            self.accepted = accepted.filter(|_| !self.refused.is_empty());
        }
    }

    fn accepted(&self) -> impl Iterator<Item = &String> {
        let refused = |name: &&String| !self.refused.contains(*name);
        self.names.iter().filter(refused)
    }

    /// Whether the bus refuses every name of the list that contains this name of a client.
    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| {
            let is_accepted = match self.syntax.is_pattern(name) {
                true => (self.accepted()).any(|kept| self.syntax.contains(kept, name)),
                false => accepted.matches(name),
            };
            !is_accepted && self.covers(name)
        })
    }

    /// Takes the subjects of the stream that is the kept feed. Returns false if they are no names of this bus: nothing
    /// has changed then.
    pub(super) fn set_subjects(&mut self, subjects: &[String]) -> bool {
        let patterns = NamePatterns::new(self.syntax, subjects).ok();
        let patterns = patterns.filter(|_| self.is_stream && !subjects.is_empty());
        patterns.is_some_and(|patterns| {
            self.patterns = patterns;
            self.names = subjects.to_vec();
            true
        })
    }

    /// Whether the kept feed is a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether neither the gateway nor the bus can find the messages of this pattern.
    pub(super) fn cannot_match(&self, name: &str) -> bool {
        self.is_stream && self.syntax.is_pattern(name) && !self.syntax.can_match(name)
    }

    /// Whether the feed has all messages of a client's name or pattern. Whether a kept pattern contains the client's
    /// pattern is decided in the plain cases only; the gateway asks the bus for any other pattern. Of a stream, a
    /// pattern that is wider than its subjects brings what the stream has: the bus would send the same messages again,
    /// and those between weirgate and the stream.
    pub(super) fn covers(&self, name: &str) -> bool {
        match self.syntax.is_pattern(name) {
            true if self.is_stream => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.meets(kept, name)) && self.syntax.can_match(name)
            }
            true => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.contains(kept, name)) && self.syntax.can_match(name)
            }
            false => self.patterns.matches(name),
        }
    }
}

/// A name to resume, with the matcher.
pub(super) fn wanted<'a>(
    (name, patterns): &'a (TopicName, Option<NamePatterns>),
) -> weirgate_core::Wanted<'a> {
    weirgate_core::Wanted {
        name,
        patterns: patterns.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_asked_once_for_each_change() {
        let mut asked = BusRequests::default();
        let [a, b] = ["a", "b*"].map(TopicName::fixed);
        let change = |name: &TopicName, wanted, number| {
            let name = name.clone();
            Some(Interest {
                name,
                wanted,
                number,
            })
        };
        asked.want(&a, false);
        asked.want(&a, false);
        asked.want(&b, false);
        asked.give_up(&a, false);
        assert_eq!(asked.settle(&a, 1, true), Some(BusAnswer::Waits));
        assert_eq!(asked.settle(&a, 1, true), Some(BusAnswer::Confirmed));
        assert!(asked.is_settled(&a));
        asked.give_up(&a, false);
        asked.give_up(&a, false);
        assert_eq!(asked.settle(&a, 1, true), None, "it may be confirmed late");
        asked.want(&a, false);
        assert_eq!(asked.settle(&a, 1, true), None, "to the first request");
        assert!(!asked.is_settled(&a), "asked anew");
        assert_eq!(asked.settle(&a, 4, true), Some(BusAnswer::Waits));
        assert!(asked.is_settled(&a));
        for want in [
            change(&a, true, 1),
            change(&b, true, 2),
            change(&a, false, 3),
            change(&a, true, 4),
            None,
        ] {
            assert_eq!(asked.next_change(), want);
        }
    }
}
