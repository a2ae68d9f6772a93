//! How far the reader of a stream is behind the newest message, for the status and the log.

use std::time::{Duration, Instant};

use weirgate_runtime::BusStatus;

/// A reader that is more than this behind the newest message of its stream counts as late, milliseconds: the log and
/// `weirgate top` report it, and the alert fires.
const STREAM_LATE_MS: u64 = 5_000;

/// How long a start may read the stream before the loop accepts clients (`STREAM_WAIT_US`).
const START: Duration = Duration::from_secs(5);
/// Below this distance, the reader counts as no longer behind, milliseconds.
const LOGGED_UNTIL_MS: u64 = 1_000;

/// How far the reader of a stream is behind the newest message: the distance that the reader reported last, or the time
/// for which the present answer has been arriving, if that is longer. Over a slow line a single answer can take
/// minutes, and all its messages were stored before it began.
#[derive(Debug)]
pub(super) struct StreamLag {
    /// The last reported distance: messages, if known, and milliseconds. `None` before the first report since the bus was
    /// away.
    reported: Option<(Option<u64>, u64)>,
    logged: Logged,
    /// The start of this process, until the reader has caught up for the first time. The loop accepts no client before
    /// that, for [`START`] at most.
    begun: Option<Instant>,
}

/// The last log line about the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logged {
    /// No line yet, or the last one says that the reader is no longer behind.
    None,
    /// The reader reads what the stream holds at a start.
    Start,
    /// Clients see messages late.
    Late,
}

impl Default for StreamLag {
    fn default() -> Self {
        Self {
            reported: None,
            logged: Logged::None,
            begun: Some(Instant::now()),
        }
    }
}

impl StreamLag {
    /// Records the distance that the reader reports: messages, if known, and milliseconds from storage to storage.
    pub(super) fn note_distance(&mut self, status: &BusStatus, messages: Option<u64>, ms: u64) {
        self.reported = Some((messages, ms));
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

    /// Records that the reader has the newest message.
    pub(super) fn note_caught_up(&mut self) {
        self.begun = None;
    }

    /// Sets the metrics to this distance, and logs once that it has become too large, and once that it is small again.
    /// Before the first clients a large distance is expected, and no warning.
    fn show(&mut self, status: &BusStatus, ms: u64) {
        let messages = self.reported.and_then(|(messages, _)| messages);
        status.set_stream_behind(messages, ms);
        let has_clients = || self.begun.is_none_or(|begun| begun.elapsed() >= START);
        match self.logged {
            Logged::Late if ms < LOGGED_UNTIL_MS => {
                self.logged = Logged::None;
                tracing::info!("the reader is no longer behind the stream");
            }
            Logged::None | Logged::Start if ms > STREAM_LATE_MS && has_clients() => {
                self.logged = Logged::Late;
                tracing::warn!(
                    behind_ms = ms,
                    messages,
                    "the reader is behind the stream: a thin line to the bus, or no free core; clients see messages late"
                );
            }
            Logged::None if ms > STREAM_LATE_MS => {
                self.logged = Logged::Start;
                tracing::info!(
                    behind_ms = ms,
                    messages,
                    "reading what the stream holds, before the first client"
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
        lag.note_caught_up();
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
    fn a_start_on_a_full_stream_is_no_warning_until_clients_come() {
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        lag.note_distance(&status, Some(9), 600_000);
        assert_eq!(lag.logged, Logged::Start);
        assert_eq!(status.stream_behind(), Some((Some(9), 600_000)));
        lag.begun = lag.begun.and_then(|begun| begun.checked_sub(START));
        lag.note_distance(&status, Some(8), 600_000);
        assert_eq!(lag.logged, Logged::Late);
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        lag.note_distance(&status, Some(1), 600_000);
        lag.note_caught_up();
        lag.note_distance(&status, Some(0), 0);
        lag.note_distance(&status, Some(9), 600_000);
        assert_eq!(lag.logged, Logged::Late);
    }
}
