//! Where a message stands in its stream, and how far this process has come. Pure.

use crate::feeds::StreamPosition;

/// What a JetStream message's reply subject tells of it.
///
/// Two forms are in use (NATS ADR-15): `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.
/// <consumer seq>.<time>.<pending>`, nine tokens, and the same after `<domain>.<account hash>` and,
/// in most servers, before a random token: eleven or more. The crate's own parser refuses eleven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckSubject {
    /// Sequence number of the message in its stream.
    pub(super) stream_sequence: u64,
}

impl AckSubject {
    /// `None` when the subject is not one of JetStream's.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let stream_sequence = numbers(reply)?.next()?.parse().ok()?;
        Some(Self { stream_sequence })
    }

    /// Messages that the consumer has not delivered.
    pub(super) fn pending(reply: &str) -> Option<u64> {
        numbers(reply)?.nth(3)?.parse().ok()
    }
}

/// Stream sequence, consumer sequence, time, pending; before them stream, consumer, deliveries.
fn numbers(reply: &str) -> Option<impl Iterator<Item = &str>> {
    let tokens = reply.strip_prefix("$JS.ACK.")?;
    let skip = match tokens.split('.').count() {
        7 => 0,
        n if n >= 9 => 2,
        _ => return None,
    };
    Some(tokens.split('.').skip(skip + 3))
}

/// The state of a stream as the server tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamState {
    /// When it was created, Unix nanoseconds.
    pub(super) created_unix_ns: i64,
    /// The highest sequence number given out so far.
    pub(super) last_sequence: u64,
}

/// How far one subscription has come, over all connections of this process.
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

    /// Everything up to `sequence` is done.
    pub(super) fn reach(&mut self, sequence: u64) {
        self.reached = Some(sequence);
    }

    /// The position of `sequence` for the feed. The epoch is the stream's creation time, moved on
    /// where that would not make the epoch greater.
    pub(super) fn position(&self, sequence: u64) -> StreamPosition {
        StreamPosition {
            epoch: self.reported_unix_ns,
            sequence,
        }
    }

    /// Takes in what the server says of the stream now.
    ///
    /// A stream that was made anew while this process ran is read from its start: all of it is
    /// news. A stream of the same creation time whose last sequence is behind what was handed over
    /// (restored from a backup, or its host lost power before a sync) is reported as a new one too,
    /// otherwise everything would be dropped as old until it has caught up; what it holds is
    /// history, so it starts over from its last message.
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
}
