//! The counters of the gateway, for metrics and pages.

use std::sync::Arc;

use crate::gateways::shared::access::AccessStats;
use crate::gateways::shared::counts::{Count, labelled};

/// The limits over all clients, as labels in the order of `Full`.
const LIMITS: [&str; 5] = ["channels", "wildcards", "name_bytes", "copies", "steps"];

/// The outcomes of new tokens, as labels in the order of `Renewal`.
const RENEWALS: [&str; 3] = ["accepted", "refused", "limited"];

/// The outcome of a new token, as the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Accepted,
    Refused,
    /// Not checked: too many tokens of this client, of its address, or of all clients.
    Limited,
}

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct ChannelsStats {
    /// Subscriptions: the sum, over all clients, of the names and patterns that the client holds.
    pub subscriptions: Count,
    /// Exact names with a member.
    pub channels: Count,
    /// Patterns with a member.
    pub patterns: Count,
    /// Bytes of the names and patterns with a member.
    pub name_bytes: Count,
    /// Losses of the bus, counted once per notified client.
    pub gaps_notified: Count,
    /// Last values that clients wait for: clients times names.
    pub retained_waiting: Count,
    /// Bytes of last values that may wait in send queues, including open questions.
    pub retained_bytes: Count,
    /// How often a client did not get the last values of a pattern because too many subjects became live while it
    /// waited, or all kept messages of a name because there was no room for them in the memory of names.
    pub retained_given_up: Count,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
    pub(super) limited: [Count; LIMITS.len()],
    pub(super) renewals: [Count; RENEWALS.len()],
}

impl ChannelsStats {
    /// By limit over all clients: names that were refused to a client, and held patterns that were taken from it.
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
