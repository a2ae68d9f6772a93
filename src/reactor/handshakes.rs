//! Handshakes of TLS, on a thread of their own: a handshake costs ten times as much as the rest of a connection's
//! start, and the loop has clients to serve.
//!
//! The loop sends a new socket with its key, and gets the socket back with its TLS. Meanwhile the session exists
//! in the hub, with its place and its deadline: a socket whose session has ended is dropped here. Addresses take
//! turns, and each has a limit of handshakes under way. Further sockets wait without a byte of memory for TLS.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use foldhash::quality::RandomState;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::HandshakeKind;

use crate::admission::{AddressLimits, AddressPlace, Addresses, ClientAddr, FairQueue};
use crate::base::{Clock, Wake};
use crate::hub::SessionKey;
use crate::telemetry::Durations;
use crate::tls::{ServerTlsInForce, Session};

const WAKER: Token = Token(usize::MAX);

/// Steps of handshakes between two looks at the poll, so that new clients join their turn.
const STEPS: usize = 16;

/// Bytes of one read: a client's first message has 300 to 2,000 bytes.
const READ_BYTES: usize = 16 * 1024;

/// The limits of handshakes.
#[derive(Clone, Copy, Debug)]
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
    Begin(SessionKey, TcpStream, ClientAddr),
    /// The session of the key has ended.
    Drop(SessionKey),
}

/// A socket after its handshake; `None` if the handshake failed.
#[derive(Debug)]
pub(super) struct Shaken {
    pub(super) key: SessionKey,
    pub(super) outcome: Option<(TcpStream, Box<Session>)>,
}

/// The loop's side of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Handshakes {
    /// `None` only while being dropped.
    jobs: Option<Sender<Job>>,
    wake: Wake,
    shaken: Receiver<Shaken>,
}

