//! The times of the link to a bus, and its outages: since when the bus is away, which errors were logged, and when to try
//! again. Pure: times and seed are arguments.

use std::hash::{BuildHasher, RandomState};
use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use weirgate_wire::base::SplitMix64;

/// If the subscriptions were active for this long before an outage, the delay between attempts starts at its minimum
/// again. Otherwise it keeps growing, so that a connection that fails again and again is not retried at once.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// The time after which an error of the same kind is logged again.
const LOGGED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The longest delay, an hour: whatever the settings say, the bus is tried again, and the sums below cannot overflow.
const DELAY_MAX_MS: u64 = 3_600_000;

/// The times of the link to a bus, milliseconds. Only tests have other values than the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTimes {
    /// Delay before the first attempt to connect again (by default 100).
    pub reconnect_delay_min_ms: u64,
    /// The longest delay, at which the doubling ends (by default 2,000).
    pub reconnect_delay_max_ms: u64,
    /// The silence after which the source pings the server, and the interval at which it asks JetStream about the
    /// consumers.
    pub ping_interval_ms: u64,
    /// The time that a server may take to say anything after the ping. Afterwards the bus counts as away, and
    /// a second connection shows whether the server is busy or only the link is dead.
    pub ping_timeout_ms: u64,
    /// The silence after which a link is given up, even if no second connection has had an answer either. Also the longest
    /// wait for the confirmation of a subscription on a link that is not silent.
    pub silence_max_ms: u64,
}

impl LinkTimes {
    /// For how many milliseconds the oldest request, sent at `sent`, has had no answer, if that is too long. Call it
    /// only when there is nothing to read. That bytes arrive does not show that the link works in both directions.
    pub(super) fn unanswered_ms(&self, sent: Option<Instant>) -> Option<u64> {
        let waited_ms = sent?.elapsed().as_millis() as u64;
        (waited_ms >= self.silence_max_ms).then_some(waited_ms)
    }
}

impl Default for LinkTimes {
    fn default() -> Self {
        Self {
            reconnect_delay_min_ms: 100,
            reconnect_delay_max_ms: 2_000,
            ping_interval_ms: 1_000,
            ping_timeout_ms: 2_000,
            silence_max_ms: 30_000,
        }
    }
}

/// The outages of a bus with errors `E`. An outage lasts from the first failure to the next
/// moment at which all subscriptions are confirmed, however many attempts fail in between.
#[derive(Debug)]
pub(super) struct Outages<E> {
    backoff: Backoff,
    state: LinkState<E>,
    was_up: bool,
}

#[derive(Debug)]
enum LinkState<E> {
    /// Nothing was tried yet.
    New,
    Away {
        since: Instant,
        /// Each kind of error that was logged in this outage, and when last: at most one entry for each variant of `E`.
        logged: Vec<(Discriminant<E>, Instant)>,
    },
    Up {
        since: Instant,
    },
}

/// How to log a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An outage begins.
    First,
    /// The outage continues, and no error of this kind was logged for a minute. The value is the duration of the outage
    /// so far.
    News(Duration),
    /// The outage continues for a reason that was logged within the last minute.
    Same,
}

/// The end of an outage: all subscriptions are confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    /// Whether all subscriptions were confirmed before in this process.
    pub(super) is_reconnect: bool,
    /// The duration of the outage. `None`: the first attempt succeeded.
    pub(super) away: Option<Duration>,
}

impl<E> Outages<E> {
    /// The delay between attempts doubles from `delay_min_ms` to `delay_max_ms`. Processes that lost the same server
    /// need different seeds, so that they do not all reconnect at the same moment.
    pub(super) fn new(delay_min_ms: u64, delay_max_ms: u64, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(delay_min_ms, delay_max_ms, seed),
            state: LinkState::New,
            was_up: false,
        }
    }

    /// Whether all subscriptions have been confirmed once.
    pub(super) fn was_up(&self) -> bool {
        self.was_up
    }

    /// Whether all subscriptions were confirmed, and nothing failed since.
    pub(super) fn is_up_now(&self) -> bool {
        matches!(self.state, LinkState::Up { .. })
    }

    /// Records a failed attempt, or the loss of a connection. Returns how to log it.
    pub(super) fn note_failure(&mut self, error: &E, now: Instant) -> Failure {
        let kind = discriminant(error);
        match &mut self.state {
            LinkState::Away { since, logged } => {
                match logged.iter_mut().find(|(of, _)| *of == kind) {
                    Some((_, at)) if now.duration_since(*at) < LOGGED_AGAIN_AFTER => {
                        return Failure::Same;
                    }
                    Some((_, at)) => *at = now,
                    None => logged.push((kind, now)),
                }
                Failure::News(now.duration_since(*since))
            }
            LinkState::New | LinkState::Up { .. } => {
                if let LinkState::Up { since } = self.state
                    && now.duration_since(since) >= STEADY_AFTER
                {
                    self.backoff.reset();
                }
                self.state = LinkState::Away {
                    since: now,
                    logged: vec![(kind, now)],
                };
                Failure::First
            }
        }
    }

    /// Records the end of an outage: all subscriptions are confirmed.
    pub(super) fn note_end(&mut self, now: Instant) -> Recovery {
        let away = match self.state {
            LinkState::Away { since, .. } => Some(now.duration_since(since)),
            LinkState::New | LinkState::Up { .. } => None,
        };
        self.state = LinkState::Up { since: now };
        Recovery {
            is_reconnect: std::mem::replace(&mut self.was_up, true),
            away,
        }
    }

    /// The time to wait before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }
}

