//! Clients with a pace: they are written to when it allows, not when the kernel has room.

use super::Reactor;
use crate::hub::{Feed, Gateway, Now, SessionKey};

impl<G: Gateway, F: Feed> Reactor<G, F> {
    pub(super) fn pace(&mut self, key: SessionKey, bytes_per_second: Option<u32>) {
        let now_us = self.clock.mono_us();
        self.sockets.paces.set(key, bytes_per_second, now_us);
    }

    /// Has those that waited for their pace written to in this turn.
    pub(super) fn write_to_paced(&mut self, now: Now) {
        for key in self.sockets.paces.take_due(now.mono_us) {
            self.hub.handle_writable(now, key);
        }
    }
}
