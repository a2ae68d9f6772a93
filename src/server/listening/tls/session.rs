//! TLS of one connection: bytes of the network become plain bytes, and plain bytes become records, without a system
//! call.
//!
//! From its first byte on, a session makes progress with [`TlsSession::open`]: first the handshake, then the client's
//! records. Records to send are either [sealed](TlsSession::seal) into a buffer of the caller, or kept in the session
//! until the network takes them: the server's part of the handshake, alerts, and the rest of sealed records.
//!
//! The record layer is rustls's unbuffered API, so an idle connection keeps no buffer.

use std::io;
use std::sync::Arc;
use std::task::Waker;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ProtocolVersion, ServerConfig};

use super::certificates::client_name;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, Permit, Quota, TokenBucket};
use weirgate_wire::base::allocated_bytes;

/// The most plain bytes in a record (RFC 8446 §5.1).
pub(crate) const RECORD_BYTES_MAX: usize = 16 * 1024;

/// The most bytes that sealing adds to a record: a header of 5 bytes, a nonce of 8 and a tag of 16 in TLS 1.2 (RFC 5288
/// §3); less in TLS 1.3 (RFC 8446 §5.2).
pub(super) const RECORD_OVERHEAD_MAX: usize = 29;

/// Until the sessions hold one `AHEAD_SHARE`th of the limit on held bytes, they seal without a look at the socket.
const AHEAD_SHARE: u64 = 4;

/// The plain bytes that are sealed at a time once more is held: the kernel takes them whole for a socket that has room, with
/// the default of `--tcp-notsent-lowat-bytes`.
const SURE_BYTES: usize = 8 * 1024;

/// The room for records of the library's own, such as a key update, before sealed bytes.
const ROOM_BYTES: usize = 512;

/// The most bytes of an unfinished record after the handshake: header, content, padding and tag (RFC
/// 8446 §5.2).
const INCOMING_BYTES_MAX: usize = 5 + RECORD_BYTES_MAX + 256;

/// The most unread bytes of a handshake in which the client shows certificates. In any other handshake, the limit is
/// that of a record.
const CERTIFICATES_BYTES_MAX: usize = 32 * 1024;

/// The least cost of opening a record, in bytes: opening a small record costs as much as this part of a large record.
const RECORD_COST_BYTES: usize = 256;

/// The buffer of an unfinished record shrinks only if it is over twice as large as its bytes, and over twice as large
/// as this.
const SPARE_BYTES: usize = 512;

/// The most records without data, such as key updates, that a client may send at once; each second permits one more. A
/// well-behaved client changes its keys only after gigabytes.
const DATALESS_RECORDS: u32 = 10;

/// This many bytes of data permit one more record without data.
const DATALESS_EVERY_BYTES: usize = 64 * 1024;

/// TLS of one connection.
pub struct TlsSession {
    connection: UnbufferedServerConnection,
    /// Whether the client has to show a certificate; otherwise it is not asked for one.
    pub(super) requires_certificate: bool,
    /// The bytes of an unfinished record. The library gets these bytes for sealing too, because it refers to them while
    /// a handshake message comes in parts.
    incoming: Vec<u8>,
    /// How many bytes of `incoming` the library has read already: parts of a handshake message.
    passed: usize,
    /// `incoming` has a whole record that the library has not read.
    has_unopened: bool,
    /// Plain bytes that had no room in the caller's buffer.
    plain: Vec<u8>,
    /// Records without data that the client may still send.
    dataless: TokenBucket,
    /// Bytes of data since the last such record.
    data_bytes: usize,
    /// Records that wait to be sent, in order; records that are sealed later come after them.
    kept: Vec<u8>,
    /// The client has ended its side with an alert `close_notify`.
    has_ended: bool,
    /// The client broke the protocol. From then on the library is not called: it may refer to a part of a message whose
    /// bytes are gone, and would panic.
    has_failed: bool,
    /// The permit for bytes from the client. It is separate from the permit for bytes to the client, because a client
    /// that keeps sending may still not read.
    input: Permit,
    /// The permit for bytes to the client.
    output: Permit,
    clock: Clock,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSession").finish_non_exhaustive()
    }
}

/// Whether a record that the client had begun has become whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordEnd {
    /// It has, which is progress.
    Came,
    /// It has not, or no record was read.
    Awaited,
}

/// Where plain bytes go: into the caller's buffer, and without room there into the session.
struct Plain<'a> {
    into: &'a mut [u8],
    len: usize,
    rest: &'a mut Vec<u8>,
}