impl Handshakes {
    /// Starts the thread. `wake` wakes the loop.
    ///
    /// # Errors
    /// The system refuses a descriptor or a thread.
    pub fn start(
        tls: ServerTlsInForce,
        limits: HandshakeLimits,
        clock: Clock,
        wake: &Wake,
        counts: &Arc<HandshakeCounts>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let own_wake = Wake::new(poll.registry(), WAKER, "the thread of handshakes")?;
        let (jobs, taken_jobs) = unbounded();
        let (finished, shaken) = unbounded();
        let of_address = AddressLimits {
            connections_max: Some(limits.per_ip_max),
            ..AddressLimits::default()
        };
        let worker = Worker {
            poll,
            wake: own_wake.clone(),
            tls,
            under_way_max: limits.under_way_max,
            jobs: taken_jobs,
            finished,
            the_loop: wake.clone(),
            all: HashMap::default(),
            addresses: Addresses::new(of_address),
            waiting: FairQueue::default(),
            ready: FairQueue::default(),
            under_way: 0,
            counts: Arc::clone(counts),
            clock,
        };
        thread::Builder::new()
            .name("tls".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            jobs: Some(jobs),
            wake: own_wake,
            shaken,
        })
    }

    /// Begins the handshake of a new socket.
    pub(super) fn begin(&self, key: SessionKey, stream: TcpStream, client: ClientAddr) {
        self.send(Job::Begin(key, stream, client));
    }

    /// Drops the socket of an ended session.
    pub(super) fn drop_socket(&self, key: SessionKey) {
        self.send(Job::Drop(key));
    }

    /// Returns the next socket whose handshake is over.
    pub(super) fn next(&self) -> Option<Shaken> {
        self.shaken.try_recv().ok()
    }

    /// Whether [`next`](Self::next) has something.
    pub(super) fn have_shaken(&self) -> bool {
        !self.shaken.is_empty()
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

/// A socket on the thread.
struct Shake {
    stream: TcpStream,
    client: ClientAddr,
    /// `None` while the socket waits for its turn.
    begun: Option<Begun>,
}

struct Begun {
    session: Box<Session>,
    /// The time of all steps so far.
    took_us: u64,
    /// A place among the handshakes of the address.
    _place: Option<AddressPlace>,
}

/// The outcome of a step.
enum Step {
    /// Bytes may wait in the socket.
    Again,
    /// An event of the poll comes first.
    Wait,
    Done,
    Failed(io::Error),
}

struct Worker {
    poll: Poll,
    wake: Wake,
    tls: ServerTlsInForce,
    under_way_max: usize,
    jobs: Receiver<Job>,
    finished: Sender<Shaken>,
    the_loop: Wake,
    all: HashMap<SessionKey, Shake, RandomState>,
    addresses: Addresses,
    /// Sockets whose handshake has not begun.
    waiting: FairQueue<SessionKey>,
    /// Sockets that may hold bytes.
    ready: FairQueue<SessionKey>,
    under_way: usize,
    counts: Arc<HandshakeCounts>,
    clock: Clock,
}

impl Worker {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        loop {
            self.wake.awake();
            let timeout = match self.ready.is_empty() && self.jobs.is_empty() {
                true => None,
                false => Some(Duration::ZERO),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // Without the thread no client gets in: as bad as a loop without its poll.
                    tracing::error!(%error, "the thread of handshakes cannot poll");
                    std::process::exit(1);
                }
                _ => self.wake.will_look(),
            }
            for event in events.iter().filter(|event| event.token() != WAKER) {
                let key = SessionKey::from_bits(event.token().0 as u64);
                self.push_ready(key);
            }
            if !self.take_jobs() {
                return;
            }
            let mut has_finished = false;
            for _ in 0..STEPS {
                let Some(key) = self.ready.pop() else {
                    break;
                };
                has_finished |= self.step(key, &mut buffer);
            }
            // Behind the steps, which leave places.
            has_finished |= self.begin_waiting();
            self.tell();
            if has_finished {
                self.the_loop.wake();
            }
        }
    }

    fn push_ready(&mut self, key: SessionKey) {
        if let Some(shake) = self.all.get(&key) {
            self.ready.push(shake.client, key);
        }
    }

    /// Returns false at the end of the loop.
    fn take_jobs(&mut self) -> bool {
        loop {
            match self.jobs.try_recv() {
                Ok(Job::Begin(key, stream, client)) => {
                    let begun = None;
                    let shake = Shake {
                        stream,
                        client,
                        begun,
                    };
                    self.all.insert(key, shake);
                    self.waiting.push(client, key);
                }
                Ok(Job::Drop(key)) => {
                    self.take(key);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Removes a socket.
    fn take(&mut self, key: SessionKey) -> Option<Shake> {
        self.waiting.remove(&key);
        self.ready.remove(&key);
        let shake = self.all.remove(&key)?;
        self.under_way -= usize::from(shake.begun.is_some());
        Some(shake)
    }

    /// Begins handshakes of waiting sockets, up to the limits. Returns whether a handshake failed at once.
    fn begin_waiting(&mut self) -> bool {
        let now_us = self.clock.mono_us();
        let mut has_failed = false;
        while self.under_way < self.under_way_max {
            let addresses = &mut self.addresses;
            let mut place = None;
            let next = self
                .waiting
                .pop_of(|client| match addresses.admit(client, now_us) {
                    Ok(admitted) => {
                        place = admitted;
                        true
                    }
                    Err(_) => false,
                });
            let Some(key) = next else {
                break;
            };
            if self.begin(key, place).is_err() {
                self.failed(key);
                has_failed = true;
            }
        }
        has_failed
    }

    fn begin(&mut self, key: SessionKey, place: Option<AddressPlace>) -> io::Result<()> {
        let config = self.tls.config();
        let Some(shake) = self.all.get_mut(&key) else {
            return Ok(());
        };
        let session = Session::new(config).map_err(io::Error::other)?;
        shake.begun = Some(Begun {
            session: Box::new(session),
            took_us: 0,
            _place: place,
        });
        self.under_way += 1;
        let token = Token(key.to_bits() as usize);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut shake.stream, token, both)
    }

    /// Moves a handshake on. Returns whether the loop has something to take.
    fn step(&mut self, key: SessionKey, buffer: &mut [u8]) -> bool {
        let Some(shake) = self.all.get_mut(&key) else {
            return false;
        };
        let Some(begun) = &mut shake.begun else {
            return false;
        };
        let began_us = self.clock.mono_us();
        let step = step(&mut shake.stream, &mut begun.session, buffer);
        begun.took_us += self.clock.mono_us() - began_us;
        match step {
            Step::Wait => return false,
            Step::Again => {
                self.ready.push(shake.client, key);
                return false;
            }
            Step::Failed(error) => {
                tracing::debug!(client = %shake.client, %error, "a TLS handshake failed");
                self.failed(key);
            }
            Step::Done => {
                let kind = begun.session.connection().handshake_kind();
                let durations = match kind {
                    Some(HandshakeKind::Resumed) => &self.counts.resumed,
                    _ => &self.counts.full,
                };
                durations.observe_us(begun.took_us);
                let done = self.take(key).and_then(|mut shake| {
                    self.poll.registry().deregister(&mut shake.stream).ok()?;
                    Some((shake.stream, shake.begun?.session))
                });
                let _ = self.finished.send(Shaken { key, outcome: done });
            }
        }
        true
    }

    /// Ends a failed handshake.
    fn failed(&mut self, key: SessionKey) {
        self.counts.failed.fetch_add(1, Relaxed);
        self.take(key);
        let _ = self.finished.send(Shaken { key, outcome: None });
    }

    fn tell(&self) {
        self.counts.under_way.store(self.under_way as u64, Relaxed);
        self.counts
            .waiting
            .store(self.waiting.len() as u64, Relaxed);
    }
}

/// Sends the kept records, reads once, and opens the bytes.
fn step(stream: &mut TcpStream, session: &mut Session, buffer: &mut [u8]) -> Step {
    let moved = session.send_kept(|bytes| stream.write(bytes));
    if let Err(error) = moved {
        return Step::Failed(error);
    }
    let read = match stream.read(buffer) {
        Ok(0) => return Step::Failed(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Step::Again,
        Err(error) => return Step::Failed(error),
    };
    // Plain bytes behind the handshake wait in the session.
    let opened = session.open(&mut buffer[..read], &mut []);
    let sent = session.send_kept(|bytes| stream.write(bytes));
    match opened.and(sent) {
        Err(error) => Step::Failed(error),
        Ok(_) if !session.is_handshaking() => Step::Done,
        Ok(_) => Step::Again,
    }
}
