//! How far the reader of a stream is behind the newest message, for the status and the log.

use std::time::{Duration, Instant};

use weirgate_runtime::BusStatus;

/// A reader that is more than this behind the newest message of its stream counts as late, milliseconds: the log and
/// `weirgate top` report it, and the alert fires.
const STREAM_LATE_MS: u64 = 5_000;

/// How long the reader may be late without a warning while it reads what was stored before its connection. A start reads
/// so long before the loop accepts clients (`STREAM_WAIT_US`).
const GRACE: Duration = Duration::from_secs(5);
/// Below this distance, the reader counts as no longer behind, milliseconds.
const LOGGED_UNTIL_MS: u64 = 1_000;

/// How far the reader of a stream is behind the newest message: the distance that the reader reported last, or the time
/// for which the present answer has been arriving, if that is longer. Over a slow line a single answer can take
/// minutes, and all its messages were stored before it began.
#[derive(Debug, Default)]
pub(super) struct StreamLag {
    /// The last reported distance: messages, if known, and milliseconds. `None` before the first report since the bus was
    /// away.
    reported: Option<(Option<u64>, u64)>,
    logged: Logged,
    /// The first report since the start of this process or since the bus was away, until the reader is no longer behind.
    begun: Option<Instant>,
}

/// The last log line about the distance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Logged {
    /// No line yet, or the reader is no longer behind.
    #[default]
    None,
    /// The reader reads what was stored before its connection.
    Backlog,
    /// Clients see messages late.
    Late,
}

impl StreamLag {
    /// Records the distance that the reader reports: messages, if known, and milliseconds from storage to storage.
    pub(super) fn note_distance(&mut self, status: &BusStatus, messages: Option<u64>, ms: u64) {
        if self.reported.replace((messages, ms)).is_none() {
            self.begun = Some(Instant::now());
        }
        self.show(status, ms);
    }

    /// Records for how long the present answer has been arriving.
    pub(super) fn answer_comes_for(&mut self, status: &BusStatus, time: Duration) {
        let answer_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Some((_, ms)) = self.reported {
            self.show(status, ms.max(answer_ms));
        }
    }

    /// Records that the bus is away: the distance is not known until the reader reports it on the next connection.
    pub(super) fn forget(&mut self) {
        self.reported = None;
    }

    /// Sets the metrics to this distance, and logs once that it has become too large, and once that it is small again.
    /// Of a reader that has to read what was stored while it had no connection, a large distance is expected, and for
    /// [`GRACE`] no warning.
    fn show(&mut self, status: &BusStatus, ms: u64) {
        let messages = self.reported.and_then(|(messages, _)| messages);
        status.set_stream_behind(messages, ms);
        if ms < LOGGED_UNTIL_MS {
            self.begun = None;
            if std::mem::take(&mut self.logged) == Logged::Late {
                tracing::info!("the reader is no longer behind the stream");
            }
            return;
        }
        let is_over = || self.begun.is_none_or(|begun| begun.elapsed() >= GRACE);
        match self.logged {
            Logged::None | Logged::Backlog if ms > STREAM_LATE_MS && is_over() => {
                self.logged = Logged::Late;
                let backlog = match self.begun {
                    Some(_) => "much was stored before this connection, ",
                    None => "",
                };
                tracing::warn!(
                    behind_ms = ms,
                    messages,
                    "the reader is behind the stream: {backlog}a thin line to the bus, or no free core; clients see messages \
                     late"
                );
            }
            Logged::None if ms > STREAM_LATE_MS => {
                self.logged = Logged::Backlog;
                tracing::info!(
                    behind_ms = ms,
                    messages,
                    "reading what was stored before this connection"
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_slowly_counts_while_it_comes() {
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        lag.note_distance(&status, Some(0), 0);
        lag.answer_comes_for(&status, Duration::from_secs(7));
        assert_eq!(status.stream_behind(), Some((Some(0), 7_000)));
        assert_eq!(lag.logged, Logged::Late);
        lag.answer_comes_for(&status, Duration::ZERO);
        assert_eq!(status.stream_behind(), Some((Some(0), 0)));
        assert_eq!(lag.logged, Logged::None);
        lag.note_distance(&status, Some(40), 3_000);
        lag.answer_comes_for(&status, Duration::from_secs(1));
        assert_eq!(status.stream_behind(), Some((Some(40), 3_000)));
        assert_eq!(lag.logged, Logged::None);
    }

    #[test]
    fn what_was_stored_before_the_connection_is_no_warning_for_a_while() {
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        // A start, and two outages. Attempts fail in between.
        for _ in 0..3 {
            lag.forget();
            lag.forget();
            lag.note_distance(&status, Some(9), 600_000);
            assert_eq!(lag.logged, Logged::Backlog);
            assert_eq!(status.stream_behind(), Some((Some(9), 600_000)));
            lag.note_distance(&status, Some(0), 0);
            assert_eq!(lag.logged, Logged::None);
        }
        // It has caught up on this connection.
        lag.note_distance(&status, Some(9), 600_000);
        assert_eq!(lag.logged, Logged::Late);
        lag.note_distance(&status, Some(0), 0);
        // It takes long.
        lag.forget();
        lag.note_distance(&status, Some(9), 600_000);
        lag.begun = lag.begun.and_then(|begun| begun.checked_sub(GRACE));
        lag.note_distance(&status, Some(8), 600_000);
        assert_eq!(lag.logged, Logged::Late);
    }
}
