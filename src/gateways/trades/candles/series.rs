//! Intervals, and the open candles of a symbol and an interval: adding trades, messages, late trades, and how a trade
//! is read.

use std::str::FromStr;

use rust_decimal::Decimal;
use sonic_rs::LazyValue;

use crate::gateways::shared::members::members;
use weirgate_core::TopicName;
use weirgate_wire::json::{ObjectWriter, text_of};

/// The begin of the topic of a symbol's candles.
const CANDLES: &str = "candle:";

/// The duration of a candle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::gateways::trades) enum Interval {
    Second,
    Minute,
    FiveMinutes,
}

impl Interval {
    pub(in crate::gateways::trades) const ALL: [Self; 3] =
        [Self::Second, Self::Minute, Self::FiveMinutes];

    /// The name in messages.
    pub(in crate::gateways::trades) const fn label(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
        }
    }

    /// The interval with this name.
    pub(in crate::gateways::trades) fn named(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.label() == label)
    }

    pub(super) const fn ms(self) -> i64 {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
            Self::FiveMinutes => 300_000,
        }
    }

    /// The begin of the interval with this time.
    const fn start_of(self, at_ms: i64) -> i64 {
        at_ms - at_ms.rem_euclid(self.ms())
    }

    /// The topic of a symbol's candles. No client can hold a symbol of this name, because clients' symbols are upper
    /// case, and the feed relays no such symbol.
    pub(in crate::gateways::trades) fn topic(self, symbol: &str) -> TopicName {
        TopicName::from(format!("{CANDLES}{}:{symbol}", self.label()))
    }

    /// Whether a topic is that of a symbol's candles.
    pub(in crate::gateways::trades) fn has_topic(name: &TopicName) -> bool {
        name.as_str().starts_with(CANDLES)
    }
}

/// The candle to which a trade was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// The oldest one, which is or becomes the running candle.
    Oldest,
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
    /// Oldest first. There are few, because an interval lasts at least a second, and both the grace time and the prefix
    /// of early trades are bounded.
    candles: Vec<Candle>,
    /// End of the newest closed candle, or start of the newest candle that was shown, whichever is later. No candle begins
    /// before this, even if the clock is set back.
    begins_ms_min: i64,
}

impl Series {
    pub(super) fn new(interval: Interval) -> Self {
        Self {
            interval,
            candles: Vec::new(),
            begins_ms_min: i64::MIN,
        }
    }

    /// Closes and returns the oldest candle if its end is at most `horizon_ms`.
    pub(super) fn close(&mut self, horizon_ms: i64) -> Option<Candle> {
        let end_ms = self.next_end_ms().filter(|end_ms| *end_ms <= horizon_ms)?;
        self.begins_ms_min = end_ms;
        Some(self.candles.remove(0))
    }

    /// Adds a trade to its candle.
    ///
    /// # Errors
    /// The candle is closed, ended at `horizon_ms` or before, or is older than a candle that was shown.
    pub(super) fn add(&mut self, trade: &Trade, horizon_ms: i64) -> Result<Added, Late> {
        let start_ms = self.interval.start_of(trade.at_ms);
        let is_over = start_ms + self.interval.ms() <= horizon_ms;
        if is_over || start_ms < self.begins_ms_min {
            return Err(Late);
        }
        let place = self.candles.partition_point(|c| c.start_ms < start_ms);
        match self.candles.get_mut(place) {
            Some(candle) if candle.start_ms == start_ms => candle.add(trade),
            _ => {
                // Usually there is a single candle, and without this the list would at once have room for four.
                self.candles.reserve_exact(1);
                self.candles.insert(place, Candle::new(start_ms, trade));
            }
        }
        Ok(match place {
            0 => Added::Oldest,
            _ => Added::Later,
        })
    }

    /// Takes the running candle, to be shown: the oldest, if its interval began at `horizon_ms` or before. From then on no
    /// earlier candle may begin.
    pub(super) fn show_running(&mut self, horizon_ms: i64) -> Option<&Candle> {
        let horizon_ms = horizon_ms.max(self.begins_ms_min);
        let oldest = self.candles.first();
        let running = oldest.filter(|candle| candle.start_ms <= horizon_ms)?;
        self.begins_ms_min = self.begins_ms_min.max(running.start_ms);
        Some(running)
    }

