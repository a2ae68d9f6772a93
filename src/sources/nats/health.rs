//! Whether JetStream answers about a consumer, and whether what it holds comes. Pure: the moments
//! come in.

use std::time::{Duration, Instant};

use crate::telemetry::Stall;

/// A consumer with messages on the server, of which none was handed over for this long, is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The well-being of one subscription on one connection.
#[derive(Debug)]
pub(super) struct Health {
    heard: Instant,
    /// The last attempt to attach it.
    attached: Instant,
    /// The last message that was news.
    handed: Instant,
    is_silent: bool,
    stall: Option<Stall>,
}

impl Health {
    /// A subscription that is attached now, on a new connection.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            attached: now,
            handed: now,
            is_silent: false,
            stall: None,
        }
    }

    /// It is attached again, or that was tried.
    pub(super) fn attached(&mut self, now: Instant) {
        self.attached = now;
        self.handed = now;
    }

    /// A message was handed over.
    pub(super) fn handed(&mut self, now: Instant) {
        self.handed = now;
    }

    /// JetStream answered, whatever. Returns whether a silence ends.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        self.heard = now;
        std::mem::take(&mut self.is_silent)
    }

    /// How long JetStream is silent, at the first call for which that is `after` or more.
    pub(super) fn falls_silent(&mut self, now: Instant, after: Duration) -> Option<Duration> {
        let silent = now.duration_since(self.heard);
        (silent >= after && !std::mem::replace(&mut self.is_silent, true)).then_some(silent)
    }

    /// Whether to attach it again, which is tried once in this time of silence.
    pub(super) fn is_to_be_attached(&self, now: Instant, every: Duration) -> bool {
        let over = |since| now.duration_since(since) >= every;
        self.is_silent && over(self.heard) && over(self.attached)
    }

    /// Takes in what the server said of the consumer. `Some`: what it suffers from has changed.
    pub(super) fn judge(
        &mut self,
        pending: u64,
        awaits_acks: bool,
        now: Instant,
    ) -> Option<Option<Stall>> {
        let nothing_comes = pending > 0 && now.duration_since(self.handed) >= STALLED_AFTER;
        let stall = nothing_comes.then_some(if awaits_acks {
            Stall::AcksRefused
        } else {
            Stall::NothingDelivered
        });
        (std::mem::replace(&mut self.stall, stall) != stall).then_some(stall)
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
        let mut health = Health::new(start);
        assert_eq!(health.judge(0, true, at(9)), None);
        assert_eq!(health.judge(1, true, at(9)), Some(Some(Stall::AcksRefused)));
        assert_eq!(health.judge(1, true, at(10)), None);
        let other = Some(Some(Stall::NothingDelivered));
        assert_eq!(health.judge(1, false, at(11)), other);
        health.handed(at(12));
        assert_eq!(health.judge(1, false, at(16)), Some(None));
        assert_eq!(health.judge(1, false, at(17)), other);
        assert_eq!(health.judge(0, false, at(18)), Some(None));
    }
}
