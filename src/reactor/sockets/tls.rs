//! Reading and writing of sockets with TLS: the records of all clients go through the same buffers.
//!
//! A sealed record cannot be taken back, because each record has a number. So its bytes count as taken, and the
//! part refused by the kernel is kept with the client: at most [`BURST_BYTES`] after a write with room, at most a
//! record after a short write. While bytes are kept, no other byte is sealed: further frames wait in the send
//! queue, where conflation finds these frames.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;

use crate::base::Clock;
use crate::hub::SessionKey;
use crate::listening::tls::{RECORD_BYTES_MAX, TlsSession, sealed_bytes_max};

/// Plain bytes sealed for one `send`: with a `send` for each record 64 KiB cost half as much again.
const BURST_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// Bytes of the network for one read.
const RAW_BYTES: usize = 64 * 1024;

/// The buffers that all sockets with TLS share.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Plain bytes of several slices, to be sealed together.
    plain: Vec<u8>,
    records: Vec<u8>,
    raw: Vec<u8>,
}

/// The bytes that the TLS of a socket holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) bytes: usize,
    /// When the bytes last became fewer, or the first came, microseconds of the monotonic clock.
    moved_us: u64,
}

impl Held {
    pub(super) fn count(&mut self, bytes: usize, clock: &Clock) {
        if bytes < self.bytes || self.bytes == 0 && bytes > 0 {
            self.moved_us = clock.mono_us();
        }
        self.bytes = bytes;
    }
}

/// Returns the holders whose bytes have stood still the longest, until they hold so many bytes together.
pub(super) fn oldest(mut holders: Vec<(Held, SessionKey)>, bytes: usize) -> Vec<SessionKey> {
    holders.sort_unstable_by_key(|(held, _)| held.moved_us);
    let mut freed = 0;
    let needed = holders.into_iter().take_while(|(held, _)| {
        let is_needed = freed < bytes;
        freed += held.bytes;
        is_needed
    });
    needed.map(|(_, key)| key).collect()
}

/// The outcome of a write.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Plain bytes in sent or kept records.
    pub(super) taken: usize,
    /// The kernel takes no more; bytes may be kept.
    pub(super) is_full: bool,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::reactor) struct Got {
    /// Plain bytes in the buffer.
    pub(in crate::reactor) plain_bytes: usize,
    /// Bytes from the network, or plain bytes opened before. 0 at the end of the peer's side.
    pub(in crate::reactor) raw_bytes: usize,
    /// The read has emptied the socket.
    pub(super) is_short: bool,
}

impl Got {
    /// A read of a plain socket.
    pub(super) fn plain(bytes: usize, room: usize) -> Self {
        Self {
            plain_bytes: bytes,
            raw_bytes: bytes,
            is_short: bytes < room,
        }
    }

    /// Whether the peer has ended its side.
    pub(in crate::reactor) fn is_end(self) -> bool {
        self.raw_bytes == 0
    }
}

impl Buffers {
    /// Seals and sends slices until the kernel takes no more.
    pub(super) fn write(
        &mut self,
        stream: &mut TcpStream,
        session: &mut TlsSession,
        slices: &[IoSlice<'_>],
        was_full: bool,
    ) -> io::Result<Sealed> {
        session.send_kept(|bytes| stream.write(bytes))?;
        let mut is_full = session.has_kept();
        let burst = match was_full {
            true => RECORD_BYTES_MAX,
            false => BURST_BYTES,
        };
        self.records.resize(sealed_bytes_max(BURST_BYTES), 0);
        let mut rest = Rest { slices, skip: 0 };
        let mut taken = 0;
        while !is_full && let Some(plain) = rest.next(burst, &mut self.plain) {
            let n = session.seal(plain, &mut self.records)?;
            taken += plain.len();
            let records = &self.records[..n];
            let sent = match stream.write(records) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
            session.keep(&records[sent..]);
            is_full = sent < n;
        }
        Ok(Sealed { taken, is_full })
    }

    /// Reads once and opens the bytes. Answers to the client, such as alerts, go out or are kept.
    pub(super) fn read(
        &mut self,
        stream: &mut TcpStream,
        session: &mut TlsSession,
        buf: &mut [u8],
    ) -> io::Result<Got> {
        if session.has_plain() {
            let bytes = session.take_plain(buf);
            return Ok(Got::plain(bytes, bytes));
        }
        if session.has_ended() {
            return Ok(Got::default());
        }
        self.raw.resize(RAW_BYTES, 0);
        let room = buf.len().min(RAW_BYTES);
        let raw_bytes = stream.read(&mut self.raw[..room])?;
        let opened = session.open(&mut self.raw[..raw_bytes], buf);
        // A broken connection shows itself at the next read or write, behind these plain bytes.
        let _ = session.send_kept(|bytes| stream.write(bytes));
        let plain_bytes = opened?;
        // Opened bytes follow without another event.
        let has_more = session.has_plain() || session.has_ended();
        Ok(Got {
            plain_bytes,
            raw_bytes,
            is_short: raw_bytes < room && !has_more,
        })
    }
}

/// The unsealed part of a write.
struct Rest<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are sealed.
    skip: usize,
}

