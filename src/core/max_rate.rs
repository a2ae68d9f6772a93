//! The client's own rate, `?max_hz=2` in the request or set later (contract: protocol-levels.md, protocol-channels.md).

use crate::RequestRefusal;
use weirgate_wire::RequestHead;

const PARAMETER: &str = "max_hz";
const MIN_HZ: f64 = 0.1;
const MAX_HZ: f64 = 1_000.0;
const REFUSAL: RequestRefusal =
    RequestRefusal::new(400, "max_hz must be a number from 0.1 to 1000");

/// The most times a second at which a client wants frames with a conflation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRate {
    /// The time between two openings of the client's throttle, microseconds.
    pub(super) interval_us: u64,
}

impl MaxRate {
    /// Returns the rate in a request's query; `None` if the query names no rate. The first `max_hz`
    /// counts.
    ///
    /// # Errors
    /// The value is not a decimal number in the range.
    pub fn of(head: &RequestHead<'_>) -> Result<Option<Self>, RequestRefusal> {
        let value = head.parameters(PARAMETER).next();
        let rate = value.map(|value| Self::parse(&value).ok_or(REFUSAL));
        rate.transpose()
    }

    /// The rate in times a second, rounded to thousandths.
    pub fn hz(self) -> f64 {
        (1e9 / self.interval_us as f64).round() / 1e3
    }

    /// Reads a decimal number of times a second; `None` out of range, or for another text.
    pub fn parse(value: &str) -> Option<Self> {
        // Without signs, exponents, `inf` and `nan`, which the parser of Rust takes.
        let is_decimal = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let hz = value.parse::<f64>().ok().filter(|_| is_decimal)?;
        (MIN_HZ..=MAX_HZ).contains(&hz).then(|| Self {
            interval_us: (1e6 / hz).round() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Option<u64>, RequestRefusal> {
        let text = format!("GET /ws{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = RequestHead::parse(text.as_bytes(), 10).expect("a head");
        MaxRate::of(&head).map(|rate| rate.map(|rate| rate.interval_us))
    }

    #[test]
    fn a_rate_is_a_decimal_number_from_a_tenth_to_a_thousand() {
        for (query, want) in [
            ("", None),
            ("?token=a&MAX_HZ=7", None),
            ("?max_hz=1", Some(1_000_000)),
            ("?token=a&max_hz=2.5&max_hz=x", Some(400_000)),
            ("?max_hz=.5", Some(2_000_000)),
            ("?max_hz=0.1", Some(10_000_000)),
            ("?max_hz=1000", Some(1_000)),
            ("?max_hz=%33", Some(333_333)),
        ] {
            assert_eq!(of(query), Ok(want), "{query}");
        }
        for value in [
            "",
            "0",
            "0.09",
            "1000.1",
            "-1",
            "+1",
            "1e2",
            "inf",
            "nan",
            "1,5",
            "1.5.5",
            ".",
            "1hz",
            "%F0%9F%90%8C",
            "1%00",
        ] {
            assert_eq!(of(&format!("?max_hz={value}")), Err(REFUSAL), "{value}");
        }
    }
}
