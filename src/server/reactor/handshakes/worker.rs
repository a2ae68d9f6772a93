//! The thread: sockets whose header is awaited, sockets that wait for their turn, handshakes under way.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use foldhash::quality::RandomState;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::HandshakeKind;

use super::hello::{HELLO_BYTES_MAX, is_request, may_begin};
use super::proxy_header::{Beginning, take_header};
use super::{Entered, HandshakeCounts, HandshakeJob, HandshakeOutcome, secured};
use crate::listening::tls::{ServerTlsInForce, TlsSession};
use crate::reactor::listeners::Accepted;
use weirgate_core::{CloseReason, SessionKey};
use weirgate_runtime::{Clock, Wake};
use weirgate_wire::admission::{Chosen, ClientAddr, FairQueue, Peer, Permit, Quota, Transport};

pub(super) const WAKER: Token = Token(usize::MAX);

/// The most steps of handshakes between two polls, so that new clients can join the turns.
const STEPS: usize = 16;

/// Each byte of the client moves the time of the handshake's last progress forward by this much, but not past now. So a
/// client that sends a byte now and then does not keep its permit.
const BYTE_MOVES_US: u64 = 100_000;

/// While clients wait for a permit, the thread looks for handshakes without progress once in this time.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The most bytes of one read: a client's first message has 300 to 2,000 bytes.
const READ_BYTES: usize = 16 * 1024;

/// A socket on the thread.
struct HandshakeSocket {
    stream: TcpStream,
    client: ClientAddr,
    stage: HandshakeStage,
}

/// How far a socket has come.
enum HandshakeStage {
    /// The header of a proxy is awaited.
    Header {
        peer: Peer,
        transport: Transport,
    },
    /// The handshake has not begun: the client's first message is not whole, or the socket waits for its turn.
    NotBegun,
    Handshake(Handshake),
}

/// A handshake under way.
struct Handshake {
    session: Box<TlsSession>,
    /// The permit among [`HandshakeSockets::permits`].
    permit: Permit,
    /// The time of the last progress, as far as the client's bytes have moved it, microseconds of the monotonic clock.
    moved_us: u64,
}

/// The outcome of a step.
enum HandshakeStep {
    /// The step read this many bytes, and more may wait in the socket.
    Again(usize),
    /// The next step needs an event of the poll.
    Wait,
    Done,
}

/// The sockets of the thread.
pub(super) struct HandshakeSockets {
    all: HashMap<SessionKey, HandshakeSocket, RandomState>,
    /// Sockets whose client has sent its first message, and whose handshake has not begun.
    waiting: FairQueue<SessionKey>,
    /// Sockets with a handshake under way that may hold bytes.
    ready: FairQueue<SessionKey>,
    /// A permit for each handshake under way.
    permits: Quota,
    /// When the thread next looks for handshakes without progress, microseconds of the monotonic clock.
    check_us: u64,
}

impl HandshakeSockets {
    pub(super) fn new(permits: Quota) -> Self {
        Self {
            all: HashMap::default(),
            waiting: FairQueue::default(),
            ready: FairQueue::default(),
            permits,
            check_us: 0,
        }
    }

    /// The next socket to begin a handshake.
    fn next_waiting(&mut self) -> Option<SessionKey> {
        let permits = &self.permits;
        self.waiting.pop_of(|client| permits.has_room_for(client))
    }

    /// Chooses handshakes without progress to be evicted, one for each address that waits for a permit and has fewer than
    /// half of all permits. Otherwise silent clients would delay all others until the deadline. In a storm of honest
    /// clients the handshakes make progress, and none is evicted.
    fn evict(&mut self, now_us: u64) {
        if self.waiting.is_empty() || now_us < self.check_us {
            return;
        }
        self.check_us = now_us + CHECK_INTERVAL.as_micros() as u64;
        let permits = &self.permits;
        let has_few = |client: ClientAddr| 2 * permits.of(client) < permits.max();
        let may = |client: &ClientAddr| has_few(*client) && !permits.has_room_for(*client);
        // No more than all permits can be freed.
        let others = self
            .waiting
            .clients()
            .filter(may)
            .take(permits.max() as usize);
        permits.evict(others.count() as u64, Quota::STALLED_US, now_us);
    }

    /// Why a handshake has to be evicted, if it has to.
    fn eviction_reason(&self, key: SessionKey) -> Option<CloseReason> {
        let HandshakeStage::Handshake(handshake) = &self.all.get(&key)?.stage else {
            return None;
        };
        let for_bytes = handshake.session.is_evicted();
        let for_permit = handshake.permit.is_evicted();
        match for_bytes {
            true => Some(CloseReason::TlsMemory),
            false => for_permit.then_some(CloseReason::TlsError),
        }
    }

