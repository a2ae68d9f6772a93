//! permessage-deflate (RFC 7692).
//!
//! No connection has a compressor or an inflater of its own: one [`Deflater`] and one `Inflater` serve a whole
//! reactor, and a deflated frame is sent to every client whose window has the text that the frame refers to. A client
//! that keeps its window from message to message (context takeover) may get a message that refers to the message before
//! ([`Deflater::deflate_after`]); [`DeflateParams::takes_over`] says which clients may. In the other direction the
//! reactor keeps the earlier text of each client whose messages may refer to earlier text (`InflateWindow`).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

mod offer;
mod windows;

pub(crate) use offer::negotiate;
pub use offer::{Agreed, DeflateParams};
pub(crate) use windows::InflateWindow;
pub use windows::InflateWindows;
use windows::Packer;

/// Deflates whole messages, one after the other.
#[derive(Debug)]
pub struct Deflater {
    state: Compress,
}

impl Deflater {
    /// log2 of the window of shared deflated frames: 32 KiB, the default of clients.
    pub const WINDOW_BITS: u8 = 15;

    /// log2 of the window of shared deflated frames for clients that requested a smaller window: 4 KiB.
    pub const SMALL_WINDOW_BITS: u8 = 12;

    /// How many bytes back a message can refer to earlier messages: the size of the largest window.
    pub const DICTIONARY_BYTES_MAX: usize = 1 << Self::WINDOW_BITS;

    /// The most bytes of a stored block.
    pub const STORED_BYTES_MAX: usize = u16::MAX as usize;

    /// Bytes of the header of a stored block.
    pub const STORED_HEADER_BYTES: usize = 5;

    /// Creates a deflater with a window of 32 KiB, the default of clients; takes about 380 KB. `level`: 1 (fast) to 9
    /// (small).
    pub fn new(level: u32) -> Self {
        Self::with_window(level, Self::WINDOW_BITS)
    }

    /// Creates a deflater with a window of `1 << window_bits` bytes; `window_bits` is 9 to 15.
    pub fn with_window(level: u32, window_bits: u8) -> Self {
        let level = Compression::new(level.clamp(1, 9));
        Self {
            // `false`: without the header of zlib.
            state: Compress::new_with_window_bits(level, false, window_bits),
        }
    }

    /// Deflates a message as §7.2.1 says: ends it with an empty stored block, and cuts off the last four bytes of that
    /// block. Returns `None` if the result is not smaller. The vector has no spare capacity, because it waits in
    /// queues.
    pub fn deflate(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        self.state.reset();
        self.blocks(body)
    }

    /// Deflates a message for a client whose last message was `before`: the blocks refer to `before` as the
    /// newest part of the client's window, up to [`Self::DICTIONARY_BYTES_MAX`] back. Only such clients can inflate
    /// the blocks. Returns `None` as [`Self::deflate`] does.
    pub fn deflate_after(&mut self, before: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        self.state.reset();
        let from = before.len().saturating_sub(Self::DICTIONARY_BYTES_MAX);
        self.state.set_dictionary(&before[from..]).ok()?;
        self.blocks(body)
    }

    /// Begins a message that is deflated piece by piece. It must be ended before this deflater begins another.
    pub fn begin(&mut self) {
        self.state.reset();
    }

    /// Deflates the next piece of the message; what it becomes is appended to `out`, now or with a later piece. Returns false
    /// if the deflater is broken.
    pub fn write(&mut self, piece: &[u8], out: &mut Vec<u8>) -> bool {
        self.compress(piece, out, FlushCompress::None).is_some()
    }

    /// Ends the message of `body_bytes` as [`Self::deflate`] does. Returns false if it is not smaller.
    pub fn end(&mut self, body_bytes: usize, out: &mut Vec<u8>) -> bool {
        let ended = self.compress(&[], out, FlushCompress::Sync);
        if ended.is_none() || !out.ends_with(&TAIL) {
            return false;
        }
        out.truncate(out.len() - TAIL.len());
        out.len() < body_bytes
    }

    /// Compresses all of `input`. Returns `None` if the deflater is broken.
    fn compress(&mut self, input: &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> Option<()> {
        let before = self.state.total_in();
        loop {
            if out.len() == out.capacity() {
                out.reserve(SPARE_BYTES.max(input.len() / 4));
            }
            let taken = usize::try_from(self.state.total_in() - before).ok()?;
            let rest = input.get(taken..)?;
            self.state.compress_vec(rest, out, flush).ok()?;
            // If room is left, all input is taken, and flushed if that was asked for.
            if out.len() < out.capacity() {
                return Some(());
            }
        }
    }

    /// Appends a body in `pieces` as a whole uncompressed message: stored blocks, and the rest of the empty block that ends a
    /// message (§7.2.1). Some clients that agreed on compression cannot read a message without that end
    /// (libwebsockets up to 4.3.2 spins).
    pub fn write_stored<'a>(out: &mut Vec<u8>, pieces: impl IntoIterator<Item = &'a [u8]>) {
        for piece in pieces {
            Self::write_stored_piece(out, piece);
        }
        Self::end_stored(out);
    }

