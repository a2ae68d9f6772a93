//! Counters of the gateway and its candles, for metrics and pages.

use std::sync::Arc;

use super::super::access::AccessStats;
use super::super::count::{Count, labelled};

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct TradesStats {
    /// Clients times symbols; symbols with candles count once more for each interval.
    pub subscriptions: Count,
    /// Counters of tokens and rates.
    pub access: Arc<AccessStats>,
    /// Counters of candles; all 0 without candles.
    pub candles: Arc<CandleStats>,
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
    /// Pairs of a symbol and an interval, of symbols with candles.
    pub pairs: Count,
    /// Symbols in requests refused because of the limit on pairs.
    pub limited: Count,
    dropped: [Count; REASONS.len()],
}

impl CandleStats {
    /// Trades missing in candles, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(REASONS, &self.dropped)
    }

    pub(super) fn count_dropped(&self, why: Dropped) {
        self.dropped[why as usize].add(1);
    }
}