    fn remove(&mut self, key: SessionKey) -> Option<HandshakeSocket> {
        self.waiting.remove(&key);
        self.ready.remove(&key);
        self.all.remove(&key)
    }
}

/// The state of the thread.
pub(super) struct Worker {
    pub(super) poll: Poll,
    /// Wakes this thread.
    pub(super) wake: Wake,
    /// `None`: the thread only reads headers of proxies.
    pub(super) tls: Option<ServerTlsInForce>,
    /// From the loop.
    pub(super) jobs: Receiver<HandshakeJob>,
    /// To the loop.
    pub(super) finished: Sender<Entered>,
    /// Wakes the loop.
    pub(super) the_loop: Wake,
    pub(super) counts: Arc<HandshakeCounts>,
    pub(super) clock: Clock,
    /// The bytes that the TLS of all clients holds.
    pub(super) held: Quota,
    /// Handshakes that have to be evicted, because of their permit or of their bytes.
    pub(super) chosen: Chosen<SessionKey>,
    pub(super) sockets: HandshakeSockets,
}

impl Worker {
    /// Runs until the loop has ended. Between two polls, at most [`STEPS`] steps of handshakes are made, so that new
    /// clients do not wait for all of them.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        loop {
            self.wake.arm();
            let has_messages = !self.jobs.is_empty() || !self.chosen.is_empty();
            let has_work = !self.sockets.ready.is_empty() || has_messages;
            let may_evict = !self.sockets.waiting.is_empty();
            let timeout = match has_work {
                true => Some(Duration::ZERO),
                false => may_evict.then_some(CHECK_INTERVAL),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // Without the thread no client can connect: as bad as a loop without its poll.
                    tracing::error!(%error, "the thread of handshakes cannot poll");
                    std::process::exit(1);
                }
                _ => self.wake.disarm(),
            }
            for event in events.iter().filter(|event| event.token() != WAKER) {
                self.check_handshake(SessionKey::from_bits(event.token().0 as u64), event);
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
            // After the steps, which may free permits.
            self.sockets.evict(self.clock.mono_us());
            for key in self.chosen.take() {
                if let Some(reason) = self.sockets.eviction_reason(key) {
                    self.handshake_failed(key, reason);
                }
            }
            while let Some(key) = self.sockets.next_waiting() {
                if self.begin_handshake(key).is_err() {
                    self.handshake_failed(key, CloseReason::TlsError);
                }
            }
            self.publish_counts();
        }
    }

    /// Takes all waiting jobs; returns false if the loop has ended.
    fn take_jobs(&mut self) -> bool {
        loop {
            match self.jobs.try_recv() {
                Ok(HandshakeJob::ReadHeader(key, accepted)) => self.await_header(key, accepted),
                Ok(HandshakeJob::Begin(key, stream, client)) => {
                    self.await_client(key, stream, client)
                }
                Ok(HandshakeJob::Drop(key)) => {
                    self.sockets.remove(key);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Handles an event of a socket. A header costs two system calls, so it waits for no turn.
    fn check_handshake(&mut self, key: SessionKey, event: &Event) {
        let Some(socket) = self.sockets.all.get(&key) else {
            return;
        };
        match socket.stage {
            HandshakeStage::Header { .. } => {
                self.read_header(key);
                // A part of a header stays a part: the peer sends no more.
                if event.is_read_closed() && self.sockets.all.contains_key(&key) {
                    self.failed(key, CloseReason::PeerGone, None);
                }
            }
            HandshakeStage::NotBegun if event.is_read_closed() || event.is_error() => {
                match socket.stream.peek(&mut [0]) {
                    Ok(1..) => self.handshake_failed(key, CloseReason::TlsError),
                    // Load balancers look whether a port is open: nothing has failed.
                    _ => self.failed(key, CloseReason::PeerGone, None),
                }
            }
            HandshakeStage::NotBegun if event.is_readable() && is_hello_here(&socket.stream) => {
                self.sockets.waiting.push(socket.client, key);
            }
            HandshakeStage::NotBegun => {}
            HandshakeStage::Handshake(_) => self.sockets.ready.push(socket.client, key),
        }
    }

    /// Adds a socket to the table and to the poll. After an error the socket is in the table alone.
    fn add(&mut self, key: SessionKey, mut socket: HandshakeSocket) -> io::Result<()> {
        let token = Token(key.to_bits() as usize);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        let registered = registry.register(&mut socket.stream, token, both);
        self.sockets.all.insert(key, socket);
        registered
    }

    /// Waits for the client's first message.
    fn await_client(&mut self, key: SessionKey, stream: TcpStream, client: ClientAddr) {
        let stage = HandshakeStage::NotBegun;
        let socket = HandshakeSocket {
            stream,
            client,
            stage,
        };
        if self.add(key, socket).is_err() {
            self.handshake_failed(key, CloseReason::TlsError);
        }
    }

    /// Waits for the header of a proxy, which may have come already.
    fn await_header(&mut self, key: SessionKey, accepted: Accepted) {
        let Accepted {
            stream,
            peer,
            transport,
        } = accepted;
        let socket = HandshakeSocket {
            stream,
            client: peer.client(),
            stage: HandshakeStage::Header { peer, transport },
        };
        match self.add(key, socket) {
            Ok(()) => self.read_header(key),
            Err(_) => self.failed(key, CloseReason::SocketError, None),
        }
    }

    /// Takes the header, if it is whole. Until then the socket stays here.
    fn read_header(&mut self, key: SessionKey) {
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return;
        };
        let client = match take_header(&mut socket.stream) {
            Ok(Beginning::Part) => return,
            Ok(Beginning::Client(client)) => Some(client),
            Ok(Beginning::Proxy) => None,
            Ok(Beginning::Other) => return self.failed(key, CloseReason::ProxyHeader, None),
            Ok(Beginning::Left) => return self.failed(key, CloseReason::PeerGone, None),
            Err(_) => return self.failed(key, CloseReason::SocketError, None),
        };
        match self.take(key) {
            Some((stream, HandshakeStage::Header { peer, transport })) => {
                let accepted = Accepted {
                    stream,
                    peer: peer.behind_header(client),
                    transport,
                };
                self.finish(key, HandshakeOutcome::Header(accepted));
            }
            // The poll does not let the socket go.
            _ => self.finish(
                key,
                HandshakeOutcome::Failed(CloseReason::SocketError, None),
            ),
        }
    }

    /// Begins the handshake of a client that has sent its first message, and takes a permit for it.
    fn begin_handshake(&mut self, key: SessionKey) -> io::Result<()> {
        let tls = self.tls.as_ref();
        let tls = tls.ok_or_else(|| io::Error::other("no certificate"))?;
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return Ok(());
        };
        let session = tls.new_session(&self.held, socket.client, self.clock);
        let session = session.map_err(io::Error::other)?;
        session.wake_with(&self.chosen.waker(key));
        let now_us = self.clock.mono_us();
        let permit = self.sockets.permits.hold(socket.client, 1, now_us);
        permit.wake_with(&self.chosen.waker(key));
        socket.stage = HandshakeStage::Handshake(Handshake {
            session: Box::new(session),
            permit,
            moved_us: now_us,
        });
        self.sockets.ready.push(socket.client, key);
        Ok(())
    }

    /// Does one step of a handshake.
    fn step(&mut self, key: SessionKey, buffer: &mut [u8]) {
        let Some(socket) = self.sockets.all.get_mut(&key) else {
            return;
        };
        let HandshakeStage::Handshake(handshake) = &mut socket.stage else {
            return;
        };
        let step = step(&mut socket.stream, &mut handshake.session, buffer);
        let now_us = self.clock.mono_us();
        match step {
            Ok(HandshakeStep::Wait) => {}
            Ok(HandshakeStep::Again(bytes)) => {
                let moved_us = handshake.moved_us + bytes as u64 * BYTE_MOVES_US;
                handshake.moved_us = moved_us.min(now_us);
                handshake.permit.progress(handshake.moved_us);
                self.sockets.ready.push(socket.client, key);
            }
            Ok(HandshakeStep::Done) => self.complete(key),
            Err(error) => {
                tracing::debug!(client = %socket.client, %error, "a TLS handshake failed");
                // The buffer still has the bytes of the last read.
                let is_plain = error.kind() == io::ErrorKind::InvalidData && is_request(buffer);
                self.counts.failed.fetch_add(1, Relaxed);
                self.failed(key, CloseReason::TlsError, is_plain.then_some("plain_http"));
            }
        }
    }

    /// Hands a socket whose handshake is over to the loop.
    fn complete(&mut self, key: SessionKey) {
        let Some((stream, HandshakeStage::Handshake(handshake))) = self.take(key) else {
            return self.handshake_failed(key, CloseReason::TlsError);
        };
        let kind = handshake.session.connection().handshake_kind();
        let count = match kind {
            Some(HandshakeKind::Resumed) => &self.counts.resumed,
            _ => &self.counts.full,
        };
        count.fetch_add(1, Relaxed);
        let secured = secured(&handshake.session);
        self.finish(
            key,
            HandshakeOutcome::Handshake(stream, handshake.session, secured),
        );
    }

    /// Takes a socket out of the thread; `None` if it is not here, or if the poll does not let it go.
    fn take(&mut self, key: SessionKey) -> Option<(TcpStream, HandshakeStage)> {
        let mut socket = self.sockets.remove(key)?;
        let registry = self.poll.registry();
        registry.deregister(&mut socket.stream).ok()?;
        Some((socket.stream, socket.stage))
    }

    fn handshake_failed(&mut self, key: SessionKey, reason: CloseReason) {
        self.counts.failed.fetch_add(1, Relaxed);
        self.failed(key, reason, None);
    }

    fn failed(&mut self, key: SessionKey, reason: CloseReason, refusal: Option<&'static str>) {
        self.sockets.remove(key);
        self.finish(key, HandshakeOutcome::Failed(reason, refusal));
    }

    fn finish(&self, key: SessionKey, outcome: HandshakeOutcome) {
        // Fails only after the end of the loop: the socket is then closed.
        let _ = self.finished.send(Entered { key, outcome });
        self.the_loop.wake();
    }

    fn publish_counts(&self) {
        let under_way = self.sockets.permits.held();
        self.counts.under_way.store(under_way, Relaxed);
        let waiting = self.sockets.waiting.len() as u64;
        self.counts.waiting.store(waiting, Relaxed);
    }
}

/// Whether a client has sent enough to take a permit.
fn is_hello_here(stream: &TcpStream) -> bool {
    let mut seen = [0; HELLO_BYTES_MAX];
    let peeked = stream.peek(&mut seen);
    peeked.is_ok_and(|bytes| may_begin(&seen[..bytes]))
}

/// Sends the kept records, reads once, and gives the bytes to TLS. An error ends the handshake.
fn step(
    stream: &mut TcpStream,
    session: &mut TlsSession,
    buffer: &mut [u8],
) -> io::Result<HandshakeStep> {
    session.send_kept(|bytes| stream.write(bytes))?;
    let read = match stream.read(buffer) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(HandshakeStep::Wait),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            return Ok(HandshakeStep::Again(0));
        }
        Err(error) => return Err(error),
    };
    // Plain bytes after the handshake wait in the session.
    let opened = session.open(&mut buffer[..read], &mut []);
    let sent = session.send_kept(|bytes| stream.write(bytes));
    opened.and(sent)?;
    Ok(match session.is_handshaking() {
        true => HandshakeStep::Again(read),
        false => HandshakeStep::Done,
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
    fn while_others_wait_handshakes_that_stand_still_give_way_and_no_others() {
        let all = Quota::new("tls_handshakes", 4);
        let mut sockets = HandshakeSockets::new(all.clone());
        let hold = |address, now_us| all.hold(ip(address), 1, now_us);
        let permits = [hold(1, 0), hold(1, 10), hold(2, 20), hold(3, 900_000)];
        let is_evicted = |now_us, sockets: &mut HandshakeSockets| {
            sockets.evict(now_us);
            permits.each_ref().map(Permit::is_evicted)
        };
        let none = [false; 4];
        assert_eq!(
            is_evicted(5 * Quota::STALLED_US, &mut sockets),
            none,
            "nobody waits"
        );
        sockets.waiting.push(ip(1), key(10));
        assert_eq!(
            is_evicted(Quota::STALLED_US, &mut sockets),
            none,
            "one at its limit"
        );
        sockets.waiting.push(ip(4), key(11));
        sockets.waiting.push(ip(4), key(12));
        sockets.check_us = 0;
        let one = [true, false, false, false];
        assert_eq!(
            is_evicted(Quota::STALLED_US + 30, &mut sockets),
            one,
            "one address"
        );
        assert_eq!(
            is_evicted(Quota::STALLED_US + 40, &mut sockets),
            one,
            "not yet again"
        );
        assert_eq!(sockets.next_waiting(), None);
        sockets.waiting.push(ip(5), key(13));
        let moves = [true, true, true, false];
        assert_eq!(
            is_evicted(2 * Quota::STALLED_US - 101_000, &mut sockets),
            moves
        );
        drop(permits);
        let next: Vec<_> = std::iter::from_fn(|| sockets.next_waiting()).collect();
        assert_eq!(next, [key(10), key(11), key(13), key(12)]);
    }
}
