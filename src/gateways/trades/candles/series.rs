//! The open candles of a symbol and an interval: adding trades, messages, late trades.
//!
//! Times are Unix milliseconds. The *horizon* is the time by which candles end less the grace time: a trade of an interval
//! that ended at the horizon or before comes too late.

use rust_decimal::Decimal;

use super::interval::Interval;
use super::trade::Trade;
use weirgate_wire::json::ObjectWriter;

/// The candle to which a trade was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// The oldest one, which is or becomes the running candle.
    Oldest,
    /// A later one, which is shown once it is the oldest.
    Later,
}

/// The error for a trade of a closed candle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;

/// The open candles of a symbol and an interval. They are shown in the order of their intervals: one becomes the running
/// candle when the interval before it takes no more trades.
#[derive(Debug)]
pub(super) struct Series {
    interval: Interval,
    /// Oldest first. There are few, because an interval lasts at least a second, and the grace time, the wait for a stream
    /// that is not read to its end, and the time that a trade may be ahead of the clock are bounded.
    candles: Vec<Candle>,
    /// End of the newest closed candle, or start of the newest candle that was shown, whichever is later. No candle starts
    /// before this, even if the clock is set back.
    start_ms_min: i64,
}

impl Series {
    pub(super) fn new(interval: Interval) -> Self {
        Self {
            interval,
            candles: Vec::new(),
            start_ms_min: i64::MIN,
        }
    }

    /// Closes and returns the oldest candle if its interval ended at the horizon or before.
    pub(super) fn close(&mut self, horizon_ms: i64) -> Option<Candle> {
        let end_ms = self.next_end_ms().filter(|end_ms| *end_ms <= horizon_ms)?;
        self.start_ms_min = end_ms;
        Some(self.candles.remove(0))
    }

    /// Adds a trade to its candle.
    ///
    /// # Errors
    /// The candle is closed, its interval ended at the horizon or before, or it is older than a candle that was shown.
    pub(super) fn add(&mut self, trade: &Trade, horizon_ms: i64) -> Result<Added, Late> {
        let start_ms = self.interval.start_of(trade.at_ms);
        let is_over = start_ms + self.interval.ms() <= horizon_ms;
        if is_over || start_ms < self.start_ms_min {
            return Err(Late);
        }
        let at = self.candles.partition_point(|c| c.start_ms < start_ms);
        match self.candles.get_mut(at) {
            Some(candle) if candle.start_ms == start_ms => candle.add(trade),
            _ => {
                // Usually there is a single candle, and without this the list would at once have room for four.
                self.candles.reserve_exact(1);
                self.candles.insert(at, Candle::new(start_ms, trade));
            }
        }
        Ok(match at {
            0 => Added::Oldest,
            _ => Added::Later,
        })
    }

    /// Takes the running candle, to be shown: the oldest, if its interval started at the horizon or before. From then on no
    /// earlier candle may start.
    pub(super) fn show_running(&mut self, horizon_ms: i64) -> Option<&Candle> {
        let horizon_ms = horizon_ms.max(self.start_ms_min);
        let oldest = self.candles.first();
        let running = oldest.filter(|candle| candle.start_ms <= horizon_ms)?;
        self.start_ms_min = self.start_ms_min.max(running.start_ms);
        Some(running)
    }

    /// The horizon from which on the oldest candle is the running candle; `None` if it is already, or if there is none.
    pub(super) fn next_start_ms(&self) -> Option<i64> {
        let start_ms = self.candles.first()?.start_ms;
        (start_ms > self.start_ms_min).then_some(start_ms)
    }

    /// The end of the oldest candle's interval.
    pub(super) fn next_end_ms(&self) -> Option<i64> {
        let oldest = self.candles.first()?;
        Some(oldest.start_ms + self.interval.ms())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.candles.is_empty()
    }
}

/// The trades of a symbol with timestamps in the same interval.
#[derive(Clone, Debug)]
pub(super) struct Candle {
    /// Start of the interval.
    pub(super) start_ms: i64,
    open: Decimal,
    high: Decimal,
    low: Decimal,
    close: Decimal,
    volume: Decimal,
    trades: u64,
    /// Timestamps of the trades for `open` and `close`.
    first_ms: i64,
    last_ms: i64,
}

impl Candle {
    /// Makes the candle of a first trade.
    pub(super) fn new(start_ms: i64, trade: &Trade) -> Self {
        let price = trade.price;
        Self {
            start_ms,
            open: price,
            high: price,
            low: price,
            close: price,
            volume: trade.volume,
            trades: 1,
            first_ms: trade.at_ms,
            last_ms: trade.at_ms,
        }
    }

    /// Adds a trade; trades may come in any order. Among trades with the same timestamp, the first to come gives `open`
    /// and the last to come gives `close`.
    pub(super) fn add(&mut self, trade: &Trade) {
        if trade.at_ms < self.first_ms {
            (self.first_ms, self.open) = (trade.at_ms, trade.price);
        }
        if trade.at_ms >= self.last_ms {
            (self.last_ms, self.close) = (trade.at_ms, trade.price);
        }
        self.high = self.high.max(trade.price);
        self.low = self.low.min(trade.price);
        self.volume = self.volume.saturating_add(trade.volume);
        self.trades += 1;
    }

