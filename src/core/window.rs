//! One deflate window for all messages of a connection, compressed once for all connections with the same window.
//!
//! A client that keeps its window (context takeover, RFC 7692 §7.1.1) has the text of its last messages there, whatever
//! their topics. So the hub compresses a frame once with these texts as the dictionary, and those bytes are right for
//! every client whose last messages were the same. The hub keeps no text for a client, only the number of its window
//! ([`WindowId`]): a window is a list of frames, and equal lists have one number.
//!
//! Only common messages ([`Frame::is_common`]) are in a list with their text. Everything else is there as its length
//! ([`Sent::gap`]): a prefix, an answer, and a message of one user. The dictionary has [`GAP`] in its place, and a payload
//! with this byte refers to no window with gaps, so no reference can reach into a gap. By that, secrets of one user
//! change no size of another message.
//!
//! The end of a window is a window too. If too few clients have a window to compress a message for it, they get the
//! message after their last message alone, or without reference, and what they got before counts no more. So clients
//! that skip messages, or have other names, have windows in common again.
//!
//! | what | where |
//! | --- | --- |
//! | a window's number, and the numbers of frames | [`Windows`] |
//! | the number of a client's window | `SendQueue::window`: as of the last frame that went out whole |
//! | the encoding for a client, and the window after it | a [`FramePlan`](super::deflated::FramePlan) for each frame of a write |
//!
//! A mistake in these rules corrupts text and raises no error: `tests/hub_rules/window.rs` inflates the messages of
//! clients and compares every text.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Frame;
use super::frame_bytes::Keeper;
use weirgate_wire::base::ExtendibleMap;
use weirgate_wire::deflate::Deflater;

/// The most frames of a window that later frames refer to.
const FRAMES_MAX: usize = 32;

/// The most memory of frames that are kept for later frames to refer to; at least one frame.
const KEPT_BYTES_MAX: u64 = 1024 * 1024;

/// The most entries of the lists of all windows that are known: some MiB. A client whose window is no longer known gets its
/// next message without reference.
const SENT_MAX: usize = 256 * 1024;

/// A list takes the memory of so many more of its entries.
const LIST_ENTRIES: usize = 6;

/// The byte of a dictionary for a byte that differs from client to client. It is in no UTF-8.
const GAP: u8 = 0xff;

/// The number of a window. Numbers are not used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct WindowId(u64);

impl WindowId {
    /// Nothing of the window is known.
    pub(super) const NONE: Self = Self(0);

    pub(super) fn of(number: u64) -> Self {
        Self(number)
    }
}

/// A [`WindowId`] of 48 bits, because every send queue has one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShortWindowId([u8; 6]);

