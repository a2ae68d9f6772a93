//! Which clients wait for the last values of which names.

use std::collections::BTreeSet;

use weirgate_core::{SessionKey, TopicName};
use weirgate_wire::base::ExtendibleMap;

/// The clients that wait, by name.
#[derive(Debug, Default)]
pub(super) struct WaitingClients {
    by_name: ExtendibleMap<TopicName, BTreeSet<SessionKey>>,
    /// The names, counted for each client.
    count: usize,
}

/// Who still waits for a name that a client no longer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StillWaiting {
    /// Others, or nobody waited before.
    Others,
    /// Nobody: this client was the last one.
    Nobody,
}

impl WaitingClients {
    /// Adds a client to those that wait for the name.
    pub(super) fn add(&mut self, name: &TopicName, key: SessionKey) {
        let clients = self.by_name.get_or_insert_default(name.clone());
        self.count += usize::from(clients.insert(key));
    }

    /// Removes a client from those that wait for the name.
    pub(super) fn remove(&mut self, name: &TopicName, key: SessionKey) -> StillWaiting {
        let Some(clients) = self.by_name.get_mut(name) else {
            return StillWaiting::Others;
        };
        self.count -= usize::from(clients.remove(&key));
        if !clients.is_empty() {
            return StillWaiting::Others;
        }
        self.by_name.remove(name);
        StillWaiting::Nobody
    }

    /// The clients that wait for the name.
    pub(super) fn of(&self, name: &TopicName) -> Option<&BTreeSet<SessionKey>> {
        self.by_name.get(name)
    }

    /// The names that clients wait for, counted for each client.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Whether no client waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}
