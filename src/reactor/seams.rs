//! What the loop is told at the start, and what it is connected to.

use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};

use super::listeners::ListenSettings;
use crate::base::{TakenBytes, Wake};
use crate::http::{Handover, HttpHandle, WayBack};
use crate::hub::{DrainPlan, Feed, Gateway};
use crate::telemetry::Telemetry;

/// What one turn may do before it looks at the other things again.
#[derive(Clone, Debug)]
pub struct TurnBudgets {
    /// Connections accepted, and as many that come back from HTTP.
    pub accepts_max: usize,
    /// Bytes read from one socket.
    pub read_bytes_max: usize,
    /// Bytes of publications queued per client in a turn; a flush follows.
    pub publication_bytes_max: usize,
}

/// Everything that the loop is told at the start.
#[derive(Clone, Debug)]
pub struct ReactorSettings {
    /// The listening socket.
    pub listen: ListenSettings,
    /// Per turn.
    pub budgets: TurnBudgets,
    /// The phases of a stop.
    pub drain: DrainPlan,
    /// From the last phase of a stop to its end, whoever is left.
    pub stop_timeout_us: u64,
    /// How long after the last work the loop polls without sleeping; 0: not at all.
    pub spin_us: u64,
}

/// What the loop is connected to.
pub struct Seams<G: Gateway, F: Feed> {
    /// From the source thread.
    pub bus: Receiver<F::Event>,
    /// Room that the events from there hold until the loop takes them.
    pub bus_bytes: TakenBytes,
    /// Payload bytes of an event: the event gives back as much room, and counts for as much in the
    /// budget of a turn, whatever comes of it.
    pub event_bytes: fn(&F::Event) -> usize,
    /// What other threads tell the gateway.
    pub inputs: Receiver<G::In>,
    /// Hands other threads what they do for the gateway; must not block.
    pub output: Box<dyn FnMut(G::Out)>,
    /// Takes over sockets that speak plain HTTP.
    pub http: HttpHandle,
    /// Those of them whose client asks for a WebSocket after all.
    pub returned: Receiver<Handover>,
    /// What others may see of the loop.
    pub telemetry: Arc<Telemetry>,
}

impl<G: Gateway, F: Feed> Seams<G, F> {
    /// Whether another thread has put something in a channel.
    pub(super) fn have_messages(&self) -> bool {
        !(self.bus.is_empty() && self.inputs.is_empty() && self.returned.is_empty())
    }
}

/// How connections come back from the HTTP side. The connection limits bound how many wait.
pub fn way_back(wake: &Wake) -> (WayBack, Receiver<Handover>) {
    let (returns, returned) = unbounded();
    let wake = wake.clone();
    let back = move |handover| {
        // After the loop's end nobody takes it: the connection is closed.
        let _ = returns.send(handover);
        wake.wake();
    };
    (Arc::new(back), returned)
}
