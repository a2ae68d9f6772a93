//! A write from a send queue: slices of the control part and of the frames, and the progress of the
//! frames.
//!
//! Frames that go out plain, whole and without a number have a short path: in a burst to a thousand
//! clients a write has many such frames, and every look at every frame counts.

use std::io::IoSlice;
use std::sync::Arc;

use super::{Begun, SendQueue, WRITE_FRAMES_MAX, Wrote};
use crate::deflated::{FramePlan, Inflates};
use crate::encodings::Kind;
use crate::flush::PreparedWrite;
use crate::protocol::{Encoding, websocket};
use crate::queue::{Entry, Queue};
use crate::{Content, Encoded, Frame, Now, Prefix};
use weirgate_wire::deflate::DeflateParams;

/// What a write offers to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    pub(crate) bytes: usize,
    /// Whether the queue is empty if the kernel takes all of it.
    pub(crate) is_all: bool,
}

impl SendQueue {
    /// Has `make` make the encodings for the next write of this many bytes, and append a plan for each frame of the
    /// write. The write ends before a frame for which `make` has no time (`false`). Whatever is made for other clients
    /// meanwhile, the write uses the encodings of its plans. Not for the plain encoding, which needs no plans.
    #[inline]
    pub(crate) fn plan_frames(
        &self,
        bytes_max: usize,
        params: DeflateParams,
        mut make: impl FnMut(&Arc<Frame>, Inflates, &mut Vec<FramePlan>) -> bool,
        frame_plans: &mut Vec<FramePlan>,
    ) {
        let (mut left, mut window) = (bytes_max, self.window.into());
        let frames = self.data.len().min(WRITE_FRAMES_MAX);
        for (index, entry) in self.data.iter().take(frames).enumerate() {
            let begun = self.begun.filter(|_| index == 0);
            let client = Inflates {
                params,
                window,
                prefix_bytes: prefix_text_bytes(entry),
                begun: begun.map(|begun| begun.kind),
            };
            // After the last frame, and most writes have one, nobody asks for the bytes.
            if !make(&entry.frame, client, frame_plans) || index + 1 == frames {
                return;
            }
            let Some(plan) = frame_plans.last() else {
                return;
            };
            window = plan.next;
            left = left.saturating_sub(self.part(entry, begun, Some(plan)).left_bytes());
            if left == 0 {
                return;
            }
        }
    }

    /// Appends the prefixes of the next write to the arena, in order.
    #[inline]
    pub(crate) fn render_prefixes(
        &self,
        bytes_max: usize,
        frame_plans: &[FramePlan],
        arena: &mut Vec<u8>,
    ) {
        if !self.has_numbered() {
            return;
        }
        self.for_each_outgoing(bytes_max, frame_plans, |part| {
            part.render_prefix(arena);
            true
        });
    }

