//! Parses frames from a server (RFC 6455 section 5). Headers are parsed in place; of payloads, only the
//! first bytes are kept, but compressed payloads are kept whole. No allocation per frame, except the
//! first time a message is split over reads.

use crate::stamp::HEAD_BYTES;

/// Opcodes of RFC 6455 section 11.8.
pub(crate) mod opcode {
    pub(crate) const CONTINUATION: u8 = 0;
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// A complete message or control frame from a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// A text or binary message, fragments joined.
    Message {
        /// The first bytes, at most [`HEAD_BYTES`]; if `deflated`, the whole message, still deflated.
        payload: &'a [u8],
        /// Payload bytes on the wire.
        bytes: u64,
        /// RSV1 was set (RFC 7692 section 6).
        deflated: bool,
    },
    /// A control frame.
    Control {
        /// A constant of [`opcode`].
        opcode: u8,
        /// Up to 125 bytes.
        payload: &'a [u8],
    },
}

/// The server broke the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Servers must not mask (RFC 6455 section 5.1).
    #[error("a masked frame from the server")]
    Masked,
    /// Opcode, RSV bits, length or order of fragments forbidden by section 5.2 to 5.5.
    #[error("a malformed frame header: {0:#04x} {1:#04x}")]
    Header(u8, u8),
}

/// The state of a connection between two reads.
#[derive(Default)]
pub(crate) struct FrameParser {
    /// A frame header, if only a part has arrived.
    header: [u8; 10],
    header_len: u8,
    /// The frame with an incomplete payload.
    frame: Option<Frame>,
    /// The open data message (the first frame has arrived).
    message: Option<Message>,
    /// The kept bytes of the open message, if split over reads.
    carry: Vec<u8>,
    control_carry: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Frame {
    opcode: u8,
    fin: bool,
    left: u64,
}

#[derive(Clone, Copy)]
struct Message {
    bytes: u64,
    deflated: bool,
}

impl Message {
    /// Number of bytes to keep for the caller.
    fn kept_bytes(self) -> usize {
        if self.deflated {
            usize::MAX
        } else {
            HEAD_BYTES
        }
    }
}

impl FrameParser {
    /// Parses bytes from a read; calls `on` with complete messages and control frames.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on: impl FnMut(Received<'_>),
    ) -> Result<(), FrameError> {
        loop {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(&mut bytes)? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            let here = usize::try_from(frame.left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (payload, rest) = bytes.split_at(here);
            bytes = rest;
            let left = frame.left - here as u64;
            if frame.opcode >= opcode::CLOSE {
                self.control(frame, left, payload, &mut on);
            } else {
                self.data(frame, left, payload, &mut on);
            }
            if left > 0 {
                self.frame = Some(Frame { left, ..frame });
                return Ok(());
            }
        }
    }

    /// Whether the parser is between two messages, with nothing half-read.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    fn data(&mut self, frame: Frame, left: u64, payload: &[u8], on: &mut impl FnMut(Received<'_>)) {
        let Some(message) = self.message else { return };
        let whole = left == 0 && frame.fin;
        if whole && self.carry.is_empty() {
            // The usual case: all necessary bytes are in this read.
            on(Received::Message {
                payload: &payload[..payload.len().min(message.kept_bytes())],
                bytes: message.bytes,
                deflated: message.deflated,
            });
            self.message = None;
            return;
        }
        let room = message.kept_bytes() - self.carry.len();
        self.carry
            .extend_from_slice(&payload[..payload.len().min(room)]);
        if whole {
            on(Received::Message {
                payload: &self.carry,
                bytes: message.bytes,
                deflated: message.deflated,
            });
            self.carry.clear();
            self.message = None;
        }
    }

    fn control(
        &mut self,
        frame: Frame,
        left: u64,
        payload: &[u8],
        on: &mut impl FnMut(Received<'_>),
    ) {
        let opcode = frame.opcode;
        if left == 0 && self.control_carry.is_empty() {
            return on(Received::Control { opcode, payload });
        }
        self.control_carry.extend_from_slice(payload);
        if left == 0 {
            let payload = &self.control_carry;
            on(Received::Control { opcode, payload });
            self.control_carry.clear();
        }
    }

    /// The next frame header, even over several reads; `None` while incomplete.
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            let have = usize::from(self.header_len);
            let want = if have < 2 {
                2
            } else {
                header_length(self.header[1])
            };
            if have >= want {
                break;
            }
            let n = (want - have).min(bytes.len());
            if n == 0 {
                return Ok(None);
            }
            self.header[have..have + n].copy_from_slice(&bytes[..n]);
            *bytes = &bytes[n..];
            self.header_len += n as u8;
        }
        self.header_len = 0;
        let [b0, b1, ..] = self.header;
        let bad = FrameError::Header(b0, b1);
        let frame = Frame {
            opcode: b0 & 15,
            fin: b0 & 0x80 != 0,
            left: payload_length(&self.header),
        };
        if b1 & 0x80 != 0 {
            return Err(FrameError::Masked);
        }
        let (rsv1, rsv23) = (b0 & 0x40 != 0, b0 & 0x30 != 0);
        match (frame.opcode, &mut self.message) {
            _ if rsv23 => return Err(bad),
            (opcode::CLOSE..=opcode::PONG, _) => {
                if !frame.fin || rsv1 || frame.left > 125 {
                    return Err(bad);
                }
            }
            (1 | 2, message @ None) => {
                *message = Some(Message {
                    bytes: frame.left,
                    deflated: rsv1,
                });
            }
            (opcode::CONTINUATION, Some(message)) if !rsv1 => {
                message.bytes = message.bytes.saturating_add(frame.left);
            }
            _ => return Err(bad),
        }
        Ok(Some(frame))
    }
}

