//! Frames (RFC 6455 §5.2): the header of a server's frame, which is never masked and never fragmented; and the payload
//! of a client's frame, unmasked and checked. All connections of a reactor share one buffer for the frame that was read
//! last, and one inflater.

use super::deflate::Inflater;

/// The longest header of an unmasked frame: two bytes and a 64-bit length.
pub(crate) const HEADER_BYTES_MAX: usize = 10;
/// The last (here: only) fragment of a message.
pub(crate) const FIN: u8 = 0x80;
/// The payload is deflated (RFC 7692 §6).
pub(crate) const RSV1: u8 = 0x40;
/// The next fragment of a message.
pub(crate) const OPCODE_CONTINUATION: u8 = 0x0;
/// A text message.
pub(crate) const OPCODE_TEXT: u8 = 0x1;
/// A binary message.
pub(crate) const OPCODE_BINARY: u8 = 0x2;
/// A close; opcodes from here on are control frames (§5.5).
pub(crate) const OPCODE_CLOSE: u8 = 0x8;
/// A ping.
pub(crate) const OPCODE_PING: u8 = 0x9;
/// A pong.
pub(crate) const OPCODE_PONG: u8 = 0xa;
/// Longest payload of a control frame (§5.5).
pub(crate) const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The frame of a ping of the server without a payload.
pub const EMPTY_PING: [u8; 2] = [FIN | OPCODE_PING, 0];

/// What the header of a frame says of a message of the server, which is always in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFrame {
    /// Whether the payload is text; otherwise bytes.
    pub is_text: bool,
    /// Whether the payload is deflated.
    pub is_deflated: bool,
}

impl DataFrame {
    /// The longest header: two bytes and a 64-bit length.
    pub const HEADER_BYTES_MAX: usize = HEADER_BYTES_MAX;

    /// Returns the number of bytes of the header for a payload of this length.
    pub const fn header_bytes(payload_len: u64) -> usize {
        match payload_len {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        }
    }

    /// Writes the header for `payload_len` bytes to the front of `out`. Returns the header's length.
    pub fn header(self, out: &mut [u8; HEADER_BYTES_MAX], payload_len: u64) -> usize {
        let opcode = match self.is_text {
            true => OPCODE_TEXT,
            false => OPCODE_BINARY,
        };
        let rsv1 = if self.is_deflated { RSV1 } else { 0 };
        header(out, FIN | rsv1 | opcode, payload_len)
    }
}

/// Writes the header of an unmasked frame with `payload_len` bytes to the front of `out`. Returns the
/// header's length: 2, 4 or 10 bytes, the shortest form for the length (§5.2).
fn header(out: &mut [u8; HEADER_BYTES_MAX], first_byte: u8, payload_len: u64) -> usize {
    out[0] = first_byte;
    if payload_len < 126 {
        out[1] = payload_len as u8;
        2
    } else if let Ok(len) = u16::try_from(payload_len) {
        out[1] = 126;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        4
    } else {
        out[1] = 127;
        out[2..10].copy_from_slice(&payload_len.to_be_bytes());
        10
    }
}

/// A larger buffer is freed after its frame.
pub(super) const SCRATCH_BYTES_KEPT: usize = 64 * 1024;

/// A client's frame in the form of a server's: unmasked, shortest header, no reserved bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeFrame<'a> {
    bytes: &'a [u8],
    payload_at: usize,
}

impl<'a> WholeFrame<'a> {
    /// Header and payload.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The payload alone.
    pub fn payload(self) -> &'a [u8] {
        &self.bytes[self.payload_at..]
    }

    /// Text, binary, continuation, or a control opcode.
    pub fn opcode(self) -> u8 {
        self.bytes[0] & 0x0f
    }

    /// Whether the message ends here.
    pub fn is_final(self) -> bool {
        self.bytes[0] & FIN != 0
    }
}

/// The shared state of all readers of a reactor: the inflater, and the frame returned last.
#[derive(Debug, Default)]
pub struct FrameScratch {
    pub(super) inflater: Inflater,
    /// Room for a header, then the payload.
    pub(super) frame: Vec<u8>,
    /// Where the header begins in `frame`: it ends where the payload begins.
    start: usize,
}

