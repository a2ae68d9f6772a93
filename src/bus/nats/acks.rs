//! Acknowledgements to the consumers of subjects, several at a time. Pure.

use std::time::{Duration, Instant};

/// The limit on acknowledgements sent together.
const OWED_MAX: i64 = 64;
/// The divisor for a consumer's limit of unacknowledged messages and for the consumer's timeout. Waiting
/// acknowledgements use at most this share, so the limits of a consumer that another client made
/// are not reached.
const SHARE: u8 = 8;
/// How long an acknowledgement waits for others.
const WAIT: Duration = Duration::from_millis(200);
/// The server's timeout for an acknowledgement if a consumer sets none.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The acknowledgements to send to a consumer, several at a time.
///
/// Each write is a system call here and work for the server. No message waits for its acknowledgement, so the
/// acknowledgements of a fifth of a second are sent together. The effect: after a kill, the messages of this time may
/// be delivered a second time, and the subscription's cursor recognises them.
#[derive(Debug)]
pub(super) struct BatchedAcks {
    /// The subjects to publish to.
    subjects: Vec<String>,
    /// When the first message with a waiting acknowledgement was handed over.
    since: Option<Instant>,
    max: usize,
    wait: Duration,
}

impl BatchedAcks {
    /// Makes a queue for a consumer that stops at `ack_pending_max` unacknowledged messages (0 or less: never) and
    /// redelivers messages not acknowledged within `ack_wait` (0: the server's default).
    pub(super) fn new(ack_pending_max: i64, ack_wait: Duration) -> Self {
        let share = match ack_pending_max {
            ..=0 => OWED_MAX,
            limit => (limit / i64::from(SHARE)).clamp(1, OWED_MAX),
        };
        let patience = match ack_wait.is_zero() {
            true => ACK_WAIT,
            false => ack_wait,
        };
        Self {
            subjects: Vec::new(),
            since: None,
            max: usize::try_from(share).unwrap_or(1),
            wait: WAIT.min(patience / u32::from(SHARE)),
        }
    }

    /// Queues the acknowledgement of a message handed over at `now`. Returns whether to send the queue now: because the
    /// queue is long, or has waited long.
    #[must_use]
    pub(super) fn owe(&mut self, subject: String, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.subjects.push(subject);
        self.subjects.len() >= self.max || now.duration_since(since) >= self.wait
    }

    /// When to send the queue if no other message comes: later than in [`Self::owe`], so steady messages need no timer.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.wait * 2)
    }

    /// Takes the queued acknowledgements, in the order of the hand-over.
    pub(super) fn take(&mut self) -> impl Iterator<Item = String> {
        self.since = None;
        self.subjects.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owe(acks: &mut BatchedAcks, count: usize, now: Instant) -> bool {
        (0..count).fold(false, |_, n| acks.owe(n.to_string(), now))
    }

    #[test]
    fn steady_messages_send_together_and_need_no_timer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut acks = BatchedAcks::new(512, Duration::ZERO);
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
        let mut acks = BatchedAcks::new(512, Duration::ZERO);
        assert!(!owe(&mut acks, 63, now));
        assert!(owe(&mut acks, 1, now));
        assert_eq!(acks.take().count(), 64);
        assert!(!owe(&mut BatchedAcks::new(-1, Duration::ZERO), 63, now));
    }

    #[test]
    fn the_limits_of_a_consumer_of_others_stay_far_away() {
        let now = Instant::now();
        for alone in 1..16 {
            assert!(
                owe(&mut BatchedAcks::new(alone, ACK_WAIT), 1, now),
                "{alone}"
            );
        }
        let mut small = BatchedAcks::new(64, ACK_WAIT);
        assert!(!owe(&mut small, 7, now) && owe(&mut small, 1, now));
        let mut hasty = BatchedAcks::new(512, Duration::from_millis(80));
        assert!(!owe(&mut hasty, 1, now));
        assert_eq!(hasty.due(), Some(now + Duration::from_millis(20)));
        assert!(owe(&mut hasty, 1, now + Duration::from_millis(10)));
    }
}