    /// Appends the next write: borrowed slices of control bytes, of the prefixes (from [`Self::render_prefixes`]) and
    /// of shared frames, in the encodings of [`Self::plan_frames`]. A frame that is larger than a write goes out in
    /// several.
    #[inline]
    pub(crate) fn gather<'a>(
        &'a self,
        bytes_max: usize,
        prepared: PreparedWrite<'a>,
        out: &mut Vec<IoSlice<'a>>,
    ) -> Offered {
        let mut bytes = 0;
        if self.begun.is_none() && !self.control.is_empty() {
            out.push(IoSlice::new(&self.control));
            bytes = self.control.len();
        }
        let data = match self.is_whole_and_plain() {
            true => self.gather_plain(bytes_max, out),
            false => self.gather_encoded(bytes_max, prepared, out),
        };
        Offered {
            bytes: bytes + data.bytes,
            is_all: data.is_all,
        }
    }

    /// The frames of [`Self::gather`]; the control part follows a begun one.
    fn gather_encoded<'a>(
        &'a self,
        bytes_max: usize,
        prepared: PreparedWrite<'a>,
        out: &mut Vec<IoSlice<'a>>,
    ) -> Offered {
        let mut prefixes = prepared.prefixes;
        let (mut left, mut bytes, mut whole) = (bytes_max, 0, 0);
        self.for_each_outgoing(bytes_max, prepared.frame_plans, |part| {
            let (prefix, rest) = prefixes.split_at(part.prefix_bytes());
            prefixes = rest;
            let skip = match part.skip.checked_sub(prefix.len()) {
                Some(skip) => skip,
                None => {
                    out.push(IoSlice::new(&prefix[part.skip..]));
                    bytes += prefix.len() - part.skip;
                    0
                }
            };
            let rest = part.body_bytes() - skip;
            let body_bytes = rest.min(left);
            match part.encoded.is_sharing() {
                false => out.push(IoSlice::new(&part.body()[skip..][..body_bytes])),
                true => part.push_pieces(skip, body_bytes, out),
            }
            left -= body_bytes;
            bytes += body_bytes;
            let is_whole = body_bytes == rest;
            whole += usize::from(is_whole);
            if is_whole && part.skip > 0 && !self.control.is_empty() {
                out.push(IoSlice::new(&self.control));
                bytes += self.control.len();
            }
            is_whole
        });
        let is_all = whole == self.data.len();
        Offered { bytes, is_all }
    }

    /// Moves the queue by the `n` bytes of [`Self::gather`] that the kernel took.
    #[inline]
    pub(crate) fn wrote(
        &mut self,
        now: Now,
        n: usize,
        offered: Offered,
        frame_plans: &[FramePlan],
    ) -> Wrote {
        if n > 0 {
            self.progress_at = now.mono_us;
            self.bytes_out += n as u64;
        }
        let wrote = match offered.is_all && n == offered.bytes {
            true => self.wrote_all(frame_plans),
            false => self.wrote_some(n, frame_plans),
        };
        self.reset_if_empty();
        self.frames_out += u64::from(wrote.frames);
        wrote
    }

    /// The usual end of a write: the queue is empty.
    #[inline]
    fn wrote_all(&mut self, frame_plans: &[FramePlan]) -> Wrote {
        if let Some(last) = frame_plans.last() {
            self.window = last.next.into();
        }
        self.begun = None;
        let control_out = !self.control.is_empty();
        if control_out {
            self.control = Vec::new();
        }
        let frames = self.data.len() as u32;
        self.data = Queue::default();
        Wrote {
            frames,
            bytes: std::mem::take(&mut self.bytes),
            control_out,
        }
    }

    /// Removes `n` written bytes from the queue, in the order of the write: the frame that was begun, the control part,
    /// then further frames. Returns what is out.
    fn wrote_some(&mut self, n: usize, frame_plans: &[FramePlan]) -> Wrote {
        let mut frame_plans = frame_plans.iter();
        let mut wrote = Wrote::default();
        let mut left = n;
        if self.begun.is_some() {
            left = self.advance_first_frame(left, frame_plans.next(), &mut wrote);
        }
        if self.begun.is_none() && !self.control.is_empty() {
            let taken = left.min(self.control.len());
            left -= taken;
            self.control.drain(..taken);
            if self.control.is_empty() {
                self.control = Vec::new();
                wrote.control_out = true;
            }
        }
        while left > 0 && self.control.is_empty() && !self.data.is_empty() {
            left = self.advance_first_frame(left, frame_plans.next(), &mut wrote);
        }
        debug_assert_eq!(left, 0, "more was written than was gathered");
        if self.is_conflating() {
            self.note_turn(wrote.frames);
        }
        wrote
    }

    /// So many frames are out whole. If more than those in turn were begun, those that wait are in turn now.
    fn note_turn(&mut self, out: u32) {
        let in_turn = u32::from(self.in_turn);
        let has_begun_next = out > in_turn || out == in_turn && self.begun.is_some();
        self.in_turn = match has_begun_next {
            true => u16::try_from(self.data.len()).unwrap_or(u16::MAX),
            false => (in_turn - out) as u16,
        };
    }

    /// Ends conflation and the clock of the soft limit if no frame waits.
    #[inline]
    pub(crate) fn reset_if_empty(&mut self) {
        if self.data.is_empty() {
            (self.conflate_at, self.in_turn) = (0, 0);
            self.over_soft_since = None;
        }
    }

    /// Moves into the first frame by at most `left` bytes; returns the rest of `left`.
    fn advance_first_frame(
        &mut self,
        left: usize,
        plan: Option<&FramePlan>,
        wrote: &mut Wrote,
    ) -> usize {
        let Some(first) = self.data.front() else {
            return left;
        };
        let part = self.part(first, self.begun, plan);
        let (skip, kind) = (part.skip, part.kind);
        let remaining = part.prefix_bytes() + part.body_bytes() - skip;
        if left < remaining {
            self.begun = (skip + left > 0).then_some(Begun {
                kind,
                offset: (skip + left) as u32,
            });
            // The plan may have encoded the frame after a shorter window than `self.window` (`Compressor::choose`). The rest
            // has to be encoded after the same window.
            if let Some(plan) = plan.filter(|_| kind == Kind::Chained) {
                self.window = plan.key.window().into();
            }
            return 0;
        }
        self.begun = None;
        if let Some(entry) = self.data.pop_front() {
            if let Some(plan) = plan {
                self.window = plan.next.into();
            }
            let bytes = entry.frame.queue_bytes();
            self.bytes -= bytes;
            wrote.frames += 1;
            wrote.bytes += bytes;
        }
        left - remaining
    }

    /// Calls `each` with the frames of the next write, of which the last may be cut, until it returns false: as many as
    /// `bytes_max` holds. In another encoding than the plain one, only frames with a plan are in a write.
    #[inline]
    fn for_each_outgoing<'a>(
        &'a self,
        bytes_max: usize,
        frame_plans: &[FramePlan],
        mut each: impl FnMut(&Outgoing<'a>) -> bool,
    ) {
        let mut left = bytes_max;
        let frames = match self.is_plain() {
            true => WRITE_FRAMES_MAX,
            false => frame_plans.len(),
        };
        for index in 0..frames {
            if left == 0 {
                return;
            }
            let Some(entry) = self.data.get(index) else {
                return;
            };
            let begun = self.begun.filter(|_| index == 0);
            let part = self.part(entry, begun, frame_plans.get(index));
            left = left.saturating_sub(part.left_bytes());
            if !each(&part) {
                return;
            }
        }
    }

    /// Returns a frame in the encoding of its plan, or in the plain encoding.
    #[inline]
    fn part<'a>(
        &self,
        entry: &'a Entry,
        begun: Option<Begun>,
        plan: Option<&FramePlan>,
    ) -> Outgoing<'a> {
        let made = plan.and_then(|plan| Some((plan.key.kind, entry.frame.encoded(plan.key)?)));
        debug_assert!(made.is_some() || self.is_plain(), "not made");
        let (kind, encoded) = made.unwrap_or_else(|| (Kind::Plain, entry.frame.plain()));
        Outgoing {
            entry,
            kind,
            encoded,
            skip: begun.map_or(0, |b| b.offset as usize),
        }
    }

    /// Like [`Self::gather_encoded`], for a queue in which every frame is plain and whole.
    #[inline]
    fn gather_plain<'a>(&'a self, bytes_max: usize, out: &mut Vec<IoSlice<'a>>) -> Offered {
        // Most writes have one frame.
        if let (Some(only), None) = (self.data.front(), self.data.get(1)) {
            let whole = only.frame.plain().whole();
            let bytes = whole.len().min(bytes_max);
            out.push(IoSlice::new(&whole[..bytes]));
            let is_all = bytes == whole.len();
            return Offered { bytes, is_all };
        }
        let mut left = bytes_max;
        for entry in self.data.iter().take(WRITE_FRAMES_MAX) {
            if left == 0 {
                break;
            }
            let bytes = entry.frame.plain().whole();
            let bytes = &bytes[..bytes.len().min(left)];
            out.push(IoSlice::new(bytes));
            left -= bytes.len();
        }
        let bytes = bytes_max - left;
        Offered {
            bytes,
            is_all: bytes == self.bytes,
        }
    }

    /// Whether every frame goes out whole, in the plain encoding and without a number.
    #[inline]
    fn is_whole_and_plain(&self) -> bool {
        self.begun.is_none() && !self.has_numbered() && self.is_plain()
    }

    /// Whether frames go out in the plain encoding.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.encoding, Encoding::Plain)
    }

    /// Whether any frame so far had a number. In most gateways no frame has one, and the search for prefixes is left
    /// out.
    #[inline]
    fn has_numbered(&self) -> bool {
        self.last_seq > 0
    }
}

