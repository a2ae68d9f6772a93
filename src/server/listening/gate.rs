//! When a process listens for clients: from its start, or once its supervisor asks for it. A new process beside others that
//! serve must not get clients before it can serve them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use weirgate_runtime::{LateWake, Wake};

/// Passes the request to listen from the thread that receives it to the loop, which listens. Clones are the same gate.
#[derive(Clone, Debug)]
pub(crate) struct ListenGate(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    is_open: AtomicBool,
    is_listening: AtomicBool,
    wake: LateWake,
}

impl ListenGate {
    /// A gate of a process that listens from its start if `is_open`.
    pub(crate) fn new(is_open: bool) -> Self {
        Self(Arc::new(Gate {
            is_open: AtomicBool::new(is_open),
            is_listening: AtomicBool::new(false),
            wake: LateWake::default(),
        }))
    }

    /// Has the loop listen. Returns whether it does so already.
    pub(crate) fn open(&self) -> bool {
        self.0.is_open.store(true, SeqCst);
        self.0.wake.wake();
        self.0.is_listening.load(SeqCst)
    }

    /// Whether the loop may listen.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_open.load(SeqCst)
    }

    /// Sets the handle that wakes the loop.
    pub(crate) fn set_wake(&self, wake: &Wake) {
        self.0.wake.set(wake);
    }

    /// Notes that the loop listens.
    pub(crate) fn note_listening(&self) {
        self.0.is_listening.store(true, SeqCst);
    }
}
