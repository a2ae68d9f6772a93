//! The sockets of all sessions, by slot, and the transmit: one `send` or `writev` each, or records of TLS.

mod buffers;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

pub(super) use self::buffers::Got;
use self::buffers::{Joined, TlsBuffers};
use super::readiness::{READABLE, Unread, peer_end};
use super::tcp_info;
use crate::listening::tls::TlsSession;
use weirgate_core::{ByClient, PeerEnd, SessionKey, SocketEnd, TcpSample, Transmit, Write};
use weirgate_runtime::{Clock, Wake};
use weirgate_wire::admission::{Bill, Chosen, ClientAddr, FairQueue};

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    /// `None` for a plain connection.
    tls: Option<Box<TlsSession>>,
    /// The sending side ends when the kept records of TLS are out.
    ends: bool,
    /// The last write of TLS was short.
    was_full: bool,
    /// The socket is in a list of readable sockets: once, however many edges arrived.
    readable: bool,
    /// The socket is in the list of those whose kept records the kernel takes.
    has_room: bool,
    cost: Cost,
    bill: Bill,
    unread: Unread,
    /// The poll has reported the end of the peer's side, perhaps behind unread bytes.
    end: Option<PeerEnd>,
    /// The poll reports when the kernel takes bytes again. Only sockets that were full once request the
    /// report: otherwise every socket would cause a report at its start.
    asks_for_room: bool,
}

/// The cost of reading a socket: the time that its reads and shares took lately ([`Bill`]). Cheap sockets are read
/// first, and their responses go out first, so no client waits for the messages of hundreds of costly clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// A client whose request head is awaited.
    Head,
    /// A client whose messages cost little lately.
    Little,
    /// An open client that has sent nothing yet.
    Unknown,
    /// A client whose messages cost much lately.
    Much,
}

impl Cost {
    pub(super) const ALL: [Self; 4] = [Self::Head, Self::Little, Self::Unknown, Self::Much];
}

/// Sockets that may hold unread bytes, by cost. Client addresses take turns: hundreds of clients of an address delay
/// another address by one read.
#[derive(Debug, Default)]
struct Readable([FairQueue<SessionKey>; Cost::ALL.len()]);

impl Readable {
    fn queue(&mut self, cost: Cost) -> &mut FairQueue<SessionKey> {
        &mut self.0[cost as usize]
    }

    fn len(&self, cost: Cost) -> usize {
        self.0[cost as usize].len()
    }
}

/// How much of the kept records of TLS the kernel has taken after a report of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptSent {
    /// Everything, or nothing was kept: the client can be written to.
    All,
    /// Some bytes.
    Part,
    /// No byte.
    Nothing,
}

/// The sockets of clients.
#[derive(Debug)]
pub(super) struct Sockets {
    registry: Registry,
    sockets: ByClient<Socket>,
    /// Sockets that may hold unread bytes.
    readable: Readable,
    /// Sockets with kept records of TLS, which the kernel takes again.
    with_room: VecDeque<SessionKey>,
    joined: Joined,
    tls: TlsBuffers,
    /// Sockets whose TLS was chosen for eviction.
    chosen: Chosen<SessionKey>,
    clock: Clock,
    first_write_us: Option<u64>,
}

impl Sockets {
    pub(super) fn new(registry: Registry, clock: Clock, wake: &Wake) -> Self {
        Self {
            registry,
            sockets: ByClient::default(),
            readable: Readable::default(),
            with_room: VecDeque::new(),
            joined: Joined::default(),
            tls: TlsBuffers::default(),
            chosen: Chosen::new(wake.waker()),
            clock,
            first_write_us: None,
        }
    }

    /// Returns the end of the first write since the last call, microseconds of the monotonic clock.
    pub(super) fn take_first_write_us(&mut self) -> Option<u64> {
        self.first_write_us.take()
    }

