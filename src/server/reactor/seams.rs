//! The connections of the loop to other threads.

use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};

use super::handshakes::Handshakes;
use crate::http::{Handover, HttpHandle, ReturnToReactor};
use crate::telemetry::Telemetry;
use weirgate_core::{CutRequest, Feed, Gateway};
use weirgate_runtime::{TakenBytes, Wake};

/// The channels and handles that connect the loop with other threads.
pub(crate) struct Seams<G: Gateway, F: Feed> {
    /// Events of the source thread.
    pub bus: Receiver<F::Event>,
    /// Bytes that queued bus events hold until the loop takes the events.
    pub bus_bytes: TakenBytes,
    /// Returns the payload bytes of an event, which the event gives back to `bus_bytes` when the loop takes it.
    pub event_bytes: fn(&F::Event) -> usize,
    /// Input of other threads for the gateway that is taken before [`inputs`](Self::inputs).
    pub urgent: Receiver<G::In>,
    /// Input of other threads for the gateway.
    pub inputs: Receiver<G::In>,
    /// Requests of operators to close clients.
    pub cuts: Receiver<CutRequest>,
    /// Passes work of the gateway to other threads; must not block.
    pub output: Box<dyn FnMut(G::Out)>,
    /// Takes over sockets of plain HTTP requests.
    pub http: HttpHandle,
    /// Connections back from HTTP: their client asks for a WebSocket.
    pub returned: Receiver<Handover>,
    /// The thread of TLS handshakes and headers of proxies; `None` without both.
    pub handshakes: Option<Handshakes>,
    /// Numbers of the loop for other threads.
    pub telemetry: Arc<Telemetry>,
}

impl<G: Gateway, F: Feed> Seams<G, F> {
    /// Whether another thread has put something in a channel.
    pub(super) fn have_messages(&self) -> bool {
        let handshakes = self.handshakes.as_ref();
        let have_entered = handshakes.is_some_and(Handshakes::have_entered);
        let has_inputs = !self.urgent.is_empty() || !self.inputs.is_empty();
        let has_others = !self.bus.is_empty() || !self.returned.is_empty();
        have_entered || has_inputs || has_others || !self.cuts.is_empty()
    }
}

/// Returns both ends of the channel by which HTTP returns connections. The connection limits bound its
/// length.
pub(crate) fn return_to_reactor(wake: &Wake) -> (ReturnToReactor, Receiver<Handover>) {
    let (returns, returned) = unbounded();
    let wake = wake.clone();
    let back = move |handover| {
        // After the end of the loop nothing receives: the connection is closed.
        let _ = returns.send(handover);
        wake.wake();
    };
    (Arc::new(back), returned)
}
