//! How other threads send replies and pushes to the loop.

use crossbeam_channel::Sender;

use crate::gateways::events::broadcast::{Broadcast, Wrong};
use crate::gateways::events::{Input, Push};
use weirgate_core::FrameBytes;
use weirgate_runtime::{Clock, LateWake};

/// How other threads send inputs to the loop, with what is needed to make frames of pushes. Clones lead to the same
/// loop.
#[derive(Clone)]
pub(super) struct ToLoop {
    pub(super) input: Sender<Input>,
    /// Replies: a device does not wait for its own until a broadcast has reached thousands of others.
    pub(super) replies: Sender<Input>,
    pub(super) wake: LateWake,
    pub(super) frame_bytes: FrameBytes,
    pub(super) clock: Clock,
}

impl ToLoop {
    /// Sends inputs, and wakes the loop.
    pub(super) fn send(&self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            let channel = match input {
                Input::Reply(_) => &self.replies,
                Input::Push(_) | Input::Others(_) => &self.input,
            };
            // Fails only after the end of the loop.
            let _ = channel.send(input);
        }
        self.wake.wake();
    }

    /// Parses the body of a broadcast. After the delivery, the loop calls `report` with the number of deliveries.
    ///
    /// # Errors
    /// All errors in the body.
    pub(super) fn parse_push(
        &self,
        body: &[u8],
        report: impl FnOnce(u64) + Send + 'static,
    ) -> Result<Vec<Push>, Vec<Wrong>> {
        let broadcast = Broadcast::parse(body)?;
        let now = self.clock.now();
        Ok(Push::parts(
            broadcast,
            &self.frame_bytes,
            now,
            Box::new(report),
        ))
    }
}
