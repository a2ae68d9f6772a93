//! The thread: sockets whose header is awaited, sockets that wait for their turn, handshakes under way.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use foldhash::quality::RandomState;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::HandshakeKind;

use super::{
    Beginning, Entered, HandshakeCounts, HandshakeLimits, Job, Outcome, secured, take_header,
};
use crate::admission::{Chosen, ClientAddr, FairQueue, Holding, Peer, address_group};
use crate::base::{Clock, Wake};
use crate::hub::{CloseReason, SessionKey};
use crate::listening::tls::{ServerTlsInForce, TlsSession};
use crate::reactor::listeners::Accepted;

pub(super) const WAKER: Token = Token(usize::MAX);

/// Steps of handshakes between two looks at the poll, so that new clients join their turn.
const STEPS: usize = 16;

/// The time of a handshake for itself while clients of other addresses wait: enough for a client far away, and
/// little of the time of those clients.
const UNDISTURBED_US: u64 = 1_000_000;

/// The wait for the next look at the ages of handshakes, while clients wait.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

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
}

/// A handshake under way.
#[derive(Clone, Copy)]
struct Place {
    key: SessionKey,
    began_us: u64,
}

/// The outcome of a step.
enum Step {
    /// Bytes may wait in the socket.
    Again,
    /// An event of the poll comes first.
    Wait,
    Done,
}

/// The sockets of the thread.
#[derive(Default)]
pub(super) struct Sockets {
    all: HashMap<SessionKey, Socket, RandomState>,
    /// The handshakes under way by address, oldest first; no address without a handshake.
    places: HashMap<ClientAddr, VecDeque<Place>, RandomState>,
    /// Sockets whose handshake has not begun.
    waiting: FairQueue<SessionKey>,
    /// Sockets with a handshake under way that may hold bytes.
    ready: FairQueue<SessionKey>,
    under_way: usize,
    limits: HandshakeLimits,
}

