//! The sockets of all sessions, by slot, and the plain transmit: one `send` or `writev` each.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::unread::{End, READABLE, Unread};
use crate::admission::{ClientAddr, FairQueue};
use crate::base::Clock;
use crate::hub::{SessionKey, Transmit, Write, room};

/// Up to this size several slices are copied into one buffer: `writev` costs 7–13 % more at these sizes.
/// Larger slices are copied if several clients get the same slices.
const JOIN_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Socket {
    generation: u32,
    stream: TcpStream,
    /// The socket is in a list of readable sockets: once, however many edges came.
    readable: bool,
    cost: Cost,
    unread: Unread,
    /// The poll has reported the end of the peer's side, perhaps behind unread bytes.
    end: Option<End>,
    /// The poll reports when the kernel takes bytes again. Only sockets that were full once request the
    /// report: otherwise every socket would cause a report at its start.
    asks_for_room: bool,
}

/// The cost of reading a socket. Cheap sockets are read first, and their responses go out first, so no client
/// waits for the messages of hundreds of costly clients.
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

/// Sockets that may hold unread bytes, by cost. Where a message may cost much, client addresses take turns:
/// hundreds of clients of an address delay another address by one read.
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
    /// Sockets that may hold unread bytes.
    readable: Readable,
    joined: Joined,
    clock: Clock,
    first_write_us: Option<u64>,
    /// The end of a flush, microseconds of the monotonic clock.
    flush_until_us: u64,
}

impl Sockets {
    pub(super) fn new(registry: Registry, clock: Clock) -> Self {
        Self {
            registry,
            slots: Vec::new(),
            readable: Readable::default(),
            joined: Joined::default(),
            clock,
            first_write_us: None,
            flush_until_us: 0,
        }
    }

    /// Returns the end of the first write since the last call, microseconds of the monotonic clock.
    pub(super) fn take_first_write_us(&mut self) -> Option<u64> {
        self.first_write_us.take()
    }

    /// Ends the next flush after `us` microseconds.
    pub(super) fn allow_flush_us(&mut self, us: u64) {
        self.flush_until_us = self.clock.mono_us() + us;
    }

