//! Shared frames: a payload is encoded once, and every send queue holds a reference.
//!
//! A server frame is not masked (RFC 6455 §5.1), so the same bytes serve every client. Header and
//! payload are in one allocation; clients with compression or of another protocol get one of the
//! frame's other encodings (`encodings.rs`).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::encodings::{Encoded, Encodings, Key, Kind};
use super::frame_bytes::{Account, FrameBytes, Keeper, QueueRoom};
use super::message::{Message, Part, SharedPayload};
use super::protocol::websocket::{self, Coding, HEADER_ROOM};
use super::window::FrameId;
use super::{CopyPosition, CopyRank, Now, Position};
use weirgate_wire::base::allocated_bytes;

/// A payload of more bytes is *large*: each MiB of it takes the loop a millisecond or more, and every client waits meanwhile.
///
/// - Its encodings are made in steps, and only while there is memory for them (`flush.rs`, `large_encoding.rs`).
/// - It is compressed with the small window for all clients, and refers to no other frame (`deflated.rs`): text that hardly
///   shrinks takes twice as long with the large window.
/// - It stays in its message, and the frames for names, patterns and kinds of clients share it (`message.rs`): copies would
///   take as much memory each. So no shared payload is in a compression window.
pub(crate) const LARGE_BYTES: usize = 128 * 1024;

/// The kind of a payload, and the kind of frames in which a client gets the messages of the feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// UTF-8.
    #[default]
    Text,
    /// Any bytes.
    Binary,
}

impl Content {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Text, Self::Binary];
}

/// The bytes before the shared body, rendered per connection at write time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Nothing: all clients get the same bytes.
    None,
    /// A text, then the queue entry's number in decimal.
    Seq(&'static str),
}

/// The ways in which a frame may be left out for a slow client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// May be conflated (with a key) or shed (by a rate).
    Data,
    /// A response to the client, or a status: neither conflated nor shed. States that wait in the client's throttle
    /// go first, because the client may draw conclusions from what came before: that values are complete, or that no
    /// message of a name follows.
    Answer,
    /// A response from which no client concludes anything about messages, such as a pong: as [`Self::Answer`], but
    /// states do not go first, so that pings do not make the client's rate void.
    Pong,
}

impl Class {
    /// Whether the frame is for one client: neither conflated nor shed.
    pub(crate) fn is_answer(self) -> bool {
        self != Self::Data
    }
}

/// Frames of one topic with equal keys replace each other in a conflating queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConflationKey(pub u64);

/// How a frame and the states of a conflation key replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyed {
    /// Not at all.
    No,
    /// It is a state.
    State(ConflationKey),
    /// It is no state, and the states before it are out of date.
    End(ConflationKey),
}

/// The number of a walk over the queues (`memory.rs`), and how many queue entries with this frame the walk has met.
/// Only the thread of the hub walks; frames are shared by all threads.
#[derive(Debug, Default)]
pub(super) struct Counted(AtomicU64);

impl Counted {
    /// Counts one more in walk `number`; returns the number so far.
    pub(super) fn add(&self, number: u32) -> u32 {
        let counted = self.get(number) + 1;
        self.set(number, counted);
        counted
    }

    /// Takes one back; returns the number before.
    pub(super) fn take_back(&self, number: u32) -> u32 {
        let counted = self.get(number);
        self.set(number, counted.saturating_sub(1));
        counted
    }

    fn get(&self, number: u32) -> u32 {
        let counted = self.0.load(Ordering::Relaxed);
        match (counted >> 32) as u32 == number {
            true => counted as u32,
            false => 0,
        }
    }

    fn set(&self, number: u32, entries: u32) {
        let counted = u64::from(number) << 32 | u64::from(entries);
        self.0.store(counted, Ordering::Relaxed);
    }
}

/// A message to clients, encoded once.
#[derive(Debug)]
pub struct Frame {
    plain: Encoded,
    content: Content,
    prefix: Prefix,
    class: Class,
    keyed: Keyed,
    received: Now,
    encodings: Encodings,
    window_number: AtomicU32,
    account: Account,
    counted: Counted,
    is_common: bool,
    /// Where the bytes of a binary frame begin, after its text.
    bytes_at: u32,
    is_of_feed: bool,
    place: InFeed,
}

