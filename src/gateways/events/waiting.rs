//! What messages of all connections hold in memory.
//!
//! A client address may have as much as is still free. So one address alone has half of all, two have
//! a third each, and there is room for another address however much the others send.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::EventsStats;
use crate::admission::{ClientAddr, address_group};

/// Bytes of messages that wait or are being answered, over all connections, those of clients that
/// have gone included.
#[derive(Debug)]
pub(super) struct WaitingBytes {
    now: usize,
    max: usize,
    /// Those of each address that has any.
    by_address: HashMap<ClientAddr, usize, RandomState>,
    stats: Arc<EventsStats>,
}

impl WaitingBytes {
    pub(super) fn new(max: usize, stats: Arc<EventsStats>) -> Self {
        Self {
            now: 0,
            max,
            by_address: HashMap::default(),
            stats,
        }
    }

    pub(super) fn add(&mut self, client: ClientAddr, bytes: usize) {
        if bytes > 0 {
            self.now += bytes;
            *self.by_address.entry(address_group(client)).or_default() += bytes;
            self.stats.store_waiting_bytes(self.now);
        }
    }

    pub(super) fn remove(&mut self, client: ClientAddr, bytes: usize) {
        let client = address_group(client);
        if let Some(own) = self.by_address.get_mut(&client) {
            *own -= bytes;
            if *own == 0 {
                self.by_address.remove(&client);
            }
            self.now -= bytes;
            self.stats.store_waiting_bytes(self.now);
        }
    }

    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Another message of this address may be taken. The last one may pass the limit.
    pub(super) fn has_room_for(&self, client: ClientAddr) -> bool {
        // An address never has more than all together.
        let free = self.free();
        self.now < free || self.of(client) < free
    }

    /// There would be no room for another message of this address without one of `bytes` either: others
    /// need what it has. A client that goes does not leave such a message.
    pub(super) fn is_over_without(&self, client: ClientAddr, bytes: usize) -> bool {
        self.of(client).saturating_sub(bytes) >= self.free() + bytes
    }

    fn free(&self) -> usize {
        self.max.saturating_sub(self.now)
    }

    fn of(&self, client: ClientAddr) -> usize {
        let own = self.by_address.get(&address_group(client));
        own.copied().unwrap_or_default()
    }
}
