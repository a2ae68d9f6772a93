//! Calls of services for the loop: `POST {URL}/gateway/handle`, on a thread of its own.
//!
//! The loop hands a call over and goes on; the answer comes back over a channel. Follows no
//! redirect, keeps no cookie, asks for no coding. How many calls there are at once is the gateway's
//! to say; what an answer means too. Called by `run`.

mod client;
mod coding;
mod link;
mod stats;
mod upstream;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use rustls::ClientConfig;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use self::client::Client;
use super::aside;
use crate::gateways::events::call::{Answer, Call, CallFailure, Reader, Reply};

pub use self::client::CallLimits;
pub(super) use self::link::{Activity, KEPT_FOR, connect, is_reset};
pub use self::stats::CallStats;
pub use self::upstream::Upstream;

/// A service that is called, and what is counted of it.
pub struct Called {
    /// Where it is.
    pub upstream: Upstream,
    /// Its counters.
    pub stats: Arc<CallStats>,
}

/// Takes what came of a call; called on the calls' thread, must not block.
pub type Replied = Box<dyn Fn(Reply) + Send>;

/// The way to the calls' thread.
#[derive(Clone, Debug)]
pub struct Calls(mpsc::UnboundedSender<Call>);

impl Calls {
    /// Starts the thread. `services` are in the order of
    /// [`Service::ALL`](crate::gateways::events::Service::ALL); `tls` is for those that are
    /// at `https://`.
    ///
    /// # Errors
    /// The system refuses a thread or descriptors for its event loop.
    pub fn start(
        services: Vec<Called>,
        tls: Option<Arc<ClientConfig>>,
        limits: CallLimits,
        replied: Replied,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let tls = tls.map(TlsConnector::from);
        let (calls, queue) = mpsc::unbounded_channel();
        let run = move || {
            let service = |called: Called| {
                let client = Client::new(called.upstream, tls.clone(), limits.clone());
                Rc::new((client, called.stats))
            };
            let services = services.into_iter().map(service).collect();
            LocalSet::new().block_on(&runtime, serve(services, replied, queue));
        };
        thread::Builder::new().name("calls".to_owned()).spawn(run)?;
        Ok(Self(calls))
    }

    /// Makes a call. Never blocks; the gateway bounds how many there are.
    pub fn make(&self, call: Call) {
        // The thread ends only with the process.
        let _ = self.0.send(call);
    }
}

type Service = (Client, Arc<CallStats>);

async fn serve(
    services: Vec<Rc<Service>>,
    replied: Replied,
    mut queue: mpsc::UnboundedReceiver<Call>,
) {
    let replied = Rc::new(replied);
    while let Some(call) = queue.recv().await {
        let service = services.get(call.service as usize).map(Rc::clone);
        let replied = Rc::clone(&replied);
        spawn_local(async move {
            let (id, reader) = (call.id, call.reader.clone());
            let outcome = match service {
                Some(service) => make(&service, call).await,
                None => Err(CallFailure::Unreachable),
            };
            replied(read(reader, id, outcome).await);
        });
    }
}

async fn make((client, stats): &Service, call: Call) -> Result<Answer, CallFailure> {
    stats.begin();
    let begun = Instant::now();
    let outcome = client.call(call).await;
    stats.end(&outcome, begun.elapsed());
    outcome
}

/// A large answer is read aside, so that other calls go on.
async fn read(reader: Reader, id: u64, outcome: Result<Answer, CallFailure>) -> Reply {
    let bytes = outcome.as_ref().map_or(0, |answer| answer.body.len());
    let again = reader.clone();
    let reply = aside::work(bytes, move || reader.read(id, outcome)).await;
    reply.unwrap_or_else(|| again.read(id, Err(CallFailure::Unreachable)))
}
