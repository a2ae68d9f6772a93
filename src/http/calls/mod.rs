//! Calls of services for the loop: a `POST` each, on a thread of their own.
//!
//! The loop hands a call over and continues; the answer comes back over a channel. Follows no redirect, keeps
//! no cookie, asks for no coding. The gateway bounds the calls at once, and interprets the answers. Called by
//! `kinds`.

mod client;

use std::io;
use std::iter;
use std::rc::Rc;

use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use self::client::Client;
use super::aside;
use super::services::{ByService, RequestMetrics, RequestStats, Service};
use crate::base::detached;
use crate::gateways::events::call::{AnswerReader, Call, CallFailure, Reply, ServiceAnswer};
use crate::telemetry::{GatewayMetric, names};

pub use self::client::CallLimits;

/// Takes the reply of a call; called on the calls' thread, must not block.
pub type Replied = Box<dyn Fn(Reply) + Send>;

/// The handle of the calls' thread.
#[derive(Debug)]
pub struct Calls {
    queue: mpsc::UnboundedSender<Call>,
    stats: ByService<RequestStats>,
}

impl Calls {
    /// Starts the thread. `services` are in the order of
    /// [`EventsService::ALL`](crate::gateways::events::EventsService::ALL); each call goes to `path` there.
    ///
    /// # Errors
    /// The system refuses a thread or descriptors for its event loop.
    pub fn start(
        services: Vec<Service>,
        path: &'static str,
        limits: CallLimits,
        replied: Replied,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let stats = services.iter().map(Service::name);
        let stats: ByService<_> = stats.zip(iter::repeat_with(client::stats)).collect();
        let each = stats.clone().into_iter().map(|(_, stats)| stats);
        let clients = services.into_iter().zip(each);
        let clients: Vec<_> = clients
            .map(|(service, stats)| Client::new(service, path, limits.clone(), stats))
            .collect();
        let (queue, calls) = mpsc::unbounded_channel();
        let run = move || {
            let clients = clients.into_iter().map(Rc::new).collect();
            LocalSet::new().block_on(&runtime, serve(clients, replied, calls));
        };
        detached("calls", run)?;
        Ok(Self { queue, stats })
    }

    /// Makes a call. Never blocks; the gateway bounds the count of calls.
    pub fn make(&self, call: Call) {
        // The thread ends only with the process.
        let _ = self.queue.send(call);
    }

    /// The metrics of the calls.
    pub fn metrics(&self) -> Vec<GatewayMetric> {
        let names = RequestMetrics {
            outcomes: &names::UPSTREAM_CALLS,
            durations: &names::UPSTREAM_CALL_DURATION,
            in_flight: &names::UPSTREAM_CALLS_IN_FLIGHT,
        };
        names.of(&self.stats)
    }
}

async fn serve(
    clients: Vec<Rc<Client>>,
    replied: Replied,
    mut calls: mpsc::UnboundedReceiver<Call>,
) {
    let replied = Rc::new(replied);
    while let Some(call) = calls.recv().await {
        let client = clients.get(call.service as usize).map(Rc::clone);
        let replied = Rc::clone(&replied);
        spawn_local(async move {
            let (id, reader) = (call.id, call.reader.clone());
            let outcome = match client {
                Some(client) => client.call(call).await,
                None => Err(CallFailure::Unreachable),
            };
            replied(read(reader, id, outcome).await);
        });
    }
}

/// Reads an answer; a large answer on another thread, so that other calls continue.
async fn read(reader: AnswerReader, id: u64, outcome: Result<ServiceAnswer, CallFailure>) -> Reply {
    let bytes = outcome.as_ref().map_or(0, |answer| answer.body.len());
    let again = reader.clone();
    let reply = aside(bytes, move || reader.read(id, outcome)).await;
    reply.unwrap_or_else(|| again.read(id, Err(CallFailure::Unreachable)))
}
