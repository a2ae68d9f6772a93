//! permessage-deflate (RFC 7692).
//!
//! No connection keeps a compressor: one [`Deflater`] and one [`Inflater`] serve a whole reactor,
//! and a deflated frame serves every client whose window holds what the frame refers to. A client
//! whose window stays from message to message (context takeover) may get a message that refers to
//! the message before ([`Deflater::deflate_after`]); [`DeflateParams::takes_over`] says to whom.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// log2 of the window of shared deflated frames: 32 KiB, what clients have unless they ask for less.
pub const WINDOW_BITS: u8 = 15;
/// log2 of the window of the frames for clients that asked for a smaller one: 4 KiB.
pub const SMALL_WINDOW_BITS: u8 = 12;
/// Bytes of an earlier message that a message can refer to: what the largest window holds.
pub const DICTIONARY_BYTES_MAX: usize = 1 << WINDOW_BITS;

/// What a client and this server agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateParams {
    /// As offered; 0: not in the offer.
    server_max_window_bits: u8,
    takeover: Takeover,
}

/// Whether a message may refer to what this client got before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Takeover {
    /// The offer allows it, and nobody uses it.
    #[default]
    Unused,
    /// It is agreed on.
    Used,
    /// The offer has `server_no_context_takeover` (§7.1.1.1).
    Refused,
}

impl DeflateParams {
    /// log2 of the largest window, in bytes, that the client inflates with: 9 to 15.
    pub fn server_window_bits(self) -> u8 {
        match self.server_max_window_bits {
            0 => WINDOW_BITS,
            bits => bits,
        }
    }

    /// Keeps the client's window from message to message, if the offer allows it and the window is
    /// the largest.
    #[must_use]
    pub fn with_takeover(mut self) -> Self {
        if self.takeover == Takeover::Unused && self.server_window_bits() == WINDOW_BITS {
            self.takeover = Takeover::Used;
        }
        self
    }

    /// A message may refer to the message that this client got before it.
    pub fn takes_over(self) -> bool {
        self.takeover == Takeover::Used
    }

    /// With which of our two windows a body of `body_bytes` may be deflated for the client: no match
    /// reaches back further than the body is long. `None`: with neither, the body can only be
    /// stored.
    pub fn deflates_with(self, body_bytes: usize) -> Option<u8> {
        let bits = self.server_window_bits();
        if bits >= WINDOW_BITS || body_bytes <= 1 << bits {
            return Some(WINDOW_BITS);
        }
        (bits >= SMALL_WINDOW_BITS).then_some(SMALL_WINDOW_BITS)
    }

    /// Appends the value of the `Sec-WebSocket-Extensions` header that says so.
    pub fn write_header_value(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"permessage-deflate; ");
        if !self.takes_over() {
            out.extend_from_slice(b"server_no_context_takeover; ");
        }
        out.extend_from_slice(b"client_no_context_takeover");
        if self.server_max_window_bits > 0 {
            out.extend_from_slice(b"; server_max_window_bits=");
            out.extend_from_slice(self.server_max_window_bits.to_string().as_bytes());
        }
    }
}

/// Accepts the first offer of permessage-deflate that can be met, over all
/// `Sec-WebSocket-Extensions` lines (§5.1). `None`: no extension is used.
///
/// An offer is declined for an unknown or repeated parameter, a bad value, or
/// `server_max_window_bits=8`, which raw zlib streams cannot keep.
pub fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<DeflateParams> {
    lines
        .into_iter()
        .flat_map(|line| split_outside_quotes(line, b','))
        .find_map(accept_offer)
}

/// Splits at `separator`, but not within quoted strings (RFC 9110 §5.6.4).
fn split_outside_quotes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let part = rest?;
        let mut quoted = false;
        let mut escaped = false;
        let end = part.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => return byte == separator && !quoted,
            }
            false
        });
        // The separator is ASCII, so both cuts are at characters.
        rest = end.map(|end| &part[end + 1..]);
        Some(
            end.map_or(part, |end| &part[..end])
                .trim_matches([' ', '\t']),
        )
    })
}

fn accept_offer(offer: &str) -> Option<DeflateParams> {
    let mut parts = split_outside_quotes(offer, b';');
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut params = DeflateParams::default();
    let mut seen = [false; 4];
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(unquote(value)?)),
            None => (part, None),
        };
        let index = match (name, value) {
            ("server_no_context_takeover", None) => {
                params.takeover = Takeover::Refused;
                0
            }
            ("client_no_context_takeover", None) => 1,
            ("server_max_window_bits", Some(value)) => {
                params.server_max_window_bits = window_bits(value).filter(|&bits| bits > 8)?;
                2
            }
            // What the client can do with its own window; nothing follows from it for us, as the
            // inflater always has the largest.
            ("client_max_window_bits", None) => 3,
            ("client_max_window_bits", Some(value)) => {
                window_bits(value)?;
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[index], true) {
            return None;
        }
    }
    Some(params)
}

/// The value within quotes, or as it stands; `None` when a quote is not closed.
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"'),
        None => Some(value),
    }
}

/// 8 to 15 in decimal without leading zeros (§7.1.2.1).
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (value.len() == if bits < 10 { 1 } else { 2 }).then_some(bits)
}

/// Deflates whole messages, one after the other.
#[derive(Debug)]
pub struct Deflater {
    state: Compress,
}

