//! The least speed of a request body: a client that sends a byte now and then must hold neither a connection to a service
//! nor room for its body.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The least speed of a body. Clients on the slowest links send three times as fast.
const BYTES_PER_SECOND_MIN: u32 = 512;

/// How far a body may fall behind the least speed. A client in a tunnel may send nothing for that long.
const BEHIND_MAX: Duration = Duration::from_secs(30);

/// How far a body is behind its least speed. Time counts only while the reader waits for the client.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How far the body was behind when the present wait began.
    behind: Duration,
    /// Since when the reader waits.
    waits_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A body was behind its least speed for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body came more slowly than {BYTES_PER_SECOND_MIN} bytes a second for too long")]
pub(crate) struct BodyTooSlow;

impl Pace {
    /// Records bytes of the body, or its end. A body never gets ahead of the least speed; otherwise a client could send
    /// fast first, and then rest.
    pub(crate) fn note_received(&mut self, bytes: usize) {
        let paid_us = bytes as u64 * 1_000_000 / u64::from(BYTES_PER_SECOND_MIN);
        let behind = self.behind().saturating_sub(Duration::from_micros(paid_us));
        (self.behind, self.waits_since) = (behind, None);
    }

    /// Records that the reader waits for the client. Ready when the body is too slow.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let due = since + BEHIND_MAX.saturating_sub(self.behind);
        let timer = || Box::pin(sleep_until(due));
        let timer = self.timer.get_or_insert_with(timer);
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }

    /// How far the body is behind now.
    pub(crate) fn behind(&self) -> Duration {
        let waited = self.waits_since.map(|since| since.elapsed());
        self.behind + waited.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds a body is behind after `seconds` in which `bytes` arrived each `pause_ms`.
    fn behind_s(bytes: usize, pause_ms: u64, seconds: u64) -> u64 {
        let mut pace = Pace::default();
        for _ in 0..seconds * 1_000 / pause_ms {
            pace.behind += Duration::from_millis(pause_ms);
            pace.note_received(bytes);
        }
        pace.behind().as_secs()
    }

    #[test]
    fn an_honest_slow_body_keeps_up_and_single_bytes_do_not() {
        assert_eq!(behind_s(1_500, 1_000, 600), 0);
        assert_eq!(behind_s(15_000, 10_000, 600), 0, "in gusts");
        assert_eq!(behind_s(1, 500, 40), 39);
        assert_eq!(behind_s(256, 1_000, 60), 30, "half of the least speed");
        let mut pace = Pace::default();
        pace.note_received(1_000_000);
        pace.behind += Duration::from_secs(25);
        assert_eq!(pace.behind().as_secs(), 25, "nothing is paid in advance");
        pace.note_received(15_000);
        assert_eq!(pace.behind(), Duration::ZERO);
    }

    #[test]
    fn a_body_that_is_behind_for_too_long_is_late_while_it_is_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(async {
            let mut pace = Pace::default();
            let late = async |pace: &mut Pace| {
                let late = std::future::poll_fn(|cx| pace.poll_late(cx));
                let soon = Duration::from_millis(50);
                tokio::time::timeout(soon, late).await.is_ok()
            };
            assert!(!late(&mut pace).await);
            pace.behind = BEHIND_MAX;
            assert!(late(&mut pace).await);
            pace.note_received(512);
            assert!(!late(&mut pace).await, "a second is paid");
        });
    }
}
