//! One frame on the way out: the encoding, the header and lead before the shared body, and the bytes
//! left.

use std::sync::Arc;

use super::encodings::{FrameId, Kind};
use super::protocol::websocket;
use super::queue::Weigh;
use super::{Encoded, Frame, Lead};

/// One frame in one queue: 16 bytes, whatever the frame's size.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) frame: Arc<Frame>,
    /// The number in [`Lead::Seq`], 0 for frames without a number; and the bit [`REPLAYED`].
    bits: u64,
}

/// The bit of a replayed frame. No client gets so many messages that a number needs the bit.
const REPLAYED: u64 = 1 << 63;

impl Entry {
    pub(super) fn new(frame: Arc<Frame>, seq: u64, is_replayed: bool) -> Self {
        let bit = if is_replayed { REPLAYED } else { 0 };
        Self {
            frame,
            bits: seq | bit,
        }
    }

    /// The number in [`Lead::Seq`]; 0 for frames without a number.
    pub(super) fn seq(&self) -> u64 {
        self.bits & !REPLAYED
    }

    /// The frame counts for no limit of the queue, and no newer frame replaces the frame.
    #[inline]
    pub(super) fn is_replayed(&self) -> bool {
        self.bits & REPLAYED != 0
    }
}

impl Weigh for Entry {
    /// Queue bytes of a replayed frame; 0 of any other.
    fn weight(&self) -> usize {
        match self.is_replayed() {
            true => self.frame.queue_bytes(),
            false => 0,
        }
    }
}

/// A queued message costs each client only an entry; the clients share the body.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Entry>() == 16);

/// The progress of the first data frame of a queue. The rest has to go out in the same encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// The kind of the encoding. [`Kind::After`] refers to the client's window, which stays until the
    /// frame is out.
    pub(super) kind: Kind,
    /// Bytes that the kernel has taken: header, lead and body counted together.
    pub(super) offset: u32,
}

/// One frame of a write.
pub(super) struct Outgoing<'a> {
    pub(super) entry: &'a Entry,
    pub(super) kind: Kind,
    pub(super) encoded: &'a Encoded,
    /// Bytes that are out already.
    pub(super) skip: usize,
}

impl<'a> Outgoing<'a> {
    /// The frame with which the client's inflate window ends after this frame was sent completely.
    /// Every compressed encoding of a frame inflates to the same bytes, so the encoding does not matter;
    /// an uncompressed frame does not change the window.
    #[inline]
    pub(super) fn window_after(&self, window: FrameId) -> FrameId {
        match self.kind.is_deflated() {
            true => self.entry.frame.link().id(),
            false => window,
        }
    }

    /// The bytes behind the lead: the whole frame if there is no lead.
    #[inline]
    pub(super) fn body(&self) -> &'a [u8] {
        match self.entry.frame.lead() {
            Lead::None => self.encoded.whole(),
            Lead::Seq(_) => self.encoded.body(),
        }
    }

    /// Bytes that [`Self::render_lead`] appends.
    #[inline]
    pub(super) fn lead_bytes(&self) -> usize {
        match self.entry.frame.lead() {
            Lead::None => 0,
            Lead::Seq(text) => self.numbered_lead_bytes(text),
        }
    }

    fn numbered_lead_bytes(&self, text: &str) -> usize {
        let text_bytes = self.lead_text_bytes(text);
        match self.kind {
            Kind::Codec(_) => self.encoded.header().len() + text_bytes,
            kind => {
                websocket::lead_bytes(text_bytes, self.encoded.body().len(), kind.is_deflated())
            }
        }
    }

    fn lead_text_bytes(&self, text: &str) -> usize {
        text.len() + decimal_digits(self.entry.seq())
    }

    /// Appends the header and the lead that precede the shared body; nothing for a frame without a
    /// lead.
    #[inline]
    pub(super) fn render_lead(&self, arena: &mut Vec<u8>) {
        if let Lead::Seq(text) = self.entry.frame.lead() {
            self.render_numbered_lead(text, arena);
        }
    }

    fn render_numbered_lead(&self, text: &str, arena: &mut Vec<u8>) {
        match self.kind {
            Kind::Codec(_) => arena.extend_from_slice(self.encoded.header()),
            kind => websocket::write_lead_header(
                arena,
                self.entry.frame.content(),
                self.lead_text_bytes(text),
                self.encoded.body().len(),
                kind.is_deflated(),
            ),
        }
        arena.extend_from_slice(text.as_bytes());
        push_decimal(arena, self.entry.seq());
    }
}

fn decimal_digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Appends a number in decimal. A number for each message of each client is worth more than the formatter,
/// which takes a sixth of such a delivery.
fn push_decimal(arena: &mut Vec<u8>, mut n: u64) {
    let from = arena.len();
    arena.resize(from + decimal_digits(n), b'0');
    for digit in arena[from..].iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}
