//! How far the reader of a stream is behind the newest message: the distance that the reader reported last, and the
//! time for which the present answer has been arriving. Over a slow line a single answer takes minutes, and
//! everything in it was stored before.

use std::time::Duration;

use crate::telemetry::{BusStatus, STREAM_LATE_MS};

/// No longer behind, milliseconds.
const LOGGED_UNTIL_MS: u64 = 1_000;

/// How far the reader is behind.
#[derive(Debug, Default)]
pub(super) struct StreamLag {
    /// Messages, if known, and milliseconds; `None` before the first.
    told: Option<(Option<u64>, u64)>,
    is_logged: bool,
}

impl StreamLag {
    /// Takes what the reader says: messages, if known, and milliseconds from storage to storage.
    pub(super) fn note_distance(&mut self, status: &BusStatus, messages: Option<u64>, ms: u64) {
        self.told = Some((messages, ms));
        self.show(status, ms);
    }

    /// Takes for how long the present answer has been coming.
    pub(super) fn answer_comes_for(&mut self, status: &BusStatus, time: Duration) {
        let answer_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Some((_, ms)) = self.told {
            self.show(status, ms.max(answer_ms));
        }
    }

    fn show(&mut self, status: &BusStatus, ms: u64) {
        let messages = self.told.and_then(|(messages, _)| messages);
        status.set_stream_behind(messages, ms);
        if !self.is_logged && ms > STREAM_LATE_MS {
            self.is_logged = true;
            tracing::warn!(
                behind_ms = ms,
                messages,
                "the reader is behind the stream: a thin line to the bus, or no free core; clients see messages late"
            );
        } else if self.is_logged && ms < LOGGED_UNTIL_MS {
            self.is_logged = false;
            tracing::info!("the reader is no longer behind the stream");
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
        assert!(lag.is_logged);
        lag.answer_comes_for(&status, Duration::ZERO);
        assert_eq!(status.stream_behind(), Some((Some(0), 0)));
        assert!(!lag.is_logged);
        lag.note_distance(&status, Some(40), 3_000);
        lag.answer_comes_for(&status, Duration::from_secs(1));
        assert_eq!(status.stream_behind(), Some((Some(40), 3_000)));
        assert!(!lag.is_logged);
    }
}
