//! The thread: sockets whose header is awaited, sockets that wait for their turn, handshakes under way.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use foldhash::quality::RandomState;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::HandshakeKind;

use super::proxied::{Beginning, take_header};
use super::{Entered, HandshakeCounts, HandshakeLimits, Job, Outcome, secured};
use crate::admission::{AddressLimits, AddressPlace, Addresses, ClientAddr, FairQueue, Peer};
use crate::base::{Clock, Wake};
use crate::hub::{CloseReason, SessionKey};
use crate::reactor::listeners::Accepted;
use crate::tls::{ServerTlsInForce, TlsSession};

pub(super) const WAKER: Token = Token(usize::MAX);

/// Steps of handshakes between two looks at the poll, so that new clients join their turn.
const STEPS: usize = 16;

/// Bytes of one read: a client's first message has 300 to 2,000 bytes.
const READ_BYTES: usize = 16 * 1024;

/// A socket on the thread.
struct Socket {
    stream: TcpStream,
    client: ClientAddr,
    stage: Stage,
}

enum Stage {
    /// The header of a proxy is awaited.
    Header {
        peer: Peer,
        is_tls: bool,
    },
    /// The handshake has not begun.
    Waiting,
    Handshake(Handshake),
}

struct Handshake {
    session: Box<TlsSession>,
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

/// The sockets of the thread.
pub(super) struct Sockets {
    all: HashMap<SessionKey, Socket, RandomState>,
    addresses: Addresses,
    /// Sockets whose handshake has not begun.
    waiting: FairQueue<SessionKey>,
    /// Sockets with a handshake under way that may hold bytes.
    ready: FairQueue<SessionKey>,
    under_way: usize,
    under_way_max: usize,
}

impl Sockets {
    pub(super) fn new(limits: HandshakeLimits) -> Self {
        let of_address = AddressLimits {
            connections_max: Some(limits.per_ip_max),
            ..AddressLimits::default()
        };
        Self {
            all: HashMap::default(),
            addresses: Addresses::new(of_address),
            waiting: FairQueue::default(),
            ready: FairQueue::default(),
            under_way: 0,
            under_way_max: limits.under_way_max,
        }
    }

    fn wait(&mut self, key: SessionKey, stream: TcpStream, client: ClientAddr) {
        let stage = Stage::Waiting;
        let socket = Socket {
            stream,
            client,
            stage,
        };
        self.all.insert(key, socket);
        self.waiting.push(client, key);
    }

    /// The next socket whose handshake may begin, with its place among those of its address.
    fn next_waiting(&mut self, now_us: u64) -> Option<(SessionKey, Option<AddressPlace>)> {
        if self.under_way >= self.under_way_max {
            return None;
        }
        let mut place = None;
        let addresses = &mut self.addresses;
        let key = self
            .waiting
            .pop_of(|client| match addresses.admit(client, now_us) {
                Ok(admitted) => {
                    place = admitted;
                    true
                }
                Err(_) => false,
            })?;
        Some((key, place))
    }

    fn remove(&mut self, key: SessionKey) -> Option<Socket> {
        self.waiting.remove(&key);
        self.ready.remove(&key);
        let socket = self.all.remove(&key)?;
        self.under_way -= usize::from(matches!(socket.stage, Stage::Handshake(_)));
        Some(socket)
    }
}

pub(super) struct Worker {
    pub(super) poll: Poll,
    pub(super) wake: Wake,
    pub(super) tls: Option<ServerTlsInForce>,
    pub(super) jobs: Receiver<Job>,
    pub(super) finished: Sender<Entered>,
    pub(super) the_loop: Wake,
    pub(super) counts: Arc<HandshakeCounts>,
    pub(super) clock: Clock,
    pub(super) sockets: Sockets,
}

impl Worker {
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        loop {
            self.wake.awake();
            let timeout = match self.sockets.ready.is_empty() && self.jobs.is_empty() {
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
                self.look_at(key, event.is_read_closed());
            }
            if !self.take_jobs() {
                return;
            }
            for _ in 0..STEPS {
                let Some(key) = self.sockets.ready.pop() else {
                    break;
                };
                self.step(key, &mut buffer);
            }
            // Behind the steps, which leave places.
            while let Some((key, place)) = self.sockets.next_waiting(self.clock.mono_us()) {
                if self.begin(key, place).is_err() {
                    self.handshake_failed(key);
                }
            }
            self.tell();
        }
    }

