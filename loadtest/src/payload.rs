//! Payloads of a given size: a JSON object like a `market.flow` message, the stamp in front.

use std::fmt::Write;

/// Smallest payload: the stamp with 20-digit numbers and an empty rest.
pub(crate) const BYTES_MIN: usize = 128;

/// Builds stamped payloads of one size; the rest is made once and the same each time.
pub(crate) struct Payload {
    bytes: usize,
    book: String,
    text: String,
}

impl Payload {
    /// Payloads of exactly `bytes` bytes (at least [`BYTES_MIN`]).
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.max(BYTES_MIN);
        Self {
            bytes,
            book: book(bytes - BYTES_MIN),
            text: String::with_capacity(bytes),
        }
    }

    /// The payload with this stamp.
    pub(crate) fn stamped(&mut self, stamp_us: u64, n: u64) -> &[u8] {
        self.text.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.text, r#"{{"stamp_us":{stamp_us},"n":{n},"pad":""#);
        const AFTER_PAD: usize = r#"","book":[]}"#.len();
        let used = self.text.len() + AFTER_PAD + self.book.len();
        for _ in used..self.bytes {
            self.text.push('.');
        }
        self.text.push_str(r#"","book":["#);
        self.text.push_str(&self.book);
        self.text.push_str("]}");
        self.text.as_bytes()
    }
}

/// Price levels with varying numbers, so that compression has about the work it has with market
/// data: at most `bytes` bytes of them.
fn book(bytes: usize) -> String {
    const KINDS: [&str; 5] = [
        "VWAP",
        "PRIOR_CLOSE",
        "ROUND",
        "CALL_WALL",
        "OPEN_RANGE_HIGH",
    ];
    let mut seed = 1u64;
    let mut next = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut out = String::with_capacity(bytes);
    loop {
        let level = format!(
            r#"{{"price":{}.{:02},"kind":"{}","size":{},"delta_liq":-{}.{:03},"velocity":0.{:04}}}"#,
            670 + next(40),
            next(100),
            KINDS[next(5) as usize],
            next(20_000),
            next(900),
            next(1_000),
            next(10_000),
        );
        if out.len() + level.len() + 1 > bytes {
            return out;
        }
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Stamp, find};

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
