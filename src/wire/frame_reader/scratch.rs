//! The frame returned last, and the inflater: shared by all connections of a reactor.

use super::super::deflate::Inflater;
use super::super::encode::{self, FIN, HEADER_BYTES_MAX};

/// A larger buffer is freed after its frame.
pub(super) const SCRATCH_BYTES_KEPT: usize = 64 * 1024;

/// A frame as a server would send it: unmasked, shortest header, no reserved bits.
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
    start: usize,
}

impl FrameScratch {
    /// Takes about 50 KB, and the frame returned last until [`rest`](Self::rest); up to 64 KiB of the frame's
    /// memory are kept for the next frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the use of the frame returned last, and frees the memory of a large frame: the next frame may be
    /// hours away.
    pub fn rest(&mut self) {
        if self.frame.capacity() > SCRATCH_BYTES_KEPT {
            self.frame = Vec::new();
        }
    }

    /// Empties the frame, except for the room for its header.
    pub(super) fn begin(&mut self) {
        self.rest();
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    }

    /// Writes the header right before the payload.
    pub(super) fn finish(&mut self, first_byte: u8) {
        let payload_len = self.frame.len() - HEADER_BYTES_MAX;
        let mut header = [0; HEADER_BYTES_MAX];
        let header_len = encode::header(&mut header, first_byte, payload_len as u64);
        self.start = HEADER_BYTES_MAX - header_len;
        self.frame[self.start..HEADER_BYTES_MAX].copy_from_slice(&header[..header_len]);
    }

    pub(super) fn whole(&self) -> WholeFrame<'_> {
        WholeFrame {
            bytes: &self.frame[self.start..],
            payload_at: HEADER_BYTES_MAX - self.start,
        }
    }
}

/// Appends `part` unmasked (§5.3); its first byte is at `offset` of the payload.
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
