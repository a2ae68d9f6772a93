//! The clients that have ended: their names and their questions for last values are released over several turns,
//! because a client may hold very many.

use std::collections::{btree_map, btree_set};

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::past::PastWait;
use super::pending::PendingRequest;
use super::replay::Replays;
use super::retained::WaitedNames;
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
    replays: Replays,
    spent: Spent,
    /// The permit for the names and messages of its answers.
    _permit: Option<Permit>,
}

/// Names and messages of requests and answers that are dropped: very many take time.
#[derive(Debug, Default)]
pub(super) struct Spent {
    pub(super) sets: Vec<btree_set::IntoIter<TopicName>>,
    pub(super) names: Vec<Vec<TopicName>>,
    pub(super) found: Vec<Follow>,
    /// Names whose newest messages the client still waits for.
    pub(super) waits: Vec<btree_map::IntoIter<TopicName, PastWait>>,
}

/// Messages, or names of a set, that are dropped in one step.
const DROPPED_AT_ONCE: usize = 100;

impl Leaving {
    pub(super) fn new(
        key: SessionKey,
        client: ChannelsClient,
        (wanted, replays): (WaitedNames, Replays),
    ) -> Self {
        let (address, ids) = (client.held.address(), client.held.ids());
        let (rest, sending, answers) = client.into_requests();
        let mut spent = Spent::default();
        let permit = answers.spend(&mut spent);
        if let Some(sending) = sending {
            sending.spend(&mut spent);
        }
        if let Some((follow_up, granted)) =
            rest.and_then(PendingRequest::into_follow_up_and_granted)
        {
            follow_up.spend(&mut spent);
            spent.names.push(granted);
        }
        Self {
            key,
            address,
            ids,
            wanted,
            replays,
            spent,
            _permit: permit,
        }
    }
}

impl Spent {
    /// The next name whose newest messages the client waits for.
    fn next_wait(&mut self) -> Option<TopicName> {
        loop {
            match self.waits.last_mut()?.next() {
                Some((name, _)) => return Some(name),
                None => drop(self.waits.pop()),
            }
        }
    }

    /// Drops some names or messages. Returns false if there are none.
    fn drop_next(&mut self) -> bool {
        if let Some(names) = self.sets.last_mut() {
            if names.by_ref().take(DROPPED_AT_ONCE).count() == 0 {
                self.sets.pop();
            }
        } else if let Some(names) = self.names.last_mut() {
            if names.pop().is_none() {
                self.names.pop();
            }
        } else if let Some(found) = self.found.last_mut() {
            if !found.drop_some(DROPPED_AT_ONCE) {
                self.found.pop();
            }
        } else {
            return false;
        }
        true
    }
}

impl ChannelsGateway {
    /// Releases names of clients that have ended, as many as there is time for.
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
            } else if let Some(name) = leaving.spent.next_wait() {
                self.past.leave(&name, leaving.key);
            } else if !leaving.spent.drop_next() {
                self.leaving.pop_front();
                continue;
            }
            if !core.has_time() {
                break;
            }
        }
        self.names.update_stats(&self.stats, core.memberships());
    }
}