    /// Adds a socket to the table and to the poll. If the socket holds bytes already, an edge reports these
    /// bytes.
    pub(super) fn insert(
        &mut self,
        key: SessionKey,
        mut stream: TcpStream,
        mut tls: Option<Box<TlsSession>>,
    ) -> io::Result<()> {
        self.registry.register(&mut stream, token(key), READABLE)?;
        if let Some(session) = &mut tls {
            session.wake_with(&self.chosen.waker(key));
        }
        let socket = Socket {
            stream,
            tls,
            ends: false,
            was_full: false,
            readable: false,
            has_room: false,
            cost: Cost::Head,
            bill: Bill::default(),
            unread: Unread::Nothing,
            end: None,
            asks_for_room: false,
        };
        self.sockets.insert(key, socket);
        Ok(())
    }

    /// Records how much more may be unread. Puts a socket that may hold unread bytes in the list of its cost,
    /// unless the socket is in a list already.
    pub(super) fn note_unread(
        &mut self,
        key: SessionKey,
        unread: Unread,
        address: impl FnOnce() -> ClientAddr,
    ) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        socket.unread = socket.unread.max(unread);
        if socket.unread != Unread::Nothing && !std::mem::replace(&mut socket.readable, true) {
            let cost = socket.cost;
            self.readable.queue(cost).push(address(), key);
        }
    }

    /// Records how the peer's side has ended, if the poll reports an end.
    pub(super) fn note_end(&mut self, key: SessionKey, event: &Event) {
        if let Some(socket) = self.socket(key) {
            socket.end = socket.end.max(peer_end(event));
        }
    }

    /// Returns how the peer's side has ended, if the poll reported an end.
    pub(super) fn peer_end(&mut self, key: SessionKey) -> Option<PeerEnd> {
        self.socket(key)?.end
    }

    /// How much may be unread.
    pub(super) fn unread(&mut self, key: SessionKey) -> Unread {
        self.socket(key)
            .map_or(Unread::Nothing, |socket| socket.unread)
    }

    /// Charges a client for a read, or for its share of a turn, that ended at `now_us`. Returns whether the client
    /// costs much.
    pub(super) fn charge(&mut self, key: SessionKey, now_us: u64, took_us: u64) -> bool {
        self.socket(key)
            .is_some_and(|socket| socket.bill.add(now_us, took_us))
    }

    /// Sets the cost of a socket, by its last reads and shares.
    pub(super) fn set_cost(&mut self, key: SessionKey, cost: Cost) {
        if let Some(socket) = self.socket(key) {
            socket.cost = cost;
        }
    }

    /// The number of sockets in a list.
    pub(super) fn readable(&self, cost: Cost) -> usize {
        self.readable.len(cost)
    }

    /// Removes and returns the next socket of a list.
    pub(super) fn next_readable(&mut self, cost: Cost) -> Option<SessionKey> {
        let key = self.readable.queue(cost).pop()?;
        if let Some(socket) = self.socket(key) {
            socket.readable = false;
        }
        Some(key)
    }

    fn socket(&mut self, key: SessionKey) -> Option<&mut Socket> {
        self.sockets.get_mut(key)
    }

    fn stream(&mut self, key: SessionKey) -> Option<&mut TcpStream> {
        self.socket(key).map(|socket| &mut socket.stream)
    }

    /// Reads once, and records whether unread bytes may follow ([`unread`](Self::unread)).
    pub(super) fn read(&mut self, key: SessionKey, buf: &mut [u8]) -> io::Result<Got> {
        let gone = || io::Error::from(io::ErrorKind::WouldBlock);
        let socket = self.sockets.get_mut(key).ok_or_else(gone)?;
        let read = match &mut socket.tls {
            None => socket.stream.read(buf).map(|n| Got::plain(n, buf.len())),
            Some(session) => self.tls.read(&mut socket.stream, session, buf),
        };
        // After an end, after a short read unless input may follow it ([`Unread::End`]), and after an error, such as
        // `WouldBlock`.
        let is_empty = match &read {
            Ok(got) => got.is_end() || got.is_short && socket.unread < Unread::End,
            Err(error) => error.kind() != io::ErrorKind::Interrupted,
        };
        if is_empty {
            socket.unread = Unread::Nothing;
        }
        if socket.tls.as_ref().is_some_and(|tls| tls.has_kept()) {
            self.ask_for_room(key)?;
        }
        self.stepped(key);
        read
    }

    /// Called after each step of a socket's TLS, because any step may send the last kept record: ends the sending
    /// side once that record is out.
    fn stepped(&mut self, key: SessionKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && socket.ends
            && socket.tls.as_ref().is_some_and(|tls| !tls.has_kept())
        {
            socket.ends = false;
            // Fails only if the peer has left already.
            let _ = socket.stream.shutdown(Shutdown::Write);
        }
    }

    /// Returns the sockets to end so that the TLS of all clients holds no more than its limit.
    pub(super) fn take_evicted(&mut self) -> Vec<SessionKey> {
        let mut chosen = self.chosen.take();
        chosen.retain(|&key| {
            let tls = self.socket(key).and_then(|socket| socket.tls.as_ref());
            tls.is_some_and(|tls| tls.is_evicted())
        });
        chosen
    }

    /// Whether [`take_evicted`](Self::take_evicted) may return a socket.
    pub(super) fn may_evict(&self) -> bool {
        !self.chosen.is_empty()
    }

    /// Takes the pending error of a socket, such as a reset after the end of the peer's side. Returns whether there was
    /// one.
    pub(super) fn take_error(&mut self, key: SessionKey) -> bool {
        let stream = self.stream(key);
        stream.is_some_and(|stream| !matches!(stream.take_error(), Ok(None)))
    }

    /// Ends the sending side, after the kept records of TLS. An error means that the peer has left already.
    pub(super) fn half_close(&mut self, key: SessionKey) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        if let Some(session) = &mut socket.tls {
            session.keep_close_notify();
            let stream = &mut socket.stream;
            let _ = session.send_kept(|bytes| stream.write(bytes));
            socket.ends = true;
            if session.has_kept() {
                let _ = self.ask_for_room(key);
            }
            self.stepped(key);
            return;
        }
        let _ = socket.stream.shutdown(Shutdown::Write);
    }

    /// Ends a socket. Returns false if the socket is not here, but with the thread of handshakes.
    pub(super) fn end(&mut self, key: SessionKey, socket_end: SocketEnd) -> bool {
        let Some((mut stream, tls)) = self.take(key) else {
            return false;
        };
        if let Some(mut session) = tls.filter(|_| socket_end == SocketEnd::Close) {
            session.keep_close_notify();
            // A client that does not read gets no alert.
            let _ = session.send_kept(|bytes| stream.write(bytes));
        }
        if socket_end == SocketEnd::Reset {
            // Otherwise the kernel would keep the bytes for a client that does not read. Cannot fail on an open socket.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        true
    }

    /// Removes a socket from the table and from the poll.
    pub(super) fn hand_over(
        &mut self,
        key: SessionKey,
    ) -> Option<(TcpStream, Option<Box<TlsSession>>)> {
        let (mut stream, tls) = self.take(key)?;
        self.registry.deregister(&mut stream).ok()?;
        Some((stream, tls))
    }

    fn take(&mut self, key: SessionKey) -> Option<(TcpStream, Option<Box<TlsSession>>)> {
        let socket = self.sockets.remove(key)?;
        Some((socket.stream, socket.tls))
    }

    /// Writes what the socket accepts, by TLS if it has a session, and returns how many bytes of the slices that is. If
    /// the socket does not take all, the poll reports when it takes more. `WouldBlock`: nothing was taken.
    fn write(&mut self, key: SessionKey, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let socket = self.sockets.get_mut(key).ok_or_else(gone)?;
        if let Some(session) = &mut socket.tls {
            let (stream, was_full) = (&mut socket.stream, socket.was_full);
            let sealed = self.tls.write(stream, session, slices, was_full)?;
            socket.was_full = sealed.is_full;
            if sealed.is_full {
                self.ask_for_room(key)?;
            }
            self.stepped(key);
            return match sealed.taken {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                taken => Ok(taken),
            };
        }
        let stream = &mut socket.stream;
        let outcome = match slices {
            [one] => stream.write(one),
            many => stream.write_vectored(many),
        };
        let is_full = match &outcome {
            Ok(taken) => *taken < bytes(slices),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_full {
            self.ask_for_room(key)?;
        }
        outcome
    }

    /// Handles a report of the poll that the socket takes bytes again. Returns whether the client can be written to at
    /// once: kept records of TLS go first, and they are sent when there is time ([`next_with_room`](Self::next_with_room)).
    pub(super) fn note_room(&mut self, key: SessionKey) -> bool {
        let socket = self.socket(key);
        let kept = socket.filter(|socket| socket.tls.as_ref().is_some_and(|tls| tls.has_kept()));
        let Some(socket) = kept else {
            self.end_request_for_room(key);
            return true;
        };
        if !std::mem::replace(&mut socket.has_room, true) {
            self.with_room.push_back(key);
        }
        false
    }

    /// Whether kept records of TLS can be sent.
    pub(super) fn has_sendable(&self) -> bool {
        !self.with_room.is_empty()
    }

    /// Removes and returns the next socket with kept records that the kernel takes.
    pub(super) fn next_with_room(&mut self) -> Option<SessionKey> {
        let key = self.with_room.pop_front()?;
        if let Some(socket) = self.socket(key) {
            socket.has_room = false;
        }
        Some(key)
    }

    /// Sends the kept records of TLS, as many as the kernel takes. For a unix socket, ends the request for reports of
    /// room: every message that its client reads would wake the loop.
    pub(super) fn send_kept(&mut self, key: SessionKey) -> KeptSent {
        let Some(socket) = self.sockets.get_mut(key) else {
            return KeptSent::All;
        };
        let stream = &mut socket.stream;
        if let Some(session) = &mut socket.tls
            && session.has_kept()
        {
            // A broken connection shows itself at the next read or write.
            let sent = session.send_kept(|bytes| stream.write(bytes)).unwrap_or(0);
            let is_left = session.has_kept();
            self.stepped(key);
            if is_left {
                return if sent > 0 {
                    KeptSent::Part
                } else {
                    KeptSent::Nothing
                };
            }
        }
        self.end_request_for_room(key);
        KeptSent::All
    }

    /// Ends the request for reports of room, for a unix socket: the kernel would report each read at the other end.
    fn end_request_for_room(&mut self, key: SessionKey) {
        if let Some(socket) = self.sockets.get_mut(key)
            && socket.asks_for_room
            && is_unix(&socket.stream)
        {
            let stream = &mut socket.stream;
            let asked = self.registry.reregister(stream, token(key), READABLE);
            socket.asks_for_room = asked.is_err();
        }
    }

    /// Requests a report of the poll when the socket takes bytes again. If there is room now, the report comes at once.
    fn ask_for_room(&mut self, key: SessionKey) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(key).filter(|one| !one.asks_for_room) else {
            return Ok(());
        };
        let interest = READABLE | Interest::WRITABLE;
        self.registry
            .reregister(&mut socket.stream, token(key), interest)?;
        socket.asks_for_room = true;
        Ok(())
    }
}

/// Whether it is a unix socket, in which the kernel reports room with each read at the other end; in TCP only if a write
/// was refused before (unix(7), `SOCK_NOSPACE`).
fn is_unix(stream: &TcpStream) -> bool {
    let addr = SockRef::from(stream).local_addr();
    addr.is_ok_and(|addr| addr.is_unix())
}

fn token(key: SessionKey) -> Token {
    Token(key.to_bits() as usize)
}

fn bytes(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

impl Transmit for Sockets {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        let mut joined = std::mem::take(&mut self.joined);
        joined.joined_for = None;
        for (index, write) in batch.iter().enumerate() {
            wrote.push(match joined.join(batch, index) {
                Some(bytes) => self.write(write.key, &[IoSlice::new(bytes)]),
                None => self.write(write.key, write.slices),
            });
            if self.first_write_us.is_none() {
                self.first_write_us = Some(self.clock.mono_us());
            }
        }
        self.joined = joined;
    }

    fn sample(&mut self, key: SessionKey) -> Option<TcpSample> {
        self.stream(key).and_then(|stream| tcp_info::sample(stream))
    }
}