    /// Adds a socket to the table and to the poll. If the socket holds bytes already, an edge reports these
    /// bytes.
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
            end: None,
            asks_for_room: false,
        });
        Ok(())
    }

    /// Records how much may be unread. `address` is called only if the socket may cost much.
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

    /// Records how the peer's side has ended, if the poll reports an end.
    pub(super) fn note_end(&mut self, key: SessionKey, event: &Event) {
        if let Some(socket) = self.socket(key) {
            socket.end = socket.end.max(End::of(event));
        }
    }

    /// Returns how the peer's side has ended, if the poll reported an end.
    pub(super) fn end(&mut self, key: SessionKey) -> Option<End> {
        self.socket(key)?.end
    }

    /// Whether the read is a first try, before any event of the poll.
    pub(super) fn is_hoped(&mut self, key: SessionKey) -> bool {
        self.socket(key)
            .is_some_and(|socket| socket.unread == Unread::Hoped)
    }

    /// Whether the socket may hold unread bytes.
    pub(super) fn has_unread(&mut self, key: SessionKey) -> bool {
        self.socket(key)
            .is_some_and(|socket| socket.unread != Unread::Nothing)
    }

    /// Puts a socket that may hold unread bytes in the list of its cost, unless the socket is in a list
    /// already. `address` is called only if the socket may cost much.
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

    /// Sets the cost of a socket, by its last read.
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

    /// Reads once, and records whether unread bytes may follow ([`has_unread`](Self::has_unread)).
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

    /// Whether the socket has a pending error, such as a reset behind the end of the peer's side.
    pub(super) fn has_failed(&mut self, key: SessionKey) -> bool {
        let stream = self.stream(key);
        stream.is_some_and(|stream| !matches!(stream.take_error(), Ok(None)))
    }

    /// Ends the sending side. An error means that the peer has left already.
    pub(super) fn half_close(&mut self, key: SessionKey) {
        if let Some(stream) = self.stream(key) {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Closes a socket; `reset` drops the bytes that the kernel still holds.
    pub(super) fn close(&mut self, key: SessionKey, reset: bool) {
        let Some(stream) = self.take(key) else {
            return;
        };
        if reset {
            // Otherwise the kernel would keep the bytes for a client that does not read.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Removes a socket from the table and from the poll.
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

    fn write(&mut self, key: SessionKey, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let stream = self.stream(key).ok_or_else(gone)?;
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

    /// Handles a report of the poll that the socket takes bytes again. A unix socket ends its request for
    /// reports: every message that its client reads would wake the loop.
    pub(super) fn has_room(&mut self, key: SessionKey) {
        let Some(socket) = self
            .slots
            .get_mut(key.slot as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        if socket.generation == key.generation && socket.asks_for_room && is_unix(&socket.stream) {
            let stream = &mut socket.stream;
            let asked = self.registry.reregister(stream, token(key), READABLE);
            socket.asks_for_room = asked.is_err();
        }
    }

    /// Requests a report of the poll when the socket takes bytes again: at once, if there is room now.
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

/// The kernel reports room in a unix socket with each read at the other end, in TCP only if a write was
/// refused before (unix(7), `SOCK_NOSPACE`).
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

/// Joins the slices of a write in a buffer, which serves the next writes of a batch while they are equal.
#[derive(Debug, Default)]
struct Joined {
    bytes: Vec<u8>,
    /// Index in the batch of the write that `bytes` was joined for.
    of: Option<usize>,
}

impl Joined {
    /// Returns the slices of the write at `index` as one slice. Reuses the joined bytes of the write before
    /// if its slices are the same memory, as for all clients that get a burst. `None`: copying costs more
    /// than sending the slices.
    fn join(&mut self, batch: &[Write<'_>], index: usize) -> Option<&[u8]> {
        let slices = batch[index].slices;
        if slices.len() < 2 {
            return None;
        }
        if self.of.is_some_and(|of| is_same(slices, batch[of].slices)) {
            return Some(&self.bytes);
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let again = batch.get(index + 1);
        if bytes > JOIN_BYTES_MAX && !again.is_some_and(|next| is_same(slices, next.slices)) {
            return None;
        }
        self.bytes.clear();
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        self.of = Some(index);
        Some(&self.bytes)
    }
}

/// Whether the slices are the same memory. The slices are borrowed as long as the batch, so the same memory
/// holds the same bytes.
fn is_same(one: &[IoSlice<'_>], other: &[IoSlice<'_>]) -> bool {
    let same = |(a, b): (&IoSlice<'_>, &IoSlice<'_>)| std::ptr::eq::<[u8]>(&**a, &**b);
    one.len() == other.len() && one.iter().zip(other).all(same)
}

impl Transmit for Sockets {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        let mut joined = std::mem::take(&mut self.joined);
        joined.of = None;
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

    fn has_time(&self) -> bool {
        self.clock.mono_us() < self.flush_until_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write<'a>(slices: &'a [IoSlice<'a>]) -> Write<'a> {
        Write {
            key: SessionKey {
                slot: 0,
                generation: 0,
            },
            slices,
        }
    }

    #[test]
    fn large_slices_are_joined_once_for_those_that_get_the_same() {
        let frames = [vec![b'a'; JOIN_BYTES_MAX], vec![b'b'; 10], vec![b'c'; 10]];
        let slices: Vec<IoSlice<'_>> = frames.iter().map(|f| IoSlice::new(f)).collect();
        let equal_text = frames[0].clone();
        let other = [IoSlice::new(&equal_text), slices[1]];
        let batch = [
            write(&slices[..2]),
            write(&slices[..2]),
            write(&slices[1..]),
            write(&slices[..2]),
            write(&slices[..1]),
            write(&other),
        ];
        let mut joined = Joined::default();
        let mut lengths = |index| joined.join(&batch, index).map(<[u8]>::len);
        assert_eq!(lengths(0), Some(JOIN_BYTES_MAX + 10));
        assert_eq!(lengths(1), Some(JOIN_BYTES_MAX + 10));
        assert_eq!(lengths(2), Some(20), "small ones always");
        assert_eq!(lengths(3), None, "nobody else gets the same");
        assert_eq!(lengths(4), None, "one slice");
        assert_eq!(lengths(5), None, "other memory");
        let whole = joined.join(&batch, 0).expect("joined").to_vec();
        assert_eq!(whole, frames[..2].concat());
    }
}
