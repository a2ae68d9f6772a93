//! The open candles of a symbol and an interval: reading trades, candles and their messages, late trades.

use std::str::FromStr;

use rust_decimal::Decimal;
use sonic_rs::LazyValue;

use super::super::super::members::members;
use super::Interval;
use crate::wire::object_writer::ObjectWriter;

/// The error for a trade of a closed candle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;

/// The newest candle, and earlier candles in their grace time.
#[derive(Debug)]
pub(super) struct Series {
    interval: Interval,
    /// Oldest first. Few: an interval lasts at least a second, and the grace time and the earliness of trades
    /// are bounded.
    candles: Vec<Candle>,
    /// End of the newest closed candle, so that a clock set back does not open the candle again.
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

    /// Closes and returns the oldest candle if its end is at most `horizon_ms`.
    pub(super) fn close(&mut self, horizon_ms: i64) -> Option<Candle> {
        let end_ms = self.next_end_ms().filter(|end_ms| *end_ms <= horizon_ms)?;
        self.closed_until_ms = end_ms;
        Some(self.candles.remove(0))
    }

    /// Adds a trade to its candle. Returns true if this is the newest candle; an error if the candle ended at
    /// `horizon_ms` or before, or is closed.
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
                // Usually there is a single candle, and a list would grow to four at once.
                self.candles.reserve_exact(1);
                self.candles.insert(place, Candle::new(start_ms, trade));
            }
        }
        Ok(place + 1 == self.candles.len())
    }

    /// The running candle: the newest.
    pub(super) fn running(&self) -> Option<&Candle> {
        self.candles.last()
    }

    /// The end of the oldest candle's interval, Unix milliseconds.
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
    /// Begin of the interval, Unix milliseconds.
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

    /// Adds a trade, in any order. Among trades with the same timestamp, the first to come gives `open` and
    /// the last to come gives `close`.
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
    pub(super) fn message(&self, symbol: &str, interval: Interval, closed: bool) -> String {
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
        data.boolean("closed", closed);
        let mut message = ObjectWriter::new();
        message.string("type", "candle");
        message.object("data", data);
        message.finish()
    }
}

/// A trade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trade {
    /// The trade's own timestamp, Unix milliseconds.
    pub(super) at_ms: i64,
    pub(super) price: Decimal,
    /// 0 if the volume is absent or not a number.
    pub(super) volume: Decimal,
}

impl Trade {
    /// Reads the message of a trade as sent to clients. A trade without a timestamp happened now. `None`
    /// without a price, or if the price or timestamp is not a number.
    pub(super) fn read(message: &[u8], depth_max: usize, now_ms: i64) -> Option<Self> {
        let names = ["timestamp", "price", "volume"];
        let [at, price, volume] = members(data_of(message)?, depth_max, names).ok()?;
        let at_ms = match at.filter(|at| at.as_raw_str() != "null") {
            Some(at) => i64::try_from(number(&at)?.floor()).ok()?,
            None => now_ms,
        };
        Some(Self {
            at_ms,
            price: number(&price?)?,
            volume: volume
                .and_then(|volume| number(&volume))
                .unwrap_or_default(),
        })
    }
}

/// Returns `data` of the message, which always has the same form: parsing the whole message as JSON too would
/// double the cost.
fn data_of(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(br#"{"type":"trade","data":"#)?;
    let behind = br#","timestamp":"#;
    let end = rest
        .windows(behind.len())
        .rposition(|text| text == behind)?;
    Some(&rest[..end])
}

/// Parses a number, or a number in a string. `None` also for a number that a decimal cannot hold.
fn number(value: &LazyValue<'_>) -> Option<Decimal> {
    let raw = value.as_raw_str();
    let unquoted: Option<String> = raw
        .starts_with('"')
        .then(|| sonic_rs::from_str(raw).ok())
        .flatten();
    let text = unquoted.as_deref().unwrap_or(raw);
    // The library accepts more than JSON does, for example underscores.
    let is_plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit() || b"+-.".contains(&b))
    };
    match text.split_once(['e', 'E']) {
        None if is_plain(text) => Decimal::from_str(text).ok(),
        Some((base, exponent)) if is_plain(base) && is_plain(exponent) => {
            Decimal::from_scientific(text).ok()
        }
        _ => None,
    }
}