    /// Returns `{"type":"candle","data":{…}}`.
    pub(super) fn message(
        &self,
        symbol: &str,
        interval: Interval,
        state: CandleState,
        partial: Option<Partial>,
    ) -> String {
        let mut data = ObjectWriter::new();
        data.string("symbol", symbol);
        data.string("interval", interval.label());
        data.number("start", self.start_ms);
        let numbers = [
            ("open", self.open),
            ("high", self.high),
            ("low", self.low),
            ("close", self.close),
            ("volume", self.volume),
        ];
        for (key, number) in numbers {
            data.raw(key, &number.to_string());
        }
        data.number("trades", self.trades);
        data.boolean("closed", state == CandleState::Closed);
        if partial.is_some() {
            data.boolean("partial", true);
        }
        let mut message = ObjectWriter::new();
        message.string("type", "candle");
        message.object("data", data);
        message.finish()
    }
}

/// A mark: the candle may lack trades that the gateway did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial;

/// Whether a candle may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateways::trades) enum CandleState {
    Running,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn trade(at_ms: i64, price: i64) -> Trade {
        Trade {
            at_ms,
            price: price.into(),
            volume: 1.into(),
        }
    }

    #[test]
    fn the_earliest_trade_opens_and_the_latest_closes_in_whatever_order_they_come() {
        let mut series = Series::new(Interval::Minute);
        let begin = HOUR_MS;
        for (at_ms, price) in [(20, 5), (10, 7), (30, 3), (10, 8), (30, 4), (25, 9)] {
            assert_eq!(
                series.add(&trade(begin + at_ms, price), 0),
                Ok(Added::Oldest)
            );
        }
        assert!(
            series.show_running(begin - 1).is_none(),
            "earlier ones may come"
        );
        let candle = series.show_running(begin).expect("a candle");
        let message = candle.message("A\"", Interval::Minute, CandleState::Running, None);
        let want = concat!(
            r#"{"type":"candle","data":{"symbol":"A\"","interval":"1m","start":3600000,"open":7,"#,
            r#""high":9,"low":3,"close":4,"volume":6,"trades":6,"closed":false}}"#
        );
        assert_eq!(message, want);
    }

    #[test]
    fn a_closed_candle_is_not_opened_again_though_the_clock_is_set_back() {
        let mut series = Series::new(Interval::Second);
        assert_eq!(series.add(&trade(HOUR_MS + 500, 1), 0), Ok(Added::Oldest));
        assert_eq!(series.add(&trade(HOUR_MS - 1, 1), 0), Ok(Added::Oldest));
        assert_eq!(series.add(&trade(HOUR_MS, 1), 0), Ok(Added::Later));
        assert!(series.close(HOUR_MS - 1).is_none());
        let closed = series.close(HOUR_MS + 1_000).expect("the older one");
        assert_eq!(closed.start_ms, HOUR_MS - 1_000);
        let closed = series.close(HOUR_MS + 1_000).expect("the newer one");
        assert_eq!(closed.start_ms, HOUR_MS);
        let back = HOUR_MS - 60_000;
        assert!(series.close(back).is_none());
        assert_eq!(series.add(&trade(HOUR_MS + 999, 1), back), Err(Late));
        assert_eq!(
            series.add(&trade(HOUR_MS + 1_000, 1), back),
            Ok(Added::Oldest)
        );
    }

    #[test]
    fn no_candle_starts_before_one_that_was_shown_though_the_clock_is_set_back() {
        let mut series = Series::new(Interval::Second);
        assert_eq!(series.add(&trade(HOUR_MS, 1), 0), Ok(Added::Oldest));
        assert_eq!(series.next_start_ms(), Some(HOUR_MS));
        assert!(series.show_running(HOUR_MS).is_some());
        assert_eq!(series.next_start_ms(), None);
        let back = HOUR_MS - 60_000;
        assert_eq!(series.add(&trade(HOUR_MS - 1, 1), back), Err(Late));
        assert_eq!(series.add(&trade(HOUR_MS + 1, 1), back), Ok(Added::Oldest));
        let trades = series.show_running(back).map(|candle| candle.trades);
        assert_eq!(trades, Some(2));
    }

    #[test]
    fn a_clock_that_was_far_ahead_for_a_moment_costs_the_running_candle_alone() {
        let mut series = Series::new(Interval::Second);
        assert_eq!(series.add(&trade(HOUR_MS, 1), 0), Ok(Added::Oldest));
        let tomorrow = 24 * HOUR_MS;
        assert!(series.close(tomorrow).is_some());
        assert_eq!(series.add(&trade(HOUR_MS + 2_000, 1), tomorrow), Err(Late));
        assert_eq!(
            series.add(&trade(HOUR_MS + 2_000, 1), HOUR_MS),
            Ok(Added::Oldest)
        );
    }
}
