//! Whether a client always had fresh data, and never older data after newer, across all of the
//! client's connections.

/// A client's view of the sequence, across all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freshness {
    /// Time at which the newest message was read, microseconds; 0 before the first.
    newest_at_us: u64,
    /// The longest time between two newer messages.
    gap_us_max: u64,
    /// Messages older than an earlier message.
    pub(crate) older: u64,
    /// Messages received again, except for the first state of a new connection.
    pub(crate) twice: u64,
    /// The next message is the first of the connection.
    first: bool,
}

impl Freshness {
    /// Notes a new connection of the client.
    pub(super) fn opened(&mut self) {
        self.first = true;
    }

    /// Takes the message numbered `n`, read at `now_us`, after `last_n`.
    pub(super) fn message(&mut self, last_n: Option<u64>, n: u64, now_us: u64) {
        let first = std::mem::take(&mut self.first);
        match last_n {
            Some(last) if n < last => self.older += 1,
            Some(last) if n == last => self.twice += u64::from(!first),
            _ => {
                self.gap_us_max = self.gap_us(now_us);
                self.newest_at_us = now_us;
            }
        }
    }

    /// The longest time without a newer message, including the time since the last newer message.
    pub(crate) fn gap_us(&self, now_us: u64) -> u64 {
        let waits = match self.newest_at_us {
            0 => 0,
            at => now_us.saturating_sub(at),
        };
        self.gap_us_max.max(waits)
    }

    /// Restarts the counts; the current time without a newer message continues.
    pub(super) fn forget(&mut self) {
        (self.gap_us_max, self.older, self.twice) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(messages: &[(u64, u64)]) -> Freshness {
        let (mut freshness, mut last) = (Freshness::default(), None);
        freshness.opened();
        for &(n, at_us) in messages {
            freshness.message(last, n, at_us);
            last = last.max(Some(n));
        }
        freshness
    }

    #[test]
    fn only_newer_messages_are_fresh() {
        let f = seen(&[(5, 1_000), (6, 1_100), (6, 1_500), (4, 1_600), (9, 1_700)]);
        assert_eq!((f.older, f.twice), (1, 1));
        assert_eq!(f.gap_us(1_700), 600);
        assert_eq!(f.gap_us(2_700), 1_000, "it still waits");
        assert_eq!(seen(&[]).gap_us(9_000), 0, "nothing was published yet");
    }

    #[test]
    fn a_new_connection_may_begin_with_what_is_known_but_not_with_less() {
        let mut f = seen(&[(5, 1_000)]);
        f.opened();
        f.message(Some(5), 5, 1_200);
        assert_eq!((f.older, f.twice), (0, 0));
        f.message(Some(5), 5, 1_300);
        f.opened();
        f.message(Some(5), 4, 1_400);
        assert_eq!((f.older, f.twice, f.gap_us(1_400)), (1, 1, 400));
        f.forget();
        assert_eq!(f.gap_us(1_400), 400, "the time that is running counts on");
    }
}
