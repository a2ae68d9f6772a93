//! The sockets of all sessions, by slot, and the plain transmit: one `send` or `writev` each.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::clock::Clock;
use crate::hub::{SessionKey, Transmit, Write};

/// Several small slices are cheaper copied into one buffer than handed over as a vector: `writev`
/// costs 7–13 % at these sizes. Larger ones are copied where several clients get the same.
const JOIN_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Socket {
    generation: u32,
    stream: TcpStream,
    /// It stands in a list of those to be read: once, however many edges came.
    readable: bool,
    cost: Cost,
}

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

/// Sockets by slot of the hub's table.
#[derive(Debug)]
pub(super) struct Sockets {
    slots: Vec<Option<Socket>>,
    /// Sockets that may hold more than was read, by what they cost.
    readable: [VecDeque<SessionKey>; Cost::ALL.len()],
    joined: Joined,
    clock: Clock,
    first_write_us: Option<u64>,
    /// A flush stops at this moment, microseconds of the monotonic clock.
    flush_until_us: u64,
}

impl Sockets {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            slots: Vec::new(),
            readable: Default::default(),
            joined: Joined::default(),
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
        self.flush_until_us = self.clock.now().mono_us + us;
    }

    pub(super) fn insert(
        &mut self,
        registry: &Registry,
        key: SessionKey,
        mut stream: TcpStream,
    ) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(key.to_bits() as usize), interest)?;
        let slot = key.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Socket {
            generation: key.generation,
            stream,
            readable: false,
            cost: Cost::Little,
        });
        Ok(())
    }

    /// Puts a socket in the list of those to be read, unless it stands in one.
    pub(super) fn set_readable(&mut self, key: SessionKey) {
        if let Some(socket) = self.socket(key)
            && !std::mem::replace(&mut socket.readable, true)
        {
            let list = socket.cost as usize;
            self.readable[list].push_back(key);
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
        self.readable[cost as usize].len()
    }

    /// Takes the next socket off a list.
    pub(super) fn next_readable(&mut self, cost: Cost) -> Option<SessionKey> {
        let key = self.readable[cost as usize].pop_front()?;
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

    pub(super) fn read(&mut self, key: SessionKey, buf: &mut [u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::WouldBlock);
        self.stream(key).ok_or_else(gone)?.read(buf)
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
    pub(super) fn hand_over(&mut self, registry: &Registry, key: SessionKey) -> Option<TcpStream> {
        let mut stream = self.take(key)?;
        registry.deregister(&mut stream).ok()?;
        Some(stream)
    }

    fn take(&mut self, key: SessionKey) -> Option<TcpStream> {
        self.stream(key)?;
        self.slots[key.slot as usize]
            .take()
            .map(|socket| socket.stream)
    }

    fn write(&mut self, key: SessionKey, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let stream = self.stream(key).ok_or_else(gone)?;
        match slices {
            [one] => stream.write(one),
            many => stream.write_vectored(many),
        }
    }
}

/// Slices of several writes, in one buffer while the writes of a batch are equal.
#[derive(Debug, Default)]
struct Joined {
    bytes: Vec<u8>,
    /// Index in the batch of the write that `bytes` was joined for.
    of: Option<usize>,
}

impl Joined {
    /// The slices of the write at `index` in one: from the write before where these are the same
    /// bytes in memory, which the frames of a burst are for all its clients. `None`: to copy them
    /// costs more than to send them as they are.
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

/// The same memory. The slices of a batch are borrowed for as long as the batch, so that the same
/// memory holds the same bytes.
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
                self.first_write_us = Some(self.clock.now().mono_us);
            }
        }
        self.joined = joined;
    }

    fn has_time(&self) -> bool {
        self.clock.now().mono_us < self.flush_until_us
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