/// Where the message is in the kept feed.
#[derive(Clone, Copy, Debug)]
enum InFeed {
    /// The payload has the text of the position there, of so many bytes.
    Position { at: u32, bytes: u8 },
    /// The payload has no position. The frame is this copy of its message.
    Copy(CopyRank),
}

/// Every message that waits or is retained has a `Frame`, so each byte of it counts.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Frame>() <= 144);

/// Memory of a frame without its bytes: the frame and the two counts of its `Arc`.
pub(super) const FRAME_BYTES: usize = allocated_bytes(size_of::<Frame>() + 2 * size_of::<usize>());

impl Frame {
    /// Starts a text frame; the payload is written to the builder. `alive` counts the memory of the frame.
    pub fn text(alive: &FrameBytes) -> FrameBuilder {
        FrameBuilder::new(Content::Text, alive)
    }

    /// Starts a binary frame, as [`text`](Self::text).
    pub fn binary(alive: &FrameBytes) -> FrameBuilder {
        FrameBuilder::new(Content::Binary, alive)
    }

    /// The encoding for WebSockets, without compression.
    pub fn plain(&self) -> &Encoded {
        &self.plain
    }

    /// The payload, without header and prefix, in one piece: a large payload that the frame shares with its message is
    /// copied for that.
    pub fn body(&self) -> &[u8] {
        let own = self.plain.body();
        match self.shared() {
            None => own,
            Some(shared) => shared.joined(own, |bytes| self.account.add(bytes)),
        }
    }

    /// Bytes of the payload.
    #[inline]
    pub(super) fn body_bytes(&self) -> usize {
        self.plain.body_bytes()
    }

    /// The payload of the message that is shared with other frames, and not among the frame's own bytes.
    #[inline]
    pub(super) fn shared(&self) -> Option<&SharedPayload> {
        match self.plain.is_sharing() {
            false => None,
            true => self.encodings.shared(),
        }
    }

    /// The payload in up to three pieces.
    pub(super) fn pieces(&self) -> [&[u8]; 3] {
        let own = self.plain.body();
        match self.shared() {
            None => [own, &[], &[]],
            Some(shared) => shared.pieces(own),
        }
    }

