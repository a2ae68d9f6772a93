//! What the gateway counts, for the pages that show it. One writer, the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct TradesStats {
    subscriptions: AtomicU64,
    /// Of tokens and rates.
    pub access: Arc<AccessStats>,
}

impl TradesStats {
    /// Clients times symbols.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Relaxed)
    }

    pub(super) fn store_subscriptions(&self, subscriptions: u64) {
        self.subscriptions.store(subscriptions, Relaxed);
    }
}
