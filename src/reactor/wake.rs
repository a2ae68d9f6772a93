//! Waking the loop once, however many threads have something for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use mio::{Registry, Token, Waker};

/// A handle that wakes the loop. Between two turns only the first call costs a system call.
#[derive(Clone, Debug)]
pub struct Wake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pending: AtomicBool,
    waker: Waker,
}

impl Wake {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let inner = Inner {
            pending: AtomicBool::new(false),
            waker: Waker::new(registry, token)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Wakes the loop. Call it after the thing to be found was put in its channel.
    pub fn wake(&self) {
        if !self.inner.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.inner.waker.wake()
        {
            tracing::error!(%error, "the loop could not be woken");
        }
    }

    /// The loop is awake. Called before the channels are looked at, so that what comes later
    /// wakes it again.
    pub(super) fn awake(&self) {
        // A plain store could become visible after the look at the channels: a caller in between
        // would find the loop still marked as woken, and its thing would wait for an idle turn.
        // Of two swaps one always sees the other.
        self.inner.pending.swap(false, Ordering::AcqRel);
    }
}

/// A [`Wake`] for threads that start before the loop.
#[derive(Clone, Debug, Default)]
pub struct LateWake(Arc<OnceLock<Wake>>);

impl LateWake {
    /// The loop is there.
    pub fn set(&self, wake: &Wake) {
        // Set before: it is the same loop.
        let _ = self.0.set(wake.clone());
    }

    /// Wakes the loop as [`Wake::wake`] does. Before it is there, nothing: its first turn looks at
    /// every channel.
    pub fn wake(&self) {
        if let Some(wake) = self.0.get() {
            wake.wake();
        }
    }
}
