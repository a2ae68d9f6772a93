//! `POST /internal/broadcast`: from a body to the answer that says how many devices got it.

use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::gateways::events::broadcast::{Broadcast, Wrong, refusal};
use crate::gateways::events::{Input, Push};
use crate::http::{Answer, Bytes, StatusCode, aside};
use crate::hub::FrameBytes;
use crate::reactor::LateWake;
use crate::wire::object_writer::ObjectWriter;

/// From the body of a broadcast to its answer.
#[derive(Clone)]
pub(super) struct Pusher {
    pub(super) input: Sender<Input>,
    pub(super) wake: LateWake,
    pub(super) frame_bytes: FrameBytes,
    pub(super) clock: Clock,
    pub(super) json_depth_max: usize,
}

impl Pusher {
    pub(super) async fn answer(self, body: Bytes) -> Answer {
        let (sent, told) = oneshot::channel();
        let (bytes, pusher) = (body.len(), self.clone());
        match aside::work(bytes, move || pusher.read(&body, sent)).await {
            // After the loop's end the push is dropped, and nobody tells.
            Some(Ok(parts)) => parts
                .into_iter()
                .for_each(|part| drop(self.input.send(Input::Push(part)))),
            Some(Err(wrong)) => {
                return Answer::json(StatusCode::UNPROCESSABLE_ENTITY, refusal(&wrong));
            }
            None => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Answer::detail(status, "Internal Server Error");
            }
        }
        self.wake.wake();
        match told.await {
            Ok(count) => {
                let mut object = ObjectWriter::new();
                object.number("sent", count);
                Answer::json(StatusCode::OK, object.finish())
            }
            Err(_) => Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
        }
    }

    fn read(&self, body: &[u8], sent: oneshot::Sender<u64>) -> Result<Vec<Push>, Vec<Wrong>> {
        let broadcast = Broadcast::parse(body, self.json_depth_max)?;
        let tell = move |count| {
            // The client may have gone.
            let _ = sent.send(count);
        };
        let now = self.clock.now();
        Ok(Push::parts(
            broadcast,
            &self.frame_bytes,
            now,
            Box::new(tell),
        ))
    }
}
