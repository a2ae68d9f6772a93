//! A trade for the candles, read from its message to clients.

use std::str::FromStr;

use rust_decimal::Decimal;
use sonic_rs::LazyValue;

use crate::gateways::shared::members::members;
use weirgate_wire::json::Json;

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
    /// Reads the message of a trade as clients get it. A trade without a timestamp has that of the message. `None`
    /// without a price, or if the price or the timestamp is not a number.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let names = ["timestamp", "price", "volume"];
        let (data, rest) = split(message)?;
        let [at, price, volume] = members(data, names).ok()?;
        let at_ms = match at.filter(|at| at.as_raw_str() != "null") {
            Some(at) => i64::try_from(number(&at)?.floor()).ok()?,
            None => leading_number(rest)?,
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

/// Returns `data` of the message, and what begins with the message's own timestamp. The rest of the message always has the
/// same form, and parsing the whole as JSON would double the cost.
fn split(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = message.strip_prefix(br#"{"type":"trade","data":"#)?;
    let behind = br#","timestamp":"#;
    let end = rest
        .windows(behind.len())
        .rposition(|text| text == behind)?;
    Some((&rest[..end], &rest[end + behind.len()..]))
}

/// The number before the next member, or the end, of an object.
fn leading_number(text: &[u8]) -> Option<i64> {
    let digits = text.split(|byte| b",}".contains(byte)).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The largest number that is read, and -1 times it the smallest: a candle can add the volumes of 79 billion such trades.
const NUMBER_MAX: i64 = 1_000_000_000_000_000_000;

/// Parses a number, or a text with a number. `None` also for a number that a decimal cannot represent, or over
/// [`NUMBER_MAX`].
fn number(value: &LazyValue<'_>) -> Option<Decimal> {
    let raw = value.as_raw_str();
    let unquoted = Json::text_of(raw);
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

    fn read(data: &str) -> Option<Trade> {
        let message = format!(r#"{{"type":"trade","data":{data},"timestamp":77}}"#);
        Trade::read(message.as_bytes())
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
            (r#"{"price":4,"volume":null}"#, (77, "4", "0")),
            (r#"{"timestamp":null,"price":4}"#, (77, "4", "0")),
            (r#"{"price":4,"volume":"many"}"#, (77, "4", "0")),
            (r#"{"price":4,"volume":1e400}"#, (77, "4", "0")),
            (
                r#"{"price":4,"volume":1e18}"#,
                (77, "4", "1000000000000000000"),
            ),
            (
                r#"{"price":4,"volume":1000000000000000001}"#,
                (77, "4", "0"),
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
        assert_eq!(Trade::read(b"{}"), None);
    }
}