impl FrameScratch {
    /// Takes about 50 KB, plus the frame that was returned last, until [`rest`](Self::rest). Up to 64 KiB of the
    /// frame's memory are kept for the next frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Must be called when the frame that was returned last is no longer used. Frees its memory if it was large,
    /// because the next frame may be hours away.
    pub fn rest(&mut self) {
        if self.frame.capacity() > SCRATCH_BYTES_KEPT {
            self.frame = Vec::new();
        }
    }

    /// Empties the frame, but keeps the room for its header.
    pub(super) fn begin(&mut self) {
        self.rest();
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    }

    /// Writes the header right before the payload.
    pub(super) fn finish(&mut self, first_byte: u8) {
        let payload_len = self.frame.len() - HEADER_BYTES_MAX;
        let mut bytes = [0; HEADER_BYTES_MAX];
        let header_len = header(&mut bytes, first_byte, payload_len as u64);
        self.start = HEADER_BYTES_MAX - header_len;
        self.frame[self.start..HEADER_BYTES_MAX].copy_from_slice(&bytes[..header_len]);
    }

    pub(super) fn whole(&self) -> WholeFrame<'_> {
        WholeFrame {
            bytes: &self.frame[self.start..],
            payload_at: HEADER_BYTES_MAX - self.start,
        }
    }
}

/// Unmasks `part` (§5.3) and appends it; its first byte is at `offset` in the payload.
pub(super) fn append_unmasked(out: &mut Vec<u8>, part: &[u8], mut mask: [u8; 4], offset: u32) {
    mask.rotate_left((offset % 4) as usize);
    let start = out.len();
    out.extend_from_slice(part);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = out[start..].as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// The error for text that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadUtf8;

/// Checks UTF-8 in text that comes in pieces. Refuses ill-formed text at its first wrong byte, not at the end of the
/// frame. Keeps the start of a character whose end has not come: at most three bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8Check {
    tail: [u8; 3],
    tail_len: u8,
}

impl Utf8Check {
    /// Checks the next piece.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), BadUtf8> {
        while self.tail_len > 0 {
            let Some((&next, rest)) = piece.split_first() else {
                return Ok(());
            };
            let held = usize::from(self.tail_len);
            let mut character = [0; 4];
            character[..held].copy_from_slice(&self.tail[..held]);
            character[held] = next;
            self.tail_len = 0;
            self.keep_tail(&character[..=held])?;
            piece = rest;
        }
        self.keep_tail(piece)
    }

    /// Ends the text: no character may be open.
    pub(super) fn end(&mut self) -> Result<(), BadUtf8> {
        let open = std::mem::take(&mut self.tail_len);
        (open == 0).then_some(()).ok_or(BadUtf8)
    }

    /// Checks a piece, and keeps the start of a character at its end for the next piece.
    fn keep_tail(&mut self, piece: &[u8]) -> Result<(), BadUtf8> {
        let Err(error) = std::str::from_utf8(piece) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(BadUtf8);
        }
        // An error without a length means an unexpected end: the rest is the start of a character.
        let tail = &piece[error.valid_up_to()..];
        self.tail[..tail.len()].copy_from_slice(tail);
        self.tail_len = tail.len() as u8;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_pieces(text: &[u8], piece_len: usize) -> Result<(), BadUtf8> {
        let mut check = Utf8Check::default();
        text.chunks(piece_len)
            .try_for_each(|piece| check.feed(piece))?;
        check.end()
    }

    #[test]
    fn an_ill_formed_byte_is_refused_at_once() {
        let mut check = Utf8Check::default();
        assert_eq!(check.feed(b"ok \xf4"), Ok(()));
        assert_eq!(check.feed(b"\x90"), Err(BadUtf8));
    }

    #[test]
    fn text_may_not_end_inside_a_character() {
        assert_eq!(in_pieces(b"abc\xe2\x82", 2), Err(BadUtf8));
        assert_eq!(in_pieces(b"abc\xe2\x82\xac", 1), Ok(()));
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole(
            mut text in "\\PC{0,40}".prop_map(String::into_bytes),
            change in any::<Option<(prop::sample::Index, u8)>>(),
            piece_len in 1_usize..9,
        ) {
            if let (Some((at, byte)), false) = (change, text.is_empty()) {
                let at = at.index(text.len());
                text[at] = byte;
            }
            prop_assert_eq!(in_pieces(&text, piece_len).is_ok(), std::str::from_utf8(&text).is_ok());
        }
    }
}
