//! One candle, and the message that shows the candle.

use rust_decimal::Decimal;

use super::Interval;
use super::trade::Trade;
use crate::wire::object_writer::ObjectWriter;

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
