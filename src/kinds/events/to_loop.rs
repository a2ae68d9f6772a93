//! The way of replies and pushes to the loop, for other threads.

use crossbeam_channel::Sender;

use crate::base::{Clock, LateWake};
use crate::gateways::events::broadcast::{Broadcast, Wrong};
use crate::gateways::events::{Input, Push};
use crate::hub::FrameBytes;

/// The input of the loop, and all that makes frames of pushes. Clones lead to the same loop.
#[derive(Clone)]
pub(super) struct ToLoop {
    pub(super) input: Sender<Input>,
    pub(super) wake: LateWake,
    pub(super) frame_bytes: FrameBytes,
    pub(super) clock: Clock,
    pub(super) json_depth_max: usize,
}

impl ToLoop {
    /// Sends inputs, and wakes the loop.
    pub(super) fn send(&self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            // Fails only after the end of the loop.
            let _ = self.input.send(input);
        }
        self.wake.wake();
    }

    /// Reads the body of a broadcast; `tell` gets the number of deliveries.
    ///
    /// # Errors
    /// All errors of the body.
    pub(super) fn read(
        &self,
        body: &[u8],
        tell: impl FnOnce(u64) + Send + 'static,
    ) -> Result<Vec<Push>, Vec<Wrong>> {
        let broadcast = Broadcast::parse(body, self.json_depth_max)?;
        let now = self.clock.now();
        Ok(Push::parts(
            broadcast,
            &self.frame_bytes,
            now,
            Box::new(tell),
        ))
    }
}
