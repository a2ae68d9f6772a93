//! Turns a client's bytes into whole, bounded, inflated frames (RFC 6455 §5, RFC 7692 §6).
//!
//! Every connection reads through a [`FrameReader`], in front of the WebSocket state machine. It returns whole frames,
//! unmasked, without reserved bits and within the message limit, so no later stage buffers partial frames. Memory grows
//! with the bytes that have come, never with an announced length. Between messages no memory is kept, except for the
//! text that a client's compressed messages may refer to.

use super::deflate::{InflateError, InflateWindow, Inflation};
use super::frame::{
    BadUtf8, CONTROL_PAYLOAD_BYTES_MAX, FIN, FrameScratch, HEADER_BYTES_MAX, OPCODE_BINARY,
    OPCODE_CLOSE, OPCODE_CONTINUATION, OPCODE_PONG, OPCODE_TEXT, RSV1, Utf8Check, WholeFrame,
    append_unmasked,
};

/// The largest limit of a message, in bytes; a larger limit is lowered to this.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// The longest header of a masked frame: two bytes, a 64-bit length, and a mask of four bytes (§5.2).
const HEAD_BYTES_MAX: usize = 14;
const RSV2_AND_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;

/// Why the frames of a client are not read any further: always the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message over the limit, on the wire or inflated.
    #[error("the message is too big")]
    TooBig,
    /// A violation of RFC 6455 or of the negotiated extensions.
    #[error("{0}")]
    Protocol(&'static str),
    /// Text that is not UTF-8 (§8.1).
    #[error("text is not UTF-8")]
    BadUtf8,
    /// A compressed message that cannot be inflated.
    #[error("the compressed data is damaged")]
    BadDeflate,
}

impl FrameError {
    /// Returns the close code (§7.4.1; closes.md).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooBig => 1009,
            Self::Protocol(_) => 1002,
            Self::BadUtf8 | Self::BadDeflate => 1007,
        }
    }
}

impl From<InflateError> for FrameError {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::TooBig => Self::TooBig,
            InflateError::Corrupt => Self::BadDeflate,
        }
    }
}

impl From<BadUtf8> for FrameError {
    fn from(BadUtf8: BadUtf8) -> Self {
        Self::BadUtf8
    }
}

/// A fragmented message whose last fragment has not come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenMessage {
    text: bool,
    deflated: bool,
}

/// The header of the current frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    first_byte: u8,
    payload_len: u64,
    mask: [u8; 4],
    text: bool,
    deflated: bool,
    /// A part of a message in several frames.
    fragment: bool,
}

impl Head {
    fn is_final(&self) -> bool {
        self.first_byte & FIN != 0
    }

    fn opcode(&self) -> u8 {
        self.first_byte & 0x0f
    }

    fn is_control(&self) -> bool {
        self.opcode() >= OPCODE_CLOSE
    }
}

/// Reads the frames of a connection. Takes 72 bytes; between messages nothing on the heap, except for the text that the
/// client's next compressed messages may refer to.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Room for a header, then the bytes of the open message that have come, then those of the current frame.
    buffer: Vec<u8>,
    message_bytes_max: u32,
    /// Payload bytes of the open message in the frames before the current frame.
    message_bytes: u32,
    /// Arrived payload bytes of the current frame.
    received: u32,
    head: [u8; HEAD_BYTES_MAX],
    head_len: u8,
    message: Option<OpenMessage>,
    utf8: Utf8Check,
    /// Whether all further input is discarded: after an error, or a close frame.
    ended: bool,
    /// `None`: the client did not negotiate permessage-deflate.
    inflate: Option<Box<Inflate>>,
}

/// What is kept of a client whose messages may be compressed.
#[derive(Debug, Default)]
struct Inflate {
    /// The window of a client whose compressed messages may refer to earlier messages.
    window: Option<InflateWindow>,
    /// The message in the buffer, if it takes more than one step.
    unfinished: Option<Box<Unfinished>>,
}

