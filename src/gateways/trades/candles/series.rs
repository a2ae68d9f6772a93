//! The candles of one symbol and one interval that are not closed.

use super::Interval;
use super::candle::Candle;
use super::trade::Trade;

/// A trade of a candle that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;

/// The newest candle, and those before it whose grace time is not over.
#[derive(Debug)]
pub(super) struct Series {
    interval: Interval,
    /// Oldest first. Few: an interval takes at least a second, and both the grace time and the
    /// time by which a trade may be early are bounded.
    candles: Vec<Candle>,
    /// End of the newest closed candle: a clock that is set back does not open it again.
    closed_until_ms: i64,
}

impl Series {
    pub(super) fn new(interval: Interval) -> Self {
        Self {
            interval,
            candles: Vec::new(),
            closed_until_ms: i64::MIN,
        }
    }

    /// Closes the next candle that ended at `horizon_ms` or before; the oldest comes first.
    pub(super) fn close(&mut self, horizon_ms: i64) -> Option<Candle> {
        let end_ms = self.next_end_ms().filter(|end_ms| *end_ms <= horizon_ms)?;
        self.closed_until_ms = end_ms;
        Some(self.candles.remove(0))
    }

    /// Adds a trade to its candle, unless that ended at `horizon_ms` or before; whether that is the
    /// newest one.
    pub(super) fn add(&mut self, trade: &Trade, horizon_ms: i64) -> Result<bool, Late> {
        let start_ms = self.interval.start_of(trade.at_ms);
        let is_over = start_ms + self.interval.ms() <= horizon_ms;
        if is_over || start_ms < self.closed_until_ms {
            return Err(Late);
        }
        let place = self.candles.partition_point(|c| c.start_ms < start_ms);
        match self.candles.get_mut(place) {
            Some(candle) if candle.start_ms == start_ms => candle.add(trade),
            _ => {
                // Mostly there is one, and a list would grow to four at once.
                self.candles.reserve_exact(1);
                self.candles.insert(place, Candle::new(start_ms, trade));
            }
        }
        Ok(place + 1 == self.candles.len())
    }

    /// The running candle: the newest one.
    pub(super) fn running(&self) -> Option<&Candle> {
        self.candles.last()
    }

    /// When the oldest candle's interval ends, Unix milliseconds.
    pub(super) fn next_end_ms(&self) -> Option<i64> {
        let oldest = self.candles.first()?;
        Some(oldest.start_ms + self.interval.ms())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.candles.is_empty()
    }
}