    /// Appends a piece of such a body. A block holds up to [`Self::STORED_BYTES_MAX`].
    pub fn write_stored_piece(out: &mut Vec<u8>, piece: &[u8]) {
        stored_block(out, piece);
    }

    /// Appends the end of such a body.
    pub fn end_stored(out: &mut Vec<u8>) {
        // The first byte of an empty block; the other four are the tail that every sender cuts off.
        out.push(0);
    }

    /// Appends the header of one stored block, whose `len` bytes the caller appends.
    pub fn write_stored_header(out: &mut Vec<u8>, len: u16) {
        // 0: a stored block, and not the last one.
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
    }

    /// Deflates a body without its tail; returns `None` if the result is not smaller. Deflates to the end of the body
    /// even then: a reset does not clear all state of an unfinished stream (zlib-rs 0.6.8), and later streams may
    /// panic.
    fn blocks(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(body.len() / 2 + SPARE_BYTES);
        self.compress(body, &mut out, FlushCompress::Sync)?;
        if !out.ends_with(&TAIL) {
            return None;
        }
        out.truncate(out.len() - TAIL.len());
        if out.len() >= body.len() {
            return None;
        }
        out.shrink_to_fit();
        Some(out)
    }
}

/// More bytes than the header and the tail of a small message's blocks.
const SPARE_BYTES: usize = 64;
/// The bytes that a sender cuts off and a receiver appends (§7.2.1, §7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty stored block that is final. The stream ends with it only if the message before it is whole.
const END: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// The most compressed bytes that [`Inflation::step`] takes. A block takes some 20 bytes and up to 1.2 µs, however
/// little text it brings.
const STEP_BYTES: usize = 12 * 1024;
/// After this many bytes of text, [`Inflation::step`] ends. Of a large text it may bring more, up to half of the whole:
/// the vector doubles, and is filled.
const STEP_TEXT_BYTES: usize = 128 * 1024;

/// The reason why a message could not be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InflateError {
    /// The inflated message would be over the limit.
    #[error("the message is too big when inflated")]
    TooBig,
    /// Not DEFLATE data (RFC 1951), or incomplete.
    #[error("the compressed data is damaged")]
    Corrupt,
}

/// Inflates messages, one after the other. A message may refer to the earlier text of its client.
#[derive(Debug, Default)]
pub(crate) struct Inflater {
    message: Inflation,
    /// Packs and unpacks the windows of all clients.
    packer: Packer,
}

/// How far a message is inflated. Has the largest window, 32 KiB, which inflates any client's data.
#[derive(Debug)]
pub(crate) struct Inflation {
    state: Decompress,
    /// How many bytes of the message were taken.
    taken: usize,
}

impl Default for Inflation {
    fn default() -> Self {
        Self {
            // As in `Deflater::with_window`.
            state: Decompress::new(false),
            taken: 0,
        }
    }
}

impl Inflater {
    /// Appends the inflated message to `out`. Adds the tail that the sender cut off (§7.2.2). The limit holds while
    /// inflating: `out` never grows by more than `bytes_max` and one byte. After an error the bytes appended to `out`
    /// have no meaning.
    pub(crate) fn inflate(
        &mut self,
        compressed: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), InflateError> {
        let end_max = out.len().saturating_add(bytes_max);
        self.message.begin(&[])?;
        while !self.message.step(compressed, out, end_max)? {}
        Ok(())
    }

    /// Begins the next message of a client, which may refer to the text in the client's window.
    pub(crate) fn begin(&mut self, window: Option<&InflateWindow>) -> Result<(), InflateError> {
        let mut packer = std::mem::take(&mut self.packer);
        let before = window.map_or(Ok(&[][..]), |window| window.text(self, &mut packer));
        let begun = before.and_then(|before| self.message.begin(before));
        self.packer = packer;
        begun
    }

    /// Takes a [step](Inflation::step) of the message that was begun last.
    pub(crate) fn step(
        &mut self,
        compressed: &[u8],
        out: &mut Vec<u8>,
        end_max: usize,
    ) -> Result<bool, InflateError> {
        self.message.step(compressed, out, end_max)
    }

    /// Puts the message aside: other messages may come before its next step.
    pub(crate) fn put_aside(&mut self) -> Inflation {
        std::mem::take(&mut self.message)
    }

    /// Makes a message the newest part of the text in the client's window. Must follow [`Self::begin`] for this window, with no
    /// message of another client between the two.
    pub(crate) fn append(&mut self, window: &mut InflateWindow, message: &[u8]) {
        window.append(message, &mut self.packer);
    }
}

