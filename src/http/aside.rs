//! Work on large bytes, on a thread of its own: what else the thread serves need not wait for it.

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Less than this is worked on at once: 1 ms or so.
const HERE_BYTES_MAX: usize = 256 * 1024;

/// Pieces of work aside at once; more wait. Together they may take a core from the loop, not all.
const PLACES: usize = 2;

static FREE: Semaphore = Semaphore::const_new(PLACES);

/// What `work` on so many bytes gives; `None` if it panicked. Little is worked on at once.
pub async fn work<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= HERE_BYTES_MAX {
        return Some(work());
    }
    // The semaphore is never closed.
    let place = FREE.acquire().await.ok()?;
    // The place stays taken when nobody waits for the work any more.
    let placed = move || {
        let _place = place;
        work()
    };
    spawn_blocking(placed).await.ok()
}
