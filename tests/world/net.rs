//! Simulated sockets: bytes taken by the kernel, and the results of writes.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;
use std::io;

use weirgate_core::{SessionKey, SocketEnd, TcpSample, Transmit, Write};

use super::client::{Client, Place};
use super::ledger::Shared;
use super::time::Steps;

/// The kernel's side of a client's socket.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    pub(crate) client: Client,
    /// Bytes that the kernel still takes before "would block".
    pub(crate) room: usize,
    /// The most bytes of a record, for a client with TLS: a record is sealed whole, whatever the kernel takes of it.
    pub(crate) record: Option<usize>,
    /// Sealed bytes that the kernel has not taken. For the client they have come.
    pub(crate) held: usize,
    /// The kernel returned "would block" or took less; a `writable` follows later.
    pub(crate) blocked: bool,
    pub(crate) half_closed: bool,
    pub(crate) released: Option<SocketEnd>,
    /// The next write fails.
    pub(crate) broken: bool,
    /// Bytes not read by the hub yet.
    pub(crate) unread: VecDeque<u8>,
    /// Time since which the kernel has taken no waiting byte.
    pub(crate) blocked_at: Option<u64>,
    pub(crate) bytes: u64,
    /// The kernel's numbers about the connection; of the last call for them.
    pub(crate) sample: Option<TcpSample>,
}

/// Simulated sockets by key.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) sockets: BTreeMap<SessionKey, Socket>,
    pub(crate) writes: u64,
    pub(crate) largest_batch: usize,
    pub(crate) largest_write: usize,
    /// Points at which writes stopped short.
    pub(crate) stops: BTreeSet<Place>,
    /// Polite clients that must answer a close frame.
    pub(super) closed: Vec<SessionKey>,
    /// Hash of all bytes to clients, in order.
    pub(crate) hash: DefaultHasher,
    pub(super) now_us: u64,
    time: Steps,
    /// Batches so far, and the number after which a flush has no more time.
    pub(crate) batches: usize,
    pub(crate) batches_max: Option<usize>,
    /// Gets received messages immediately, if a simulation compares.
    pub(crate) ledger: Option<Shared>,
    /// Calls for the numbers of connections.
    pub(crate) samples: Vec<SessionKey>,
}

impl Transmit for Net {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        self.batches += 1;
        self.largest_batch = self.largest_batch.max(batch.len());
        for write in batch {
            assert!(!write.slices.is_empty(), "an empty write");
            assert!(write.slices.iter().all(|s| !s.is_empty()), "an empty slice");
            self.writes += 1;
            wrote.push(self.write(write));
        }
        if self.batches_max.is_some_and(|max| self.batches >= max) {
            self.time.end_part();
        }
    }

    fn sample(&mut self, key: SessionKey) -> Option<TcpSample> {
        self.samples.push(key);
        self.sockets.get(&key)?.sample
    }
}

impl Socket {
    /// Returns how many of the bytes are taken: what the kernel has room for, and with TLS the rest of the last record.
    fn take(&mut self, bytes: usize) -> usize {
        let Some(record) = self.record else {
            let taken = bytes.min(self.room);
            self.room -= taken;
            return taken;
        };
        let mut taken = 0;
        while taken < bytes && self.held == 0 {
            let sealed = record.min(bytes - taken);
            let sent = sealed.min(self.room);
            (self.room, self.held) = (self.room - sent, sealed - sent);
            taken += sealed;
        }
        taken
    }

    /// The kernel takes held bytes into its room. Returns how many.
    pub(super) fn send_held(&mut self) -> usize {
        let sent = self.held.min(self.room);
        (self.room, self.held) = (self.room - sent, self.held - sent);
        sent
    }
}

impl Net {
    pub(super) fn new(time: Steps) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    fn write(&mut self, write: &Write<'_>) -> io::Result<usize> {
        let socket = self
            .sockets
            .get_mut(&write.key)
            .expect("a write to a socket that exists");
        assert!(socket.released.is_none(), "a write after the release");
        assert!(!socket.half_closed, "a write after the half-close");
        assert!(!socket.blocked, "a write to a blocked socket");
        if socket.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut bytes = Vec::new();
        for slice in write.slices {
            bytes.extend_from_slice(slice);
        }
        self.largest_write = self.largest_write.max(bytes.len());
        let taken = socket.take(bytes.len());
        socket.blocked = taken < bytes.len();
        socket.bytes += taken as u64;
        let was_closed = socket.client.close.is_some();
        socket.client.received(&bytes[..taken]);
        if socket.client.is_polite && socket.client.close.is_some() && !was_closed {
            self.closed.push(write.key);
        }
        self.hash.write_u64(write.key.to_bits());
        self.hash.write(&bytes[..taken]);
        if socket.blocked {
            self.stops.insert(socket.client.place(&bytes[taken..]));
        }
        if let Some(ledger) = &self.ledger {
            ledger.borrow().look_at_frames(write.key);
            let texts = std::mem::take(&mut socket.client.texts);
            let begun = socket.client.has_begun();
            ledger.borrow_mut().came(write.key, texts, begun);
        }
        if !socket.blocked {
            socket.blocked_at = None;
        } else if taken > 0 || socket.blocked_at.is_none() {
            socket.blocked_at = Some(self.now_us);
        }
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }
}
