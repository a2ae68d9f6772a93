//! What the gateway counts, for the pages that show it. One writer, the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;
use super::names::Full;

/// The limits over all clients, as labels.
const LIMITS: [&str; 4] = ["channels", "wildcards", "name_bytes", "address_wildcards"];

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    subscriptions: AtomicU64,
    channels: AtomicU64,
    patterns: AtomicU64,
    name_bytes: AtomicU64,
    limited: [AtomicU64; LIMITS.len()],
    gaps_told: AtomicU64,
    /// Of tokens and rates.
    pub access: Arc<AccessStats>,
}

impl ChannelsStats {
    /// Clients times names, patterns among them.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Relaxed)
    }

    /// Exact names that somebody holds.
    pub fn channels(&self) -> u64 {
        self.channels.load(Relaxed)
    }

    /// Patterns that somebody holds.
    pub fn patterns(&self) -> u64 {
        self.patterns.load(Relaxed)
    }

    /// Bytes of the names and patterns that somebody holds.
    pub fn name_bytes(&self) -> u64 {
        self.name_bytes.load(Relaxed)
    }

    /// Entries refused because of a limit over all clients, by limit.
    pub fn limited(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.limited.iter().map(|count| count.load(Relaxed));
        LIMITS.into_iter().zip(counts)
    }

    pub(super) fn store_names(
        &self,
        subscriptions: usize,
        channels: usize,
        patterns: usize,
        name_bytes: usize,
    ) {
        self.subscriptions.store(subscriptions as u64, Relaxed);
        self.channels.store(channels as u64, Relaxed);
        self.patterns.store(patterns as u64, Relaxed);
        self.name_bytes.store(name_bytes as u64, Relaxed);
    }

    /// Losses of the bus that clients were told of, counted once per client.
    pub fn gaps_told(&self) -> u64 {
        self.gaps_told.load(Relaxed)
    }

    pub(super) fn count_gaps_told(&self, clients: u64) {
        self.gaps_told.fetch_add(clients, Relaxed);
    }

    pub(super) fn count_limited(&self, limit: Full) {
        let at = match limit {
            Full::Names => 0,
            Full::Patterns => 1,
            Full::NameBytes => 2,
            Full::AddressPatterns => 3,
        };
        self.limited[at].fetch_add(1, Relaxed);
    }
}
