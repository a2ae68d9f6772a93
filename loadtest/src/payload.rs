//! Payloads of a given size: a JSON object like a `market.flow` message, the stamp in front.

use std::fmt::Write;

/// Smallest payload: the stamp with 20-digit numbers and an empty rest.
pub(crate) const BYTES_MIN: usize = 128;

/// Builds stamped payloads of the same size. The rest is the same each time, except for a share of
/// new levels.
pub(crate) struct Payload {
    bytes: usize,
    book: Book,
    /// The share of new levels in each payload, 0 to 1.
    share: f64,
    /// Their number.
    changed: usize,
    is_trade: bool,
    text: String,
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
            is_trade: false,
            text: String::with_capacity(bytes),
        }
    }

    /// Makes this share of the levels differ from the previous payload, 0 to 1.
    pub(crate) fn changing(mut self, share: f64) -> Self {
        self.share = share;
        self.changed = (self.book.levels.len() as f64 * share).round() as usize;
        self
    }

    /// Makes each payload a trade of the symbol `S0`, with the stamp in a field that the gateway passes on.
    pub(crate) fn of_trades(mut self) -> Self {
        self.is_trade = true;
        self
    }

    /// The same payloads in another size.
    pub(crate) fn resized(&self, bytes: usize) -> Self {
        let resized = Self {
            is_trade: self.is_trade,
            ..Self::new(bytes)
        };
        resized.changing(self.share)
    }

    /// The payload with this stamp.
    pub(crate) fn stamped(&mut self, stamp_us: u64, n: u64) -> &[u8] {
        if self.is_trade {
            return self.trade(stamp_us, n);
        }
        self.book.change(self.changed);
        self.text.clear();
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
        self.text.as_bytes()
    }

    fn trade(&mut self, stamp_us: u64, n: u64) -> &[u8] {
        self.text.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            self.text,
            r#"{{"symbol":"S0","price":{}.25,"volume":100,"timestamp":{n},"conditions":{{"stamp_us":{stamp_us},"n":{n},"pad":""#,
            100 + n % 50
        );
        const AFTER_PAD: &str = r#""},"exchange":"NASDAQ"}"#;
        while self.text.len() + AFTER_PAD.len() < self.bytes {
            self.text.push('.');
        }
        self.text.push_str(AFTER_PAD);
        self.text.as_bytes()
    }
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
    fn a_trade_has_the_size_and_its_stamp_where_it_is_passed_on() {
        let mut payload = Payload::new(300).of_trades();
        let text = payload.stamped(123, 9).to_vec();
        assert_eq!(text.len(), 300);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (&value["symbol"], &value["conditions"]["n"]),
            (&"S0".into(), &9.into())
        );
        assert_eq!(find(&text), Some(Stamp { us: 123, n: 9 }));
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
