//! The clients that have ended: their names and their questions for last values are released over several turns,
//! because a client may hold very many.

use std::collections::{btree_map, btree_set};

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::past::{PastFound, PastWait, WantedPast};
use super::replay::ReplaysByName;
use super::retained::{ClearedNames, WaitedNames};
use crate::gateways::shared::history::Follow;
use weirgate_core::{Core, SessionKey, TopicName};
use weirgate_wire::admission::{ClientAddr, Permit};

/// What a client that has ended still holds.
#[derive(Debug)]
pub(super) struct Leaving {
    key: SessionKey,
    address: ClientAddr,
    ids: Vec<u32>,
    /// Names whose last values it waited for.
    wanted: WaitedNames,
    replays: ReplaysByName,
    to_drop: DropLater,
    /// The permit for the names and messages of its answers.
    _permit: Option<Permit>,
}

/// Names and messages to be dropped over several turns, because dropping very many takes longer than a turn may. Most
/// are those of requests and answers.
#[derive(Debug, Default)]
pub(super) struct DropLater {
    sets: Vec<btree_set::IntoIter<TopicName>>,
    names: Vec<Vec<TopicName>>,
    past: Vec<btree_map::IntoIter<TopicName, PastFound>>,
    messages: Vec<Follow>,
    /// Names whose newest messages the client still waits for: [`Self::next_wait`] returns them, so that the caller
    /// ends each wait.
    waits: Vec<btree_map::IntoIter<TopicName, PastWait>>,
    /// Names of all clients that the bus was to be asked for again.
    cleared: Vec<ClearedNames>,
}

/// Messages, or names of a set, that are dropped in one step.
const DROPPED_AT_ONCE: usize = 100;

impl Leaving {
    /// Takes over what the client holds. Names and messages go to `to_drop`, and are dropped over several turns.
    pub(super) fn new(
        key: SessionKey,
        client: ChannelsClient,
        (wanted, replays): (WaitedNames, ReplaysByName),
    ) -> Self {
        let (address, ids) = (client.held.address(), client.held.ids());
        let (rest, sending, answers) = client.into_requests();
        let mut to_drop = DropLater::default();
        let permit = answers.drop_later(&mut to_drop);
        if let Some(sending) = sending {
            sending.drop_later(&mut to_drop);
        }
        if let Some(rest) = rest {
            rest.drop_later(&mut to_drop);
        }
        Self {
            key,
            address,
            ids,
            wanted,
            replays,
            to_drop,
            _permit: permit,
        }
    }
}

impl DropLater {
    pub(super) fn add_set(
        &mut self,
        set: impl IntoIterator<IntoIter = btree_set::IntoIter<TopicName>>,
    ) {
        let set = set.into_iter();
        if set.len() > 0 {
            self.sets.push(set);
        }
    }

    pub(super) fn add_names(&mut self, names: Vec<TopicName>) {
        if !names.is_empty() {
            self.names.push(names);
        }
    }

    pub(super) fn add_messages(&mut self, messages: impl IntoIterator<Item = Follow>) {
        let messages = messages.into_iter();
        self.messages
            .extend(messages.filter(|messages| !messages.is_empty()));
    }

    pub(super) fn add_past(&mut self, past: WantedPast) {
        let (found, waits) = (past.found.into_iter(), past.waits.into_iter());
        if found.len() > 0 {
            self.past.push(found);
        }
        if waits.len() > 0 {
            self.waits.push(waits);
        }
    }

    pub(super) fn add_cleared(&mut self, names: ClearedNames) {
        if names.len() > 0 {
            self.cleared.push(names);
        }
    }

    /// Adds what another list has.
    pub(super) fn add_all(&mut self, others: Self) {
        self.sets.extend(others.sets);
        self.names.extend(others.names);
        self.past.extend(others.past);
        self.messages.extend(others.messages);
        self.waits.extend(others.waits);
        self.cleared.extend(others.cleared);
    }

    /// How many names are still to be dropped.
    pub(super) fn names_len(&self) -> usize {
        let sets: usize = self.sets.iter().map(ExactSizeIterator::len).sum();
        let names: usize = self.names.iter().map(Vec::len).sum();
        let past: usize = self.past.iter().map(ExactSizeIterator::len).sum();
        let waits: usize = self.waits.iter().map(ExactSizeIterator::len).sum();
        let cleared: usize = self.cleared.iter().map(ClearedNames::len).sum();
        sets + names + past + waits + cleared
    }

