//! The health of a subscription on a connection: whether JetStream answers about its consumer, and whether the messages
//! that the server has for it arrive. Pure: callers pass the answers and the time.

use std::time::{Duration, Instant};

use super::api::{ApiError, request_failed};
use super::error::{ANSWER, NatsError};
use weirgate_runtime::Stall;

/// A consumer is stalled if the server has held messages for this long and none was handed over.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The health of a subscription on a connection.
#[derive(Debug)]
pub(super) struct Health {
    /// The time of the last answer of JetStream.
    pub(super) last_received: Instant,
    /// The time of the last attempt to attach, successful or not.
    pub(super) attached: Instant,
    /// The time of the last new message that was handed over.
    pub(super) handed: Instant,
    /// Since when the server reports pending messages; `None`: it reports none.
    holds_since: Option<Instant>,
    /// The time of the last refused acknowledgement.
    pub(super) acks_refused: Option<Instant>,
    /// Whether [`Self::falls_silent`] has returned the present silence.
    is_silent: bool,
    /// What the server has said in place of JetStream since the last answer, if anything: the cause of the silence.
    pub(super) refused: Option<ApiError>,
    /// Why messages do not arrive, by the server's last counts; `None`: they arrive, or none wait.
    pub(super) stall: Option<Stall>,
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
            last_received: now,
            attached: now,
            handed: now,
            holds_since: None,
            acks_refused: None,
            is_silent: false,
            refused: None,
            stall: None,
        }
    }

    /// Records any answer of JetStream. Returns whether a silence ends.
    pub(super) fn note_received(&mut self, now: Instant) -> bool {
        self.last_received = now;
        self.refused = None;
        std::mem::take(&mut self.is_silent)
    }

    /// The error for the silence of JetStream.
    pub(super) fn silence(&self) -> NatsError {
        match &self.refused {
            Some(refused) => request_failed(ANSWER.to_owned(), refused.clone()),
            None => NatsError::unanswered(),
        }
    }

    /// How long JetStream has been silent.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.last_received)
    }

    /// Returns the length of JetStream's silence once: at the first call after it has reached `after`.
    pub(super) fn falls_silent(&mut self, now: Instant, after: Duration) -> Option<Duration> {
        let silent = self.silent_for(now);
        (silent >= after && !std::mem::replace(&mut self.is_silent, true)).then_some(silent)
    }

    /// Whether JetStream has said nothing and delivered nothing for `after`.
    pub(super) fn hears_nothing(&self, now: Instant, after: Duration) -> bool {
        self.silent_for(now) >= after && now.duration_since(self.handed) >= after
    }

    /// Whether to attach again because of silence: once in each period `every`.
    pub(super) fn is_silent_too_long(&self, now: Instant, every: Duration) -> bool {
        let over = |since| now.duration_since(since) >= every;
        self.is_silent && over(self.last_received) && over(self.attached)
    }

    /// Whether to attach again because messages are held and not delivered: once in each period `every`.
    pub(super) fn is_stalled_too_long(&self, now: Instant, every: Duration) -> bool {
        let over = |since| now.duration_since(since) >= every;
        self.stall == Some(Stall::NothingDelivered)
            && self.holds_since.is_some_and(over)
            && over(self.handed)
            && over(self.attached)
    }

    /// Judges the server's counts for the consumer. Returns whether [`Self::stall`] has changed.
    pub(super) fn judge(&mut self, counts: Counts, now: Instant) -> bool {
        let is_long_ago = |at| now.duration_since(at) >= STALLED_AFTER;
        // The counts may be older than the refusal.
        if counts.ack_pending == 0 && self.acks_refused.is_some_and(is_long_ago) {
            self.acks_refused = None;
        }
        self.holds_since = match counts.pending {
            0 => None,
            _ => Some(self.holds_since.unwrap_or(now)),
        };
        let last_progress = self.handed.max(self.attached);
        let nothing_comes = self.holds_since.is_some_and(is_long_ago) && is_long_ago(last_progress);
        let stall = if self.acks_refused.is_some() || (nothing_comes && counts.is_full) {
            Some(Stall::AcksRefused)
        } else {
            nothing_comes.then_some(Stall::NothingDelivered)
        };
        std::mem::replace(&mut self.stall, stall) != stall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stall after these counts, if it has changed.
    fn judged(health: &mut Health, counts: Counts, now: Instant) -> Option<Option<Stall>> {
        health.judge(counts, now).then_some(health.stall)
    }

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
        assert!(!health.is_silent_too_long(at(29), thirty));
        assert!(health.is_silent_too_long(at(30), thirty));
        health.attached = at(30);
        assert!(!health.is_silent_too_long(at(59), thirty));
        assert!(health.is_silent_too_long(at(60), thirty));
        assert!(health.note_received(at(61)) && !health.note_received(at(62)));
        assert!(!health.is_silent_too_long(at(100), thirty));
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
        assert_eq!(judged(&mut health, holds(0, true), at(9)), None);
        // The subject was quiet, and this message is on its way.
        assert_eq!(judged(&mut health, holds(1, true), at(9)), None);
        assert_eq!(judged(&mut health, holds(1, true), at(13)), None);
        let full = Some(Some(Stall::AcksRefused));
        assert_eq!(judged(&mut health, holds(1, true), at(14)), full);
        assert_eq!(judged(&mut health, holds(1, true), at(15)), None);
        let other = Some(Some(Stall::NothingDelivered));
        assert_eq!(judged(&mut health, holds(1, false), at(16)), other);
        health.handed = at(17);
        assert_eq!(judged(&mut health, holds(1, false), at(21)), Some(None));
        assert_eq!(judged(&mut health, holds(1, false), at(22)), other);
        assert_eq!(judged(&mut health, holds(0, false), at(23)), Some(None));
        // A consumer that stands still is replaced, once in a while.
        let thirty = Duration::from_secs(30);
        let mut still = Health::new(start);
        for second in 0..36 {
            let _ = still.judge(holds(1, false), at(second));
            assert_eq!(still.is_stalled_too_long(at(second), thirty), second >= 30);
        }
        still.attached = at(36);
        assert!(!still.is_stalled_too_long(at(65), thirty));
        // While messages arrive there is no stall, however far behind.
        for second in 30..50 {
            health.handed = at(second);
            assert_eq!(judged(&mut health, holds(9, false), at(second)), None);
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
        health.acks_refused = Some(at(1));
        let refused = Some(Some(Stall::AcksRefused));
        // The server sent this count before the refusal.
        assert_eq!(judged(&mut health, owed(0), at(1)), refused);
        assert_eq!(judged(&mut health, owed(1), at(9)), None);
        assert_eq!(judged(&mut health, owed(0), at(10)), Some(None));
    }
}
