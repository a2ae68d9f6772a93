//! The candles of one symbol and one interval that are not closed: what a candle takes of a trade, one candle and
//! its message, and which trade is late.

use std::str::FromStr;

use rust_decimal::Decimal;
use sonic_rs::LazyValue;

use super::Interval;
use crate::wire::json::object_entries;
use crate::wire::object_writer::ObjectWriter;

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

/// The trades of a symbol whose timestamps are in one interval.
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
    /// Timestamps of the trades that gave `open` and `close`.
    first_ms: i64,
    last_ms: i64,
}

impl Candle {
    /// The candle of a first trade.
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

    /// Adds a trade, in any order. Of trades with the same timestamp, the one that came first gives
    /// `open` and the one that came last gives `close`.
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

    /// `{"type":"candle","data":{…}}`.
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

/// One trade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trade {
    /// The trade's own timestamp, Unix milliseconds.
    pub(super) at_ms: i64,
    pub(super) price: Decimal,
    /// 0 if the trade has none, or none that is a number.
    pub(super) volume: Decimal,
}

impl Trade {
    /// Reads the message of a trade as clients get it. A trade without a timestamp happened now.
    /// `None`: no price, or a price or timestamp that is no number.
    pub(super) fn read(message: &[u8], depth_max: usize, now_ms: i64) -> Option<Self> {
        let (mut at, mut price, mut volume) = (None, None, None);
        for entry in object_entries(data_of(message)?, depth_max).ok()? {
            let (key, value) = entry.ok()?;
            match &*key {
                "timestamp" => at = Some(value).filter(|value| value.as_raw_str() != "null"),
                "price" => price = number(&value),
                "volume" => volume = number(&value),
                _ => {}
            }
        }
        let at_ms = match at {
            Some(at) => i64::try_from(number(&at)?.floor()).ok()?,
            None => now_ms,
        };
        Some(Self {
            at_ms,
            price: price?,
            volume: volume.unwrap_or_default(),
        })
    }
}

/// `data` of the message, whose form is always the same: reading the whole message as JSON too would
/// cost as much again.
fn data_of(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(br#"{"type":"trade","data":"#)?;
    let behind = br#","timestamp":"#;
    let end = rest
        .windows(behind.len())
        .rposition(|text| text == behind)?;
    Some(&rest[..end])
}

/// A number, or a text that is one. `None` also for a number that a decimal cannot hold.
fn number(value: &LazyValue<'_>) -> Option<Decimal> {
    let raw = value.as_raw_str();
    let unquoted: Option<String> = raw
        .starts_with('"')
        .then(|| sonic_rs::from_str(raw).ok())
        .flatten();
    let text = unquoted.as_deref().unwrap_or(raw);
    // The library takes more than JSON has, as underscores.
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
