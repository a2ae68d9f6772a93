//! What the gateway counts, for the pages that show it. One writer, the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;
use super::candles::CandleStats;

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct TradesStats {
    subscriptions: AtomicU64,
    /// Of tokens and rates.
    pub access: Arc<AccessStats>,
    /// Of candles; all 0 without candles.
    pub candles: Arc<CandleStats>,
}

impl TradesStats {
    /// Clients times symbols; symbols with candles count once more for each interval.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Relaxed)
    }

    pub(super) fn store_subscriptions(&self, subscriptions: u64) {
        self.subscriptions.store(subscriptions, Relaxed);
    }
}
