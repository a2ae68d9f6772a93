//! What a client knows of the bus: whether it wants to learn the status, and of which losses it knows.

use super::Session;

impl Session {
    /// Notes that the client wants the status of the bus; returns whether it did before.
    pub(crate) fn ask_status(&mut self) -> bool {
        std::mem::replace(&mut self.cold.asks_status, true)
    }

    /// Whether the client has asked for the status of the bus.
    pub(crate) fn asks_status(&self) -> bool {
        self.cold.asks_status
    }

    /// Notes that the client now knows of `losses` losses of the bus; returns the previous number.
    pub(crate) fn know_losses(&mut self, losses: u64) -> u64 {
        std::mem::replace(&mut self.cold.losses_known, losses)
    }

    /// Skips the next `seq` number, so that the client sees a loss as a gap.
    pub(crate) fn skip_number(&mut self) {
        self.queue.last_seq += 1;
    }
}
