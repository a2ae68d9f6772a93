//! The sockets of all sessions, by slot, and the plain transmit: one `send` or `writev` each.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::admission::{ClientAddr, FairQueue};
use crate::clock::Clock;
use crate::hub::{SessionKey, Transmit, Write, room};

/// Several small slices are cheaper copied into one buffer than handed over as a vector: `writev`
/// costs 7–13 % at these sizes.
const JOIN_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Socket {
    generation: u32,
    stream: TcpStream,
    /// It stands in a list of those to be read: once, however many edges came.
    readable: bool,
    cost: Cost,
    unread: Unread,
    /// The poll tells when the kernel takes bytes again. Only sockets that were full once ask for
    /// that: it would be told of each socket at its start.
    asks_for_room: bool,
}

/// What a socket may hold that was not read. A new edge comes for all that arrives later, also
/// between the last poll and a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unread {
    /// Nothing: it was read empty.
    Nothing,
    /// No event told of bytes yet: a first read just after the accept.
    Hoped,
    /// Bytes, perhaps: a read that fills less than its buffer empties it.
    Bytes,
    /// Also what a short read does not reach: the peer's end, an error, bytes behind urgent data.
    /// Only a read that would block, or an end, tells that nothing is left.
    End,
}

impl Unread {
    pub(super) fn of(event: &Event) -> Self {
        if event.is_read_closed() || event.is_error() || event.is_priority() {
            Self::End
        } else if event.is_readable() {
            Self::Bytes
        } else {
            Self::Nothing
        }
    }
}

/// Urgent data cuts a read short though more bytes follow, so the poll has to tell of it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const READABLE: Interest = Interest::READABLE.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const READABLE: Interest = Interest::READABLE;

/// What reading a socket may cost. Those that cost little are read first, and the answers to them go
/// out first, so that nobody waits for the messages of hundreds that cost much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// A request head, or a client whose last message cost little.
    Little,
    /// An open client that has sent nothing yet.
    Unknown,
    /// A client whose last message cost much.
    Much,
}

impl Cost {
    pub(super) const ALL: [Self; 3] = [Self::Little, Self::Unknown, Self::Much];
}

/// Sockets that may hold more than was read, by what they cost. Where a message may cost much,
/// client addresses take turns: hundreds of clients of one address delay another address by one.
#[derive(Debug, Default)]
struct Readable {
    little: VecDeque<SessionKey>,
    unknown: FairQueue<SessionKey>,
    much: FairQueue<SessionKey>,
}

impl Readable {
    fn len(&self, cost: Cost) -> usize {
        match cost {
            Cost::Little => self.little.len(),
            Cost::Unknown => self.unknown.len(),
            Cost::Much => self.much.len(),
        }
    }

    fn pop(&mut self, cost: Cost) -> Option<SessionKey> {
        match cost {
            Cost::Little => self.little.pop_front(),
            Cost::Unknown => self.unknown.pop(),
            Cost::Much => self.much.pop(),
        }
    }
}

/// Sockets by slot of the hub's table.
#[derive(Debug)]
pub(super) struct Sockets {
    registry: Registry,
    slots: Vec<Option<Socket>>,
    /// Sockets that may hold more than was read.
    readable: Readable,
    joined: Vec<u8>,
    clock: Clock,
    first_write_us: Option<u64>,
    /// A flush stops at this moment, microseconds of the monotonic clock.
    flush_until_us: u64,
}

impl Sockets {
    pub(super) fn new(registry: Registry, clock: Clock) -> Self {
        Self {
            registry,
            slots: Vec::new(),
            readable: Readable::default(),
            joined: Vec::new(),
            clock,
            first_write_us: None,
            flush_until_us: 0,
        }
    }

    /// When the first write since the last call had ended, microseconds of the monotonic clock.
    pub(super) fn take_first_write_us(&mut self) -> Option<u64> {
        self.first_write_us.take()
    }

    /// The next flush stops after `us` microseconds.
    pub(super) fn allow_flush_us(&mut self, us: u64) {
        self.flush_until_us = self.clock.mono_us() + us;
    }

