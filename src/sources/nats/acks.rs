//! Acknowledgements that are owed to a consumer, sent several at a time. Pure: the moments come in.
//!
//! The crate wakes a thread for each acknowledgement that follows another by more than 5 ms, and
//! that thread makes a system call: at 20 messages a second a quarter of what a message costs. No
//! message waits for its acknowledgement, so those of a fifth of a second leave together. What that
//! changes: a process that is killed may get the messages of this time a second time, which the
//! cursor knows.

use std::time::{Duration, Instant};

/// Acknowledgements that leave together at most.
const OWED_MAX: i64 = 64;
/// The part of a consumer's limit of unacknowledged messages that may be owed, and of its patience:
/// no limit of somebody else's consumer is reached because we wait.
const SHARE: u8 = 8;
/// How long an acknowledgement waits for others.
const WAIT: Duration = Duration::from_millis(200);
/// What the server waits for an acknowledgement where a consumer says nothing of it.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// What is owed to one consumer.
#[derive(Debug)]
pub(super) struct Acks {
    /// The subjects to publish to.
    owed: Vec<String>,
    /// When the first of them was handed over.
    since: Option<Instant>,
    max: usize,
    wait: Duration,
}

impl Acks {
    /// For a consumer that stops at so many unacknowledged messages (0 or less: at none), and
    /// delivers again what was not acknowledged within `ack_wait` (0: the server's default).
    pub(super) fn new(ack_pending_max: i64, ack_wait: Duration) -> Self {
        let share = match ack_pending_max {
            ..=0 => OWED_MAX,
            limit => (limit / i64::from(SHARE)).clamp(1, OWED_MAX),
        };
        let patience = if ack_wait.is_zero() {
            ACK_WAIT
        } else {
            ack_wait
        };
        Self {
            owed: Vec::new(),
            since: None,
            max: usize::try_from(share).unwrap_or(1),
            wait: WAIT.min(patience / u32::from(SHARE)),
        }
    }

    /// A message was handed over at `now`. Returns whether to send what is owed: because it is
    /// much, or has waited.
    #[must_use]
    pub(super) fn owe(&mut self, subject: String, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.owed.push(subject);
        self.owed.len() >= self.max || now.duration_since(since) >= self.wait
    }

    /// When to send what is owed if no other message comes: later than [`Self::owe`] says, so that
    /// steady messages need no timer.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.wait * 2)
    }

    /// Takes what is owed, in the order in which it was handed over.
    pub(super) fn take(&mut self) -> impl Iterator<Item = String> {
        self.since = None;
        self.owed.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owe(acks: &mut Acks, count: usize, now: Instant) -> bool {
        (0..count).fold(false, |_, n| acks.owe(n.to_string(), now))
    }

    #[test]
    fn steady_messages_send_together_and_need_no_timer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut acks = Acks::new(512, Duration::ZERO);
        assert_eq!(acks.due(), None);
        let sent: Vec<u64> = (0..40)
            .map(|n| n * 50)
            .filter(|&ms| {
                let sends = acks.owe(ms.to_string(), at(ms));
                assert!(acks.due() > Some(at(ms)));
                if sends {
                    assert_eq!(acks.take().count(), 5);
                }
                sends
            })
            .collect();
        assert_eq!(sent, [200, 450, 700, 950, 1_200, 1_450, 1_700, 1_950]);
        assert_eq!(acks.due(), None);
        assert!(!owe(&mut acks, 2, at(5_000)));
        assert_eq!(acks.due(), Some(at(5_400)));
        assert_eq!(acks.take().collect::<Vec<_>>(), ["0", "1"]);
    }

    #[test]
    fn a_burst_does_not_wait() {
        let now = Instant::now();
        let mut acks = Acks::new(512, Duration::ZERO);
        assert!(!owe(&mut acks, 63, now));
        assert!(owe(&mut acks, 1, now));
        assert_eq!(acks.take().count(), 64);
        assert!(!owe(&mut Acks::new(-1, Duration::ZERO), 63, now));
    }

    #[test]
    fn the_limits_of_a_consumer_of_others_stay_far_away() {
        let now = Instant::now();
        for alone in 1..16 {
            assert!(owe(&mut Acks::new(alone, ACK_WAIT), 1, now), "{alone}");
        }
        let mut small = Acks::new(64, ACK_WAIT);
        assert!(!owe(&mut small, 7, now) && owe(&mut small, 1, now));
        let mut hasty = Acks::new(512, Duration::from_millis(80));
        assert!(!owe(&mut hasty, 1, now));
        assert_eq!(hasty.due(), Some(now + Duration::from_millis(20)));
        assert!(owe(&mut hasty, 1, now + Duration::from_millis(10)));
    }
}
