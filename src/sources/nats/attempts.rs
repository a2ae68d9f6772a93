//! The attempts to read a subject: since when none was good, what was logged of that, and when to
//! try again. Pure: the moments come in.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::error::NatsError;
use crate::sources::outage::{Failure, Outages};

/// The attempts of one subscription, over all connections.
#[derive(Debug)]
pub(super) struct Attempts {
    outages: Outages<NatsError>,
    /// `None` unless the last attempt failed.
    next: Option<Instant>,
}

impl Attempts {
    /// The delays between attempts double from the first to the second, milliseconds.
    pub(super) fn new(delay_min_ms: u64, delay_max_ms: u64) -> Self {
        let seed = RandomState::new().hash_one(delay_max_ms);
        Self {
            outages: Outages::new(delay_min_ms, delay_max_ms, seed),
            next: None,
        }
    }

    /// The last attempt failed.
    pub(super) fn is_away(&self) -> bool {
        self.next.is_some()
    }

    /// It is time for another attempt.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// JetStream answers again: the next attempt need not wait.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.min(now));
    }

    /// An attempt failed. Returns what that is to those who read the log.
    pub(super) fn failed(&mut self, error: &NatsError, now: Instant) -> Failure {
        let failure = self.outages.failed(error, now);
        self.next = Some(now + self.outages.next_delay());
        failure
    }

    /// An attempt was good. Returns how long there was none, if there were failures.
    pub(super) fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        let recovery = self.outages.ended(now);
        self.next.take().and(recovery.away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_further_and_further_apart_and_a_good_one_ends_that() {
        let mut attempts = Attempts::new(1_000, 30_000);
        let error = NatsError::JetStream {
            action: "make a consumer".to_owned(),
            reason: "no answer".to_owned(),
            is_of_all: false,
        };
        let mut now = Instant::now();
        let begun = now;
        assert!(!attempts.is_away() && attempts.is_due(now));
        assert_eq!(attempts.succeeded(now), None);
        assert_eq!(attempts.failed(&error, now), Failure::First);
        for least_ms in [700, 1_500, 3_000, 6_000, 12_000, 22_000, 22_000] {
            assert!(attempts.is_away());
            assert!(!attempts.is_due(now + Duration::from_millis(least_ms)));
            now += Duration::from_secs(30);
            assert!(attempts.is_due(now));
            attempts.failed(&error, now);
        }
        attempts.hurry(now);
        assert!(attempts.is_away() && attempts.is_due(now));
        assert_eq!(attempts.succeeded(now), Some(now - begun));
        attempts.hurry(now);
        assert!(!attempts.is_away());
        assert_eq!(attempts.succeeded(now), None);
    }
}