    /// The `horizon_ms` from which on the oldest candle is the running candle; `None` if it is already.
    pub(super) fn next_start_ms(&self) -> Option<i64> {
        let start_ms = self.candles.first()?.start_ms;
        (start_ms > self.begins_ms_min).then_some(start_ms)
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
    pub(super) fn message(&self, symbol: &str, interval: Interval, state: CandleState) -> String {
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
        let mut message = ObjectWriter::new();
        message.string("type", "candle");
        message.object("data", data);
        message.finish()
    }
}

/// Whether a candle may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CandleState {
    Running,
    Closed,
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
    /// Reads the message of a trade as clients get it. A trade without a timestamp counts as happening now. `None`
    /// without a price, or if the price or the timestamp is not a number.
    pub(super) fn read(message: &[u8], now_ms: i64) -> Option<Self> {
        let names = ["timestamp", "price", "volume"];
        let [at, price, volume] = members(data_of(message)?, names).ok()?;
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

/// Returns `data` of the message. The rest of the message always has the same form, and parsing the whole as JSON would
/// double the cost.
fn data_of(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(br#"{"type":"trade","data":"#)?;
    let behind = br#","timestamp":"#;
    let end = rest
        .windows(behind.len())
        .rposition(|text| text == behind)?;
    Some(&rest[..end])
}

/// The largest number that is read, and -1 times it the smallest: a candle can add the volumes of 79 billion such trades.
const NUMBER_MAX: i64 = 1_000_000_000_000_000_000;

/// Parses a number, or a text with a number. `None` also for a number that a decimal cannot represent, or over
/// [`NUMBER_MAX`].
fn number(value: &LazyValue<'_>) -> Option<Decimal> {
    let raw = value.as_raw_str();
    let unquoted = text_of(raw);
    let text = unquoted.as_deref().unwrap_or(raw);
    // The library accepts more than JSON does, for example underscores.
    let is_plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit() || b"+-.".contains(&b))
    };
    let number = match text.split_once(['e', 'E']) {
        None if is_plain(text) => Decimal::from_str(text).ok(),
        Some((base, exponent)) if is_plain(base) && is_plain(exponent) => {
            Decimal::from_scientific(text).ok()
        }
        _ => None,
    };
    number.filter(|number| number.abs() <= NUMBER_MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn read(data: &str) -> Option<Trade> {
        let message = format!(r#"{{"type":"trade","data":{data},"timestamp":77}}"#);
        Trade::read(message.as_bytes(), 99)
    }

    fn shown(data: &str) -> Option<(i64, String, String)> {
        let trade = read(data)?;
        let (price, volume) = (trade.price.to_string(), trade.volume.to_string());
        Some((trade.at_ms, price, volume))
    }

    #[test]
    fn price_volume_and_time_are_read_as_they_stand() {
        let cases = [
            (
                r#"{"timestamp":5,"price":1.50,"volume":100}"#,
                (5, "1.50", "100"),
            ),
            (
                r#"{"timestamp":"6","price":"2.10","volume":"0.3"}"#,
                (6, "2.10", "0.3"),
            ),
            (r#"{"timestamp":7.9,"price":-3}"#, (7, "-3", "0")),
            (
                r#"{"timestamp":1.7e3,"price":1e-7,"volume":12E+2}"#,
                (1700, "0.0000001", "1200"),
            ),
            (r#"{"price":4,"volume":null}"#, (99, "4", "0")),
            (r#"{"timestamp":null,"price":4}"#, (99, "4", "0")),
            (r#"{"price":4,"volume":"many"}"#, (99, "4", "0")),
            (r#"{"price":4,"volume":1e400}"#, (99, "4", "0")),
            (
                r#"{"price":4,"volume":1e18}"#,
                (99, "4", "1000000000000000000"),
            ),
            (
                r#"{"price":4,"volume":1000000000000000001}"#,
                (99, "4", "0"),
            ),
        ];
        for (data, (at_ms, price, volume)) in cases {
            let want = (at_ms, price.to_owned(), volume.to_owned());
            assert_eq!(shown(data), Some(want), "{data}");
        }
    }

    #[test]
    fn a_trade_without_a_readable_price_or_time_is_none() {
        for data in [
            "{}",
            r#"{"price":null}"#,
            r#"{"price":"1_000"}"#,
            r#"{"price":""}"#,
            r#"{"price":"-"}"#,
            r#"{"price":[1]}"#,
            r#"{"price":true}"#,
            r#"{"price":1e400}"#,
            r#"{"price":"1e19"}"#,
            r#"{"price":1e-400}"#,
            r#"{"price":"1e99999999999"}"#,
            r#"{"price":1,"timestamp":"soon"}"#,
            r#"{"price":1,"timestamp":{}}"#,
            r#"{"price":1,"timestamp":1e25}"#,
        ] {
            assert_eq!(read(data), None, "{data}");
        }
        assert_eq!(Trade::read(b"{}", 99), None);
    }

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
        let message = candle.message("A\"", Interval::Minute, CandleState::Running);
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
    fn no_candle_begins_before_one_that_was_shown_though_the_clock_is_set_back() {
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

    #[test]
    fn topics_of_candles_are_those_of_no_symbol_that_a_client_can_hold() {
        for interval in Interval::ALL {
            let topic = interval.topic("A:B");
            assert_ne!(topic.as_str(), topic.as_str().to_uppercase());
            assert!(Interval::has_topic(&topic) && !Interval::has_topic(&"CANDLE:".into()));
            assert_eq!(Interval::named(interval.label()), Some(interval));
        }
    }
}