    /// The payload in one piece, for a moment.
    pub(super) fn in_one_piece(&self) -> Cow<'_, [u8]> {
        match self.shared() {
            None => self.plain.body().into(),
            Some(_) => self.pieces().concat().into(),
        }
    }

    /// Whether the payload has a position.
    pub(super) fn has_position(&self) -> bool {
        matches!(self.place, InFeed::Position { .. })
    }

    /// Whether the message is of the kept feed. Such a frame must not wait outside of the send queue, also without a
    /// position: a later frame would tell the client a position after it.
    pub fn is_of_feed(&self) -> bool {
        self.is_of_feed || self.has_position()
    }

    /// Which copy of its message the frame is.
    pub(super) fn copy_rank(&self) -> CopyRank {
        match self.place {
            InFeed::Copy(copy) => copy,
            InFeed::Position { .. } => {
                let position = str::from_utf8(self.position()).ok();
                let position = position.and_then(CopyPosition::parse);
                position.map_or(CopyRank::LAST, |at| at.copy)
            }
        }
    }

    /// The text of the position in the payload; empty without a position.
    pub(super) fn position(&self) -> &[u8] {
        match self.place {
            InFeed::Copy(_) => &[],
            InFeed::Position { at, bytes } => {
                &self.plain.body()[at as usize..][..usize::from(bytes)]
            }
        }
    }

    /// The body of a binary frame: text, and the bytes of a payload.
    pub(super) fn text_and_bytes(&self) -> (&[u8], &[u8]) {
        match self.shared() {
            None => self.plain.body().split_at(self.bytes_at as usize),
            Some(shared) => (&self.plain.body()[..self.bytes_at as usize], shared.bytes()),
        }
    }

    /// The bytes before the body for each connection.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// The ways in which the frame may be left out for a slow client.
    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// The conflation key; no response to a client has one.
    #[inline]
    pub fn key(&self) -> Option<ConflationKey> {
        match self.keyed {
            Keyed::State(key) => Some(key),
            Keyed::No | Keyed::End(_) => None,
        }
    }

    /// The conflation key whose states so far this frame replaces, though it is no state itself: every client gets it, and
    /// none of these states comes after it.
    #[inline]
    pub(crate) fn ends(&self) -> Option<ConflationKey> {
        match self.keyed {
            Keyed::End(key) => Some(key),
            Keyed::No | Keyed::State(_) => None,
        }
    }

    /// Whether a newer frame of the same key replaces this one in a queue: it has a conflation key.
    pub fn is_state(&self) -> bool {
        self.key().is_some()
    }

    /// The time at which the message in this frame arrived from the bus.
    pub fn received(&self) -> Now {
        self.received
    }

    /// Bytes of this frame in a send queue: those of the plain encoding.
    pub fn queue_bytes(&self) -> usize {
        self.plain.whole_bytes()
    }

    /// Bytes of this frame in [`FrameBytes`]: the memory of the frame and of all encodings, without that of the message
    /// whose payload it shares.
    pub fn memory_bytes(&self) -> usize {
        FRAME_BYTES + self.plain.memory_bytes() + self.encodings.memory_bytes()
    }

    /// Notes that the keeper has the frame, whose bytes count among those of the keeper from now on.
    pub(super) fn keep(&self, by: Keeper) {
        self.account.keep(by, self.memory_bytes());
    }

    /// Notes that the keeper no longer has the frame.
    pub(super) fn release(&self, by: Keeper) {
        self.account.release(by, self.memory_bytes());
    }

    /// Counts the memory of a queue of such frames beside them.
    pub(super) fn queue_room(&self) -> QueueRoom {
        QueueRoom::new(self.account.frames())
    }

    /// Bytes of all frames that the keeper has, together.
    pub(super) fn bytes_kept(&self, by: Keeper) -> u64 {
        self.account.frames().kept(by)
    }

    /// How many queue entries with this frame a walk over the queues has met.
    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// The deflated encoding without reference to an earlier frame, if made already and smaller than
    /// the payload.
    pub fn deflated(&self) -> Option<&Encoded> {
        self.encodings.get(Key::ALONE)
    }

    /// The encoding of [`Self::deflated()`], made by `deflate` at the first call (raw DEFLATE of the
    /// body, with the trailing empty block removed, RFC 7692 §7.2.1; `None` if compression saves
    /// nothing).
    pub fn deflated_with(
        &self,
        deflate: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<&Encoded> {
        self.encoded_with(Key::ALONE, |body| {
            Some(websocket::with_header_room(&deflate(body)?))
        })
    }

    /// The number that the compression windows last gave to the frame.
    #[inline]
    pub(super) fn window_number(&self) -> FrameId {
        FrameId(self.window_number.load(Ordering::Relaxed))
    }

    pub(super) fn set_window_number(&self, id: FrameId) {
        self.window_number.store(id.0, Ordering::Relaxed);
    }

    /// Whether the message may refer to earlier common messages of a connection when it is compressed, and later ones
    /// to it. Any other message stays alone, so that no size depends on its content together with a text of somebody
    /// else (RFC 7692 §8).
    #[inline]
    pub fn is_common(&self) -> bool {
        self.is_common
    }

    /// All encodings so far, except the plain encoding.
    pub(super) fn encodings(&self) -> &Encodings {
        &self.encodings
    }

    /// An encoding, if made already and worth sending.
    #[inline]
    pub(super) fn encoded(&self, key: Key) -> Option<&Encoded> {
        match key.kind {
            Kind::Plain => Some(&self.plain),
            _ => self.encodings.get(key),
        }
    }

    /// The compressed encoding of `key`, made at the first call: `make` returns [`HEADER_ROOM`] bytes, then the
    /// payload.
    pub(super) fn encoded_with(
        &self,
        key: Key,
        make: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<&Encoded> {
        self.make(key, || {
            Some(websocket::encode(
                make(&self.in_one_piece())?,
                self.content,
                Coding::Deflated,
            ))
        })
    }

    /// Whether the encoding of `key` was made, or tried: one that saves nothing is not there.
    pub(super) fn was_tried(&self, key: Key) -> bool {
        self.encodings.was_tried(key)
    }

    /// Adds an encoding that was made elsewhere; `None`: it saves nothing.
    pub(super) fn add_encoding(&self, key: Key, encoded: Option<Encoded>) {
        self.make(key, || encoded);
    }

    /// The encoding of `key` without compression, made as [`encoded_with`](Self::encoded_with) from the pieces of the
    /// payload.
    pub(super) fn encoded_stored(&self, key: Key, make: impl FnOnce([&[u8]; 3]) -> Vec<u8>) {
        self.make(key, || {
            let bytes = make(self.pieces());
            Some(websocket::encode(bytes, self.content, Coding::Deflated))
        });
    }

    /// Makes the event of this kind with `encode`, at the first call.
    pub(super) fn encode_event(&self, kind: Kind, encode: impl FnOnce(&Self) -> Encoded) {
        let key = Key::of(kind);
        self.make(key, || Some(encode(self)));
    }

    fn make(&self, key: Key, make: impl FnOnce() -> Option<Encoded>) -> Option<&Encoded> {
        self.encodings.get_or_make(key, || {
            let encoded = make();
            self.account.add(Encodings::memory_of(encoded.as_ref()));
            encoded
        })
    }

    /// The kind of the payload.
    pub fn content(&self) -> Content {
        self.content
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.account.close(self.memory_bytes());
    }
}

/// The part that follows after `taken` bytes of these pieces: up to `bytes_max` bytes of one piece. `None` if nothing follows.
pub(super) fn next_part(pieces: [&[u8]; 3], mut taken: usize, bytes_max: usize) -> Option<&[u8]> {
    for piece in pieces {
        if let Some(rest) = piece.get(taken..).filter(|rest| !rest.is_empty()) {
            return Some(&rest[..rest.len().min(bytes_max)]);
        }
        taken -= piece.len();
    }
    None
}

/// A frame being written: room for the header, then the payload.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    content: Content,
    prefix: Prefix,
    class: Class,
    keyed: Keyed,
    received: Now,
    alive: FrameBytes,
    is_common: bool,
    bytes_at: u32,
    is_of_feed: bool,
    place: InFeed,
    shared: Option<Box<SharedPayload>>,
}