/// A frame of a write.
struct Outgoing<'a> {
    entry: &'a Entry,
    kind: Kind,
    encoded: &'a Encoded,
    /// Bytes already out.
    skip: usize,
}

impl<'a> Outgoing<'a> {
    /// The bytes of the body that are not out.
    #[inline]
    fn left_bytes(&self) -> usize {
        let bytes = self.body_bytes();
        match self.skip {
            0 => bytes,
            skip => bytes - skip.saturating_sub(self.prefix_bytes()),
        }
    }

    /// The prefix of the frame in this encoding. `None` for a message in a `?payload=raw` stream: the prefix opens the JSON
    /// object around the payload, which is left out there. Texts in such a stream are answers and statuses, sent as always.
    #[inline]
    fn prefix(&self) -> Prefix {
        match self.kind {
            Kind::RawEvent if self.entry.frame.content() == Content::Binary => Prefix::None,
            _ => self.entry.frame.prefix(),
        }
    }

    /// The bytes after the prefix: the whole frame if there is no prefix.
    #[inline]
    fn body(&self) -> &'a [u8] {
        match self.prefix() {
            Prefix::None => self.encoded.whole(),
            Prefix::Seq(_) => self.encoded.body(),
        }
    }

    /// Bytes of the body, with what the frame shares.
    #[inline]
    fn body_bytes(&self) -> usize {
        match self.prefix() {
            Prefix::None => self.encoded.whole_bytes(),
            Prefix::Seq(_) => self.encoded.body_bytes(),
        }
    }

    /// Appends slices of a body that is partly shared: `bytes` bytes after the first `skip`.
    #[cold]
    fn push_pieces(&self, mut skip: usize, mut bytes: usize, out: &mut Vec<IoSlice<'a>>) {
        for piece in self.entry.frame.pieces() {
            let rest = &piece[skip.min(piece.len())..];
            let some = &rest[..rest.len().min(bytes)];
            skip -= piece.len() - rest.len();
            bytes -= some.len();
            if !some.is_empty() {
                out.push(IoSlice::new(some));
            }
        }
    }

    /// Bytes that [`Self::render_prefix`] appends.
    #[inline]
    fn prefix_bytes(&self) -> usize {
        match self.prefix() {
            Prefix::None => 0,
            Prefix::Seq(_) => self.numbered_prefix_bytes(),
        }
    }

    fn numbered_prefix_bytes(&self) -> usize {
        let text_bytes = prefix_text_bytes(self.entry);
        match self.kind {
            Kind::Event | Kind::RawEvent => self.encoded.header().len() + text_bytes,
            kind => websocket::prefix_bytes(text_bytes, self.encoded.body_bytes(), kind.coding()),
        }
    }

    /// Appends the header and the prefix that precede the shared body; nothing for a frame without a
    /// prefix.
    #[inline]
    fn render_prefix(&self, arena: &mut Vec<u8>) {
        if let Prefix::Seq(text) = self.prefix() {
            self.render_numbered_prefix(text, arena);
        }
    }

    /// Appends the bytes before the payload: the header, and the text with the number of the message for this client.
    fn render_numbered_prefix(&self, text: &str, arena: &mut Vec<u8>) {
        match self.kind {
            Kind::Event | Kind::RawEvent => arena.extend_from_slice(self.encoded.header()),
            kind => websocket::write_prefix_header(
                arena,
                self.entry.frame.content(),
                prefix_text_bytes(self.entry),
                self.encoded.body_bytes(),
                kind.coding(),
            ),
        }
        arena.extend_from_slice(text.as_bytes());
        // Each message of each client has a number: `format!` would take a sixth of the time of such a delivery.
        arena.extend_from_slice(itoa::Buffer::new().format(self.entry.seq()).as_bytes());
    }
}

/// Bytes of the text before the payload.
#[inline]
fn prefix_text_bytes(entry: &Entry) -> usize {
    match entry.frame.prefix() {
        Prefix::None => 0,
        Prefix::Seq(text) => text.len() + decimal_digits(entry.seq()),
    }
}

fn decimal_digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}
