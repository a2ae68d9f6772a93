//! The position of a message in its stream, the progress of this process, and the acknowledgements
//! to send. Pure: callers pass the time.

use std::time::{Duration, Instant};

use crate::feeds::StreamPosition;

/// The content of a JetStream message's reply subject.
///
/// Two forms are in use (NATS ADR-15): `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.
/// <consumer seq>.<time>.<pending>`, nine tokens, and the same after `<domain>.<account hash>` and,
/// in most servers, before a random token: eleven or more. The crate's own parser refuses eleven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckSubject {
    /// Sequence number of the message in its stream.
    pub(super) stream_sequence: u64,
    /// Number of the delivery by the consumer.
    pub(super) consumer_sequence: u64,
    /// The time of storage, Unix nanoseconds.
    pub(super) stored_unix_ns: u64,
    /// The number of messages that the consumer has not delivered yet.
    pub(super) pending: u64,
}

impl AckSubject {
    /// Returns `None` for any other subject.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        // Domain, account; stream, consumer, deliveries; the four numbers.
        let (mut tokens, mut count) = ([""; 9], 0);
        for token in reply.strip_prefix("$JS.ACK.")?.split('.') {
            if let Some(place) = tokens.get_mut(count) {
                *place = token;
            }
            count += 1;
        }
        let first = match count {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |at: usize| tokens[first + at].parse().ok();
        Some(Self {
            stream_sequence: number(0)?,
            consumer_sequence: number(1)?,
            stored_unix_ns: number(2)?,
            pending: number(3)?,
        })
    }
}

/// The state of a stream, reported by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamState {
    /// The creation time, Unix nanoseconds.
    pub(super) created_unix_ns: i64,
    /// The highest sequence number given out so far.
    pub(super) last_sequence: u64,
}

/// The progress of a subscription, over all connections of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    created_unix_ns: i64,
    reported_unix_ns: i64,
    reached: Option<u64>,
}

impl Cursor {
    /// The last sequence that needs no relay any more: handed over, or older than the warm-up.
    /// `None` before the first subscription and after a stream went back in time.
    pub(super) fn reached(&self) -> Option<u64> {
        self.reached
    }

    /// Records that everything up to `sequence` is done.
    pub(super) fn reach(&mut self, sequence: u64) {
        self.reached = Some(sequence);
    }

    /// The position of `sequence` for the feed. The epoch is the stream's creation time, or a later
    /// number if the creation time would not make the epoch greater.
    pub(super) fn position(&self, sequence: u64) -> StreamPosition {
        StreamPosition {
            epoch: self.reported_unix_ns,
            sequence,
        }
    }

    /// Takes in the state of the stream, reported by the server now.
    ///
    /// A stream made anew while this process ran is read from the start: all messages are news. A
    /// stream of the same creation time with a last sequence after the cursor (restored from a
    /// backup, or the host lost power before a sync) is reported as a new stream too; otherwise
    /// everything would be dropped as old until the stream has caught up. The messages of such a
    /// stream are history, so the relay starts over from the last message.
    pub(super) fn observe(&mut self, stream: StreamState) {
        let same = self.created_unix_ns == stream.created_unix_ns;
        match self.reached {
            None if self.reported_unix_ns == 0 => self.reported_unix_ns = stream.created_unix_ns,
            Some(reached) if same && stream.last_sequence < reached => {
                self.reported_unix_ns += 1;
                self.reached = None;
            }
            _ if same => {}
            reached => {
                self.reported_unix_ns = stream.created_unix_ns.max(self.reported_unix_ns + 1);
                self.reached = reached.map(|_| 0);
            }
        }
        self.created_unix_ns = stream.created_unix_ns;
    }
}

/// The limit on acknowledgements sent together.
const OWED_MAX: i64 = 64;
/// The divisor for a consumer's limit of unacknowledged messages and for the consumer's timeout.
/// Waiting acknowledgements use at most this share, so no limit of another client's consumer is
/// reached.
const SHARE: u8 = 8;
/// How long an acknowledgement waits for others.
const WAIT: Duration = Duration::from_millis(200);
/// The server's timeout for an acknowledgement if a consumer sets none.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The acknowledgements to send to a consumer, several at a time.
///
/// Each write is a system call here and work for the server. No message waits for its acknowledgement, so the
/// acknowledgements of a fifth of a second leave together. The effect: after a kill, the messages of this time may
/// be delivered a second time, and the [`Cursor`] recognises them.
#[derive(Debug)]
pub(super) struct Acks {
    /// The subjects to publish to.
    owed: Vec<String>,
    /// When the first message with a waiting acknowledgement was handed over.
    since: Option<Instant>,
    max: usize,
    wait: Duration,
}