impl FrameBuilder {
    fn new(content: Content, alive: &FrameBytes) -> Self {
        Self {
            bytes: Vec::new(),
            content,
            prefix: Prefix::None,
            class: Class::Data,
            keyed: Keyed::No,
            received: Now::default(),
            alive: alive.clone(),
            is_common: false,
            bytes_at: 0,
            is_of_feed: false,
            place: InFeed::Copy(CopyRank::LAST),
            shared: None,
        }
    }

    /// Makes room for a payload of `bytes`, so that the payload needs only one allocation.
    #[must_use]
    pub fn with_capacity(mut self, bytes: usize) -> Self {
        self.bytes.reserve_exact(HEADER_ROOM + bytes);
        self
    }

    /// Sets the bytes before the body for each connection.
    #[must_use]
    pub fn prefix(mut self, prefix: Prefix) -> Self {
        self.prefix = prefix;
        self
    }

    /// Marks the frame as a response, neither conflated nor shed.
    #[must_use]
    pub fn answer(mut self) -> Self {
        self.class = Class::Answer;
        self.keyed = Keyed::No;
        self
    }

    /// Marks the frame as a response from which no client concludes anything about messages: it does not make states
    /// go first that wait for the client's own rate.
    #[must_use]
    pub fn pong(mut self) -> Self {
        self.class = Class::Pong;
        self.keyed = Keyed::No;
        self
    }

    /// Notes whether the message is no user's own ([`Frame::is_common`]).
    #[must_use]
    pub fn common(mut self, is_common: bool) -> Self {
        self.is_common = is_common;
        self
    }

