//! Dates as the contracts write them.

use chrono::{DateTime, SecondsFormat};

/// ISO-8601 in UTC, to the millisecond: `2026-01-09T10:30:00.000Z`. What lies beyond all dates is
/// shown as 1970.
pub fn iso_utc(unix_ms: i64) -> String {
    let date = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    date.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::iso_utc;

    #[test]
    fn to_the_millisecond_in_utc() {
        assert_eq!(iso_utc(1_767_954_600_007), "2026-01-09T10:30:00.007Z");
        assert_eq!(iso_utc(i64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
