//! The holders of a thread that were chosen for eviction.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The keys of a thread's holders that were chosen for eviction ([`Quota::make_room`](super::Quota::make_room)), by
/// this or another thread. So the owner need not search all its holders.
#[derive(Clone)]
pub struct Chosen<K>(Arc<List<K>>);

/// The list that receives the chosen keys, and the waker of the thread that owns the holders.
struct List<K> {
    keys: Mutex<Vec<K>>,
    thread: Waker,
}

/// The waker of one holder: puts the holder's key in the list.
struct One<K> {
    key: K,
    list: Arc<List<K>>,
}

impl<K: Copy + Send + Sync + 'static> Chosen<K> {
    /// An empty list; `thread` wakes the owner of the holders.
    pub fn new(thread: Waker) -> Self {
        let keys = Mutex::default();
        Self(Arc::new(List { keys, thread }))
    }

    /// For [`Permit::wake_with`](super::Permit::wake_with): puts `key` in the list.
    pub fn waker(&self, key: K) -> Waker {
        let list = Arc::clone(&self.0);
        Arc::new(One { key, list }).into()
    }

    /// Takes the keys. A holder may have ended, or freed what it held, since it was chosen.
    pub fn take(&self) -> Vec<K> {
        std::mem::take(&mut self.0.locked())
    }

    /// Whether [`take`](Self::take) returns nothing.
    pub fn is_empty(&self) -> bool {
        self.0.locked().is_empty()
    }
}

impl<K> List<K> {
    fn locked(&self) -> MutexGuard<'_, Vec<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Send + Sync> Wake for One<K> {
    fn wake(self: Arc<Self>) {
        self.list.locked().push(self.key);
        self.list.thread.wake_by_ref();
    }
}

impl<K> fmt::Debug for Chosen<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").finish_non_exhaustive()
    }
}