    /// Notes whether the message is of the kept feed.
    #[must_use]
    pub fn of_feed(mut self, is_of_feed: bool) -> Self {
        self.is_of_feed = is_of_feed;
        self
    }

    /// Sets the conflation key.
    #[must_use]
    pub fn key(mut self, key: ConflationKey) -> Self {
        self.keyed = Keyed::State(key);
        self
    }

    /// Makes the frame the last word about the states of this key so far (`Frame::ends`).
    #[must_use]
    pub fn ending(mut self, key: ConflationKey) -> Self {
        self.keyed = Keyed::End(key);
        self
    }

    /// Sets the time at which the message arrived from the bus.
    #[must_use]
    pub fn received(mut self, at: Now) -> Self {
        self.received = at;
        self
    }

    /// The payload so far, for appending; the bytes before must stay.
    pub fn payload(&mut self) -> &mut Vec<u8> {
        let bytes = &mut self.bytes;
        if bytes.is_empty() {
            bytes.resize(HEADER_ROOM, 0);
        }
        bytes
    }

    /// Appends to the payload.
    #[must_use]
    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.payload().extend_from_slice(bytes);
        self
    }

    /// Appends the bytes of a message's payload to a binary frame. What is before them is text; in an event stream text and
    /// bytes are encoded differently.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes_at = (self.payload().len() - HEADER_ROOM) as u32;
        self.body(bytes)
    }

    /// Appends a part of a message to the payload; at most one call for a frame. In a binary frame the part counts as
    /// its [`bytes`](Self::bytes). A large part is not copied: the frame shares it with the message. Only for a frame
    /// with a prefix: the header of any other is made from its own bytes alone.
    pub fn share(&mut self, message: &Arc<Message>, part: Part) {
        debug_assert!(self.prefix != Prefix::None, "no frame for everybody");
        let at = self.payload().len() - HEADER_ROOM;
        if self.content == Content::Binary {
            self.bytes_at = at as u32;
        }
        match message.is_shared(part) {
            true => self.shared = Some(SharedPayload::new(message, part, at)),
            false => self.payload().extend_from_slice(message.part(part)),
        }
    }

    /// Appends the text of a position to the payload. An event stream also has it as the `id` of the event.
    pub fn position(&mut self, position: Position, copy: CopyRank) {
        let body = self.payload();
        let at = body.len();
        position.append(body);
        copy.append(body);
        // A position is shorter than 256 bytes.
        let bytes = (body.len() - at) as u8;
        let at = (at - HEADER_ROOM) as u32;
        self.place = InFeed::Position { at, bytes };
    }

    /// Sets which copy of its message the frame is, which has no position.
    pub fn without_position(&mut self, copy: CopyRank) {
        self.place = InFeed::Copy(copy);
    }

    /// Writes the header before the payload; from here on the frame does not change.
    pub fn finish(mut self) -> Arc<Frame> {
        debug_assert!(
            self.prefix == Prefix::None || self.bytes.len() > HEADER_ROOM,
            "a prefix goes before a body"
        );
        let plain = websocket::encode(std::mem::take(self.payload()), self.content, Coding::Plain);
        let (plain, encodings) = match self.shared {
            None => (plain, Encodings::default()),
            // This header counts too few bytes, but nobody gets it: a frame with a prefix has a header for each client.
            Some(shared) => {
                let plain = plain.sharing(shared.bytes().len());
                (plain, Encodings::sharing(shared))
            }
        };
        let bytes = FRAME_BYTES + plain.memory_bytes() + encodings.memory_bytes();
        let account = Account::new(self.alive, bytes);
        Arc::new(Frame {
            plain,
            content: self.content,
            prefix: self.prefix,
            class: self.class,
            keyed: self.keyed,
            received: self.received,
            encodings,
            window_number: AtomicU32::default(),
            account,
            counted: Counted::default(),
            is_common: self.is_common,
            bytes_at: self.bytes_at,
            is_of_feed: self.is_of_feed,
            place: self.place,
        })
    }
}