/// A message that is partly inflated.
#[derive(Debug)]
struct Unfinished {
    inflation: Inflation,
    /// Room for a header, then the text.
    frame: Vec<u8>,
}

/// What [`FrameReader::complete`] has made of the last bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completed {
    /// A message or a control frame, in `scratch`.
    Whole,
    /// A fragment that is not the last of its message.
    Fragment,
    /// A compressed message that takes more steps.
    Unfinished,
}

impl FrameReader {
    /// `message_bytes_max`: payload bytes of a message, inflated, over all its fragments; at most
    /// `MESSAGE_BYTES_MAX`.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max: message_bytes_max.min(MESSAGE_BYTES_MAX) as u32,
            ..Self::default()
        }
    }

    /// For a client that negotiated permessage-deflate: its messages may be compressed.
    #[must_use]
    pub fn with_deflate(mut self) -> Self {
        self.inflate.get_or_insert_default();
        self
    }

    /// Lets compressed messages refer to earlier messages (RFC 7692 §7.1.1.2), as far back as this window
    /// reaches.
    #[must_use]
    pub fn with_window(mut self, window: Option<InflateWindow>) -> Self {
        if window.is_some() {
            self.inflate.get_or_insert_default().window = window;
        }
        self
    }

    /// Reads from the front of `input` to the end of a frame, and returns the frame. Returns `None` if all of
    /// `input` was read and the frame is incomplete, or if a compressed message takes more steps
    /// ([`is_inflating`](Self::is_inflating)).
    ///
    /// A message in fragments comes as one frame, so its bytes are kept once, here. After an error, and after
    /// a close frame (§5.5.1), all input is discarded.
    pub fn read<'s>(
        &mut self,
        input: &mut &[u8],
        scratch: &'s mut FrameScratch,
    ) -> Result<Option<WholeFrame<'s>>, FrameError> {
        if self.ended {
            *input = &[];
            return Ok(None);
        }
        match self.advance(input, scratch) {
            Ok(true) => Ok(Some(scratch.whole())),
            Ok(false) => Ok(None),
            Err(error) => {
                self.ended = true;
                self.forget_text();
                *input = &[];
                Err(error)
            }
        }
    }

    /// Discards `input`, which arrived after we have sent a close frame. Returns whether the client's close frame has come
    /// (§5.5.1), or can no longer be found because of an error.
    pub fn skip(&mut self, mut input: &[u8]) -> bool {
        self.forget_text();
        // The text is not checked any more, so any end is valid.
        self.utf8 = Utf8Check::default();
        while !self.ended {
            let head = match self.take_head(&mut input) {
                Ok(Some(head)) => head,
                Ok(None) => return false,
                Err(_) => break,
            };
            let missing = head.payload_len - u64::from(self.received);
            let skipped = usize::try_from(missing).map_or(input.len(), |n| n.min(input.len()));
            input = &input[skipped..];
            self.received += skipped as u32;
            if (skipped as u64) < missing {
                return false;
            }
            if self.end_frame(&head).is_err() {
                break;
            }
        }
        self.ended = true;
        true
    }

    /// The limit of a message, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max as usize
    }

    /// The memory for the bytes of an unfinished message or frame; 0 if nothing is kept.
    #[inline]
    pub fn unfinished_bytes(&self) -> usize {
        let inflate = self.inflate.as_ref();
        let unfinished = inflate.and_then(|inflate| inflate.unfinished.as_ref());
        let partly = unfinished.map_or(0, |unfinished| unfinished.memory_bytes());
        self.buffer.capacity() + partly
    }

    /// Whether the next [`read`](Self::read) takes another step of a compressed message, without input. A step is about a
    /// millisecond of work at most.
    pub fn is_inflating(&self) -> bool {
        let inflate = self.inflate.as_ref();
        inflate.is_some_and(|inflate| inflate.unfinished.is_some())
    }

    /// Forgets all text of the client, because nothing more is read of it.
    fn forget_text(&mut self) {
        self.buffer = Vec::new();
        if let Some(inflate) = &mut self.inflate {
            **inflate = Inflate::default();
        }
    }

    /// Returns whether a frame was finished in `scratch`.
    fn advance(
        &mut self,
        input: &mut &[u8],
        scratch: &mut FrameScratch,
    ) -> Result<bool, FrameError> {
        loop {
            let Some(head) = self.take_head(input)? else {
                return Ok(false);
            };
            let missing = head.payload_len - u64::from(self.received);
            let arrived = usize::try_from(missing).map_or(input.len(), |n| n.min(input.len()));
            let (part, rest) = input.split_at(arrived);
            *input = rest;
            let whole_at_once = self.received == 0 && arrived as u64 == missing;
            // Most frames: they never go through the buffer.
            if whole_at_once && !head.deflated && !head.fragment {
                scratch.begin();
                append_unmasked(&mut scratch.frame, part, head.mask, 0);
                self.check_text(&head, &scratch.frame[HEADER_BYTES_MAX..])?;
            } else {
                self.keep(&head, part, missing)?;
                if (arrived as u64) < missing {
                    return Ok(false);
                }
                match self.complete(&head, scratch)? {
                    Completed::Whole => {}
                    Completed::Unfinished => return Ok(false),
                    Completed::Fragment => {
                        self.end_frame(&head)?;
                        continue;
                    }
                }
            }
            self.end_frame(&head)?;
            scratch.finish(self.first_byte(&head));
            return Ok(true);
        }
    }

    /// Returns the header, once complete. Checks the header on the way, before any payload is kept.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, FrameError> {
        loop {
            let have = usize::from(self.head_len);
            let needed = self.head_bytes_needed();
            if have == needed {
                return Ok(Some(self.decode_head()));
            }
            let taken = input.len().min(needed - have);
            let (part, rest) = input.split_at(taken);
            *input = rest;
            self.head[have..have + taken].copy_from_slice(part);
            self.head_len += taken as u8;
            if have + taken < needed {
                return Ok(None);
            }
            if needed == 2 {
                self.check_first_bytes()?;
            } else {
                self.check_length()?;
            }
        }
    }

    /// Returns the length of the header, known from its second byte on.
    fn head_bytes_needed(&self) -> usize {
        // Two bytes, none, two or eight for a longer length, and four of the mask.
        match self.head[1] & !MASKED {
            _ if self.head_len < 2 => 2,
            126 => 8,
            127 => HEAD_BYTES_MAX,
            _ => 6,
        }
    }

    /// Decodes the header, all bytes of which must be there. A continuation has `text` and `deflated` of its message.
    fn decode_head(&self) -> Head {
        let head = &self.head;
        let (payload_len, mask_at) = match head[1] & !MASKED {
            126 => (u64::from(u16::from_be_bytes([head[2], head[3]])), 4),
            127 => {
                let [_, _, length @ .., _, _, _, _] = *head;
                (u64::from_be_bytes(length), 10)
            }
            short => (u64::from(short), 2),
        };
        let opcode = head[0] & 0x0f;
        let open = self.message.filter(|_| opcode == OPCODE_CONTINUATION);
        Head {
            first_byte: head[0],
            payload_len,
            mask: [
                head[mask_at],
                head[mask_at + 1],
                head[mask_at + 2],
                head[mask_at + 3],
            ],
            text: opcode == OPCODE_TEXT || open.is_some_and(|message| message.text),
            deflated: head[0] & RSV1 != 0 || open.is_some_and(|message| message.deflated),
            fragment: opcode < OPCODE_CLOSE && (open.is_some() || head[0] & FIN == 0),
        }
    }

    /// Checks the first two bytes (§5.2, §5.4, §5.5; RFC 7692 §6).
    fn check_first_bytes(&self) -> Result<(), FrameError> {
        let [first, second, ..] = self.head;
        let opcode = first & 0x0f;
        let control = opcode >= OPCODE_CLOSE;
        let refusal = if matches!(opcode, 3..=7) || opcode > OPCODE_PONG {
            "reserved opcode"
        } else if first & RSV2_AND_RSV3 != 0 {
            "reserved bit set"
        } else if first & RSV1 != 0 && self.inflate.is_none() {
            "compressed frame, but compression was not negotiated"
        } else if first & RSV1 != 0 && (control || opcode == OPCODE_CONTINUATION) {
            "reserved bit set on a control or continuation frame"
        } else if second & MASKED == 0 {
            "frame is not masked"
        } else if control && first & FIN == 0 {
            "fragmented control frame"
        } else if control && usize::from(second & !MASKED) > CONTROL_PAYLOAD_BYTES_MAX {
            "control frame over 125 bytes"
        } else if opcode == OPCODE_CONTINUATION && self.message.is_none() {
            "continuation of no message"
        } else if !control && opcode != OPCODE_CONTINUATION && self.message.is_some() {
            "new message inside a fragmented one"
        } else {
            return Ok(());
        };
        Err(FrameError::Protocol(refusal))
    }

    /// Checks the announced length, together with the earlier fragments. A length in a longer form than necessary is
    /// accepted.
    fn check_length(&self) -> Result<(), FrameError> {
        let head = self.decode_head();
        if head.is_control() {
            return Ok(());
        }
        if head.payload_len >> 63 != 0 {
            return Err(FrameError::Protocol("frame length over 63 bits"));
        }
        let mut bytes_max = u64::from(self.message_bytes_max);
        if head.deflated {
            // Deflate may lengthen incompressible data by some bytes a block.
            bytes_max += bytes_max / 64 + 64;
        }
        if u64::from(self.message_bytes) + head.payload_len > bytes_max {
            return Err(FrameError::TooBig);
        }
        Ok(())
    }

    /// Appends a part of the payload to the buffer, unmasked and checked. Before this part, `missing` bytes of the
    /// frame had not come.
    fn keep(&mut self, head: &Head, part: &[u8], missing: u64) -> Result<(), FrameError> {
        if part.is_empty() {
            return Ok(());
        }
        if self.buffer.is_empty() {
            self.buffer.reserve_exact(HEADER_BYTES_MAX + part.len());
            self.buffer.extend_from_slice(&[0; HEADER_BYTES_MAX]);
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        // A compressed message may have more bytes than the limit of the message, so its buffer grows as any vector.
        if part.len() > spare && !head.deflated {
            // Doubles, but never past the end of the message.
            let missing_max = self.missing_at_most(head, missing);
            let missing_max = usize::try_from(missing_max).unwrap_or(usize::MAX);
            self.buffer
                .reserve_exact(self.buffer.len().max(part.len()).min(missing_max));
        }
        let start = self.buffer.len();
        append_unmasked(&mut self.buffer, part, head.mask, self.received);
        self.received += part.len() as u32;
        if head.text && !head.deflated {
            self.utf8.feed(&self.buffer[start..])?;
        }
        Ok(())
    }

    /// The most bytes that may still come into the buffer, if `missing` bytes of the current frame have not come.
    fn missing_at_most(&self, head: &Head, missing: u64) -> u64 {
        // Whether nothing follows this frame in the buffer. After a control frame, the rest of an open message does.
        let is_last = match head.is_control() {
            true => self.message.is_none(),
            false => head.is_final(),
        };
        if is_last {
            return missing;
        }
        let before = u64::from(self.message_bytes) + u64::from(self.received);
        missing.max(u64::from(self.message_bytes_max).saturating_sub(before))
    }

    /// Checks a whole payload.
    fn check_text(&mut self, head: &Head, payload: &[u8]) -> Result<(), FrameError> {
        if head.text {
            self.utf8.feed(payload)?;
        }
        Ok(())
    }

    /// Moves the whole message or control frame from the buffer to `scratch`.
    fn complete(
        &mut self,
        head: &Head,
        scratch: &mut FrameScratch,
    ) -> Result<Completed, FrameError> {
        if head.is_control() {
            let start = self.buffer.len() - head.payload_len as usize;
            scratch.begin();
            scratch.frame.extend_from_slice(&self.buffer[start..]);
            self.buffer.truncate(start);
            // The rest belongs to the open message. If there is none, only the room for a header is left.
            if start <= HEADER_BYTES_MAX {
                self.buffer = Vec::new();
            }
            return Ok(Completed::Whole);
        }
        if !head.is_final() {
            return Ok(Completed::Fragment);
        }
        if !head.deflated {
            match self.buffer.is_empty() {
                // Fragments without a byte.
                true => scratch.begin(),
                false => scratch.frame = std::mem::take(&mut self.buffer),
            }
            return Ok(Completed::Whole);
        }
        if !self.inflate_step(scratch)? {
            return Ok(Completed::Unfinished);
        }
        self.buffer = Vec::new();
        self.check_text(head, &scratch.frame[HEADER_BYTES_MAX..])?;
        Ok(Completed::Whole)
    }

    /// Takes the next step of the compressed message in the buffer. Returns whether the message is whole; then it is in
    /// `scratch`.
    fn inflate_step(&mut self, scratch: &mut FrameScratch) -> Result<bool, FrameError> {
        let compressed = self.buffer.get(HEADER_BYTES_MAX..).unwrap_or_default();
        let end_max = HEADER_BYTES_MAX + self.message_bytes_max as usize;
        let inflate = self.inflate.get_or_insert_default();
        if let Some(unfinished) = &mut inflate.unfinished {
            let (inflation, frame) = (&mut unfinished.inflation, &mut unfinished.frame);
            if !inflation.step(compressed, frame, end_max)? {
                return Ok(false);
            }
            scratch.frame = std::mem::take(frame);
            inflate.unfinished = None;
            // For `append`: messages of other clients may have come since the first step.
            scratch.inflater.begin(inflate.window.as_ref())?;
        } else {
            scratch.begin();
            let (inflater, frame) = (&mut scratch.inflater, &mut scratch.frame);
            inflater.begin(inflate.window.as_ref())?;
            if !inflater.step(compressed, frame, end_max)? {
                inflate.unfinished = Some(Box::new(Unfinished {
                    inflation: inflater.put_aside(),
                    frame: std::mem::take(frame),
                }));
                return Ok(false);
            }
        }
        if let Some(window) = &mut inflate.window {
            let text = &scratch.frame[HEADER_BYTES_MAX..];
            scratch.inflater.append(window, text);
        }
        Ok(true)
    }

    /// Returns the first byte of the returned frame: without reserved bits, and with the opcode of the message
    /// in place of the last fragment's.
    fn first_byte(&self, head: &Head) -> u8 {
        if head.is_control() {
            return head.first_byte;
        }
        FIN | if head.text {
            OPCODE_TEXT
        } else {
            OPCODE_BINARY
        }
    }

    /// Ends the current frame, and with its last frame the message. A control frame leaves an open message as it is.
    fn end_frame(&mut self, head: &Head) -> Result<(), FrameError> {
        self.head_len = 0;
        self.received = 0;
        if head.is_control() {
            self.ended = head.opcode() == OPCODE_CLOSE;
        } else if head.is_final() {
            self.message = None;
            self.message_bytes = 0;
            self.utf8.end()?;
        } else {
            self.message_bytes += head.payload_len as u32;
            self.message = Some(OpenMessage {
                text: head.text,
                deflated: head.deflated,
            });
        }
        Ok(())
    }
}

impl Unfinished {
    fn memory_bytes(&self) -> usize {
        Inflation::MEMORY_BYTES + self.frame.capacity()
    }
}

#[cfg(test)]
mod tests;
