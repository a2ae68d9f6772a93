//! The walk over the names of a request with `since` or `last`: so many at once as one search of the history is for.

use std::collections::{BTreeSet, btree_set};

use super::super::follow_up::NAME_BYTES;
use super::super::leaving::DropLater;
use weirgate_core::{Core, SessionKey, TopicName};

/// Names whose messages one search of the history looks for, and that the client joins in the same step.
const JOINED_AT_ONCE: usize = 300;

/// The names that the client still has to join, or of which it gets all kept messages before it joins them.
#[derive(Debug)]
pub(super) struct NameWalk {
    /// In the order of the answer.
    names: btree_set::IntoIter<TopicName>,
    /// The names of the request that the client has joined before; it may have given them up meanwhile.
    held: BTreeSet<TopicName>,
    /// All names are held, and get their newest messages again. Their live messages come meanwhile, so nothing is postponed.
    asks_again: bool,
}

impl NameWalk {
    pub(super) fn new(
        names: BTreeSet<TopicName>,
        held: BTreeSet<TopicName>,
        asks_again: bool,
    ) -> Self {
        Self {
            names: names.into_iter(),
            held,
            asks_again,
        }
    }

    /// The memory of the names.
    pub(super) fn bytes(&self) -> usize {
        NAME_BYTES * (self.names.len() + self.held.len())
    }

    pub(super) fn has_next(&self) -> bool {
        self.names.len() > 0
    }

    /// Whether the client holds all names, and gets their newest messages again.
    pub(super) fn asks_again(&self) -> bool {
        self.asks_again
    }

    /// Removes and returns the names of the next step: at least one, and others while the client has a share.
    pub(super) fn next_names(&mut self, core: &mut Core) -> Vec<TopicName> {
        let mut names = Vec::new();
        for name in self.names.by_ref() {
            names.push(name);
            if names.len() == JOINED_AT_ONCE || !core.has_share() {
                break;
            }
        }
        names
    }

    /// Whether the client has not joined the name before.
    pub(super) fn is_new(&self, name: &TopicName) -> bool {
        !self.held.contains(name)
    }

    /// Whether the client gets earlier messages of the name. If the request also has new names, a held name gets none:
    /// the live messages of new names are postponed, and those of the held name would come twice.
    pub(super) fn gets_earlier(&self, core: &Core, key: SessionKey, name: &TopicName) -> bool {
        self.is_new(name) || self.asks_again && core.is_member(key, name)
    }

    /// Moves the names to `to_drop`.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        to_drop.add_set(self.held);
        to_drop.add_set(self.names);
    }
}
