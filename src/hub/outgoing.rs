//! One frame on its way out: which encoding, what stands before the shared body, what is left.

use std::sync::Arc;

use super::deflated::{Key, Kind};
use super::protocol::{CodecId, websocket};
use super::queue::Weigh;
use super::window::FrameId;
use super::{Encoded, Frame, Lead};

/// One frame in one queue: 16 bytes, whatever the frame's size.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) frame: Arc<Frame>,
    /// The number that [`Lead::Seq`] shows, 0 for frames without; with [`REPLAYED`].
    bits: u64,
}

/// The bit of a replayed frame. No client gets so many messages that its number needs the bit.
const REPLAYED: u64 = 1 << 63;

impl Entry {
    pub(super) fn new(frame: Arc<Frame>, seq: u64, is_replayed: bool) -> Self {
        let bit = if is_replayed { REPLAYED } else { 0 };
        Self {
            frame,
            bits: seq | bit,
        }
    }

    /// The number that [`Lead::Seq`] shows; 0 for frames without.
    pub(super) fn seq(&self) -> u64 {
        self.bits & !REPLAYED
    }

    /// The frame counts for no limit of the queue, and gives way to no newer frame.
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

/// A queued message is one shared body, and so much for each client.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Entry>() == 16);

/// The first data frame of a queue was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// The encoding that it was begun in; `None` where there is only one for the client.
    pub(super) deflated: Option<Kind>,
    /// Bytes of it that the kernel has: header, lead and body counted together.
    pub(super) offset: u32,
}

/// Which encoding of a frame goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Deflated(Key),
    Coded(CodecId),
}

impl Form {
    fn is_deflated(self) -> bool {
        matches!(self, Self::Deflated(_))
    }

    /// What a client's window holds behind a frame that went out in this form, whole: its newest
    /// part is that frame, in whatever encoding it came. A frame without compression leaves it.
    #[inline]
    pub(super) fn window_after(self, frame: &Frame, window: FrameId) -> FrameId {
        match self {
            Self::Deflated(_) => frame.link().id(),
            Self::Plain | Self::Coded(_) => window,
        }
    }

    /// What a frame that goes out in this form is begun in.
    pub(super) fn begun(self) -> Option<Kind> {
        match self {
            Self::Deflated(key) => Some(key.kind()),
            Self::Plain | Self::Coded(_) => None,
        }
    }
}

/// One frame of a write.
pub(super) struct Outgoing<'a> {
    pub(super) entry: &'a Entry,
    pub(super) form: Form,
    /// Bytes of it that are out already.
    pub(super) skip: usize,
}

impl<'a> Outgoing<'a> {
    #[inline]
    fn encoded(&self) -> &'a Encoded {
        let frame = &self.entry.frame;
        let encoded = match self.form {
            Form::Plain => return frame.plain(),
            Form::Deflated(key) => frame.encoded(key),
            Form::Coded(id) => frame.coded(id),
        };
        debug_assert!(encoded.is_some(), "not made");
        encoded.unwrap_or_else(|| frame.plain())
    }

    /// What follows the lead: the whole frame where there is none.
    #[inline]
    pub(super) fn body(&self) -> &'a [u8] {
        match self.entry.frame.lead() {
            Lead::None => self.encoded().whole(),
            Lead::Seq(_) => self.encoded().body(),
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
        let encoded = self.encoded();
        match self.form {
            Form::Coded(_) => encoded.header().len() + text_bytes,
            form => websocket::lead_bytes(text_bytes, encoded.body().len(), form.is_deflated()),
        }
    }

    fn lead_text_bytes(&self, text: &str) -> usize {
        text.len() + decimal_digits(self.entry.seq())
    }

    /// Appends what goes before the shared body: header and lead; nothing for a frame without.
    #[inline]
    pub(super) fn render_lead(&self, arena: &mut Vec<u8>) {
        if let Lead::Seq(text) = self.entry.frame.lead() {
            self.render_numbered_lead(text, arena);
        }
    }

    fn render_numbered_lead(&self, text: &str, arena: &mut Vec<u8>) {
        use std::io::Write;

        let encoded = self.encoded();
        match self.form {
            Form::Coded(_) => arena.extend_from_slice(encoded.header()),
            form => websocket::write_lead_header(
                arena,
                self.entry.frame.content(),
                self.lead_text_bytes(text),
                encoded.body().len(),
                form.is_deflated(),
            ),
        }
        arena.extend_from_slice(text.as_bytes());
        // Writing to a Vec cannot fail.
        let _ = write!(arena, "{}", self.entry.seq());
    }
}

fn decimal_digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}
