//! Whether the send queue waits for the kernel, and for how long.

use super::Session;
use super::phase::Phase;

impl Session {
    /// Begins the wait of a queue that the kernel did not take whole, or ends the wait of an empty queue; `None` if
    /// nothing changes.
    #[inline]
    pub(in crate::hub) fn turns_waiting(&mut self) -> Option<bool> {
        let waits = (self.waits || self.is_blocked()) && self.has_waiting();
        let turns = waits != self.waits;
        self.waits = waits;
        turns.then_some(waits)
    }

    /// Whether everything that waits has waited for the loop alone: the kernel has taken whatever was written since the
    /// queue was last empty.
    pub(in crate::hub) fn keeps_up(&self) -> bool {
        self.is_listed() && !self.waits
    }

    /// Notes that the gateway itself holds the bytes back.
    pub(in crate::hub) fn set_paced(&mut self) {
        self.is_paced = true;
    }

    /// Whether the gateway itself holds the bytes back.
    pub(in crate::hub) fn is_paced(&self) -> bool {
        self.is_paced
    }

    /// Takes the time from a ping to the pong that was just read, microseconds.
    pub(in crate::hub) fn take_pong_us(&mut self) -> Option<u32> {
        match &mut self.cold.phase {
            Phase::Open(open) => open.pong_us.take(),
            _ => None,
        }
    }

    /// Time since the kernel last took a byte of the queue, microseconds; 0 if nothing waits.
    pub(in crate::hub) fn untaken_us(&self, now_us: u64) -> u64 {
        match self.has_waiting() {
            true => now_us.saturating_sub(self.queue.progress_at()),
            false => 0,
        }
    }
}
