//! What a candle takes of a trade.

use std::str::FromStr;

use rust_decimal::Decimal;
use sonic_rs::LazyValue;

use crate::wire::json::object_entries;

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
