//! What the gateway counts, for the pages that show it. One writer, the gateway.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::auth::Refusal;

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    subscriptions: AtomicU64,
    channels: AtomicU64,
    patterns: AtomicU64,
    requests_limited: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
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

    /// Messages of clients that were dropped for their rate.
    pub fn requests_limited(&self) -> u64 {
        self.requests_limited.load(Relaxed)
    }

    /// Clients that were refused for their token, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refusals.iter().map(|count| count.load(Relaxed));
        Refusal::ALL.into_iter().map(Refusal::label).zip(counts)
    }

    pub(super) fn store_names(&self, subscriptions: u64, channels: u64, patterns: u64) {
        self.subscriptions.store(subscriptions, Relaxed);
        self.channels.store(channels, Relaxed);
        self.patterns.store(patterns, Relaxed);
    }

    pub(super) fn count_limited(&self) {
        self.requests_limited.fetch_add(1, Relaxed);
    }

    pub(super) fn count_refusal(&self, refusal: Refusal) {
        if let Some(count) = self.refusals.get(refusal as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}