    /// Returns false at the end of the loop.
    fn take_jobs(&mut self) -> bool {
        loop {
            match self.jobs.try_recv() {
                Ok(Job::ReadHeader(key, accepted)) => self.await_header(key, accepted),
                Ok(Job::Begin(key, stream, client)) => self.sockets.wait(key, stream, client),
                Ok(Job::Drop(key)) => {
                    self.sockets.remove(key);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Handles an event of a socket. A header costs two system calls, so it waits for no turn.
    fn look_at(&mut self, key: SessionKey, has_ended: bool) {
        let Some(socket) = self.sockets.all.get(&key) else {
            return;
        };
        match socket.stage {
            Stage::Header { .. } => self.read_header(key, has_ended),
            _ => self.sockets.ready.push(socket.client, key),
        }
    }

    fn await_header(&mut self, key: SessionKey, accepted: Accepted) {
        let Accepted {
            stream,
            peer,
            is_tls,
        } = accepted;
        let stage = Stage::Header { peer, is_tls };
        let client = peer.client();
        let mut socket = Socket {
            stream,
            client,
            stage,
        };
        let registered = register(&self.poll, key, &mut socket.stream);
        self.sockets.all.insert(key, socket);
        match registered {
            Ok(()) => self.read_header(key, false),
            Err(_) => self.failed(key, CloseReason::SocketError),
        }
    }

    /// Takes the header, if it is whole. `has_ended`: the peer sends no more.
    fn read_header(&mut self, key: SessionKey, has_ended: bool) {
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return;
        };
        let client = match take_header(&mut socket.stream) {
            Ok(Beginning::Part) if has_ended => return self.failed(key, CloseReason::PeerGone),
            Ok(Beginning::Part) => return,
            Ok(Beginning::Client(client)) => Some(client),
            Ok(Beginning::Proxy) => None,
            Ok(Beginning::Other) => return self.failed(key, CloseReason::ProxyHeader),
            Ok(Beginning::Left) => return self.failed(key, CloseReason::PeerGone),
            Err(_) => return self.failed(key, CloseReason::SocketError),
        };
        match self.take(key) {
            Some((stream, Stage::Header { peer, is_tls })) => {
                let accepted = Accepted {
                    stream,
                    peer,
                    is_tls,
                };
                self.finish(key, Outcome::Header(accepted, client));
            }
            _ => self.finish(key, Outcome::Failed(CloseReason::SocketError)),
        }
    }

    fn begin(&mut self, key: SessionKey, place: Option<AddressPlace>) -> io::Result<()> {
        let tls = self.tls.as_ref();
        let tls = tls.ok_or_else(|| io::Error::other("no certificate"))?;
        let session = TlsSession::new(tls.config()).map_err(io::Error::other)?;
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return Ok(());
        };
        socket.stage = Stage::Handshake(Handshake {
            session: Box::new(session),
            took_us: 0,
            _place: place,
        });
        self.sockets.under_way += 1;
        register(&self.poll, key, &mut socket.stream)
    }

    /// Moves a handshake on.
    fn step(&mut self, key: SessionKey, buffer: &mut [u8]) {
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return;
        };
        let Stage::Handshake(handshake) = &mut socket.stage else {
            return;
        };
        let began_us = self.clock.mono_us();
        let step = step(&mut socket.stream, &mut handshake.session, buffer);
        handshake.took_us += self.clock.mono_us() - began_us;
        match step {
            Step::Wait => {}
            Step::Again => self.sockets.ready.push(socket.client, key),
            Step::Failed(error) => {
                tracing::debug!(client = %socket.client, %error, "a TLS handshake failed");
                self.handshake_failed(key);
            }
            Step::Done => self.done(key),
        }
    }

    fn done(&mut self, key: SessionKey) {
        let Some((stream, Stage::Handshake(handshake))) = self.take(key) else {
            return self.handshake_failed(key);
        };
        let kind = handshake.session.connection().handshake_kind();
        let durations = match kind {
            Some(HandshakeKind::Resumed) => &self.counts.resumed,
            _ => &self.counts.full,
        };
        durations.observe_us(handshake.took_us);
        let secured = secured(&handshake.session);
        self.finish(key, Outcome::Handshake(stream, handshake.session, secured));
    }

    /// Takes a socket out of the thread.
    fn take(&mut self, key: SessionKey) -> Option<(TcpStream, Stage)> {
        let mut socket = self.sockets.remove(key)?;
        let registry = self.poll.registry();
        registry.deregister(&mut socket.stream).ok()?;
        Some((socket.stream, socket.stage))
    }

    fn handshake_failed(&mut self, key: SessionKey) {
        self.counts.failed.fetch_add(1, Relaxed);
        self.failed(key, CloseReason::TlsError);
    }

    fn failed(&mut self, key: SessionKey, reason: CloseReason) {
        self.sockets.remove(key);
        self.finish(key, Outcome::Failed(reason));
    }

    fn finish(&self, key: SessionKey, outcome: Outcome) {
        let _ = self.finished.send(Entered { key, outcome });
        self.the_loop.wake();
    }

    fn tell(&self) {
        let (under_way, waiting) = (self.sockets.under_way, self.sockets.waiting.len());
        self.counts.under_way.store(under_way as u64, Relaxed);
        self.counts.waiting.store(waiting as u64, Relaxed);
    }
}

fn register(poll: &Poll, key: SessionKey, stream: &mut TcpStream) -> io::Result<()> {
    let token = Token(key.to_bits() as usize);
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(stream, token, both)
}

/// Sends the kept records, reads once, and opens the bytes.
fn step(stream: &mut TcpStream, session: &mut TlsSession, buffer: &mut [u8]) -> Step {
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