impl From<WindowId> for ShortWindowId {
    #[inline]
    fn from(id: WindowId) -> Self {
        let [a, b, c, d, e, f, ..] = id.0.to_le_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl From<ShortWindowId> for WindowId {
    #[inline]
    fn from(id: ShortWindowId) -> Self {
        let [a, b, c, d, e, f] = id.0;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

/// The number of a frame among those that windows refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct FrameId(pub(super) u32);

/// What was sent: bytes that are not the same for all clients, then the payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sent {
    gap: u32,
    /// `None` at the end of a list that ends with a gap.
    frame: Option<FrameId>,
    /// Bytes of the payload.
    bytes: u32,
}

impl Sent {
    fn bytes(self) -> usize {
        self.gap as usize + self.bytes as usize
    }
}

/// What a client gets next: a payload, and what is before it. To find the client's window after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextPayload {
    /// The client's window so far.
    pub(super) client: WindowId,
    /// The end of it that counts from now on.
    pub(super) before: WindowId,
    /// Bytes before the payload, or in place of it, that differ from client to client.
    pub(super) gap: usize,
    /// The frame and the bytes of its payload.
    pub(super) frame: Option<(FrameId, usize)>,
}

#[derive(Debug)]
struct Window {
    sent: Arc<[Sent]>,
    /// About the number of clients with this window: a write that the kernel took only a part of counts again, and
    /// clients that have gone count on.
    clients: u32,
}

/// A frame that is kept for later frames to refer to.
#[derive(Debug)]
struct KeptFrame {
    frame: Arc<Frame>,
    /// References to the frame when it was first sent to a client with a window: about the number of its receivers.
    receivers: u32,
}

/// The windows of all clients of a hub, and the latest frames for later references.
#[derive(Debug, Default)]
pub(super) struct Windows {
    windows: VecDeque<Window>,
    /// The number of the first window less one: 0 is no number.
    forgotten: u64,
    by_sent: ExtendibleMap<Arc<[Sent]>, WindowId>,
    /// Entries of all lists, and [`LIST_ENTRIES`] for each.
    sent: usize,
    kept: VecDeque<KeptFrame>,
    /// The number of the first frame kept.
    first_kept: u32,
    scratch: Vec<Sent>,
}

impl Windows {
    /// Returns the id under which the frame is kept, keeping it if it is not. The id in a frame may be another frame's: 0 in
    /// a new frame, or used anew.
    pub(super) fn intern(&mut self, frame: &Arc<Frame>) -> FrameId {
        let id = frame.window_number();
        match self.kept_as(id) {
            Some(kept) if Arc::ptr_eq(&kept.frame, frame) => id,
            _ => self.keep(frame),
        }
    }

    /// Numbers a frame, and keeps it so that later payloads can refer to it. The oldest kept frames are released over
    /// the limit.
    fn keep(&mut self, frame: &Arc<Frame>) -> FrameId {
        let id = FrameId(self.first_kept.wrapping_add(self.kept.len() as u32));
        frame.set_window_number(id);
        frame.keep(Keeper::Windows);
        self.kept.push_back(KeptFrame {
            receivers: Arc::strong_count(frame) as u32,
            frame: Arc::clone(frame),
        });
        self.release_excess();
        id
    }

    /// Releases the oldest frames over the limit: encodings count from when they are made.
    pub(super) fn release_excess(&mut self) {
        while let Some(newest) = self.kept.back()
            && newest.frame.bytes_kept(Keeper::Windows) > KEPT_BYTES_MAX
            && self.kept.len() > 1
        {
            self.release_oldest();
        }
    }

    fn release_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            oldest.frame.release(Keeper::Windows);
            self.first_kept = self.first_kept.wrapping_add(1);
        }
    }

    fn kept_as(&self, id: FrameId) -> Option<&KeptFrame> {
        self.kept.get(id.0.wrapping_sub(self.first_kept) as usize)
    }

    /// About the number of clients that get a frame; 0 if it is not kept.
    pub(super) fn receivers(&self, id: FrameId) -> u32 {
        self.kept_as(id).map_or(0, |kept| kept.receivers)
    }

    /// About the number of clients with this window.
    pub(super) fn clients(&self, id: WindowId) -> u32 {
        self.get(id).map_or(0, |window| window.clients)
    }

    /// Releases all frames: memory is short.
    pub(super) fn release_all(&mut self) {
        while !self.kept.is_empty() {
            self.release_oldest();
        }
        self.kept = VecDeque::new();
    }

    fn at(&self, id: WindowId) -> Option<usize> {
        let at = id.0.checked_sub(self.forgotten + 1)?;
        usize::try_from(at).ok()
    }

    fn get(&self, id: WindowId) -> Option<&Window> {
        self.windows.get(self.at(id)?)
    }

    /// Moves a client to the window that it has after a payload, and returns that window.
    pub(super) fn move_client(&mut self, next: NextPayload) -> WindowId {
        let id = self.find(next);
        self.count_move(next.client, id);
        id
    }

    /// Counts a client that moves from one window to another.
    pub(super) fn count_move(&mut self, before: WindowId, after: WindowId) {
        if let Some(before) = self.get_mut(before) {
            before.clients = before.clients.saturating_sub(1);
        }
        if let Some(after) = self.get_mut(after) {
            after.clients = after.clients.saturating_add(1);
        }
    }

    fn get_mut(&mut self, id: WindowId) -> Option<&mut Window> {
        let at = self.at(id)?;
        self.windows.get_mut(at)
    }

    /// Returns the window that a client has after this payload, which is made unless another client has the same.
    fn find(&mut self, next: NextPayload) -> WindowId {
        let mut sent = std::mem::take(&mut self.scratch);
        sent.clear();
        if let Some(before) = self.get(next.before) {
            sent.extend_from_slice(&before.sent);
        }
        append(&mut sent, next);
        let id = self.number_of(&mut sent);
        self.scratch = sent;
        id
    }

    /// The number of a list, which gets one if it has none. The bytes before its first message are not known, so they
    /// do not count; without a message, [`WindowId::NONE`].
    fn number_of(&mut self, sent: &mut [Sent]) -> WindowId {
        match sent.first_mut() {
            Some(first) if first.frame.is_some() => first.gap = 0,
            _ => return WindowId::NONE,
        }
        match self.by_sent.get::<[Sent]>(sent) {
            Some(id) => *id,
            None => self.insert((&*sent).into()),
        }
    }

