//! Counters of the gateway and its candles, for metrics and pages. The gateway is the only writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::access::AccessStats;

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct TradesStats {
    subscriptions: AtomicU64,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
    /// Counters of candles; all 0 without candles.
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

/// Why a trade is not in a candle.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dropped {
    /// The candle was closed; counted once for each interval without the trade.
    Late,
    /// The timestamp is too far ahead of the clock.
    Early,
    /// No price, or the price or timestamp is not a number.
    Unreadable,
    /// The limit on pairs of a symbol and an interval is reached.
    PairsMax,
}

/// Labels of [`Dropped`], in its order.
const REASONS: [&str; 4] = ["late", "early", "unreadable", "pairs_max"];

/// Counters that any thread may read.
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

    /// Trades missing in candles, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.dropped.iter().map(|count| count.load(Relaxed));
        REASONS.into_iter().zip(counts)
    }

    /// Symbols in requests refused because of the limit on pairs.
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
