//! Whether a session's queue waits, and for what: the kernel, the loop, or weirgate itself.

use super::Session;

impl Session {
    /// Notes whether the queue waits for the kernel: from a write that the kernel did not take whole until the queue is
    /// empty. Returns the new state; `None` if nothing changes.
    #[inline]
    pub(crate) fn take_wait_change(&mut self) -> Option<bool> {
        let waits = (self.waits_for_kernel || self.is_blocked()) && self.has_waiting();
        let changes = waits != self.waits_for_kernel;
        self.waits_for_kernel = waits;
        changes.then_some(waits)
    }

    /// Whether the waiting frames wait only for the loop: the kernel has taken every write whole since the queue was
    /// last empty.
    pub(crate) fn keeps_up(&self) -> bool {
        self.is_listed() && !self.waits_for_kernel
    }

    /// Notes that weirgate itself holds the client's bytes back.
    pub(crate) fn set_paced(&mut self) {
        self.is_paced = true;
    }

    /// Whether weirgate itself holds the client's bytes back.
    pub(crate) fn is_paced(&self) -> bool {
        self.is_paced
    }

    /// Time since the kernel last took a byte of the queue, microseconds; 0 if nothing waits.
    pub(crate) fn untaken_us(&self, now_us: u64) -> u64 {
        match self.has_waiting() {
            true => now_us.saturating_sub(self.queue.progress_at()),
            false => 0,
        }
    }
}