impl<'a> Rest<'a> {
    /// Returns the next plain bytes, at most `bytes_max`: where they are, if they are in one slice, else copied
    /// into `buffer`.
    fn next<'b>(&mut self, bytes_max: usize, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        let first: &'a [u8] = self.slices.first()?;
        let first = &first[self.skip..];
        if first.len() >= bytes_max || self.slices.len() == 1 {
            let part = &first[..first.len().min(bytes_max)];
            self.pass(part.len());
            return Some(part);
        }
        buffer.clear();
        while let Some(slice) = self.slices.first() {
            let room = bytes_max - buffer.len();
            let slice = &slice[self.skip..];
            let part = &slice[..slice.len().min(room)];
            buffer.extend_from_slice(part);
            self.pass(part.len());
            if buffer.len() == bytes_max {
                break;
            }
        }
        Some(buffer)
    }

    fn pass(&mut self, bytes: usize) {
        self.skip += bytes;
        if self
            .slices
            .first()
            .is_some_and(|slice| slice.len() == self.skip)
        {
            self.slices = &self.slices[1..];
            self.skip = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_go_whose_bytes_stand_still_the_longest_and_no_more_than_needed() {
        let key = |slot| SessionKey {
            slot,
            generation: 0,
        };
        let holders = [(30, 10), (10, 20), (20, 30), (40, 40)];
        let holders = holders.into_iter().zip(0..);
        let holders: Vec<_> = holders
            .map(|((moved_us, bytes), slot)| (Held { bytes, moved_us }, key(slot)))
            .collect();
        for (bytes, slots) in [
            (1, &[1][..]),
            (20, &[1]),
            (21, &[1, 2]),
            (1_000, &[1, 2, 0, 3]),
        ] {
            let keys: Vec<SessionKey> = slots.iter().map(|&slot| key(slot)).collect();
            assert_eq!(oldest(holders.clone(), bytes), keys, "{bytes}");
        }
    }

    #[test]
    fn the_parts_of_a_write_are_its_bytes_in_order() {
        for lens in [
            &[1][..],
            &[10],
            &[25],
            &[3, 4, 5],
            &[30, 1, 30],
            &[10, 10, 10, 1],
        ] {
            let bytes: Vec<Vec<u8>> = lens
                .iter()
                .enumerate()
                .map(|(n, &len)| (0..len).map(|m| (40 * n + m) as u8).collect())
                .collect();
            let slices: Vec<IoSlice<'_>> = bytes.iter().map(|b| IoSlice::new(b)).collect();
            let mut rest = Rest {
                slices: &slices,
                skip: 0,
            };
            let (mut got, mut buffer) = (Vec::new(), Vec::new());
            while let Some(part) = rest.next(10, &mut buffer) {
                assert!(!part.is_empty() && part.len() <= 10);
                let is_last = got.len() + part.len() == bytes.concat().len();
                assert!(
                    is_last || part.len() == 10,
                    "{lens:?}: as few parts as can be"
                );
                got.extend_from_slice(part);
            }
            assert_eq!(got, bytes.concat());
        }
    }
}