    /// Takes a socket into the table and into the poll. If the socket holds bytes already, an edge
    /// comes for these.
    pub(super) fn insert(&mut self, key: SessionKey, mut stream: TcpStream) -> io::Result<()> {
        self.registry.register(&mut stream, token(key), READABLE)?;
        let slot = key.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Socket {
            generation: key.generation,
            stream,
            readable: false,
            cost: Cost::Little,
            unread: Unread::Nothing,
            asks_for_room: false,
        });
        Ok(())
    }

    /// Notes what is known of a socket's input. `address` is asked for if the socket may cost much.
    pub(super) fn note_unread(
        &mut self,
        key: SessionKey,
        unread: Unread,
        address: impl FnOnce() -> ClientAddr,
    ) {
        if let Some(socket) = self.socket(key) {
            socket.unread = socket.unread.max(unread);
            self.read_on(key, address);
        }
    }

    /// No event told yet of what is to be read.
    pub(super) fn is_hoped(&mut self, key: SessionKey) -> bool {
        self.socket(key)
            .is_some_and(|socket| socket.unread == Unread::Hoped)
    }

    /// The socket may hold more than was read of it.
    pub(super) fn has_unread(&mut self, key: SessionKey) -> bool {
        self.socket(key)
            .is_some_and(|socket| socket.unread != Unread::Nothing)
    }

    /// Puts a socket that may hold more than was read in the list of those to be read, unless it
    /// stands in one. `address` is asked for if the socket may cost much.
    pub(super) fn read_on(&mut self, key: SessionKey, address: impl FnOnce() -> ClientAddr) {
        if let Some(socket) = self.socket(key)
            && socket.unread != Unread::Nothing
            && !std::mem::replace(&mut socket.readable, true)
        {
            match socket.cost {
                Cost::Little => self.readable.little.push_back(key),
                Cost::Unknown => self.readable.unknown.push(address(), key),
                Cost::Much => self.readable.much.push(address(), key),
            }
        }
    }

    /// Says what the last read of a socket cost.
    pub(super) fn set_cost(&mut self, key: SessionKey, cost: Cost) {
        if let Some(socket) = self.socket(key) {
            socket.cost = cost;
        }
    }

    /// Sockets in a list.
    pub(super) fn readable(&self, cost: Cost) -> usize {
        self.readable.len(cost)
    }

    /// Takes the next socket off a list.
    pub(super) fn next_readable(&mut self, cost: Cost) -> Option<SessionKey> {
        let key = self.readable.pop(cost)?;
        if let Some(socket) = self.socket(key) {
            socket.readable = false;
        }
        Some(key)
    }

    fn socket(&mut self, key: SessionKey) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        (socket.generation == key.generation).then_some(socket)
    }

    fn stream(&mut self, key: SessionKey) -> Option<&mut TcpStream> {
        self.socket(key).map(|socket| &mut socket.stream)
    }

    /// Reads once, and notes whether more may follow ([`has_unread`](Self::has_unread)).
    pub(super) fn read(&mut self, key: SessionKey, buf: &mut [u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::WouldBlock);
        let socket = self.socket(key).ok_or_else(gone)?;
        let read = socket.stream.read(buf);
        let is_empty = match &read {
            Ok(0) => true,
            Ok(n) => *n < buf.len() && socket.unread < Unread::End,
            Err(error) => error.kind() != io::ErrorKind::Interrupted,
        };
        if is_empty {
            socket.unread = Unread::Nothing;
        }
        read
    }

    /// The sending side is done. An error means that the peer went first.
    pub(super) fn half_close(&mut self, key: SessionKey) {
        if let Some(stream) = self.stream(key) {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Ends a socket; `reset` drops what the kernel still holds.
    pub(super) fn close(&mut self, key: SessionKey, reset: bool) {
        let Some(stream) = self.take(key) else {
            return;
        };
        if reset {
            // Without it the kernel would keep a queue for a client that does not read.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Takes a socket out of the table and out of the poll.
    pub(super) fn hand_over(&mut self, key: SessionKey) -> Option<TcpStream> {
        let mut stream = self.take(key)?;
        self.registry.deregister(&mut stream).ok()?;
        Some(stream)
    }

    fn take(&mut self, key: SessionKey) -> Option<TcpStream> {
        self.stream(key)?;
        let socket = self.slots[key.slot as usize].take();
        room::trim(&mut self.slots, Option::is_none);
        socket.map(|socket| socket.stream)
    }

    fn write(&mut self, write: &Write<'_>) -> io::Result<usize> {
        let mut joined = std::mem::take(&mut self.joined);
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let outcome = self
            .stream(write.key)
            .ok_or_else(gone)
            .and_then(|stream| write_slices(stream, write.slices, &mut joined));
        self.joined = joined;
        let is_full = match &outcome {
            Ok(taken) => *taken < bytes(write.slices),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_full {
            self.ask_for_room(write.key)?;
        }
        outcome
    }

    /// From here on the poll tells when the socket takes bytes again; at once, if it does already.
    fn ask_for_room(&mut self, key: SessionKey) -> io::Result<()> {
        let Some(socket) = self
            .slots
            .get_mut(key.slot as usize)
            .and_then(Option::as_mut)
        else {
            return Ok(());
        };
        if socket.generation != key.generation || socket.asks_for_room {
            return Ok(());
        }
        let interest = READABLE | Interest::WRITABLE;
        self.registry
            .reregister(&mut socket.stream, token(key), interest)?;
        socket.asks_for_room = true;
        Ok(())
    }
}

fn token(key: SessionKey) -> Token {
    Token(key.to_bits() as usize)
}

fn bytes(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

fn write_slices(
    stream: &mut TcpStream,
    slices: &[IoSlice<'_>],
    joined: &mut Vec<u8>,
) -> io::Result<usize> {
    if let [one] = slices {
        return stream.write(one);
    }
    if bytes(slices) > JOIN_BYTES_MAX {
        return stream.write_vectored(slices);
    }
    joined.clear();
    slices
        .iter()
        .for_each(|slice| joined.extend_from_slice(slice));
    stream.write(joined)
}

impl Transmit for Sockets {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        for write in batch {
            wrote.push(self.write(write));
            if self.first_write_us.is_none() {
                self.first_write_us = Some(self.clock.mono_us());
            }
        }
    }

    fn has_time(&self) -> bool {
        self.clock.mono_us() < self.flush_until_us
    }
}
