//! Connections of clients that have gone while something of theirs is still to be forwarded.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::EventsStats;
use super::connection::Connection;
use super::waiting::WaitingBytes;
use crate::hub::SessionKey;

/// Connections without a client, each with a call under way or with messages that wait.
#[derive(Debug)]
pub(super) struct Orphans {
    connections: HashMap<SessionKey, Connection, RandomState>,
    /// Messages that wait, over all of them.
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

    /// A client has gone: its newest messages are dropped where too many wait, or too many bytes.
    pub(super) fn adopt(
        &mut self,
        connection: &mut Connection,
        waiting_bytes: &mut WaitingBytes,
        stats: &EventsStats,
    ) {
        connection.gone = true;
        let mut kept = connection.waiting();
        while kept > 0 && (self.messages + kept > self.messages_max || waiting_bytes.is_over()) {
            waiting_bytes.remove(connection.drop_last());
            stats.count_forgotten();
            kept -= 1;
        }
        self.messages += kept;
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
