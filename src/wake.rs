//! Waking a thread that waits in its poll: once, however many threads have something for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use mio::{Registry, Token, Waker};

/// A handle that wakes a thread out of its [`mio::Poll`], or out of the next wait. Until that
/// thread is awake, only the first call costs a system call.
#[derive(Clone, Debug)]
pub struct Wake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Who sleeps, for the log line.
    sleeper: &'static str,
    pending: AtomicBool,
    waker: Waker,
}

impl Wake {
    /// Wakes the thread that polls `registry`, with an event of `token`. `sleeper` names that
    /// thread in a log line.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn new(
        registry: &Registry,
        token: Token,
        sleeper: &'static str,
    ) -> io::Result<Self> {
        let inner = Inner {
            sleeper,
            pending: AtomicBool::new(false),
            waker: Waker::new(registry, token)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Wakes the thread. Call it after the thing to be found was put in its channel.
    pub fn wake(&self) {
        if !self.inner.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.inner.waker.wake()
        {
            tracing::error!(%error, "{} could not be woken", self.inner.sleeper);
        }
    }

    /// The thread is awake. Called before the channels are looked at, so that what comes later
    /// wakes the thread again.
    pub(crate) fn awake(&self) {
        // A plain store could become visible after the look at the channels: a caller in between
        // would find the thread still marked as woken, and its thing would wait for the next event.
        // Of two swaps one always sees the other.
        self.inner.pending.swap(false, Ordering::AcqRel);
    }
}

/// The [`Wake`] of the loop, for threads that start before the loop.
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
