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

    /// The thread looks at its channels before it sleeps again: until [`Self::awake`], nobody needs
    /// to wake it.
    pub(crate) fn will_look(&self) {
        self.inner.pending.store(true, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn only_a_thread_that_may_sleep_costs_a_system_call() {
        let mut poll = Poll::new().expect("a poll");
        let wake = Wake::new(poll.registry(), Token(1), "the test").expect("a descriptor");
        let mut events = Events::with_capacity(8);
        let mut is_woken = || {
            poll.poll(&mut events, Some(Duration::ZERO))
                .expect("polled");
            !events.is_empty()
        };
        wake.will_look();
        wake.wake();
        assert!(!is_woken(), "it looks before it sleeps");
        wake.awake();
        assert!(!is_woken());
        wake.wake();
        wake.wake();
        assert!(is_woken() && !is_woken(), "once for both");
        wake.awake();
        wake.wake();
        assert!(is_woken());
    }
}