impl Sockets {
    pub(super) fn new(limits: HandshakeLimits) -> Self {
        Self {
            limits,
            ..Self::default()
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

    fn is_full(&self) -> bool {
        self.under_way >= self.limits.under_way_max
    }

    /// The next socket to begin a handshake, and the handshake to end in exchange. If all places are taken, only
    /// clients of addresses without a place get one: otherwise a few addresses with silent clients would delay
    /// all others until the deadline.
    fn next_waiting(&mut self, now_us: u64) -> Option<(SessionKey, Option<SessionKey>)> {
        if self.waiting.is_empty() {
            return None;
        }
        let (gives_way, places_max) = match self.is_full() {
            true => (Some(self.gives_way(now_us)?), 1),
            false => (None, self.limits.per_ip_max),
        };
        let places = &self.places;
        let key = self
            .waiting
            .pop_of(|client| places.get(&client).map_or(0, VecDeque::len) < places_max)?;
        Some((key, gives_way))
    }

    /// The oldest handshake of the address with the most. An address keeps its last place, and a handshake has
    /// some time for itself: a storm of clients moves on by itself.
    fn gives_way(&self, now_us: u64) -> Option<SessionKey> {
        let shared = self.places.values().filter(|places| places.len() > 1);
        let oldest = shared
            .filter_map(|places| Some((places.len(), Reverse(places.front()?.began_us), places)));
        let (_, Reverse(began_us), places) = oldest.max_by_key(|(len, began, _)| (*len, *began))?;
        let had_its_time = began_us + UNDISTURBED_US <= now_us;
        had_its_time.then(|| places.front().map(|place| place.key))?
    }

    /// Whether a handshake holds bytes, and was chosen to give way for those.
    fn gives_way_for_bytes(&self, key: SessionKey) -> bool {
        match self.all.get(&key).map(|socket| &socket.stage) {
            Some(Stage::Handshake(handshake)) => handshake.session.gives_way(),
            _ => false,
        }
    }

    /// Counts the handshake of a socket as under way.
    fn begin(&mut self, client: ClientAddr, key: SessionKey, began_us: u64) {
        let places = self.places.entry(address_group(client)).or_default();
        places.push_back(Place { key, began_us });
        self.under_way += 1;
    }

    fn end(&mut self, client: ClientAddr, key: SessionKey) {
        let client = address_group(client);
        if let Some(places) = self.places.get_mut(&client) {
            self.under_way -= 1;
            places.retain(|place| place.key != key);
            if places.is_empty() {
                self.places.remove(&client);
            }
        }
    }

    fn remove(&mut self, key: SessionKey) -> Option<Socket> {
        self.waiting.remove(&key);
        self.ready.remove(&key);
        let socket = self.all.remove(&key)?;
        if matches!(socket.stage, Stage::Handshake(_)) {
            self.end(socket.client, key);
        }
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
    /// What the TLS of all clients holds.
    pub(super) held: Holding,
    /// Handshakes chosen to give way, for what they hold.
    pub(super) chosen: Chosen<SessionKey>,
    pub(super) sockets: Sockets,
}

impl Worker {
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        loop {
            self.wake.awake();
            let has_messages = !self.jobs.is_empty() || !self.chosen.is_empty();
            let has_work = !self.sockets.ready.is_empty() || has_messages;
            let may_give_way = self.sockets.is_full() && !self.sockets.waiting.is_empty();
            let timeout = match has_work {
                true => Some(Duration::ZERO),
                false => may_give_way.then_some(LOOK_AGAIN),
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
            for key in self.chosen.take() {
                if self.sockets.gives_way_for_bytes(key) {
                    self.handshake_failed(key, CloseReason::TlsMemory);
                }
            }
            // Behind the steps, which leave places.
            while let Some((key, gives_way)) = self.sockets.next_waiting(self.clock.mono_us()) {
                if let Some(oldest) = gives_way {
                    self.handshake_failed(oldest, CloseReason::TlsError);
                }
                if self.begin(key).is_err() {
                    self.handshake_failed(key, CloseReason::TlsError);
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

    fn begin(&mut self, key: SessionKey) -> io::Result<()> {
        let tls = self.tls.as_ref();
        let tls = tls.ok_or_else(|| io::Error::other("no certificate"))?;
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return Ok(());
        };
        let session = tls.session(&self.held, socket.client, self.clock);
        let mut session = session.map_err(io::Error::other)?;
        session.wake_with(&self.chosen.waker(key));
        socket.stage = Stage::Handshake(Handshake {
            session: Box::new(session),
            took_us: 0,
        });
        let client = socket.client;
        let registered = register(&self.poll, key, &mut socket.stream);
        self.sockets.begin(client, key, self.clock.mono_us());
        registered
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
            Ok(Step::Wait) => {}
            Ok(Step::Again) => self.sockets.ready.push(socket.client, key),
            Ok(Step::Done) => self.done(key),
            Err(error) => {
                tracing::debug!(client = %socket.client, %error, "a TLS handshake failed");
                self.handshake_failed(key, CloseReason::TlsError);
            }
        }
    }

    fn done(&mut self, key: SessionKey) {
        let Some((stream, Stage::Handshake(handshake))) = self.take(key) else {
            return self.handshake_failed(key, CloseReason::TlsError);
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

    fn handshake_failed(&mut self, key: SessionKey, reason: CloseReason) {
        self.counts.failed.fetch_add(1, Relaxed);
        self.failed(key, reason);
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

/// Sends the kept records, reads once, and opens the bytes. An error ends the handshake.
fn step(stream: &mut TcpStream, session: &mut TlsSession, buffer: &mut [u8]) -> io::Result<Step> {
    session.send_kept(|bytes| stream.write(bytes))?;
    let read = match stream.read(buffer) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Wait),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Step::Again),
        Err(error) => return Err(error),
    };
    // Plain bytes behind the handshake wait in the session.
    let opened = session.open(&mut buffer[..read], &mut []);
    let sent = session.send_kept(|bytes| stream.write(bytes));
    opened.and(sent)?;
    Ok(match session.is_handshaking() {
        true => Step::Again,
        false => Step::Done,
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn ip(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn key(slot: u32) -> SessionKey {
        SessionKey {
            slot,
            generation: 0,
        }
    }

    #[test]
    fn an_address_without_a_place_gets_the_oldest_of_the_address_with_the_most() {
        let limits = HandshakeLimits {
            under_way_max: 6,
            per_ip_max: 4,
        };
        let mut sockets = Sockets::new(limits);
        for (slot, address) in [1, 2, 3, 2, 3, 3].into_iter().enumerate() {
            sockets.begin(ip(address), key(slot as u32), 10 * slot as u64);
        }
        let later_us = UNDISTURBED_US + 1_000;
        sockets.waiting.push(ip(2), key(10));
        assert_eq!(sockets.next_waiting(later_us), None, "it has places");
        sockets.waiting.push(ip(4), key(11));
        assert_eq!(sockets.next_waiting(UNDISTURBED_US), None, "too young");
        let mut next = |new: (u8, u32), of: u8, ends| {
            sockets.waiting.push(ip(new.0), key(new.1));
            let next = sockets.next_waiting(later_us);
            assert_eq!(next, Some((key(new.1), Some(key(ends)))));
            sockets.end(ip(of), key(ends));
            sockets.begin(ip(new.0), key(new.1), later_us);
        };
        next((4, 11), 3, 2);
        next((5, 12), 2, 1);
        next((6, 13), 3, 4);
        sockets.waiting.push(ip(7), key(14));
        let much_later_us = 2 * later_us;
        assert_eq!(sockets.next_waiting(much_later_us), None, "one for each");
        sockets.end(ip(1), key(0));
        let next = sockets.next_waiting(much_later_us);
        assert!(next.is_some_and(|(_, ends)| ends.is_none()), "a free place");
    }
}
