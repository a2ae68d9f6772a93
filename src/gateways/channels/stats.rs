//! What the gateway counts, for the pages that show it. One writer, the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    subscriptions: AtomicU64,
    channels: AtomicU64,
    patterns: AtomicU64,
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

    pub(super) fn store_names(&self, subscriptions: u64, channels: u64, patterns: u64) {
        self.subscriptions.store(subscriptions, Relaxed);
        self.channels.store(channels, Relaxed);
        self.patterns.store(patterns, Relaxed);
    }
}
