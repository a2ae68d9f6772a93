//! Other threads for work on large bodies, so that it delays nothing on the calling thread.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

/// Work on at most this many bytes runs on the calling thread: it takes about 1 ms.
pub(super) const HERE_BYTES_MAX: usize = 256 * 1024;

/// The most jobs on other threads at the same time; more jobs wait, so that they never take all cores from the loop.
const JOBS_MAX: usize = 2;

static FREE: Semaphore = Semaphore::const_new(JOBS_MAX);

/// The permit for a job on another thread, and for further jobs after it, one at a time.
pub(super) struct JobPermit {
    _permit: SemaphorePermit<'static>,
}

impl JobPermit {
    /// Waits until fewer than [`JOBS_MAX`] jobs run. Always returns a permit.
    pub(super) async fn acquire() -> Option<Self> {
        // The semaphore is never closed.
        let permit = FREE.acquire().await.ok()?;
        Some(Self { _permit: permit })
    }

    /// Runs `work` on another thread. Returns `None` if the work panicked.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<(Self, T)> {
        // The work holds the permit even if the caller stops waiting.
        let permitted = move || {
            let done = work();
            (self, done)
        };
        spawn_blocking(permitted).await.ok()
    }
}

/// Runs `work` on another thread, or on the calling thread if `bytes`, the size of its input, is small. Returns `None`
/// if the work panicked on the other thread.
pub(super) async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= HERE_BYTES_MAX {
        return Some(work());
    }
    let (_, done) = JobPermit::acquire().await?.run(work).await?;
    Some(done)
}
