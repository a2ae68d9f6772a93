//! When bytes moved on a connection to a service.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// When the last byte moved in either direction, and whether any byte of an answer arrived since the request began.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<ActivityTimes>);

#[derive(Debug)]
struct ActivityTimes {
    start: Instant,
    /// The last byte in either direction, in microseconds since the start, as the next two.
    last_us: AtomicU64,
    /// The begin of the request.
    request_us: AtomicU64,
    /// The first sign of the connection's end; 0 before.
    ended_us: AtomicU64,
    has_received: AtomicBool,
}

impl Activity {
    /// No byte has moved yet; the silence begins now.
    pub(crate) fn start() -> Self {
        Self(Arc::new(ActivityTimes {
            start: Instant::now(),
            last_us: AtomicU64::new(0),
            request_us: AtomicU64::new(0),
            ended_us: AtomicU64::new(0),
            has_received: AtomicBool::new(false),
        }))
    }

    /// Records the begin of a request.
    pub(crate) fn note_request(&self) {
        self.note_moved();
        let now_us = self.0.last_us.load(Relaxed);
        self.0.request_us.store(now_us, Relaxed);
        self.0.has_received.store(false, Relaxed);
    }

    /// Returns true if any byte of an answer arrived since the request began.
    pub(crate) fn has_received(&self) -> bool {
        self.0.has_received.load(Relaxed)
    }

    /// The time from the beginning of the request to the first sign of the connection's end, or to now.
    pub(crate) fn since_request(&self) -> Duration {
        let begin = self.at(&self.0.request_us);
        match self.0.ended_us.load(Relaxed) {
            0 => begin.elapsed(),
            _ => self.at(&self.0.ended_us).saturating_duration_since(begin),
        }
    }

    /// Records a sign of the connection's end. Only the first call has an effect.
    pub(super) fn note_end(&self) {
        let now_us = self.0.start.elapsed().as_micros() as u64;
        let ended_us = &self.0.ended_us;
        // At least 1, because 0 means that no sign was seen. Fails if an earlier sign is recorded: that one stays.
        let _ = ended_us.compare_exchange(0, now_us.max(1), Relaxed, Relaxed);
    }

    /// The time of the last byte in either direction.
    pub(crate) fn last(&self) -> Instant {
        self.at(&self.0.last_us)
    }

    /// The time since the last byte in either direction.
    pub(crate) fn silent_for(&self) -> Duration {
        self.last().elapsed()
    }

    fn at(&self, us: &AtomicU64) -> Instant {
        self.0.start + Duration::from_micros(us.load(Relaxed))
    }

    /// Records that a byte of an answer arrived.
    pub(super) fn note_received(&self) {
        self.note_moved();
        self.0.has_received.store(true, Relaxed);
    }

    /// Records that a byte moved in either direction.
    pub(super) fn note_moved(&self) {
        let now_us = self.0.start.elapsed().as_micros() as u64;
        self.0.last_us.store(now_us, Relaxed);
    }

    /// Returns the output of `future`, or `None` if no byte moves in either direction for `silence`. While `excused`
    /// returns true, a silence does not count.
    pub(crate) async fn unless_silent<F: Future>(
        &self,
        silence: Duration,
        excused: impl Fn() -> bool,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            match timeout_at(self.last() + silence, future.as_mut()).await {
                Ok(output) => return Some(output),
                Err(_) if excused() => self.note_moved(),
                Err(_) if self.last() + silence <= Instant::now() => return None,
                // A byte has moved meanwhile.
                Err(_) => {}
            }
        }
    }
}
