//! The health of a subscription: whether JetStream answers about the consumer, whether messages
//! arrive, and when to attach again. Pure: callers pass the time.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::error::NatsError;
use crate::sources::outage::{Failure, Outages};
use crate::telemetry::Stall;

/// A consumer is stalled if the server held messages for so long, and none was handed over.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The health of a subscription on a connection.
#[derive(Debug)]
pub(super) struct Health {
    heard: Instant,
    /// The time of the last attempt to attach.
    attached: Instant,
    /// The time of the last new message.
    handed: Instant,
    /// Since when the server reports pending messages.
    holds_since: Option<Instant>,
    /// The time of the last refused acknowledgement.
    acks_refused: Option<Instant>,
    is_silent: bool,
    stall: Option<Stall>,
}

/// The server's counts for a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages not delivered yet.
    pub(super) pending: u64,
    /// Messages delivered and not acknowledged.
    pub(super) ack_pending: u64,
    /// The consumer delivers no more until a message is acknowledged.
    pub(super) is_full: bool,
}

impl Health {
    /// The health of a subscription attached now, on a new connection.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            attached: now,
            handed: now,
            holds_since: None,
            acks_refused: None,
            is_silent: false,
            stall: None,
        }
    }

    /// Records an attempt to attach, successful or not.
    pub(super) fn attached(&mut self, now: Instant) {
        self.attached = now;
        self.handed = now;
    }

    /// Records the hand-over of a message.
    pub(super) fn handed(&mut self, now: Instant) {
        self.handed = now;
    }

    /// Records any answer of JetStream. Returns whether a silence ends.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        self.heard = now;
        std::mem::take(&mut self.is_silent)
    }

    /// Restarts the measure of JetStream's silence: a silence of the whole link says nothing about
    /// JetStream.
    pub(super) fn link_was_silent(&mut self, now: Instant) {
        self.heard = now;
    }

    /// How long JetStream has been silent.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.heard)
    }

    /// The length of JetStream's silence, at the first call with a length of `after` or more.
    pub(super) fn falls_silent(&mut self, now: Instant, after: Duration) -> Option<Duration> {
        let silent = self.silent_for(now);
        (silent >= after && !std::mem::replace(&mut self.is_silent, true)).then_some(silent)
    }

    /// Whether to attach again: once in each period `every` of silence.
    pub(super) fn is_to_be_attached(&self, now: Instant, every: Duration) -> bool {
        let over = |since| now.duration_since(since) >= every;
        self.is_silent && over(self.heard) && over(self.attached)
    }

    /// Records a refused acknowledgement.
    pub(super) fn ack_refused(&mut self, now: Instant) {
        self.acks_refused = Some(now);
    }

    /// Judges the server's counts for the consumer. Returns `Some` if the stall has changed.
    pub(super) fn judge(&mut self, counts: Counts, now: Instant) -> Option<Option<Stall>> {
        let is_long_ago = |at| now.duration_since(at) >= STALLED_AFTER;
        // The counts may be older than the refusal.
        if counts.ack_pending == 0 && self.acks_refused.is_some_and(is_long_ago) {
            self.acks_refused = None;
        }
        self.holds_since = match counts.pending {
            0 => None,
            _ => Some(self.holds_since.unwrap_or(now)),
        };
        let nothing_comes = self.holds_since.is_some_and(is_long_ago) && is_long_ago(self.handed);
        let stall = if self.acks_refused.is_some() || (nothing_comes && counts.is_full) {
            Some(Stall::AcksRefused)
        } else {
            nothing_comes.then_some(Stall::NothingDelivered)
        };
        (std::mem::replace(&mut self.stall, stall) != stall).then_some(stall)
    }
}

/// The attempts to attach a subscription, over all connections: the start of the outage, the errors
/// logged, and the time of the next attempt.
#[derive(Debug)]
pub(super) struct Attempts {
    outages: Outages<NatsError>,
    /// `None` unless the last attempt failed.
    next: Option<Instant>,
}

impl Attempts {
    /// The delays between attempts double from `delay_min_ms` to `delay_max_ms`.
    pub(super) fn new(delay_min_ms: u64, delay_max_ms: u64) -> Self {
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

    /// Makes the next attempt due: JetStream answers again.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.min(now));
    }

    /// Records a failed attempt. Returns how to log the failure.
    pub(super) fn failed(&mut self, error: &NatsError, now: Instant) -> Failure {
        let failure = self.outages.failed(error, now);
        self.next = Some(now + self.outages.next_delay());
        failure
    }

    /// Records a successful attempt. Returns the length of the outage, if attempts had failed.
    pub(super) fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        let recovery = self.outages.ended(now);
        self.next.take().and(recovery.away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_and_ends_with_any_answer() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let (six, thirty) = (Duration::from_secs(6), Duration::from_secs(30));
        let mut health = Health::new(start);
        assert_eq!(health.falls_silent(at(5), six), None);
        assert_eq!(
            health.falls_silent(at(7), six),
            Some(Duration::from_secs(7))
        );
        assert_eq!(health.falls_silent(at(8), six), None);
        assert!(!health.is_to_be_attached(at(29), thirty));
        assert!(health.is_to_be_attached(at(30), thirty));
        health.attached(at(30));
        assert!(!health.is_to_be_attached(at(59), thirty));
        assert!(health.is_to_be_attached(at(60), thirty));
        assert!(health.heard(at(61)) && !health.heard(at(62)));
        assert!(!health.is_to_be_attached(at(100), thirty));
    }

    #[test]
    fn messages_that_wait_while_none_comes_are_a_stall() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let holds = |pending, is_full| Counts {
            pending,
            ack_pending: 7,
            is_full,
        };
        let mut health = Health::new(start);
        assert_eq!(health.judge(holds(0, true), at(9)), None);
        // The subject was quiet, and this message is on its way.
        assert_eq!(health.judge(holds(1, true), at(9)), None);
        assert_eq!(health.judge(holds(1, true), at(13)), None);
        let full = Some(Some(Stall::AcksRefused));
        assert_eq!(health.judge(holds(1, true), at(14)), full);
        assert_eq!(health.judge(holds(1, true), at(15)), None);
        let other = Some(Some(Stall::NothingDelivered));
        assert_eq!(health.judge(holds(1, false), at(16)), other);
        health.handed(at(17));
        assert_eq!(health.judge(holds(1, false), at(21)), Some(None));
        assert_eq!(health.judge(holds(1, false), at(22)), other);
        assert_eq!(health.judge(holds(0, false), at(23)), Some(None));
        // While messages arrive there is no stall, however far behind.
        for second in 30..50 {
            health.handed(at(second));
            assert_eq!(health.judge(holds(9, false), at(second)), None);
        }
    }

    #[test]
    fn an_acknowledgement_that_was_refused_counts_until_none_is_owed() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let owed = |ack_pending| Counts {
            pending: 0,
            ack_pending,
            is_full: false,
        };
        let mut health = Health::new(start);
        health.ack_refused(at(1));
        let refused = Some(Some(Stall::AcksRefused));
        // The server sent this count before the refusal.
        assert_eq!(health.judge(owed(0), at(1)), refused);
        assert_eq!(health.judge(owed(1), at(9)), None);
        assert_eq!(health.judge(owed(0), at(10)), Some(None));
    }

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
