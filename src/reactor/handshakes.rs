//! What comes before a client's first byte of HTTP, on a thread of its own: the header of a proxy, and the
//! handshake of TLS, which costs ten times as much as the rest of a connection's start, while the loop has clients
//! to serve.
//!
//! The loop sends a new socket with its key, and gets the socket back, with its TLS. Meanwhile the session exists
//! in the hub, with its place and its deadline: a socket whose session has ended is dropped here. Addresses take
//! turns, and each has a limit of handshakes under way. Further sockets wait without a byte of memory for TLS.

mod proxied;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Poll;
use mio::net::TcpStream;

use super::listeners::Accepted;
use crate::admission::ClientAddr;
use crate::base::{Clock, Wake};
use crate::hub::{CloseReason, Secured, SessionKey};
use crate::listening::tls::{HeldBytes, ServerTlsInForce, TlsSession};
use crate::telemetry::Durations;

use worker::{WAKER, Worker};

/// The limits of handshakes. The default permits none, for a gateway without TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandshakeLimits {
    /// Handshakes under way; further clients wait for their turn.
    pub under_way_max: usize,
    /// Handshakes under way of one address.
    pub per_ip_max: usize,
}

/// Counts of the thread.
#[derive(Debug, Default)]
pub struct HandshakeCounts {
    /// The time that the thread needed for each whole handshake.
    full: Arc<Durations>,
    /// The same with a ticket.
    resumed: Arc<Durations>,
    failed: AtomicU64,
    under_way: AtomicU64,
    waiting: AtomicU64,
}

impl HandshakeCounts {
    /// Completed handshakes by their kind, and failed ones: `full`, `resumed`, `failed`.
    pub fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let count = |durations: &Durations| durations.counts().count();
        vec![
            ("full", count(&self.full)),
            ("resumed", count(&self.resumed)),
            ("failed", self.failed.load(Relaxed)),
        ]
    }

    /// Handshakes under way, and clients that wait for their turn.
    pub fn open(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("under_way", self.under_way.load(Relaxed)),
            ("waiting", self.waiting.load(Relaxed)),
        ]
    }

    /// The time that the thread needed for each completed handshake, by its kind.
    pub fn durations(&self) -> Vec<(&'static str, Arc<Durations>)> {
        vec![
            ("full", Arc::clone(&self.full)),
            ("resumed", Arc::clone(&self.resumed)),
        ]
    }
}

/// Work for the thread.
#[derive(Debug)]
enum Job {
    ReadHeader(SessionKey, Accepted),
    Begin(SessionKey, TcpStream, ClientAddr),
    /// The session of the key has ended.
    Drop(SessionKey),
}

/// A socket on its way back to the loop.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) key: SessionKey,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// The header was read. It names the client, or the connection is one of the proxy itself.
    Header(Accepted, Option<SocketAddr>),
    /// The handshake is over.
    Handshake(TcpStream, Box<TlsSession>, Secured),
    /// The socket is closed.
    Failed(CloseReason),
}

/// What a session tells of its client. Reads the client's certificate, if the client has shown one.
pub(super) fn secured(tls: &TlsSession) -> Secured {
    Secured {
        version: tls.version(),
        user: tls.client_name().map(String::into_boxed_str),
    }
}

/// The loop's side of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Handshakes {
    /// `None` only while being dropped.
    jobs: Option<Sender<Job>>,
    wake: Wake,
    entered: Receiver<Entered>,
}

impl Handshakes {
    /// Starts the thread; `tls` is `None` for headers of proxies alone. The sessions count in `held`. `wake` wakes
    /// the loop.
    ///
    /// # Errors
    /// The system refuses a descriptor or a thread.
    pub fn start(
        tls: Option<ServerTlsInForce>,
        limits: HandshakeLimits,
        held: &Arc<HeldBytes>,
        clock: Clock,
        wake: &Wake,
        counts: &Arc<HandshakeCounts>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let own_wake = Wake::new(poll.registry(), WAKER, "the thread of handshakes")?;
        let (jobs, taken_jobs) = unbounded();
        let (finished, entered) = unbounded();
        let worker = Worker {
            poll,
            wake: own_wake.clone(),
            tls,
            jobs: taken_jobs,
            finished,
            the_loop: wake.clone(),
            counts: Arc::clone(counts),
            clock,
            held: Arc::clone(held),
            sockets: worker::Sockets::new(limits),
        };
        thread::Builder::new()
            .name("handshakes".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            jobs: Some(jobs),
            wake: own_wake,
            entered,
        })
    }

    /// Begins to read the header of a proxy.
    pub(super) fn read_header(&self, key: SessionKey, accepted: Accepted) {
        self.send(Job::ReadHeader(key, accepted));
    }

    /// Begins the handshake of a socket.
    pub(super) fn begin(&self, key: SessionKey, stream: TcpStream, client: ClientAddr) {
        self.send(Job::Begin(key, stream, client));
    }

    /// Drops the socket of an ended session.
    pub(super) fn drop_socket(&self, key: SessionKey) {
        self.send(Job::Drop(key));
    }

    /// Returns the next socket that comes back.
    pub(super) fn next(&self) -> Option<Entered> {
        self.entered.try_recv().ok()
    }

    /// Whether [`next`](Self::next) has something.
    pub(super) fn have_entered(&self) -> bool {
        !self.entered.is_empty()
    }

    fn send(&self, job: Job) {
        // The thread ends only after this.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
            self.wake.wake();
        }
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.jobs = None;
        self.wake.wake();
    }
}
