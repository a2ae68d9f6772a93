//! What the gateway and its candles count, for the pages that show it. One writer, the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;

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

/// Why a candle lacks a trade.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dropped {
    /// The candle was closed; counted once for each interval that lacks the trade.
    Late,
    /// The timestamp is too far ahead of the clock.
    Early,
    /// No price, or a price or timestamp that is no number.
    Unreadable,
    /// The limit on pairs of a symbol and an interval is reached.
    PairsMax,
}

/// Labels of [`Dropped`], in its order.
const REASONS: [&str; 4] = ["late", "early", "unreadable", "pairs_max"];

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct CandleStats {
    pairs: AtomicU64,
    dropped: [AtomicU64; REASONS.len()],
    limited: AtomicU64,
}

impl CandleStats {
    /// Pairs of a symbol and an interval, of symbols with candles.
    pub fn pairs(&self) -> u64 {
        self.pairs.load(Relaxed)
    }

    /// Trades that candles lack, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.dropped.iter().map(|count| count.load(Relaxed));
        REASONS.into_iter().zip(counts)
    }

    /// Symbols in requests that were refused because of the limit on pairs.
    pub fn limited(&self) -> u64 {
        self.limited.load(Relaxed)
    }

    pub(super) fn store_pairs(&self, pairs: usize) {
        self.pairs.store(pairs as u64, Relaxed);
    }

    pub(super) fn count_dropped(&self, why: Dropped) {
        self.dropped[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_limited(&self, symbols: usize) {
        self.limited.fetch_add(symbols as u64, Relaxed);
    }
}
