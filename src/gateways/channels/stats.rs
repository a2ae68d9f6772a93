//! Counters of the gateway, for metrics and pages. The gateway is the only writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;
use super::names::Full;

/// The limits over all clients, as labels.
const LIMITS: [&str; 4] = ["channels", "wildcards", "name_bytes", "address_wildcards"];

/// The outcome of a new token, as labels: the order of [`Renewal`].
const RENEWALS: [&str; 3] = ["accepted", "refused", "limited"];

/// The outcome of a new token, as the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Renewal {
    Accepted,
    Refused,
    /// Not looked at: too many tokens of this client, of its address, or of all clients.
    Limited,
}

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    subscriptions: AtomicU64,
    channels: AtomicU64,
    patterns: AtomicU64,
    name_bytes: AtomicU64,
    limited: [AtomicU64; LIMITS.len()],
    gaps_told: AtomicU64,
    renewals: [AtomicU64; RENEWALS.len()],
    retained_waiting: AtomicU64,
    retained_bytes: AtomicU64,
    retained_given_up: AtomicU64,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
}

impl ChannelsStats {
    /// Clients times names, patterns among them.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Relaxed)
    }

    /// Exact names with a member.
    pub fn channels(&self) -> u64 {
        self.channels.load(Relaxed)
    }

    /// Patterns with a member.
    pub fn patterns(&self) -> u64 {
        self.patterns.load(Relaxed)
    }

    /// Bytes of the names and patterns with a member.
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

    /// New tokens on living connections, by outcome.
    pub fn renewals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.renewals.iter().map(|count| count.load(Relaxed));
        RENEWALS.into_iter().zip(counts)
    }

    pub(super) fn count_renewal(&self, outcome: Renewal) {
        if let Some(count) = self.renewals.get(outcome as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Losses of the bus, counted once per notified client.
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

    /// Last values that clients wait for: clients times names.
    pub fn retained_waiting(&self) -> u64 {
        self.retained_waiting.load(Relaxed)
    }

    /// Bytes of last values that may wait in send queues, including open questions.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Relaxed)
    }

    /// Last values of a pattern that clients did not get because too many subjects came live meanwhile:
    /// clients times patterns.
    pub fn retained_given_up(&self) -> u64 {
        self.retained_given_up.load(Relaxed)
    }

    pub(super) fn store_retained(&self, waiting: usize, bytes: usize, given_up: u64) {
        self.retained_waiting.store(waiting as u64, Relaxed);
        self.retained_bytes.store(bytes as u64, Relaxed);
        self.retained_given_up.fetch_add(given_up, Relaxed);
    }
}
