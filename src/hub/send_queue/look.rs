//! What a send queue says of itself to those who look at its client.

use super::SendQueue;

impl SendQueue {
    /// When the oldest frame that waits or was begun had arrived, microseconds of the monotonic
    /// clock.
    pub(in crate::hub) fn oldest_at(&self) -> Option<u64> {
        self.data
            .front()
            .map(|entry| entry.frame.received().mono_us)
    }
}
