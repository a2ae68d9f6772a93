//! What messages of all connections hold in memory.

use std::sync::Arc;

use super::EventsStats;

/// Bytes of messages that wait or are being answered, over all connections, those of clients that
/// have gone included.
#[derive(Debug)]
pub(super) struct WaitingBytes {
    now: usize,
    max: usize,
    stats: Arc<EventsStats>,
}

impl WaitingBytes {
    pub(super) fn new(max: usize, stats: Arc<EventsStats>) -> Self {
        Self { now: 0, max, stats }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.now += bytes;
        self.stats.store_waiting_bytes(self.now);
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.now -= bytes;
        self.stats.store_waiting_bytes(self.now);
    }

    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// The limit is reached: a client with a message that is not answered is not read.
    pub(super) fn is_full(&self) -> bool {
        self.now >= self.max
    }

    /// The limit is passed: a client that goes leaves nothing that waits.
    pub(super) fn is_over(&self) -> bool {
        self.now > self.max
    }
}