impl Deflater {
    /// `level`: 1 (fast) to 9 (small). With [`WINDOW_BITS`]; takes about 380 KB.
    pub fn new(level: u32) -> Self {
        Self::with_window(level, WINDOW_BITS)
    }

    /// The same with a window of so many bits, 9 to 15.
    pub fn with_window(level: u32, window_bits: u8) -> Self {
        let level = Compression::new(level.clamp(1, 9));
        Self {
            state: Compress::new_with_window_bits(level, false, window_bits),
        }
    }

    /// Deflates one message to whole blocks, ended by an empty stored block whose last four bytes
    /// are cut off (§7.2.1). `None` when that does not make it smaller. The vector has no spare
    /// capacity: it stays in queues.
    pub fn deflate(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        self.state.reset();
        self.blocks(body)
    }

    /// The same for a client whose last message was `before`: the blocks refer to that message as
    /// the newest part of the client's window, up to [`DICTIONARY_BYTES_MAX`] back. No other client
    /// can inflate them.
    pub fn deflate_after(&mut self, before: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        self.state.reset();
        let from = before.len().saturating_sub(DICTIONARY_BYTES_MAX);
        self.state.set_dictionary(&before[from..]).ok()?;
        self.blocks(body)
    }

    /// Goes to the end of the body, also where nothing is gained: a reset does not take back all of
    /// a stream that was left in its middle (zlib-rs 0.6.8), and the streams after it may panic.
    fn blocks(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(body.len() / 2 + SPARE_BYTES);
        loop {
            let taken = usize::try_from(self.state.total_in()).ok()?;
            self.state
                .compress_vec(body.get(taken..)?, &mut out, FlushCompress::Sync)
                .ok()?;
            // Room left over means that all input was taken and flushed.
            if out.len() < out.capacity() {
                break;
            }
            out.reserve(SPARE_BYTES.max(body.len() / 4));
        }
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

/// More than the header and tail of the blocks of a small message.
const SPARE_BYTES: usize = 64;
/// What a sender cuts off and a receiver appends (§7.2.1, §7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty, final stored block: only a message that was whole ends the stream here.
const END: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// Why a message could not be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// More bytes than allowed would come out.
    #[error("the message is too big when inflated")]
    TooBig,
    /// No DEFLATE data (RFC 1951), or not whole.
    #[error("the compressed data is damaged")]
    Corrupt,
}

/// Inflates whole messages, one after the other, each on its own.
#[derive(Debug)]
pub struct Inflater {
    state: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Inflater {
    /// With the largest window, 32 KiB, so that any client's data inflates. Takes about 50 KB.
    pub fn new() -> Self {
        Self {
            state: Decompress::new(false),
        }
    }

    /// Appends the message to `out`; the bound is kept while inflating, so that `out` never grows
    /// by more than `bytes_max` and one byte. Appends the cut-off tail (§7.2.2) itself. What an
    /// error leaves in `out` has no meaning.
    pub fn inflate(
        &mut self,
        compressed: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), InflateError> {
        // Some senders send nothing where RFC 7692 §7.2.3.6 asks for one zero byte.
        if compressed.is_empty() {
            return Ok(());
        }
        self.state.reset(false);
        let end_max = out.len().saturating_add(bytes_max);
        if let Some(rest) = self.feed(compressed, out, end_max)? {
            // A sender that ends its stream with every message adds an empty block (§7.2.3.4).
            return match rest {
                [] | [0] => Ok(()),
                _ => Err(InflateError::Corrupt),
            };
        }
        if self.feed(&TAIL, out, end_max)?.is_some() {
            return Err(InflateError::Corrupt);
        }
        match self.feed(&END, out, end_max)? {
            Some([]) => Ok(()),
            _ => Err(InflateError::Corrupt),
        }
    }

    /// Inflates `input`; `Some(rest)` when the stream ended before `rest`.
    fn feed<'a>(
        &mut self,
        mut input: &'a [u8],
        out: &mut Vec<u8>,
        end_max: usize,
    ) -> Result<Option<&'a [u8]>, InflateError> {
        loop {
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
                Status::StreamEnd => return Ok(Some(input)),
                _ if input.is_empty() && room_left => return Ok(None),
                _ if taken == 0 && out.len() == out_before && room_left => {
                    return Err(InflateError::Corrupt);
                }
                _ => {}
            }
        }
    }
}

/// Appends `bytes` as stored blocks (RFC 1951 §3.2.4), none of them final: one for up to 65,535
/// bytes, each five bytes longer than what it holds.
///
/// Blocks end at a byte, so a per-connection lead can stand before shared deflated blocks, which
/// refer to nothing before themselves.
pub fn stored_block(out: &mut Vec<u8>, bytes: &[u8]) {
    for block in bytes.chunks(usize::from(u16::MAX)) {
        stored_header(out, block.len() as u16);
        out.extend_from_slice(block);
    }
}

/// Appends `body` as a whole message that is not compressed: stored blocks, and what is left of the
/// empty block that ends a message (§7.2.1). Some clients that agreed on compression cannot take a
/// message without it (libwebsockets up to 4.3.2 spins).
pub fn stored_message(out: &mut Vec<u8>, body: &[u8]) {
    stored_block(out, body);
    out.push(0);
}

/// Bytes of [`stored_header`].
pub const STORED_HEADER_BYTES: usize = 5;

/// Appends the header of one stored block, whose `len` bytes the caller appends.
pub fn stored_header(out: &mut Vec<u8>, len: u16) {
    out.push(0);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
}

#[cfg(test)]
mod tests;
