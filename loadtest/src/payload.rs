//! Stamped payloads: a JSON object like a `market.flow` message with the stamp in front, or a trade.

use std::fmt::{Display, Write};

/// Smallest sized payload: the stamp with 20-digit numbers and an empty rest.
pub(crate) const BYTES_MIN: usize = 128;

/// Builds stamped payloads. The rest is the same each time, except for a share of new levels.
pub(crate) struct Payload {
    bytes: usize,
    book: Book,
    /// The share of new levels in each payload, 0 to 1.
    share: f64,
    /// Their number.
    changed: usize,
    form: Form,
    text: String,
}

#[derive(Clone, Copy)]
enum Form {
    /// An object of a given size.
    Flow,
    /// A trade of a given size.
    SizedTrade,
    /// A trade in its own size.
    Trade,
}

impl Payload {
    /// Payloads of exactly `bytes` bytes (at least [`BYTES_MIN`]).
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.max(BYTES_MIN);
        Self {
            bytes,
            book: Book::new(bytes - BYTES_MIN),
            share: 0.0,
            changed: 0,
            form: Form::Flow,
            text: String::with_capacity(bytes),
        }
    }

    /// Trades in their own size, about 130 bytes.
    pub(crate) fn trades() -> Self {
        Self {
            form: Form::Trade,
            ..Self::new(BYTES_MIN)
        }
    }

    /// Makes this share of the levels differ from the previous payload, 0 to 1.
    pub(crate) fn changing(mut self, share: f64) -> Self {
        self.share = share;
        self.changed = (self.book.levels.len() as f64 * share).round() as usize;
        self
    }

    /// Makes each payload a trade of the same size.
    pub(crate) fn of_trades(mut self) -> Self {
        self.form = Form::SizedTrade;
        self
    }

    /// The same payloads in another size.
    pub(crate) fn resized(&self, bytes: usize) -> Self {
        let resized = Self {
            form: self.form,
            ..Self::new(bytes)
        };
        resized.changing(self.share)
    }

    /// The payload with this stamp, on topic 0.
    pub(crate) fn stamped(&mut self, stamp_us: u64, n: u64) -> &[u8] {
        self.stamped_on(0, stamp_us, n)
    }

    /// The payload with this stamp. A trade has the symbol `S{topic}`; an object has no topic.
    pub(crate) fn stamped_on(&mut self, topic: u64, stamp_us: u64, n: u64) -> &[u8] {
        self.text.clear();
        match self.form {
            Form::Flow => self.flow(stamp_us, n),
            Form::SizedTrade => self.trade(topic, stamp_us, n, Some(self.bytes)),
            Form::Trade => self.trade(topic, stamp_us, n, None),
        }
        self.text.as_bytes()
    }

    fn flow(&mut self, stamp_us: u64, n: u64) {
        self.book.change(self.changed);
        // Writing to a String cannot fail.
        let _ = write!(self.text, r#"{{"stamp_us":{stamp_us},"n":{n},"pad":""#);
        const AFTER_PAD: usize = r#"","book":[]}"#.len();
        let used = self.text.len() + AFTER_PAD + self.book.bytes;
        for _ in used..self.bytes {
            self.text.push('.');
        }
        self.text.push_str(r#"","book":["#);
        for (index, level) in self.book.levels.iter().enumerate() {
            self.text.push_str(if index > 0 { "," } else { "" });
            self.text.push_str(level);
        }
        self.text.push_str("]}");
    }

    fn trade(&mut self, topic: u64, stamp_us: u64, n: u64, bytes: Option<usize>) {
        append_trade(&mut self.text, format_args!("S{topic}"), n, |text| {
            // Writing to a String cannot fail.
            let _ = write!(text, r#""stamp_us":{stamp_us},"n":{n}"#);
            if let Some(bytes) = bytes {
                text.push_str(r#","pad":""#);
                let used = text.len() + 1 + AFTER_CONDITIONS.len();
                text.extend(std::iter::repeat_n('.', bytes.saturating_sub(used)));
                text.push('"');
            }
        });
    }
}

/// The end of a trade, after the fields of the conditions.
const AFTER_CONDITIONS: &str = r#"},"exchange":"NASDAQ"}"#;

/// Appends trade `n` of a symbol. `conditions` appends the fields of its conditions, which the gateway passes on as they are.
pub(crate) fn append_trade(
    text: &mut String,
    symbol: impl Display,
    n: u64,
    conditions: impl FnOnce(&mut String),
) {
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        r#"{{"symbol":"{symbol}","price":{}.25,"volume":100,"timestamp":{n},"conditions":{{"#,
        100 + n % 50
    );
    conditions(text);
    text.push_str(AFTER_CONDITIONS);
}

/// Price levels with varying numbers, so the work of compression is about the same as for market
/// data.
struct Book {
    levels: Vec<String>,
    /// Bytes of all levels with a comma between two.
    bytes: usize,
    seed: u64,
}

impl Book {
    /// As many levels as `bytes_max` bytes hold.
    fn new(bytes_max: usize) -> Self {
        let mut book = Self {
            levels: Vec::new(),
            bytes: 0,
            seed: 1,
        };
        loop {
            let level = book.level();
            let bytes = book.bytes + usize::from(book.bytes > 0) + level.len();
            if bytes > bytes_max {
                return book;
            }
            book.bytes = bytes;
            book.levels.push(level);
        }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn level(&mut self) -> String {
        const KINDS: [&str; 5] = [
            "VWAP",
            "PRIOR_CLOSE",
            "ROUND",
            "CALL_WALL",
            "OPEN_RANGE_HIGH",
        ];
        format!(
            r#"{{"price":{}.{:02},"kind":"{}","size":{},"delta_liq":-{}.{:03},"velocity":0.{:04}}}"#,
            670 + self.next(40),
            self.next(100),
            KINDS[self.next(5) as usize],
            self.next(20_000),
            self.next(900),
            self.next(1_000),
            self.next(10_000),
        )
    }

    /// Replaces `count` levels by random levels of the same length.
    fn change(&mut self, count: usize) {
        for _ in 0..count {
            let at = self.next(self.levels.len() as u64) as usize;
            let bytes = self.levels[at].len();
            let mut drawn = std::iter::repeat_with(|| self.level()).take(1_000);
            let fits = drawn.find(|level| level.len() == bytes);
            if let Some(level) = fits {
                self.levels[at] = level;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Stamp, find};

    #[test]
    fn a_share_of_the_levels_changes() {
        let mut payload = Payload::new(8192).changing(0.1);
        let before = payload.book.levels.clone();
        assert_eq!(payload.stamped(1, 1).len(), 8192);
        let pairs = before.iter().zip(&payload.book.levels);
        let changed = pairs.filter(|(before, after)| before != after).count();
        let tenth = before.len() / 10;
        assert!(
            (tenth / 2..=tenth + 1).contains(&changed),
            "{changed} of {}",
            before.len()
        );
    }

    #[test]
    fn a_trade_has_its_stamp_where_it_is_passed_on_and_the_size_if_any() {
        let payloads = [Payload::new(300).of_trades(), Payload::trades()];
        for (mut payload, bytes) in payloads.into_iter().zip([300, 113]) {
            let text = payload.stamped_on(7, 123, 9).to_vec();
            assert_eq!(text.len(), bytes);
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(
                (&value["symbol"], &value["conditions"]["n"]),
                (&"S7".into(), &9.into())
            );
            assert_eq!(find(&text), Some(Stamp { us: 123, n: 9 }));
        }
    }

    #[test]
    fn exact_size_valid_json_and_the_stamp_in_front() {
        for bytes in [BYTES_MIN, 200, 2048, 8192, 65_536] {
            for (us, n) in [(0, 0), (1_234_567, 42), (u64::MAX, u64::MAX)] {
                let mut payload = Payload::new(bytes);
                let text = payload.stamped(us, n).to_vec();
                assert_eq!(text.len(), bytes);
                serde_json::from_slice::<serde_json::Value>(&text).unwrap();
                assert_eq!(find(&text), Some(Stamp { us, n }));
            }
        }
    }
}
