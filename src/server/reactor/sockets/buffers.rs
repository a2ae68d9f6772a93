//! The buffers that all sockets share: a buffer for the joined slices of a write, which serves the next writes of a
//! batch too while these are equal, and buffers for the records of TLS.
//!
//! A sealed record cannot be taken back, because each record has a number. So its bytes count as taken, and the
//! part refused by the kernel is kept with the client: at most [`BURST_BYTES`] after a write with room, at most a
//! record after a short write, and hardly any once all clients hold much ([`TlsSession::bytes_to_seal`]). While bytes are
//! kept, no other byte is sealed: further frames wait in the send queue, where conflation finds these frames.

use std::io::{self, IoSlice, Read as _, Write as _};

use mio::net::TcpStream;

use crate::listening::room::takes_more;
use crate::listening::tls::{RECORD_BYTES_MAX, TlsSession};
use weirgate_core::Write;

/// Up to this size several slices are copied into one buffer: `writev` costs 7–13 % more at these sizes.
/// Larger slices are copied if several clients get the same slices.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// Joins the slices of a write in a buffer, which serves the next writes of a batch while they are equal.
#[derive(Debug, Default)]
pub(super) struct Joined {
    bytes: Vec<u8>,
    /// Index in the batch of the write that `bytes` was joined for.
    pub(super) joined_for: Option<usize>,
}