/// The attempts at one task of a connection, such as setting up a consumer: its outages, and the time of the next
/// attempt.
#[derive(Debug)]
pub(super) struct Attempts<E> {
    outages: Outages<E>,
    /// `None` unless the last attempt failed.
    next: Option<Instant>,
}

impl<E> Attempts<E> {
    /// The delays between attempts double from `delay_min_ms` to `delay_max_ms`.
    pub(super) fn new(delay_min_ms: u64, delay_max_ms: u64) -> Self {
        // The seed comes from the keys of `RandomState`, which are random; what is hashed does not matter.
        let seed = RandomState::new().hash_one(delay_max_ms);
        Self {
            outages: Outages::new(delay_min_ms, delay_max_ms, seed),
            next: None,
        }
    }

    /// Whether the last attempt failed.
    pub(super) fn is_away(&self) -> bool {
        self.next.is_some()
    }

    /// Whether another attempt is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Makes the next attempt due now, because JetStream answers again.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.min(now));
    }

    /// Records a failed attempt. Returns how to log the failure.
    pub(super) fn note_failure(&mut self, error: &E, now: Instant) -> Failure {
        let failure = self.outages.note_failure(error, now);
        self.next = Some(now + self.outages.next_delay());
        failure
    }

    /// Records a successful attempt. Returns the length of the outage, if attempts had failed.
    pub(super) fn note_success(&mut self, now: Instant) -> Option<Duration> {
        let recovery = self.outages.note_end(now);
        // Without a failed attempt before, there was no outage.
        self.next.take().and(recovery.away)
    }
}

/// The delays between attempts to reach the bus: doubling, bounded, with jitter.
#[derive(Debug)]
struct Backoff {
    min_ms: u64,
    max_ms: u64,
    step_ms: u64,
    random: SplitMix64,
}

impl Backoff {
    /// The delays are milliseconds. Both are clamped to 1 to [`DELAY_MAX_MS`], and `max_ms` to at least `min_ms`.
    fn new(min_ms: u64, max_ms: u64, seed: u64) -> Self {
        let min_ms = min_ms.clamp(1, DELAY_MAX_MS);
        Self {
            min_ms,
            max_ms: max_ms.clamp(min_ms, DELAY_MAX_MS),
            step_ms: min_ms,
            random: SplitMix64::new(seed),
        }
    }

    /// The delay before the next attempt: between three quarters of the step and the whole step,
    /// so that the jitter never exceeds the settings.
    fn next_delay(&mut self) -> Duration {
        let step_ms = self.step_ms;
        self.step_ms = (step_ms * 2).min(self.max_ms);
        // A quarter of the step, microseconds.
        let jitter_us_max = step_ms * 250;
        let jitter_us = self.random.next_u64() % (jitter_us_max + 1);
        Duration::from_micros(step_ms * 1_000 - jitter_us)
    }

