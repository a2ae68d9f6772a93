//! How far the stream of a subject was relayed: the cursor of a subscription. Pure.

use super::streams::StreamHead;

/// The last message that needs no relay any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) sequence: u64,
    /// When it was stored, Unix nanoseconds; `None`: unknown.
    pub(super) stored_unix_ns: Option<u64>,
}

/// The progress of a subscription, over all connections of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    pub(super) created_unix_ns: i64,
    /// The epoch of the positions: the stream's creation time, or a later number if the creation time would not make it
    /// greater.
    pub(super) epoch: i64,
    /// The last sequence that needs no relay any more: handed over, or older than the warm-up. `None` before the first
    /// subscription and after a stream went back in time.
    pub(super) reached: Option<u64>,
    /// When the message `reached` was stored, Unix nanoseconds; `None`: unknown.
    pub(super) stored_unix_ns: Option<u64>,
}

impl Cursor {
    /// Takes in the state of the stream, reported by the server now.
    ///
    /// A stream made anew while this process ran is read from the start: all its messages are news. A stream of the
    /// same creation time whose last sequence is before the cursor (restored from a backup, or the host lost power
    /// before a sync) is reported as a new stream too; otherwise the feed would drop every message as old until the
    /// stream has caught up. The messages of such a stream are history, so the relay starts over from the last message.
    ///
    /// Returns whether the stream went back in time.
    pub(super) fn observe(&mut self, stream: StreamHead) -> bool {
        let same = self.created_unix_ns == stream.created_unix_ns;
        match self.reached {
            None if self.epoch == 0 => self.epoch = stream.created_unix_ns,
            Some(reached) if same && stream.last_sequence < reached => {
                self.start_over();
                return true;
            }
            _ if same => {}
            reached => {
                self.epoch = stream.created_unix_ns.max(self.epoch + 1);
                self.reached = reached.map(|_| 0);
                self.stored_unix_ns = None;
            }
        }
        self.created_unix_ns = stream.created_unix_ns;
        false
    }

    /// The last message that needs no relay any more, and when it was stored; `None`: unknown.
    pub(super) fn message(&self) -> Option<(u64, u64)> {
        self.reached.zip(self.stored_unix_ns)
    }

    /// Begins with the last message of a stream that went back in time.
    pub(super) fn start_over(&mut self) {
        self.epoch += 1;
        self.reached = None;
        self.stored_unix_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(cursor: &mut Cursor, created_unix_ns: i64, last_sequence: u64) {
        cursor.observe(StreamHead {
            created_unix_ns,
            last_sequence,
        });
    }

    /// A cursor that has handed over all seven messages of a stream.
    fn at_the_end() -> Cursor {
        let mut cursor = Cursor::default();
        observe(&mut cursor, 50, 7);
        assert_eq!(cursor.reached, None);
        cursor.reached = Some(7);
        cursor
    }

    #[test]
    fn same_stream_goes_on() {
        let mut cursor = at_the_end();
        observe(&mut cursor, 50, 9);
        assert_eq!((cursor.reached, cursor.epoch), (Some(7), 50));
    }

    #[test]
    fn new_stream_starts_over_and_counts_as_newer() {
        let mut cursor = at_the_end();
        // The second is an older backup in the place of the stream: newer to us all the same.
        for (created_unix_ns, epoch) in [(60, 60), (10, 61)] {
            observe(&mut cursor, created_unix_ns, 2);
            assert_eq!((cursor.reached, cursor.epoch), (Some(0), epoch));
        }
    }

    #[test]
    fn stream_that_lost_its_tail_counts_as_newer() {
        let mut cursor = at_the_end();
        // Seen again before anything was reached, nothing changes.
        for _ in 0..2 {
            observe(&mut cursor, 50, 3);
            assert_eq!((cursor.reached, cursor.epoch), (None, 51));
        }
    }
}