impl Plain<'_> {
    /// Adds bytes to the caller's buffer. What has no room there goes to the session, and all later bytes too, so that
    /// the order stays.
    fn push(&mut self, payload: &[u8]) {
        let room = match self.rest.is_empty() {
            true => self.into.len() - self.len,
            false => 0,
        };
        let (now, later) = payload.split_at(room.min(payload.len()));
        self.into[self.len..self.len + now.len()].copy_from_slice(now);
        self.len += now.len();
        self.rest.extend_from_slice(later);
    }
}

/// How far a call has come in the bytes of the network: three offsets, each at most the next.
struct Window {
    /// The library needs the bytes before it no longer.
    used: usize,
    /// The library has read the records before it.
    read: usize,
    /// The library has been given the bytes before it.
    shown: usize,
}

impl TlsSession {
    /// A session before its first byte, with a client that shows no certificate. The bytes that the session holds are
    /// charged to `client` in `held`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(
        config: Arc<ServerConfig>,
        held: &Quota,
        client: ClientAddr,
        clock: Clock,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            requires_certificate: false,
            incoming: Vec::new(),
            passed: 0,
            has_unopened: false,
            plain: Vec::new(),
            dataless: TokenBucket::with_burst(1, DATALESS_RECORDS, clock.mono_us()),
            data_bytes: 0,
            kept: Vec::new(),
            has_ended: false,
            has_failed: false,
            // Nothing is held yet. The first amount will count as progress.
            input: held.hold(client, 0, 0),
            output: held.hold(client, 0, 0),
            clock,
        })
    }

    /// Whether the client broke the protocol.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The library's state of the connection: version, certificates, name.
    pub fn connection(&self) -> &UnbufferedServerConnection {
        &self.connection
    }

    /// The version of the protocol: `1.2` or `1.3`.
    pub fn version(&self) -> &'static str {
        match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "1.3",
        }
    }

    /// The name in the client's certificate; `None` if the client has shown no certificate.
    pub(crate) fn client_name(&self) -> Option<String> {
        client_name(self.connection.peer_certificates()?.first()?)
    }

    /// Memory of the client's certificates, which the library keeps as long as the session, bytes.
    pub(crate) fn certificate_bytes(&self) -> usize {
        let shown = self.connection.peer_certificates().unwrap_or_default();
        let each = shown.iter().map(|der| allocated_bytes(der.len()));
        each.sum::<usize>() + allocated_bytes(size_of_val(shown))
    }

    /// Processes bytes of the network, after the input that [waits](Self::has_input). Returns the number of plain bytes
    /// in `into`; plain bytes without room wait. Opens records within `raw` itself. After the handshake, a call opens
    /// records until they have cost as much as a record of the size of `into`; the other records wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`]: the client broke the protocol, or sent too many records without data. An alert
    /// for the client is [kept](Self::has_kept).
    pub fn open(&mut self, raw: &mut [u8], into: &mut [u8]) -> io::Result<usize> {
        if self.has_failed {
            return Err(invalid("bytes behind an error"));
        }
        let held = self.incoming.len();
        let opened = self.open_more(raw, into);
        self.has_failed = opened.is_err();
        // Bytes are used up only once a record is whole.
        self.charge(match self.incoming.len() < held + raw.len() {
            true => RecordEnd::Came,
            false => RecordEnd::Awaited,
        });
        opened
    }

    /// As [`Self::open`], without the charge.
    fn open_more(&mut self, raw: &mut [u8], into: &mut [u8]) -> io::Result<usize> {
        let mut waiting = std::mem::take(&mut self.plain);
        let len = waiting.len().min(into.len());
        into[..len].copy_from_slice(&waiting[..len]);
        waiting.drain(..len);
        // An idle connection keeps no buffer.
        waiting.shrink_to_fit();
        let mut plain = Plain {
            into,
            len,
            rest: &mut waiting,
        };
        let opened = if self.incoming.is_empty() {
            let opened = self.process(raw, &mut plain);
            opened.map(|used| self.incoming.extend_from_slice(&raw[used..]))
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.extend_from_slice(raw);
            let opened = self.process(&mut incoming, &mut plain);
            opened.map(|used| {
                incoming.drain(..used);
                // A block that shrinks with each read leaves holes that no other block fits in.
                if incoming.is_empty() || incoming.capacity() > 2 * incoming.len().max(SPARE_BYTES)
                {
                    incoming.shrink_to_fit();
                }
                self.incoming = incoming;
            })
        };
        let len = plain.len;
        self.plain = waiting;
        opened?;
        let bytes_max = match self.requires_certificate && self.is_handshaking() {
            true => CERTIFICATES_BYTES_MAX,
            false => INCOMING_BYTES_MAX,
        };
        if !self.has_unopened && self.incoming.len() > bytes_max {
            return Err(invalid("more bytes than a record may have"));
        }
        Ok(len)
    }

    /// Processes whole records, one after the other. Returns how many bytes of `incoming` are used up.
    fn process(&mut self, incoming: &mut [u8], plain: &mut Plain<'_>) -> io::Result<usize> {
        let mut window = Window {
            used: 0,
            read: self.passed,
            shown: self.passed,
        };
        // What further records may cost in this call, in bytes.
        let mut left = plain.into.len() - plain.len;
        let mut may_have_data = false;
        self.has_unopened = false;
        loop {
            let has_data = self.process_shown(incoming, &mut window, plain)?;
            // Nothing follows the end of the client's side. Of an unfinished record, the library has seen the header.
            if self.has_ended || window.shown > window.read {
                break;
            }
            if may_have_data && !has_data {
                self.count_dataless()?;
            }
            let is_established = !self.is_handshaking();
            match record_bytes(&incoming[window.read..]) {
                Some(_) if is_established && left == 0 => {
                    self.has_unopened = true;
                    break;
                }
                Some(bytes) => {
                    window.read += bytes;
                    window.shown = window.read;
                    left = left.saturating_sub(bytes.max(RECORD_COST_BYTES));
                    may_have_data = is_established;
                }
                None if window.read < incoming.len() => window.shown = incoming.len(),
                None => break,
            }
        }
        self.passed = window.read - window.used;
        Ok(window.used)
    }

    /// Lets the library process the bytes that it is shown, until it needs more. Returns whether it found data of the
    /// client in them.
    fn process_shown(
        &mut self,
        incoming: &mut [u8],
        window: &mut Window,
        plain: &mut Plain<'_>,
    ) -> io::Result<bool> {
        let mut has_data = false;
        loop {
            let shown = &mut incoming[window.used..window.shown];
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process_tls_records(shown);
            window.used += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let payload = record.map_err(invalid)?.payload;
                        self.data_bytes = self.data_bytes.saturating_add(payload.len());
                        plain.push(payload);
                    }
                    has_data = true;
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    keep_encoded(&mut self.kept, |room| data.encode(room));
                }
                // Encoded bytes are kept, and go out in order.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.has_ended = true;
                    return Ok(has_data);
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                    return Ok(has_data);
                }
                // Early data is off.
                Ok(_) => return Err(invalid("data before the end of the handshake")),
                Err(error) => {
                    self.keep_alert(&mut incoming[window.used..window.shown]);
                    return Err(invalid(error));
                }
            }
        }
    }

    /// Counts a record without data; an error if the client has sent too many. Each byte of a key update costs as much
    /// as a hundred bytes of data, and the library permits 32 key updates before each byte of data.
    fn count_dataless(&mut self) -> io::Result<()> {
        if self.data_bytes >= DATALESS_EVERY_BYTES {
            self.data_bytes = 0;
            return Ok(());
        }
        match self.dataless.take(self.clock.mono_us()) {
            true => Ok(()),
            false => Err(invalid("too many records without data")),
        }
    }

    /// After an error, keeps the library's alert for the client, and before it the records that the library had to
    /// send. Plain bytes before the error are dropped.
    fn keep_alert(&mut self, incoming: &mut [u8]) {
        // Only while output is queued: otherwise this call would read records after the bad one.
        while self.connection.wants_write() {
            let status = self.connection.process_tls_records(incoming);
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while traffic.next_record().is_some() {}
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    keep_encoded(&mut self.kept, |room| data.encode(room));
                }
                // No other state comes while output is queued.
                _ => return,
            }
        }
    }

    /// Whether plain bytes or whole records wait for the next [`open`](Self::open), which needs no further bytes.
    pub fn has_input(&self) -> bool {
        !self.plain.is_empty() || self.has_unopened
    }

    /// Whether the client has ended its side: no plain bytes follow those that wait.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// How many plain bytes to [seal](Self::seal) next, at most `bytes_max`. Of sealed bytes the session holds what the network
    /// does not take, and a message to all clients could take the limit on all sessions in a moment. So once a part of the
    /// limit is held, these are as many as the network takes if `has_room`, and otherwise 0.
    #[inline]
    pub(crate) fn bytes_to_seal(&self, bytes_max: usize, has_room: impl FnOnce() -> bool) -> usize {
        let held = self.output.quota();
        if held.held() <= held.max() / AHEAD_SHARE {
            return bytes_max;
        }
        match has_room() {
            true => bytes_max.min(SURE_BYTES),
            false => 0,
        }
    }

    /// Seals plain bytes as records in `into`, which must have room for [`Self::sealed_bytes_max`]. Returns the bytes of the
    /// records. The records must be sent after the [kept](Self::has_kept) records.
    ///
    /// # Errors
    /// The session has ended, or its keys are used up.
    #[inline]
    pub fn seal(&mut self, plain: &[u8], into: &mut [u8]) -> io::Result<usize> {
        if self.has_failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let status = self
            .connection
            .process_tls_records(&mut self.incoming[..self.passed]);
        match (status.discard, status.state) {
            // 0: a discard would have to shorten `incoming`, so it counts as an error.
            (0, Ok(ConnectionState::WriteTraffic(mut traffic))) => {
                traffic.encrypt(plain, into).map_err(exhausted)
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whether records wait for the network.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// The bytes that the session holds: unfinished records, waiting plain bytes, and records to send.
    pub fn held_bytes(&self) -> usize {
        self.incoming.len() + self.plain.len() + self.kept.len()
    }

    /// Charges the memory of the held bytes. A record that has become whole is progress of the input.
    #[inline]
    fn charge(&mut self, input_end: RecordEnd) {
        let input = self.incoming.capacity() + self.plain.capacity();
        for (permit, bytes, has_moved) in [
            (&mut self.input, input, input_end == RecordEnd::Came),
            // Progress of the output shows as a smaller amount.
            (&mut self.output, self.kept.capacity(), false),
        ] {
            let (bytes, before) = (bytes as u64, permit.amount());
            // Most records come and go whole, and nothing is held.
            if bytes == before && (!has_moved || bytes == 0) {
                continue;
            }
            let now_us = self.clock.mono_us();
            permit.set(bytes, now_us);
            if has_moved {
                permit.progress(now_us);
            }
            if bytes > before {
                permit.quota().make_room(now_us);
            }
        }
    }

    /// Sets the waker that is called when the session is chosen for eviction. It must wake the thread that has the
    /// session.
    pub fn wake_with(&self, waker: &Waker) {
        self.input.wake_with(waker);
        self.output.wake_with(waker);
    }

    /// Whether the session must end, because the TLS sessions of all clients together hold too many bytes.
    pub fn is_evicted(&self) -> bool {
        self.held_bytes() > 0 && (self.input.is_evicted() || self.output.is_evicted())
    }

    /// Whether the client has begun a record.
    pub(crate) fn has_begun_record(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Keeps the part of sealed records that the network did not take.
    pub fn keep(&mut self, records: &[u8]) {
        self.kept.extend_from_slice(records);
        self.charge(RecordEnd::Awaited);
    }

    /// Keeps the alert `close_notify`, after which nothing may follow (RFC 8446 §6.1). Does nothing if the client broke
    /// the protocol.
    pub(crate) fn keep_close_notify(&mut self) {
        if self.has_failed {
            return;
        }
        let status = self
            .connection
            .process_tls_records(&mut self.incoming[..self.passed]);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
            let mut room = [0; ROOM_BYTES];
            // Without room for the alert the connection ends silently.
            let n = traffic.queue_close_notify(&mut room).unwrap_or(0);
            self.keep(&room[..n]);
        }
    }

    /// Sends the kept records with `send`, until nothing is left or the network takes no more. Returns the count
    /// of sent bytes.
    ///
    /// # Errors
    /// The error of `send`, except [`io::ErrorKind::WouldBlock`].
    pub fn send_kept(
        &mut self,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.kept.len() {
                break Ok(sent);
            }
            match send(&self.kept[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if sent == self.kept.len() {
            self.kept = Vec::new();
        } else {
            self.kept.drain(..sent);
        }
        self.charge(RecordEnd::Awaited);
        outcome
    }

    /// The room that [`Self::seal`] needs for `plain_bytes` bytes.
    pub const fn sealed_bytes_max(plain_bytes: usize) -> usize {
        plain_bytes + plain_bytes.div_ceil(RECORD_BYTES_MAX) * RECORD_OVERHEAD_MAX + ROOM_BYTES
    }
}

/// The bytes of the first record (RFC 8446 §5.1); `None` if it is not whole.
fn record_bytes(incoming: &[u8]) -> Option<usize> {
    let length = incoming.get(3..5)?;
    let bytes = 5 + usize::from(length[0]) * 256 + usize::from(length[1]);
    (bytes <= incoming.len()).then_some(bytes)
}

/// Appends the bytes of `encode`. If the room is too small, `encode` says how much it needs.
fn keep_encoded(
    kept: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) {
    let from = kept.len();
    let mut room = ROOM_BYTES;
    loop {
        kept.resize(from + room, 0);
        match encode(&mut kept[from..]) {
            Ok(n) => return kept.truncate(from + n),
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => return kept.truncate(from),
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cold]
fn exhausted(error: EncryptError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
pub(crate) mod tests;
