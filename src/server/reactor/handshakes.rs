//! Reads what comes before a client's first byte of HTTP: the header of a proxy, and the handshake of TLS. A thread
//! does this, because a handshake costs ten times as much as the rest of a connection's start, and the loop has clients
//! to serve.
//!
//! The loop sends a new socket with its key, and gets the socket back, with its TLS. Meanwhile the session exists in
//! the hub, with its permit and its deadline: the thread drops a socket whose session has ended. A handshake begins
//! once the client's first message is whole, so a client that is silent, or sends the message byte by byte, takes no
//! permit. Addresses take turns, and each has a limit of handshakes under way. Further sockets wait without a byte of
//! memory for TLS.
//!
//! | file | has |
//! | --- | --- |
//! | `handshakes` | what the loop and the thread say to each other |
//! | `worker` | the thread |
//! | `proxy_header` | the header of a proxy |
//! | `hello` | whether a TLS client's first message is whole |

mod hello;
mod proxy_header;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Poll;
use mio::net::TcpStream;

use self::worker::{WAKER, Worker};
use super::listeners::Accepted;
use crate::listening::tls::{ServerTlsInForce, TlsSession};
use weirgate_core::{CloseReason, Secured, SessionKey};
use weirgate_runtime::{Clock, Wake};
use weirgate_wire::admission::{Chosen, ClientAddr, Quota};

/// Counts of the thread.
#[derive(Debug, Default)]
pub(crate) struct HandshakeCounts {
    full: AtomicU64,
    /// Handshakes that a ticket has shortened.
    resumed: AtomicU64,
    failed: AtomicU64,
    under_way: AtomicU64,
    waiting: AtomicU64,
}

impl HandshakeCounts {
    /// Completed handshakes by their kind, and failed ones: `full`, `resumed`, `failed`.
    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("full", self.full.load(Relaxed)),
            ("resumed", self.resumed.load(Relaxed)),
            ("failed", self.failed.load(Relaxed)),
        ]
    }

    /// Handshakes under way, and clients that wait for their turn.
    pub(crate) fn open(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("under_way", self.under_way.load(Relaxed)),
            ("waiting", self.waiting.load(Relaxed)),
        ]
    }
}

/// Work for the thread.
#[derive(Debug)]
pub(super) enum HandshakeJob {
    /// The header of a proxy is to be read.
    ReadHeader(SessionKey, Accepted),
    /// The handshake of a socket is to begin.
    Begin(SessionKey, TcpStream, ClientAddr),
    /// The session of the key has ended: the socket is to be dropped.
    Drop(SessionKey),
}

/// A socket on its way back to the loop.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) key: SessionKey,
    pub(super) outcome: HandshakeOutcome,
}

#[derive(Debug)]
pub(super) enum HandshakeOutcome {
    /// The header was read. If it names a client, that client is the peer from now on.
    Header(Accepted),
    /// The handshake is over.
    Handshake(TcpStream, Box<TlsSession>, Secured),
    /// The socket is closed: the reason, and a text for the log line.
    Failed(CloseReason, Option<&'static str>),
}

/// The facts about a client that its session knows. Reads the client's certificate, if the client has shown one.
pub(super) fn secured(tls: &TlsSession) -> Secured {
    Secured {
        version: tls.version(),
        user: tls.client_name().map(String::into_boxed_str),
        certificate_bytes: tls.certificate_bytes(),
    }
}

/// The loop's side of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshakes {
    /// `None` only while being dropped.
    jobs: Option<Sender<HandshakeJob>>,
    wake: Wake,
    entered: Receiver<Entered>,
}

impl Handshakes {
    /// Starts the thread. If `tls` is `None`, it only reads headers of proxies. A handshake takes one of `permits` once
    /// the client's first message is whole, and the bytes of the TLS sessions count in `held`. `wake` wakes the loop.
    ///
    /// # Errors
    /// The system refuses a descriptor or a thread.
    pub(crate) fn start(
        tls: Option<ServerTlsInForce>,
        permits: Quota,
        held: &Quota,
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
            held: held.clone(),
            chosen: Chosen::new(own_wake.waker()),
            sockets: worker::HandshakeSockets::new(permits),
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

    /// Returns the next socket that comes back.
    pub(super) fn next(&self) -> Option<Entered> {
        self.entered.try_recv().ok()
    }

    /// Whether [`next`](Self::next) has something.
    pub(super) fn have_entered(&self) -> bool {
        !self.entered.is_empty()
    }

    /// Sends a job to the thread, and wakes it.
    pub(super) fn send(&self, job: HandshakeJob) {
        // The thread ends only after `jobs` is dropped, so the send cannot fail.
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