impl Inflation {
    /// The memory of a message that was [put aside](Inflater::put_aside), beside its bytes: the state of zlib and its window.
    pub(crate) const MEMORY_BYTES: usize = 48 * 1024;

    /// `before`: the text before the message, at most [`Deflater::DICTIONARY_BYTES_MAX`].
    fn begin(&mut self, before: &[u8]) -> Result<(), InflateError> {
        self.taken = 0;
        self.state.reset(false);
        if before.is_empty() {
            return Ok(());
        }
        let set = self.state.set_dictionary(before);
        set.map(|_| ()).map_err(|_| InflateError::Corrupt)
    }

    /// Inflates the next part of `compressed`, about a millisecond of work at most: a block that brings nothing costs as much
    /// as a kilobyte of text, so both are bounded. Appends the text to `out`, which never grows past `end_max` and one byte.
    /// Returns whether the message is whole.
    pub(crate) fn step(
        &mut self,
        compressed: &[u8],
        out: &mut Vec<u8>,
        end_max: usize,
    ) -> Result<bool, InflateError> {
        // Some senders send nothing where RFC 7692 §7.2.3.6 asks for one zero byte.
        if compressed.is_empty() {
            return Ok(true);
        }
        let part_end = compressed.len().min(self.taken + STEP_BYTES);
        let part = &compressed[self.taken..part_end];
        match self.feed(part, out, end_max)? {
            Fed::Much(rest) => self.taken = part_end - rest.len(),
            Fed::All if part_end < compressed.len() => self.taken = part_end,
            Fed::All => return self.end(out, end_max).map(|()| true),
            Fed::Ended(rest) => {
                // A sender that ends its stream with every message adds an empty block (§7.2.3.4).
                return match &compressed[part_end - rest.len()..] {
                    [] | [0] => Ok(true),
                    _ => Err(InflateError::Corrupt),
                };
            }
        }
        Ok(false)
    }

    /// Checks that the message is whole: it is so if the stream ends with the block that comes after it.
    fn end(&mut self, out: &mut Vec<u8>, end_max: usize) -> Result<(), InflateError> {
        if matches!(self.feed(&TAIL, out, end_max)?, Fed::Ended(_)) {
            return Err(InflateError::Corrupt);
        }
        match self.feed(&END, out, end_max)? {
            Fed::Ended([]) => Ok(()),
            _ => Err(InflateError::Corrupt),
        }
    }

    /// Inflates `input` until it is used up, until the stream ends, or until a step has brought enough text.
    fn feed<'a>(
        &mut self,
        mut input: &'a [u8],
        out: &mut Vec<u8>,
        end_max: usize,
    ) -> Result<Fed<'a>, InflateError> {
        let much = out.len() + STEP_TEXT_BYTES;
        while out.len() < much {
            if out.len() == out.capacity() {
                let growth = (input.len() * 3).max(out.len()).max(256);
                let room = end_max.saturating_sub(out.len()).saturating_add(1);
                out.reserve_exact(growth.min(room));
            }
            let (in_before, out_before) = (self.state.total_in(), out.len());
            let status = self
                .state
                .decompress_vec(input, out, FlushDecompress::None)
                .map_err(|_| InflateError::Corrupt)?;
            let taken = usize::try_from(self.state.total_in() - in_before).unwrap_or(usize::MAX);
            input = input.get(taken..).unwrap_or_default();
            if out.len() > end_max {
                return Err(InflateError::TooBig);
            }
            let room_left = out.len() < out.capacity();
            match status {
                Status::StreamEnd => return Ok(Fed::Ended(input)),
                _ if input.is_empty() && room_left => return Ok(Fed::All),
                // No progress, although there is input and room.
                _ if taken == 0 && out.len() == out_before && room_left => {
                    return Err(InflateError::Corrupt);
                }
                _ => {}
            }
        }
        Ok(Fed::Much(input))
    }
}

/// How a call of [`Inflation::feed`] ended; with what is left of the input.
enum Fed<'a> {
    /// The stream has ended.
    Ended(&'a [u8]),
    /// The input is used up.
    All,
    /// The step has brought enough text.
    Much(&'a [u8]),
}

/// Appends `bytes` as stored blocks (RFC 1951 §3.2.4), none of them final. A block holds up to 65,535 bytes
/// and is five bytes longer than its content.
///
/// The blocks end at a byte boundary, so bytes for one connection can be stored in front of deflated blocks that all
/// connections share. Such deflated blocks refer to nothing before them.
pub(crate) fn stored_block(out: &mut Vec<u8>, bytes: &[u8]) {
    for block in bytes.chunks(usize::from(u16::MAX)) {
        Deflater::write_stored_header(out, block.len() as u16);
        out.extend_from_slice(block);
    }
}

#[cfg(test)]
mod tests;
