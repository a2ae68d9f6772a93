//! The loop, bound to its addresses, and the threads that send to it.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::Inputs;
use crate::http::HttpPlane;
use crate::listening::tls::ServerTlsInForce;
use crate::reactor::{HandshakeCounts, Handshakes, Reactor, Seams, return_to_reactor};
use crate::run::RunError;
use crate::run::common::CommonSettings;
use crate::run::cpus::pin;
use crate::run::tls::TlsInForce;
use crate::telemetry::Telemetry;
use weirgate_core::{BusEvent, Core, CutRequest, Feed, Gateway, Hub};
use weirgate_runtime::{Clock, LateWake, QueueBytes, Source, SourceLink, Stopping, Wake, detached};
use weirgate_wire::admission::Quota;

/// The parts of a gateway that the loop owns, and the source of its messages.
pub(super) struct LoopParts<G: Gateway, F> {
    pub(super) gateway: G,
    pub(super) feed: F,
    /// `None` without a bus.
    pub(super) source: Option<Box<dyn Source>>,
    pub(super) inputs: Inputs<G::In>,
    pub(super) output: Box<dyn FnMut(G::Out)>,
}

/// What connects the loop with other threads, besides the parts of the gateway.
pub(super) struct LoopConnections<'a> {
    /// Requests of operators to close clients.
    pub(super) cuts: Receiver<CutRequest>,
    /// Wakes the loop after a request to close clients.
    pub(super) cuts_wake: LateWake,
    /// The HTTP threads, which run already.
    pub(super) http: &'a HttpPlane,
    pub(super) handshakes: HandshakeParts,
    pub(super) telemetry: Arc<Telemetry>,
}

/// What the thread of handshakes shares with metrics and reloads.
pub(super) struct HandshakeParts {
    /// The certificates for new clients; `None` without TLS.
    tls: Option<ServerTlsInForce>,
    pub(super) counts: Arc<HandshakeCounts>,
}

impl<G: Gateway, F: Feed<Event = BusEvent>> LoopParts<G, F> {
    /// Binds the addresses of clients, then starts the source and the thread of handshakes: if an address is in use, the
    /// process ends without a connection to its bus. Returns the loop, and what stops the source.
    ///
    /// # Errors
    /// An address cannot be bound, or the system refuses a descriptor or a thread.
    pub(super) fn bind(
        self,
        core: Core,
        others: LoopConnections<'_>,
        common: &CommonSettings,
        clock: Clock,
    ) -> Result<(Reactor<G, F>, Option<Stopping>), RunError> {
        let (events, bus) = bounded(common.bus_queue_messages_max);
        let (bytes, bus_bytes) = QueueBytes::new(common.bus_queue_bytes_max);
        let reader = self.feed.reader();
        let mut stopping = None;
        let seams = |wake: &Wake| {
            // Some threads have sent already, and woken nobody: the first turn looks at every channel.
            self.inputs.wake.set(wake);
            others.cuts_wake.set(wake);
            if let Some(source) = self.source {
                let loop_wake = wake.clone();
                let link = SourceLink::new(events, Box::new(move || loop_wake.wake()), clock);
                let link = link.bounded(bytes).spinning(common.reactor.spin_us);
                // The second CPU is that of the bus thread.
                let cpu = common.cpus.get(1).copied();
                stopping = Some(start_source(source, link.reading(reader), cpu)?);
            }
            let (back, returned) = return_to_reactor(wake);
            Ok(Seams {
                bus,
                bus_bytes,
                event_bytes: BusEvent::message_bytes,
                urgent: self.inputs.urgent,
                inputs: self.inputs.receiver,
                cuts: others.cuts,
                output: self.output,
                http: others.http.handle(back),
                returned,
                handshakes: others.handshakes.start(common, clock, wake)?,
                telemetry: others.telemetry,
            })
        };
        let hub = Hub::new(core, self.gateway);
        let reactor = Reactor::bind(common.reactor.clone(), hub, self.feed, clock, seams)?;
        Ok((reactor, stopping))
    }
}

impl HandshakeParts {
    pub(super) fn new(tls: Option<&TlsInForce>) -> Self {
        Self {
            tls: tls.map(TlsInForce::in_force),
            counts: Arc::default(),
        }
    }

    /// Starts the thread of handshakes, if there is TLS, or a listener whose proxies send headers.
    fn start(
        self,
        common: &CommonSettings,
        clock: Clock,
        wake: &Wake,
    ) -> io::Result<Option<Handshakes>> {
        if self.tls.is_none() && !common.reactor.listen.has_headers() {
            return Ok(None);
        }
        let permits = match &common.tls {
            Some(tls) => tls.handshakes.clone(),
            // Without TLS there are only headers to read.
            None => Quota::new("tls_handshakes", 0),
        };
        let held = &common.tls_held;
        Handshakes::start(self.tls, permits, held, clock, wake, &self.counts).map(Some)
    }
}

/// Starts the thread of a source, on a CPU if one is given. Returns what stops it. The thread is not joined, because a
/// source may block on its broker without limit.
fn start_source(
    source: Box<dyn Source>,
    link: SourceLink,
    cpu: Option<usize>,
) -> io::Result<Stopping> {
    let stopping = link.stopping();
    detached("source", move || {
        pin(cpu);
        source.run(link);
    })?;
    Ok(stopping)
}
