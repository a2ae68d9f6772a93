//! Counters of the gateway, for metrics and pages.

use std::sync::Arc;

use super::super::access::AccessStats;
use super::super::count::{Count, labelled};

/// The limits over all clients, as labels: the order of `Full`.
const LIMITS: [&str; 5] = ["channels", "wildcards", "name_bytes", "copies", "steps"];

/// The outcome of a new token, as labels: the order of `Renewal`.
const RENEWALS: [&str; 3] = ["accepted", "refused", "limited"];

/// The outcome of a new token, as the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Accepted,
    Refused,
    /// Not looked at: too many tokens of this client, of its address, or of all clients.
    Limited,
}

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    /// Clients times names, patterns among them.
    pub subscriptions: Count,
    /// Exact names with a member.
    pub channels: Count,
    /// Patterns with a member.
    pub patterns: Count,
    /// Bytes of the names and patterns with a member.
    pub name_bytes: Count,
    /// Losses of the bus, counted once per notified client.
    pub gaps_told: Count,
    /// Last values that clients wait for: clients times names.
    pub retained_waiting: Count,
    /// Bytes of last values that may wait in send queues, including open questions.
    pub retained_bytes: Count,
    /// Last values of a pattern that clients did not get because too many subjects came live meanwhile:
    /// clients times patterns.
    pub retained_given_up: Count,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
    pub(super) limited: [Count; LIMITS.len()],
    pub(super) renewals: [Count; RENEWALS.len()],
}

impl ChannelsStats {
    /// Entries refused because of a limit over all clients, by limit.
    pub fn limited(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(LIMITS, &self.limited)
    }

    /// New tokens on living connections, by outcome.
    pub fn renewals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(RENEWALS, &self.renewals)
    }

    pub(super) fn count_renewal(&self, outcome: Renewal) {
        self.renewals[outcome as usize].add(1);
    }
}