fn header_length(second: u8) -> usize {
    match second & 127 {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

fn payload_length(header: &[u8; 10]) -> u64 {
    let [_, b1, rest @ ..] = *header;
    match b1 & 127 {
        126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
        127 => u64::from_be_bytes(rest),
        n => u64::from(n),
    }
}

/// A client's frame, masked with a zero key, so the payload is unchanged. A zero key is a legal
/// mask; a test client on loopback has nothing to hide from a proxy.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = server_header(opcode, payload.len());
    frame[1] |= 0x80;
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The header of an unfragmented, unmasked frame.
pub(crate) fn server_header(opcode: u8, payload_bytes: usize) -> Vec<u8> {
    let mut header = Vec::new();
    append_server_header(&mut header, opcode, payload_bytes);
    header
}

/// Appends the header of an unfragmented, unmasked frame.
pub(crate) fn append_server_header(to: &mut Vec<u8>, opcode: u8, payload_bytes: usize) {
    to.push(0x80 | opcode);
    match payload_bytes {
        0..126 => to.push(payload_bytes as u8),
        126..=0xffff => {
            to.push(126);
            to.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            to.push(127);
            to.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = server_header(first & 15, payload.len());
        out[0] = first;
        out.extend_from_slice(payload);
        out
    }

    /// A text form of the parser's output, with `step` bytes at a time.
    fn parse(bytes: &[u8], step: usize) -> Result<Vec<String>, FrameError> {
        let mut parser = FrameParser::default();
        let mut seen = Vec::new();
        for part in bytes.chunks(step) {
            parser.feed(part, |r| seen.push(format!("{r:?}")))?;
        }
        assert!(parser.is_idle());
        Ok(seen)
    }

    #[test]
    fn every_split_gives_the_same_messages() {
        let stream = [
            frame(0x81, b"hello"),
            frame(0x89, b"ping"),
            frame(0x81, &[b'a'; 300]),
            frame(0xc1, &[7; 2000]),
            frame(0x81, b""),
            // A message in three fragments with a pong between.
            frame(0x01, b"one"),
            frame(0x8a, b""),
            frame(0x00, &[b'x'; 1500]),
            frame(0x80, b"end"),
            frame(0x82, &vec![1; 70_000]),
            frame(0x88, &[3, 0xe8]),
        ]
        .concat();
        let whole = parse(&stream, stream.len()).unwrap();
        assert_eq!(whole.len(), 9);
        assert!(whole[3].ends_with("bytes: 2000, deflated: true }"));
        assert!(whole[6].contains("[111, 110, 101, 120,") && whole[6].contains("bytes: 1506"));
        for step in [1, 2, 3, 7, 64, 1000, 1023, 1024, 1025, 65_536] {
            assert_eq!(parse(&stream, step).unwrap(), whole, "step {step}");
        }
    }

    #[test]
    fn a_head_is_cut_at_its_bound() {
        let mut parser = FrameParser::default();
        let stream = frame(0x81, &[b'a'; 5000]);
        for part in [&stream[..600], &stream[600..]] {
            parser
                .feed(part, |r| {
                    let Received::Message { payload, bytes, .. } = r else {
                        panic!()
                    };
                    assert_eq!((payload.len(), bytes), (HEAD_BYTES, 5000));
                })
                .unwrap();
        }
    }

    #[test]
    fn violations_are_errors() {
        assert_eq!(parse(&client_frame(1, b"a"), 100), Err(FrameError::Masked));
        for stream in [
            frame(0x80, b"no message open"),
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            frame(0x91, b"rsv3"),
            frame(0xc9, b"rsv1 on a ping"),
            frame(0x09, b"fragmented ping"),
            frame(0x89, &[0; 126]),
            frame(0x83, b"reserved opcode"),
        ] {
            assert!(
                matches!(parse(&stream, 9), Err(FrameError::Header(..))),
                "{stream:?}"
            );
        }
    }

    #[test]
    fn a_client_frame_has_a_mask_and_the_payload() {
        assert_eq!(client_frame(1, b"hi"), b"\x81\x82\0\0\0\0hi");
        assert_eq!(client_frame(1, &[0; 200])[..4], [0x81, 0xfe, 0, 200]);
    }
}
