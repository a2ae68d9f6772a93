//! Numbers, sizes and times for people, and texts of a server made safe for a terminal, each with a tone.

use crate::base::escaped;

/// The most characters kept of a server's text.
const TEXT_CHARS_MAX: usize = 200;

/// Makes a server's text safe for a terminal, and bounds the length.
pub(super) fn safe(text: &str) -> String {
    let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
    let shown = escaped(&text, &[]);
    shown.chars().take(TEXT_CHARS_MAX).collect()
}

/// A number with commas between thousands, and with `digits` decimals.
pub(super) fn decimal(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = match text.find('.') {
        Some(at) => text.split_at(at),
        None => (text.as_str(), ""),
    };
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(whole) => ("-", whole),
        None => ("", whole),
    };
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

/// A count.
pub(super) fn whole(value: u64) -> String {
    decimal(value as f64, 0)
}

/// A count, or a dash for `None`.
pub(super) fn count(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), whole)
}

/// A number per second, or a dash before the second reading.
pub(super) fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| decimal(value, 1))
}

/// A size in bytes, in decimal units.
pub(super) fn bytes(value: f64) -> String {
    match value {
        v if v < 1e3 => format!("{v:.0} B"),
        v if v < 1e6 => format!("{:.1} kB", v / 1e3),
        v if v < 1e9 => format!("{:.1} MB", v / 1e6),
        v => format!("{:.2} GB", v / 1e9),
    }
}

/// A size, or bytes per second; a dash for `None`.
pub(super) fn maybe_bytes(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), bytes)
}

/// A length of time in milliseconds.
pub(super) fn duration(ms: u64) -> String {
    let s = ms as f64 / 1e3;
    match s {
        s if s < 1.0 => format!("{ms} ms"),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3_600.0 => format!("{} min {} s", (s / 60.0) as u64, s as u64 % 60),
        s if s < 86_400.0 => format!("{} h {} min", (s / 3_600.0) as u64, (s / 60.0) as u64 % 60),
        s => format!(
            "{} d {} h",
            (s / 86_400.0) as u64,
            (s / 3_600.0) as u64 % 24
        ),
    }
}

/// A length of time, or a dash for `None`.
pub(super) fn maybe_duration(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), duration)
}

/// The meaning of a text's colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// The names of facts and columns.
    Name,
    Good,
    Wait,
    Bad,
}

/// A text with its tone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Piece {
    /// Every text of a server becomes a piece, and is made safe here.
    pub(super) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = safe(text.as_ref());
        Self { text, tone }
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Tone::Plain)
    }

    /// A text with `tone` if there is any.
    pub(super) fn if_any(text: String, is_any: bool, tone: Tone) -> Self {
        Self::new(text, if is_any { tone } else { Tone::Plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sizes_and_times_are_short() {
        assert_eq!(decimal(1_234_567.0, 0), "1,234,567");
        assert_eq!(decimal(-1_234.56, 1), "-1,234.6");
        assert_eq!(decimal(999.0, 0), "999");
        assert_eq!(
            [rate(None), rate(Some(0.04)), count(Some(12))],
            ["-", "0.0", "12"]
        );
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(1_500.0), "1.5 kB");
        assert_eq!(bytes(2e9), "2.00 GB");
        let times = [0, 999, 1_500, 61_000, 3_660_000, 90_000_000].map(duration);
        assert_eq!(
            times,
            [
                "0 ms",
                "999 ms",
                "1.5 s",
                "1 min 1 s",
                "1 h 1 min",
                "1 d 1 h"
            ]
        );
    }

    #[test]
    fn a_text_of_a_server_can_do_nothing_to_the_terminal() {
        assert_eq!(
            safe("a\x1b[2Jb\r\nc\u{9b}d\u{202e}e"),
            r"a\u001b[2Jb\u000d\u000ac\u009bd\u202ee"
        );
        assert_eq!(safe(&"x".repeat(10_000)).len(), TEXT_CHARS_MAX);
    }
}
