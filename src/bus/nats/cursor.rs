//! How far the stream of a subject was relayed: the cursor of a subscription. Pure.

use super::streams::StreamHead;

/// The last message that needs no relay any more: handed over, or older than the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) sequence: u64,
    /// When it was stored, Unix nanoseconds; `None`: unknown.
    pub(super) stored_unix_ns: Option<u64>,
}

impl Reached {
    /// A message of which only the number is known.
    pub(super) const fn number(sequence: u64) -> Self {
        Self {
            sequence,
            stored_unix_ns: None,
        }
    }
}

/// The progress of a subscription, over all connections of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// When the stream was made, by its last state; 0 before the first.
    created_unix_ns: i64,
    /// The epoch of the positions: the stream's creation time, or a later number if the creation time would not make it
    /// greater.
    pub(super) epoch: i64,
    /// `None` before the first subscription and after a stream went back in time.
    pub(super) reached: Option<Reached>,
}

/// What the state of a stream says of the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// The stream goes on.
    Same,
    /// Another stream than before, or the first one.
    Other,
    /// The stream lacks messages that were handed over.
    WentBack,
}

impl Cursor {
    /// The number of the last message that needs no relay any more.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.reached.map(|reached| reached.sequence)
    }

    /// Takes in the state of the stream, reported by the server now.
    ///
    /// A stream made anew while this process ran is read from the start: all its messages are news. A stream of the
    /// same creation time whose last sequence is before the cursor (restored from a backup, or the host lost power
    /// before a sync) is reported as a new stream too; otherwise the feed would drop every message as old until the
    /// stream has caught up. The messages of such a stream are history, so the relay starts over from the last message.
    pub(super) fn observe(&mut self, stream: StreamHead) -> Observed {
        let is_same = self.created_unix_ns == stream.created_unix_ns;
        match self.reached {
            // The first stream of this process.
            None if self.epoch == 0 => self.epoch = stream.created_unix_ns,
            Some(reached) if is_same && stream.last_sequence < reached.sequence => {
                self.start_over();
                return Observed::WentBack;
            }
            _ if is_same => {}
            // Another stream: it is read from its start, unless no message of the one before was relayed.
            reached => {
                self.epoch = stream.created_unix_ns.max(self.epoch + 1);
                self.reached = reached.map(|_| Reached::number(0));
            }
        }
        self.created_unix_ns = stream.created_unix_ns;
        match is_same {
            true => Observed::Same,
            false => Observed::Other,
        }
    }

    /// Begins with the last message of a stream that went back in time.
    pub(super) fn start_over(&mut self) {
        self.epoch += 1;
        self.reached = None;
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
        cursor.reached = Some(Reached::number(7));
        cursor
    }

    #[test]
    fn same_stream_goes_on() {
        let mut cursor = at_the_end();
        observe(&mut cursor, 50, 9);
        assert_eq!((cursor.sequence(), cursor.epoch), (Some(7), 50));
    }

    #[test]
    fn new_stream_starts_over_and_counts_as_newer() {
        let mut cursor = at_the_end();
        // The second is an older backup in the place of the stream: newer to us all the same.
        for (created_unix_ns, epoch) in [(60, 60), (10, 61)] {
            observe(&mut cursor, created_unix_ns, 2);
            assert_eq!((cursor.sequence(), cursor.epoch), (Some(0), epoch));
        }
    }

    #[test]
    fn stream_that_lost_its_tail_counts_as_newer() {
        let mut cursor = at_the_end();
        // Seen again before anything was reached, nothing changes.
        for _ in 0..2 {
            observe(&mut cursor, 50, 3);
            assert_eq!((cursor.sequence(), cursor.epoch), (None, 51));
        }
    }
}