    /// Starts at the shortest delay again.
    fn reset(&mut self) {
        self.step_ms = self.min_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum ToyError {
        Refused,
        Lost,
    }

    #[test]
    fn an_outage_begins_once_and_each_kind_of_trouble_is_news_once() {
        let mut outages = Outages::new(100, 2_000, 1);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(
            outages.note_failure(&ToyError::Refused, at(0)),
            Failure::First
        );
        assert_eq!(
            outages.note_failure(&ToyError::Refused, at(100)),
            Failure::Same
        );
        let news = |ms| Failure::News(Duration::from_millis(ms));
        assert_eq!(outages.note_failure(&ToyError::Lost, at(200)), news(200));
        assert_eq!(
            outages.note_failure(&ToyError::Lost, at(300)),
            Failure::Same
        );
        assert_eq!(
            outages.note_failure(&ToyError::Refused, at(400)),
            Failure::Same
        );
        assert!(!outages.was_up());
        let first = outages.note_end(at(1_500));
        assert_eq!(first.away, Some(Duration::from_millis(1_500)));
        assert!(!first.is_reconnect && outages.was_up());
        assert_eq!(
            outages.note_failure(&ToyError::Lost, at(2_000)),
            Failure::First
        );
        let second = outages.note_end(at(2_100));
        assert_eq!(second.away, Some(Duration::from_millis(100)));
        assert!(second.is_reconnect);
    }

    #[test]
    fn an_outage_is_told_again_each_minute() {
        let mut outages = Outages::new(100, 2_000, 1);
        let start = Instant::now();
        let mut said = Vec::new();
        for second in 0..200 {
            let at = start + Duration::from_secs(second);
            if outages.note_failure(&ToyError::Refused, at) != Failure::Same {
                said.push(second);
            }
        }
        assert_eq!(said, [0, 60, 120, 180]);
    }

    /// As at a balancer with a server that refuses the login and one that is down.
    #[test]
    fn two_kinds_of_error_in_turn_are_each_logged_once_a_minute() {
        let mut outages = Outages::new(100, 2_000, 1);
        let start = Instant::now();
        let mut logged = Vec::new();
        for second in 0..130 {
            let error = if second % 2 == 0 {
                ToyError::Refused
            } else {
                ToyError::Lost
            };
            let at = start + Duration::from_secs(second);
            if outages.note_failure(&error, at) != Failure::Same {
                logged.push(second);
            }
        }
        assert_eq!(logged, [0, 1, 60, 61, 120, 121]);
    }

    #[test]
    fn a_first_attempt_that_is_good_ends_no_outage() {
        let mut outages = Outages::<ToyError>::new(100, 2_000, 1);
        let recovery = outages.note_end(Instant::now());
        let want = Recovery {
            is_reconnect: false,
            away: None,
        };
        assert_eq!(recovery, want);
    }

    #[test]
    fn only_what_stood_for_a_while_makes_the_next_attempt_soon_again() {
        let soon = Duration::from_millis(100);
        for (up_for, is_soon) in [
            (STEADY_AFTER, true),
            (STEADY_AFTER - Duration::from_millis(1), false),
        ] {
            let mut outages = Outages::new(100, 2_000, 1);
            let start = Instant::now();
            outages.note_failure(&ToyError::Refused, start);
            while outages.next_delay() < Duration::from_millis(1_500) {}
            outages.note_end(start);
            outages.note_failure(&ToyError::Refused, start + up_for);
            assert_eq!(outages.next_delay() <= soon, is_soon, "{up_for:?}");
        }
    }

    #[test]
    fn doubles_to_the_limit_and_never_over_it() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(100, 2_000, seed);
            for step_ms in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
                let delay = backoff.next_delay();
                assert!(delay <= Duration::from_millis(step_ms), "{delay:?}");
                assert!(delay >= Duration::from_millis(step_ms * 3 / 4), "{delay:?}");
            }
            backoff.reset();
            assert!(backoff.next_delay() <= Duration::from_millis(100));
        }
    }

    #[test]
    fn seeds_differ() {
        let first = |seed| Backoff::new(100, 2_000, seed).next_delay();
        let delays: std::collections::HashSet<_> = (1..50).map(first).collect();
        assert!(delays.len() > 30, "{delays:?}");
    }

    #[test]
    fn odd_settings_are_made_sound() {
        let mut backoff = Backoff::new(0, 0, 0);
        assert!(backoff.next_delay() <= Duration::from_millis(1));
        let mut backoff = Backoff::new(u64::MAX, 5, 0);
        assert!(backoff.next_delay() <= Duration::from_secs(3_600));
    }

    #[test]
    fn attempts_come_further_and_further_apart_and_a_good_one_ends_that() {
        let mut attempts = Attempts::new(1_000, 30_000);
        let error = ToyError::Refused;
        let mut now = Instant::now();
        let begun = now;
        assert!(!attempts.is_away() && attempts.is_due(now));
        assert_eq!(attempts.note_success(now), None);
        assert_eq!(attempts.note_failure(&error, now), Failure::First);
        for least_ms in [700, 1_500, 3_000, 6_000, 12_000, 22_000, 22_000] {
            assert!(attempts.is_away());
            assert!(!attempts.is_due(now + Duration::from_millis(least_ms)));
            now += Duration::from_secs(30);
            assert!(attempts.is_due(now));
            attempts.note_failure(&error, now);
        }
        attempts.hurry(now);
        assert!(attempts.is_away() && attempts.is_due(now));
        assert_eq!(attempts.note_success(now), Some(now - begun));
        attempts.hurry(now);
        assert!(!attempts.is_away());
        assert_eq!(attempts.note_success(now), None);
    }
}
