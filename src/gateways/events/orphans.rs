//! The connections whose clients have ended: each is kept until its messages are forwarded. How many messages may remain is
//! limited for all together, with a share for each client address.

use super::connection::{Calling, Connection, EndedClient};
use super::metrics::EventsStats;
use weirgate_core::{SessionKey, WasConnected};
use weirgate_wire::admission::Quota;
use weirgate_wire::base::ExtendibleMap;

/// Connections without a client, each with a call in flight or with waiting messages.
#[derive(Debug)]
pub(super) struct Orphans {
    connections: ExtendibleMap<SessionKey, Connection>,
    /// Messages of all orphans that wait or are in line for a slot.
    pub(super) messages: Quota,
}

impl Orphans {
    pub(super) fn new(messages_max: usize) -> Self {
        Self {
            connections: ExtendibleMap::default(),
            messages: Quota::new("orphans", messages_max as u64),
        }
    }

    /// Handles the end of a client: drops its newest messages while more than `waits_max`, or too many messages or
    /// bytes, wait. Returns the message in line for a slot if it is dropped.
    pub(super) fn adopt(
        &mut self,
        connection: &mut Connection,
        waits_max: u64,
        who: Option<WasConnected>,
        stats: &EventsStats,
    ) -> Option<Calling> {
        let waits = connection.to_forward().min(waits_max);
        let messages = self.messages.grant_some(connection.client, waits);
        let dropped = connection.end_client(EndedClient { messages, who });
        stats.messages_forgotten.add(dropped.messages);
        dropped.in_line
    }

    pub(super) fn take(&mut self, key: SessionKey) -> Option<Connection> {
        self.connections.remove(&key)
    }

    /// Keeps a connection while it has work. Returns false, and drops the connection, if it has none.
    pub(super) fn keep(&mut self, key: SessionKey, mut orphan: Connection) -> bool {
        orphan.release_forwarded();
        let keeps = orphan.has_work();
        if keeps {
            self.connections.insert(key, orphan);
        }
        keeps
    }

    /// Returns true if no messages of ended clients are left.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}
