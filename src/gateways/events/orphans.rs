//! Connections of clients that have gone while something of theirs is still to be forwarded.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::EventsStats;
use super::connection::{Calling, Connection};
use super::waiting::WaitingBytes;
use crate::hub::SessionKey;

/// Connections without a client, each with a call under way or with messages that wait.
#[derive(Debug)]
pub(super) struct Orphans {
    connections: HashMap<SessionKey, Connection, RandomState>,
    /// Messages that wait or stand in line for a slot, over all of them.
    messages: usize,
    messages_max: usize,
}

impl Orphans {
    pub(super) fn new(messages_max: usize) -> Self {
        Self {
            connections: HashMap::default(),
            messages: 0,
            messages_max,
        }
    }

    /// How many messages more may wait.
    pub(super) fn room(&self) -> usize {
        self.messages_max.saturating_sub(self.messages)
    }

    /// A client has gone: its newest messages are dropped where too many wait, or too many bytes.
    /// Returns the message that stood in line for a slot, if it is among these.
    pub(super) fn adopt(
        &mut self,
        connection: &mut Connection,
        waiting_bytes: &mut WaitingBytes,
        stats: &EventsStats,
    ) -> Option<Calling> {
        connection.gone = true;
        let client = connection.client;
        let mut kept = connection.waiting() + usize::from(connection.stands_in_line());
        let mut left_line = None;
        while kept > 0 {
            let bytes = connection.newest_bytes();
            if kept <= self.room() && !waiting_bytes.is_over_without(client, bytes) {
                break;
            }
            if !connection.drop_newest() {
                left_line = connection.calling.take();
            }
            waiting_bytes.remove(client, bytes);
            stats.count_forgotten();
            kept -= 1;
        }
        self.messages += kept;
        left_line
    }

    /// One of the messages does not wait any more.
    pub(super) fn count_taken(&mut self) {
        self.messages -= 1;
    }

    pub(super) fn take(&mut self, key: SessionKey) -> Option<Connection> {
        self.connections.remove(&key)
    }

    pub(super) fn keep(&mut self, key: SessionKey, connection: Connection) {
        self.connections.insert(key, connection);
    }

    /// Nothing is kept of clients that have gone.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.messages == 0
    }
}