impl Joined {
    /// Returns the slices of the write at `index` as one slice. Reuses the joined bytes of the write before
    /// if its slices are the same memory, as for all clients that get a burst. `None`: copying costs more
    /// than sending the slices.
    pub(super) fn join(&mut self, batch: &[Write<'_>], index: usize) -> Option<&[u8]> {
        let slices = batch[index].slices;
        if slices.len() < 2 {
            return None;
        }
        let joined_for = self.joined_for.map(|index| batch[index].slices);
        if joined_for.is_some_and(|joined| is_same(slices, joined)) {
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
        self.joined_for = Some(index);
        Some(&self.bytes)
    }
}

/// Whether the slices are the same memory. The slices are borrowed as long as the batch, so the same memory
/// holds the same bytes.
fn is_same(one: &[IoSlice<'_>], other: &[IoSlice<'_>]) -> bool {
    let same = |(a, b): (&IoSlice<'_>, &IoSlice<'_>)| std::ptr::eq::<[u8]>(&**a, &**b);
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// The most plain bytes that are sealed for one `send`. With a `send` for each record, 64 KiB would cost half as much
/// again.
const BURST_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// The most bytes of one read from the network.
const RAW_BYTES: usize = 64 * 1024;

/// The buffers that all sockets with TLS share.
#[derive(Debug, Default)]
pub(super) struct TlsBuffers {
    /// Plain bytes of several slices, to be sealed together.
    plain: Vec<u8>,
    records: Vec<u8>,
    raw: Vec<u8>,
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
    /// The cost of the read, in bytes: the bytes from the network or the plain bytes, the larger number; the whole
    /// buffer if the session still has input. 0 at the end of the peer's side.
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

impl TlsBuffers {
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
        self.records
            .resize(TlsSession::sealed_bytes_max(BURST_BYTES), 0);
        let mut unsealed = Unsealed { slices, skip: 0 };
        let mut taken = 0;
        while !is_full && !unsealed.is_empty() {
            let bytes_max = session.bytes_to_seal(burst, || takes_more(&*stream));
            is_full = bytes_max == 0;
            let plain = (!is_full).then(|| unsealed.next(bytes_max, &mut self.plain));
            let Some(plain) = plain.flatten() else {
                break;
            };
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

    /// Decrypts the input that waits in the session, or reads once and decrypts the bytes. Sends or keeps records for
    /// the client, such as alerts.
    pub(super) fn read(
        &mut self,
        stream: &mut TcpStream,
        session: &mut TlsSession,
        buf: &mut [u8],
    ) -> io::Result<Got> {
        let has_waited = session.has_input();
        let room = buf.len().min(RAW_BYTES);
        let mut read = 0;
        if !has_waited {
            if session.has_ended() {
                return Ok(Got::default());
            }
            self.raw.resize(RAW_BYTES, 0);
            read = stream.read(&mut self.raw[..room])?;
        }
        let opened = session.open(&mut self.raw[..read], buf);
        // A broken connection shows itself at the next read or write, after these plain bytes.
        let _ = session.send_kept(|bytes| stream.write(bytes));
        let plain_bytes = opened?;
        let raw_bytes = match session.has_input() {
            true => room,
            // At least 1 after input that waited: 0 would mean the end.
            false => read.max(plain_bytes).max(usize::from(has_waited)),
        };
        // Bytes that were read already follow without another event.
        let has_more = has_waited || session.has_input() || session.has_ended();
        Ok(Got {
            plain_bytes,
            raw_bytes,
            is_short: read < room && !has_more,
        })
    }
}

/// The unsealed part of a write.
struct Unsealed<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are sealed.
    skip: usize,
}

impl<'a> Unsealed<'a> {
    fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Returns the next plain bytes, at most `bytes_max`: in place if they are in one slice, otherwise copied into
    /// `buffer`.
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

    /// Moves on by so many bytes, which must not be more than the rest of the first slice.
    fn pass(&mut self, bytes: usize) {
        self.skip += bytes;
        let first = self.slices.first();
        if first.is_some_and(|slice| slice.len() == self.skip) {
            self.slices = &self.slices[1..];
            self.skip = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream as Peer};
    use std::time::Duration;

    use mio::{Poll, Token};

    use super::*;
    use crate::listening::tls::session_tests::{VERSIONS, greeted, sent};
    use crate::reactor::sockets::{ClientAddr, Sockets, Unread};
    use weirgate_core::SessionKey;
    use weirgate_runtime::{Clock, Wake};

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
            let mut unsealed = Unsealed {
                slices: &slices,
                skip: 0,
            };
            let (mut got, mut buffer) = (Vec::new(), Vec::new());
            while let Some(part) = unsealed.next(10, &mut buffer) {
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

    // ---- sockets with TLS over the loopback interface, without a loop

    const KEY: SessionKey = SessionKey {
        slot: 0,
        generation: 0,
    };

    /// Both ends of a connection.
    fn loopback() -> (Peer, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = Peer::connect(listener.local_addr().expect("its address")).expect("connected");
        peer.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        (peer, listener.accept().expect("accepted").0)
    }

    /// A table with one socket.
    fn sockets(poll: &Poll, stream: Peer, session: TlsSession) -> Sockets {
        stream.set_nonblocking(true).expect("nonblocking");
        let registry = poll.registry().try_clone().expect("a registry");
        let wake = Wake::new(&registry, Token(usize::MAX), "the test").expect("a waker");
        let mut sockets = Sockets::new(registry, Clock::start(), &wake);
        let stream = TcpStream::from_std(stream);
        sockets
            .insert(KEY, stream, Some(Box::new(session)))
            .expect("registered");
        sockets
    }

    #[test]
    fn the_sending_side_ends_with_whichever_step_sends_the_last_record() {
        let poll = Poll::new().expect("a poll");
        let (mut peer, stream) = loopback();
        let (mut tls, session) = greeted(VERSIONS[0]);
        let mut sockets = sockets(&poll, stream, session);
        let bytes = [0; 64 * 1024];
        while sockets.write(KEY, &[IoSlice::new(&bytes)]).is_ok() {}
        sockets.half_close(KEY);
        let mut scratch = [0; 64 * 1024];
        let has_kept = |sockets: &mut Sockets| {
            let socket = sockets.socket(KEY).expect("the socket");
            socket.tls.as_ref().is_some_and(|tls| tls.has_kept())
        };
        assert!(has_kept(&mut sockets));
        while has_kept(&mut sockets) {
            assert!(peer.read(&mut scratch).expect("bytes") > 0);
            tls.writer().write_all(b"x").expect("a record");
            peer.write_all(&sent(&mut tls)).expect("sent");
            // No report of room in between.
            let _ = sockets.read(KEY, &mut scratch);
        }
        while peer.read(&mut scratch).expect("bytes or the end") > 0 {}
    }

    #[test]
    fn a_read_stops_at_its_records_and_the_rest_is_read_without_another_event() {
        let poll = Poll::new().expect("a poll");
        let (mut peer, stream) = loopback();
        let (mut tls, session) = greeted(VERSIONS[0]);
        let mut sockets = sockets(&poll, stream, session);
        for _ in 0..100 {
            tls.writer().write_all(b"x").expect("a record");
        }
        peer.write_all(&sent(&mut tls)).expect("sent");
        let mut scratch = [0; 4 * 1024];
        sockets.note_unread(KEY, Unread::Bytes, || ClientAddr::Unix);
        let mut plain_bytes = 0;
        while plain_bytes < 100 {
            assert_eq!(sockets.unread(KEY), Unread::Bytes);
            let got = sockets.read(KEY, &mut scratch).expect("records");
            assert!((1..=16).contains(&got.plain_bytes), "{got:?}");
            assert!(got.raw_bytes == scratch.len() || plain_bytes + 16 > 100);
            plain_bytes += got.plain_bytes;
        }
    }

    #[test]
    fn the_last_message_of_a_client_that_takes_no_more_arrives() {
        let poll = Poll::new().expect("a poll");
        let (mut peer, stream) = loopback();
        let (mut tls, mut session) = greeted(VERSIONS[0]);
        session.keep(b"a record that cannot be sent");
        stream.shutdown(Shutdown::Write).expect("ended");
        let mut sockets = sockets(&poll, stream, session);
        tls.writer().write_all(b"bye").expect("a record");
        peer.write_all(&sent(&mut tls)).expect("sent");
        let mut scratch = [0; 100];
        let got = sockets.read(KEY, &mut scratch).expect("a message");
        assert_eq!(&scratch[..got.plain_bytes], b"bye");
    }
}
