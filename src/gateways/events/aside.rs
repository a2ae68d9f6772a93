//! Other threads for work on large bodies, so that it delays nothing on the calling thread.

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Work on at most this many bytes runs on the calling thread: it takes about 1 ms.
const HERE_BYTES_MAX: usize = 256 * 1024;

/// The most jobs on other threads at the same time; more jobs wait, so that they never take all cores from the loop.
const PLACES: usize = 2;

static FREE: Semaphore = Semaphore::const_new(PLACES);

/// Runs `work` on another thread, or on the calling thread if `bytes`, the size of its input, is small. Returns `None`
/// if the work panicked on the other thread.
pub(super) async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= HERE_BYTES_MAX {
        return Some(work());
    }
    // The semaphore is never closed.
    let place = FREE.acquire().await.ok()?;
    // The work holds the permit even if the caller stops waiting.
    let placed = move || {
        let _place = place;
        work()
    };
    spawn_blocking(placed).await.ok()
}
