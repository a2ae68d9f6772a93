//! TLS of a client of the limit: rustls without buffers, so a record is sealed from the frame into a buffer of the caller.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use crate::fault::{Fault, Tried};

/// The most plain bytes in a record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// The most plain bytes sealed for one send: four records. At 64 KB a send for each record costs half as much again.
pub(super) const SEND_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;
/// The room for the records of a send. A record in TLS 1.3 adds a header of 5 bytes, a content type and a tag of 16
/// (RFC 8446 §5.2); the library's own records, such as a key update, may come before.
pub(super) const SEALED_BYTES_MAX: usize = SEND_BYTES_MAX + 4 * (5 + 1 + 16) + ROOM_BYTES;
/// The room for a record of the library's own; the library asks for more if necessary.
const ROOM_BYTES: usize = 512;

/// TLS of a client.
pub(super) struct Session {
    connection: UnbufferedServerConnection,
    /// The bytes of an unfinished record.
    incoming: Vec<u8>,
}

impl Session {
    /// A session before its first byte.
    pub(super) fn new(config: &Arc<ServerConfig>) -> Result<Self, Fault> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config));
        Ok(Self {
            connection: connection.map_err(io::Error::other).tried("TLS")?,
            incoming: Vec::new(),
        })
    }

    /// Opens bytes of the network. Appends plain bytes to `plain`, and records of the handshake to `answer`. Returns false
    /// if the client has ended its side or broken the protocol.
    pub(super) fn open(&mut self, raw: &[u8], plain: &mut Vec<u8>, answer: &mut Vec<u8>) -> bool {
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend_from_slice(raw);
        let Some(used) = self.process(&mut incoming, plain, answer) else {
            return false;
        };
        self.incoming = incoming.split_off(used);
        true
    }

    /// Processes whole records. Returns how many bytes are used up, or `None` at the end.
    fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Option<usize> {
        let mut used = 0;
        loop {
            let status = self.connection.process_tls_records(&mut incoming[used..]);
            let UnbufferedStatus {
                mut discard, state, ..
            } = status;
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.ok()?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, answer),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                    is_done = true;
                }
                // An end, early data (off), or a broken protocol.
                Ok(_) | Err(_) => return None,
            }
            used += discard;
            if is_done {
                return Some(used);
            }
        }
    }

    /// Seals at most [`SEND_BYTES_MAX`] as records in `into`, with room for [`SEALED_BYTES_MAX`]. Returns the bytes of the
    /// records, or `None` after the end.
    #[inline]
    pub(super) fn seal(&mut self, plain: &[u8], into: &mut [u8]) -> Option<usize> {
        // The library may refer to an unfinished record.
        let status = self.connection.process_tls_records(&mut self.incoming);
        match (status.discard, status.state) {
            (0, Ok(ConnectionState::WriteTraffic(mut traffic))) => {
                traffic.encrypt(plain, into).ok()
            }
            _ => None,
        }
    }
}

/// Appends a record of the library.
fn encode<D>(data: &mut EncodeTlsData<'_, D>, answer: &mut Vec<u8>) {
    let from = answer.len();
    let mut room = ROOM_BYTES;
    loop {
        answer.resize(from + room, 0);
        match data.encode(&mut answer[from..]) {
            Ok(n) => return answer.truncate(from + n),
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => return answer.truncate(from),
        }
    }
}
