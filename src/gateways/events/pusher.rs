//! `POST /internal/broadcast`, from the body to the response with the number of devices.

use tokio::sync::oneshot;

use crate::gateways::events::Input;
use crate::gateways::events::aside::aside;
use crate::gateways::events::broadcast::Wrong;
use crate::gateways::events::bus::PushOutcome;
use crate::gateways::events::bus::open::PushBus;
use crate::gateways::events::to_loop::ToLoop;
use hyper::body::Bytes;
use weirgate_server::http::{Answer, StatusCode};
use weirgate_wire::json::ObjectWriter;

/// Turns the body of a broadcast into the response.
#[derive(Clone)]
pub(super) struct Pusher {
    pub(super) to_loop: ToLoop,
    /// The other instances.
    pub(super) bus: Option<PushBus>,
}

impl Pusher {
    /// Pushes to the devices of this instance and of all others, and waits for the number of deliveries.
    pub(super) async fn answer(self, body: Bytes) -> Answer {
        let shared = match self.bus.as_ref().map(|bus| (bus, bus.permit(body.len()))) {
            None => None,
            Some((bus, Some(room))) => Some((bus, room)),
            Some((_, None)) => {
                let detail = "Too many pushes wait for other instances";
                return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
            }
        };
        let (sent, outcome) = oneshot::channel();
        let report = move |count| {
            // The service may have gone.
            let _ = sent.send(count);
        };
        let (bytes, to_loop, whole) = (body.len(), self.to_loop.clone(), body.clone());
        match aside(bytes, move || to_loop.parse_push(&body, report)).await {
            // After the end of the loop the push is dropped, and `sent` with it.
            Some(Ok(parts)) => self.to_loop.send(parts.into_iter().map(Input::Push)),
            Some(Err(wrong)) => {
                return Answer::json(StatusCode::UNPROCESSABLE_ENTITY, Wrong::response(&wrong));
            }
            // The parser has panicked on its thread.
            None => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Answer::detail(status, "Internal Server Error");
            }
        }
        // The devices here do not wait for the bus.
        let others = shared.map(|(bus, room)| bus.push(whole, room));
        let Ok(count) = outcome.await else {
            return stopping();
        };
        let mut object = ObjectWriter::new();
        match others {
            None => object.number("sent", count),
            Some(others) => match others.await {
                Ok(outcome) => write_shared(&mut object, count, &outcome),
                Err(_) => return stopping(),
            },
        }
        Answer::json(StatusCode::OK, object.finish())
    }
}

/// The response after the end of the loop.
fn stopping() -> Answer {
    Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping")
}

/// Writes the deliveries of all instances together, and the ids of instances that did not answer.
fn write_shared(object: &mut ObjectWriter, count: u64, others: &PushOutcome) {
    object.number("sent", count.saturating_add(others.sent));
    object.string("bus", if others.is_up { "up" } else { "away" });
    object.number("instances", 1 + others.answered as u64);
    let missing = others.missing.iter().map(|id| id.as_str());
    object.strings("missing", missing);
}