impl Acks {
    /// Makes a queue for a consumer that stops at `ack_pending_max` unacknowledged messages (0 or
    /// less: never) and redelivers messages not acknowledged within `ack_wait` (0: the server's
    /// default).
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

    /// Queues the acknowledgement of a message handed over at `now`. Returns whether to send the
    /// queue now: because the queue is long, or has waited long.
    #[must_use]
    pub(super) fn owe(&mut self, subject: String, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.owed.push(subject);
        self.owed.len() >= self.max || now.duration_since(since) >= self.wait
    }

    /// When to send the queue if no other message comes: later than in [`Self::owe`], so steady
    /// messages need no timer.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.wait * 2)
    }

    /// Takes the queued acknowledgements, in the order of the hand-over.
    pub(super) fn take(&mut self) -> impl Iterator<Item = String> {
        self.since = None;
        self.owed.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_are_read() {
        let old = "$JS.ACK.LEVEL_SIGNALS.gateway_levels.1.4711.22.1700000000000000000.9";
        let new = "$JS.ACK._.accHash.LEVEL_SIGNALS.gateway_levels.1.4711.22.1700000000000000000.9";
        let newest = format!("{new}.r4nd0m");
        let want = Some(AckSubject {
            stream_sequence: 4711,
            consumer_sequence: 22,
            stored_unix_ns: 1_700_000_000_000_000_000,
            pending: 9,
        });
        for subject in [old, new, newest.as_str()] {
            assert_eq!(AckSubject::parse(subject), want, "{subject}");
        }
    }

    #[test]
    fn others_are_refused() {
        for subject in [
            "",
            "_INBOX.abc",
            "$JS.ACK.",
            "$JS.ACK.s.c.1.2.3.4",
            "$JS.ACK.s.c.1.x.3.4.5",
            "$JS.ACK.d.a.s.c.1.2.3.4",
            "$JS.FC.s.c.x",
        ] {
            assert_eq!(AckSubject::parse(subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn no_subject_panics(subject in "(\\$JS\\.ACK\\.)?[a-z0-9.]{0,60}") {
            let _ = AckSubject::parse(&subject);
        }
    }

    const fn stream(created_unix_ns: i64, last_sequence: u64) -> StreamState {
        StreamState {
            created_unix_ns,
            last_sequence,
        }
    }

    #[test]
    fn same_stream_goes_on() {
        let mut cursor = Cursor::default();
        cursor.observe(stream(50, 7));
        assert_eq!(cursor.reached(), None);
        cursor.reach(7);
        cursor.observe(stream(50, 9));
        assert_eq!(cursor.reached(), Some(7));
        assert_eq!(cursor.position(8).epoch, 50);
    }

    #[test]
    fn new_stream_starts_over_and_counts_as_newer() {
        let mut cursor = Cursor::default();
        cursor.observe(stream(50, 7));
        cursor.reach(7);
        cursor.observe(stream(60, 2));
        assert_eq!(cursor.reached(), Some(0));
        assert_eq!(cursor.position(1).epoch, 60);
        // an older backup in the place of the stream is newer to us all the same
        cursor.observe(stream(10, 2));
        assert_eq!(cursor.reached(), Some(0));
        assert_eq!(cursor.position(1).epoch, 61);
    }

    #[test]
    fn stream_that_lost_its_tail_counts_as_newer() {
        let mut cursor = Cursor::default();
        cursor.observe(stream(50, 7));
        cursor.reach(7);
        cursor.observe(stream(50, 3));
        assert_eq!(cursor.reached(), None);
        assert_eq!(cursor.position(4).epoch, 51);
        // seen again before anything was reached: nothing changes
        cursor.observe(stream(50, 3));
        assert_eq!(cursor.position(4).epoch, 51);
    }

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
