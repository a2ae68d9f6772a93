//! The session clock: the position of a moment in the trading day of New York.

use std::ops::Range;

use chrono::{DateTime, Duration, NaiveDate, NaiveTime, TimeZone};
use chrono_tz::America::New_York;

use super::level::SessionContext;

/// From New York midnight to the open, in real time (9.5 hours): on the days when the clocks change the open is at 8:30
/// or 10:30.
const OPEN_AFTER_MIDNIGHT_MS: i64 = 34_200_000;

const MINUTE_MS: i64 = 60_000;

/// Finds the session context of a time. Messages follow each other within a day, so the day of the last message is
/// kept, and the common case is two comparisons.
#[derive(Clone, Debug)]
pub(super) struct SessionClock {
    session_length_min: i64,
    /// The day of the last message ([`day_of`]); empty before the first message.
    day: Range<i64>,
}

impl SessionClock {
    /// `session_length_min`: the maximum of `bars_since_open`.
    pub(super) fn new(session_length_min: u32) -> Self {
        Self {
            session_length_min: i64::from(session_length_min),
            day: 0..0,
        }
    }

    /// The session context at `ts_ms` (Unix milliseconds); `None` outside of the calendar.
    pub(super) fn at(&mut self, ts_ms: i64) -> Option<SessionContext> {
        if !self.day.contains(&ts_ms) {
            self.day = day_of(ts_ms)?;
        }
        let since_open_ms = ts_ms - self.day.start - OPEN_AFTER_MIDNIGHT_MS;
        Some(SessionContext {
            is_first_15m: (0..15 * MINUTE_MS).contains(&since_open_ms),
            bars_since_open: (since_open_ms.max(0) / MINUTE_MS).min(self.session_length_min),
        })
    }
}

/// The day in New York that contains this moment, from midnight up to the next midnight, Unix milliseconds; `None`
/// outside of the calendar.
fn day_of(ts_ms: i64) -> Option<Range<i64>> {
    let date = DateTime::from_timestamp_millis(ts_ms)?
        .with_timezone(&New_York)
        .date_naive();
    Some(midnight_ms(date)?..midnight_ms(date.succ_opt()?)?)
}

/// Returns the beginning of the day in New York, Unix milliseconds.
fn midnight_ms(date: NaiveDate) -> Option<i64> {
    let midnight = date.and_time(NaiveTime::MIN);
    // New York changes its clocks at 2:00, so midnight exists once. Should that ever change, the first of two midnights
    // counts, and for a midnight within a gap the end of the gap.
    let local = New_York.from_local_datetime(&midnight).earliest();
    let local = local.or_else(|| {
        New_York
            .from_local_datetime(&(midnight + Duration::hours(1)))
            .earliest()
    });
    Some(local?.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ts_ms: i64) -> (bool, i64) {
        let context = SessionClock::new(240).at(ts_ms).expect("in range");
        (context.is_first_15m, context.bars_since_open)
    }

    fn utc(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text)
            .expect("a moment")
            .timestamp_millis()
    }

    #[test]
    fn a_summer_day() {
        let open = utc("2024-07-16T13:30:00Z");
        assert_eq!(at(open - 1), (false, 0));
        assert_eq!(at(open), (true, 0));
        assert_eq!(at(open + 59_999), (true, 0));
        assert_eq!(at(open + 60_000), (true, 1));
        assert_eq!(at(open + 15 * MINUTE_MS - 1), (true, 14));
        assert_eq!(at(open + 15 * MINUTE_MS), (false, 15));
        assert_eq!(at(open + 240 * MINUTE_MS - 1), (false, 239));
        assert_eq!(at(open + 240 * MINUTE_MS), (false, 240));
        assert_eq!(at(utc("2024-07-17T03:59:59.999Z")), (false, 240));
        assert_eq!(at(utc("2024-07-17T04:00:00Z")), (false, 0));
    }

    #[test]
    fn a_winter_day_and_a_weekend() {
        assert_eq!(at(utc("2024-01-23T14:30:00Z")), (true, 0));
        assert_eq!(at(utc("2024-01-23T13:30:00Z")), (false, 0));
        assert_eq!(at(utc("2024-01-27T14:31:00Z")), (true, 1), "a Saturday");
        assert_eq!(at(utc("2024-12-25T14:31:00Z")), (true, 1), "a holiday");
    }

    #[test]
    fn the_open_is_nine_and_a_half_hours_after_midnight_when_the_clocks_change() {
        // 2024-03-10: an hour is left out, so the open is at 10:30 on the wall.
        let open = utc("2024-03-10T14:30:00Z");
        assert_eq!(at(open - 1), (false, 0));
        assert_eq!(at(open), (true, 0));
        // 2024-11-03: an hour comes twice, so the open is at 8:30 on the wall.
        let open = utc("2024-11-03T13:30:00Z");
        assert_eq!(at(open - 1), (false, 0));
        assert_eq!(at(open), (true, 0));
        assert_eq!(at(utc("2024-11-04T04:59:59Z")), (false, 240));
        assert_eq!(at(utc("2024-11-04T05:00:00Z")), (false, 0));
    }

    #[test]
    fn a_kept_day_gives_the_same_as_a_fresh_one() {
        let mut kept = SessionClock::new(240);
        let start = utc("2024-03-08T00:00:00Z");
        for step in 0..3_000 {
            let ts = start + (step * 7_777_777) % (6 * 24 * 60 * MINUTE_MS);
            assert_eq!(kept.at(ts), SessionClock::new(240).at(ts), "{ts}");
        }
    }

    #[test]
    fn far_moments_and_another_length() {
        for ts in [0, -1, 9_223_372_036_854, -9_223_372_036_854] {
            assert!(SessionClock::new(240).at(ts).is_some(), "{ts}");
        }
        assert_eq!(SessionClock::new(240).at(i64::MAX), None);
        assert_eq!(SessionClock::new(240).at(i64::MIN), None);
        let late = utc("2024-07-16T20:00:00Z");
        let context = SessionClock::new(390).at(late).expect("in range");
        assert_eq!(context.bars_since_open, 390);
    }
}