    /// Bytes of a window that references reach.
    pub(super) fn bytes(&self, id: WindowId) -> usize {
        let sent = self.get(id).map_or(&[][..], |window| &window.sent);
        let bytes: usize = sent.iter().map(|sent| sent.bytes()).sum();
        bytes.min(Deflater::DICTIONARY_BYTES_MAX)
    }

    /// The end of a window from its last message on; [`WindowId::NONE`] if the window is forgotten, or begins
    /// with that message.
    pub(super) fn last_of(&mut self, id: WindowId) -> WindowId {
        let sent = self.get(id).map_or(&[][..], |window| &window.sent);
        let last = sent.iter().rposition(|sent| sent.frame.is_some());
        let Some(last) = last.filter(|last| *last > 0) else {
            return WindowId::NONE;
        };
        let mut end = std::mem::take(&mut self.scratch);
        end.clear();
        if let Some(window) = self.get(id) {
            end.extend_from_slice(&window.sent[last..]);
        }
        let id = self.number_of(&mut end);
        self.scratch = end;
        id
    }

    /// Adds a window, and forgets the oldest ones over the limit of [`SENT_MAX`].
    fn insert(&mut self, sent: Arc<[Sent]>) -> WindowId {
        self.sent += sent.len() + LIST_ENTRIES;
        while self.sent > SENT_MAX
            && let Some(oldest) = self.windows.pop_front()
        {
            self.sent -= oldest.sent.len() + LIST_ENTRIES;
            self.forgotten += 1;
            self.by_sent.remove(&oldest.sent);
        }
        self.windows.push_back(Window {
            sent: Arc::clone(&sent),
            clients: 0,
        });
        let id = WindowId::of(self.forgotten + self.windows.len() as u64);
        self.by_sent.insert(sent, id);
        id
    }

    /// Appends the text of a window for a payload that has `gap` bytes before it, as far back as all frames are kept and
    /// references reach. Returns whether a frame is in the text, and the payload has no byte that could be taken for one
    /// of a gap.
    pub(super) fn text(&self, id: WindowId, gap: usize, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let sent = self.get(id).map_or(&[][..], |window| &window.sent);
        let frame = |sent: &Sent| self.kept_as(sent.frame?).map(|kept| kept.frame.body());
        let known = |sent: &&Sent| sent.frame.is_none() || frame(sent).is_some();
        let from = sent.len() - sent.iter().rev().take_while(known).count();
        let mut has_gap = gap > 0;
        for (index, sent) in sent[from..].iter().enumerate() {
            // Before the first frame nothing is known.
            if index > 0 {
                has_gap |= sent.gap > 0;
                out.resize(out.len() + sent.gap as usize, GAP);
            }
            out.extend_from_slice(frame(sent).unwrap_or_default());
        }
        let has_text = !out.is_empty();
        out.resize(out.len() + gap, GAP);
        let beyond = out.len().saturating_sub(Deflater::DICTIONARY_BYTES_MAX);
        out.drain(..beyond);
        has_text && !(has_gap && payload.contains(&GAP))
    }
}

/// Appends to a list, and removes what references no longer reach. Lists that end with the same reachable bytes become
/// equal.
fn append(sent: &mut Vec<Sent>, next: NextPayload) {
    // A gap at the end of the list and the new one are a single gap.
    let open = sent.pop_if(|last| last.frame.is_none());
    let gap = next.gap + open.map_or(0, |open| open.gap as usize);
    let bytes = next.frame.map_or(0, |(_, bytes)| bytes);
    if gap >= Deflater::DICTIONARY_BYTES_MAX {
        sent.clear();
    }
    if gap + bytes > 0 {
        sent.push(Sent {
            gap: gap.min(Deflater::DICTIONARY_BYTES_MAX) as u32,
            frame: next.frame.map(|(id, _)| id),
            bytes: bytes as u32,
        });
    }
    let (mut behind, mut frames) = (0, 0);
    let reached = sent.iter().rev().take_while(|sent| {
        let is_reached = behind < Deflater::DICTIONARY_BYTES_MAX && frames < FRAMES_MAX;
        behind += sent.bytes();
        frames += usize::from(sent.frame.is_some());
        is_reached
    });
    let beyond = sent.len() - reached.count();
    sent.drain(..beyond);
}

#[cfg(test)]
mod tests;