    /// Whether nothing is left for [`Self::drop_next`].
    pub(super) fn is_empty(&self) -> bool {
        let is_without_names = self.sets.is_empty() && self.names.is_empty();
        is_without_names
            && self.past.is_empty()
            && self.messages.is_empty()
            && self.cleared.is_empty()
    }

    /// The next name whose newest messages the client waits for.
    fn next_wait(&mut self) -> Option<TopicName> {
        loop {
            match self.waits.last_mut()?.next() {
                Some((name, _)) => return Some(name),
                None => drop(self.waits.pop()),
            }
        }
    }

    /// Drops some names or messages, but no waits. Returns false if there are none.
    pub(super) fn drop_next(&mut self) -> bool {
        if let Some(names) = self.sets.last_mut() {
            names.by_ref().take(DROPPED_AT_ONCE).for_each(drop);
            self.sets.pop_if(|names| names.len() == 0);
        } else if let Some(names) = self.names.last_mut() {
            names.truncate(names.len().saturating_sub(DROPPED_AT_ONCE));
            self.names.pop_if(|names| names.is_empty());
        } else if let Some(found) = self.past.last_mut() {
            found.by_ref().take(DROPPED_AT_ONCE).for_each(drop);
            self.past.pop_if(|found| found.len() == 0);
        } else if let Some(messages) = self.messages.last_mut() {
            if !messages.drop_some(DROPPED_AT_ONCE) {
                self.messages.pop();
            }
        } else if let Some(names) = self.cleared.last_mut() {
            names.drop_some(DROPPED_AT_ONCE);
            self.cleared.pop_if(|names| names.len() == 0);
        } else {
            return false;
        }
        true
    }
}

impl ChannelsGateway {
    /// Releases names of clients that have ended, and then what else is dropped, as many as there is time for.
    pub(super) fn release_leaving(&mut self, core: &mut Core) {
        while let Some(leaving) = self.leaving.get_mut(0) {
            if let Some((name, wanted)) = leaving.wanted.pop_first() {
                self.retained.stop_waiting(&name, leaving.key, &wanted);
            } else if let Some(replay) = leaving.replays.pop_first() {
                drop(replay);
            } else if let Some(id) = leaving.ids.pop() {
                if let Some(name) = self.names.release_id(leaving.address, id) {
                    self.patterns.remove(&name);
                }
            } else if let Some(name) = leaving.to_drop.next_wait() {
                self.past.stop_waiting(&name, leaving.key);
            } else if !leaving.to_drop.drop_next() {
                self.leaving.pop_front();
                continue;
            }
            if !core.has_time() {
                break;
            }
        }
        while self.to_drop.drop_next() && core.has_time() {}
        self.names.update_stats(&self.stats, core.memberships());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::super::follow_up::FollowUp;
    use super::super::messages::Answer;
    use super::super::resume::{Earlier, Resume};
    use super::super::sending::Sending;
    use super::*;
    use weirgate_core::RetainedCut;

    const NAMES: usize = 1_000;

    fn set() -> BTreeSet<TopicName> {
        let names = (0..NAMES).map(|n| TopicName::from(n.to_string()));
        names.collect()
    }

    /// What follows an answer, with five sets of names.
    fn follow_up() -> FollowUp {
        let mut past = WantedPast::default();
        for name in set() {
            past.note_cut(name, RetainedCut::Large);
        }
        let mut resume = Resume::of_stream(Earlier::Newest(1));
        (resume.names, resume.held, resume.off) = (set(), set(), set());
        FollowUp {
            unconfirmed: set(),
            past: Some(Box::new(past)),
            resume: Some(resume),
            ..FollowUp::default()
        }
    }

    /// Checks that so many names are dropped, only some of them in a step.
    pub(in super::super) fn assert_drops(mut to_drop: DropLater, names: usize) {
        let mut left = to_drop.names_len();
        assert_eq!(left, names);
        while to_drop.drop_next() {
            assert!(left - to_drop.names_len() <= DROPPED_AT_ONCE);
            left = to_drop.names_len();
        }
        assert!(left == 0 && to_drop.is_empty());
    }

    #[test]
    fn no_set_of_very_many_names_is_dropped_in_one_step() {
        for is_sending in [false, true] {
            let mut to_drop = DropLater::default();
            match is_sending {
                false => follow_up().drop_later(&mut to_drop),
                true => {
                    Sending::new(vec![(Answer::pong("1"), follow_up())]).drop_later(&mut to_drop)
                }
            }
            assert_drops(to_drop, 5 * NAMES);
        }
    }
}
