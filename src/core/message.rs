//! A message of the feed as data. A gateway makes frames of it once a client's kind of frame is needed; these are shared
//! by all clients of the kind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::frame::Counted;
use super::frame_bytes::{Account, Keeper};
use super::{ConflationKey, Content, Frame, FrameBytes, LARGE_BYTES, Now, Position, TopicName};
use weirgate_wire::base::allocated_bytes;

/// A message as the bus has sent it, and what the feed knows of it.
#[derive(Debug)]
pub struct Message {
    payload: Box<[u8]>,
    /// Whether the payload is text that clients of [`Content::Text`] get as it is.
    pub content: Content,
    /// When the message arrived from the bus, or was stored in its stream.
    pub received: Now,
    /// The time of the message for clients, Unix milliseconds.
    pub unix_ms: i64,
    /// Whether the value of the name was deleted; there is no payload.
    pub is_deletion: bool,
    /// Whether the message is a last value, which was published before the client asked for it.
    pub is_last_value: bool,
    /// Whether the payload as text is longer than a message may be: only clients of [`Content::Binary`] get it.
    pub is_text_too_large: bool,
    /// Whether clients get the time of arrival.
    pub is_stamped: bool,
    /// Whether the message is of the kept feed.
    pub is_of_feed: bool,
    /// A newer message with the same key may replace this one for a slow client.
    pub key: Option<ConflationKey>,
    is_common: AtomicBool,
    text: OnceLock<Box<[u8]>>,
    account: Account,
    counted: Counted,
}

/// The part of a message that goes into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The payload.
    Payload,
    /// The text of [`Message::text_with`], which was made before.
    Text,
}

/// The payload of a large message, within the payload of a frame.
#[derive(Debug)]
pub(super) struct SharedPayload {
    message: Arc<Message>,
    part: Part,
    /// The bytes of the frame's own payload before it.
    at: usize,
    /// All together, for those who need it in one piece.
    joined: OnceLock<Box<[u8]>>,
}

impl SharedPayload {
    /// Shares this part of a message. `at`: the bytes of the frame's payload before it.
    #[cold]
    pub(super) fn new(message: &Arc<Message>, part: Part, at: usize) -> Box<Self> {
        Box::new(Self {
            message: Arc::clone(message),
            part,
            at,
            joined: OnceLock::new(),
        })
    }

    /// The message.
    pub(super) fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// The shared bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.message.part(self.part)
    }

    /// The payload of a frame whose own bytes are these: before what is shared, that, and after it.
    pub(super) fn pieces<'a>(&'a self, own: &'a [u8]) -> [&'a [u8]; 3] {
        let (before, after) = own.split_at(self.at);
        [before, self.bytes(), after]
    }

    /// The payload of [`Self::pieces`] as one piece, which stays. `note` gets its memory, if it is made now.
    pub(super) fn joined(&self, own: &[u8], note: impl FnOnce(usize)) -> &[u8] {
        self.joined.get_or_init(|| {
            let joined = self.pieces(own).concat().into_boxed_slice();
            note(allocated_bytes(joined.len()));
            joined
        })
    }

    /// Memory without that of the message.
    pub(super) fn memory_bytes(&self) -> usize {
        let joined = self.joined.get();
        let joined = joined.map_or(0, |joined| allocated_bytes(joined.len()));
        allocated_bytes(size_of::<Self>()) + joined
    }
}

/// Memory of a message without its bytes: the message and the two counts of its `Arc`.
const MESSAGE_BYTES: usize = allocated_bytes(size_of::<Message>() + 2 * size_of::<usize>());

impl Message {
    /// A message of bytes, counted in `alive`.
    pub fn new(payload: Vec<u8>, received: Now, alive: &FrameBytes) -> Self {
        let payload = payload.into_boxed_slice();
        let bytes = MESSAGE_BYTES + allocated_bytes(payload.len());
        Self {
            payload,
            content: Content::Binary,
            received,
            unix_ms: received.unix_ms(),
            is_deletion: false,
            is_last_value: false,
            is_text_too_large: false,
            is_stamped: false,
            is_of_feed: false,
            key: None,
            is_common: AtomicBool::default(),
            text: OnceLock::new(),
            account: Account::new(alive.clone(), bytes),
            counted: Counted::default(),
        }
    }

    /// The message with the payload as text, which was made before.
    #[must_use]
    pub fn with_text(mut self, text: Box<[u8]>) -> Self {
        self.account.add(allocated_bytes(text.len()));
        self.text = OnceLock::from(text);
        self
    }

    /// The payload, as the bus has sent it.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as text, made by `make` at the first call, and shared by the frames for a name and for the patterns
    /// that match it.
    pub fn text_with(&self, make: impl FnOnce(&[u8]) -> Vec<u8>) -> &[u8] {
        self.text.get_or_init(|| {
            let text = make(&self.payload).into_boxed_slice();
            self.account.add(allocated_bytes(text.len()));
            text
        })
    }

    /// A part of the message; no bytes if it was not made.
    #[inline]
    pub(super) fn part(&self, part: Part) -> &[u8] {
        match part {
            Part::Payload => &self.payload,
            Part::Text => self.text.get().map_or(&[], |text| text),
        }
    }

    /// Bytes of a part that go into each frame: of a large one none ([`FrameBuilder::share`](super::FrameBuilder::share)).
    #[inline]
    pub fn copied_bytes(&self, part: Part) -> usize {
        if self.is_shared(part) {
            0
        } else {
            self.part(part).len()
        }
    }

    /// Whether frames share a part, because it is large.
    #[inline]
    pub(super) fn is_shared(&self, part: Part) -> bool {
        self.part(part).len() > LARGE_BYTES
    }

    /// How many frames that share the payload a walk over the queues has met.
    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Whether clients of this kind get the message. Without a payload, only a deletion has a text.
    pub(super) fn is_for(&self, content: Content) -> bool {
        match content {
            Content::Binary => true,
            Content::Text if self.is_text_too_large => false,
            Content::Text => self.is_deletion || !self.payload.is_empty(),
        }
    }

    /// Whether clients of this kind miss the message because it is too large for them.
    pub fn is_too_large_for(&self, content: Content) -> bool {
        content == Content::Text && self.is_text_too_large
    }

    /// Whether the message is no user's own ([`Frame::is_common`]).
    pub fn is_common(&self) -> bool {
        self.is_common.load(Ordering::Relaxed)
    }

    /// Marks the message as one that is no user's own, before frames are made of it.
    pub fn set_common(&self) {
        self.is_common.store(true, Ordering::Relaxed);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let text = self
            .text
            .get()
            .map_or(0, |text| allocated_bytes(text.len()));
        MESSAGE_BYTES + allocated_bytes(self.payload.len()) + text
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.account.close(self.memory_bytes());
    }
}

/// The content of a publication.
#[derive(Clone, Debug)]
pub enum Body {
    /// The frame for all members.
    Frame(Arc<Frame>),
    /// Data, which the gateway renders for each name and kind of content ([`Gateway::render`](super::Gateway::render)).
    Message(Arc<Message>),
}

impl From<Arc<Frame>> for Body {
    fn from(frame: Arc<Frame>) -> Self {
        Self::Frame(frame)
    }
}

impl From<Message> for Body {
    fn from(message: Message) -> Self {
        Self::Message(Arc::new(message))
    }
}

impl Body {
    /// When the message arrived from the bus.
    pub fn received(&self) -> Now {
        match self {
            Self::Frame(frame) => frame.received(),
            Self::Message(message) => message.received,
        }
    }

    /// Bytes in a send queue; of a message without what the gateway adds.
    pub fn queue_bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.queue_bytes(),
            Self::Message(message) => message.payload.len(),
        }
    }

    /// Memory, with all encodings and texts that were made by now.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.memory_bytes(),
            Self::Message(message) => message.memory_bytes(),
        }
    }

    /// Whether clients of this kind get it.
    pub fn is_for(&self, content: Content) -> bool {
        match self {
            Self::Frame(_) => true,
            Self::Message(message) => message.is_for(content),
        }
    }

    /// Whether clients of this kind miss it because it is too large for them.
    pub fn is_too_large_for(&self, content: Content) -> bool {
        match self {
            Self::Frame(_) => false,
            Self::Message(message) => message.is_too_large_for(content),
        }
    }

    /// Notes that the history has it.
    pub(super) fn keep(&self) {
        match self {
            Self::Frame(frame) => frame.keep(Keeper::History),
            Self::Message(message) => {
                let bytes = message.memory_bytes();
                message.account.keep(Keeper::History, bytes);
            }
        }
    }

    /// Notes that the history no longer has it.
    pub(super) fn release(&self) {
        match self {
            Self::Frame(frame) => frame.release(Keeper::History),
            Self::Message(message) => {
                let bytes = message.memory_bytes();
                message.account.release(Keeper::History, bytes);
            }
        }
    }

    /// Whether both are the same frame or message.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Frame(one), Self::Frame(other)) => Arc::ptr_eq(one, other),
            (Self::Message(one), Self::Message(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// A message, and the clients for which a gateway makes a frame of it.
#[derive(Clone, Copy, Debug)]
pub struct CopyFor<'a> {
    /// The message.
    pub message: &'a Arc<Message>,
    /// Its full name.
    pub name: &'a str,
    /// The pattern by which the clients get it; `None`: by its name.
    pub pattern: Option<&'a TopicName>,
    /// The position, if there is one.
    pub position: Option<Position>,
    /// The kind of frame that the clients get; [`Gateway::HAS_BINARY`](super::Gateway::HAS_BINARY).
    pub content: Content,
}

/// [`Gateway::render`](super::Gateway::render).
pub(super) type Render = fn(&CopyFor<'_>, &FrameBytes) -> Arc<Frame>;

/// The payload as it is: for a gateway that adds nothing.
pub(super) fn payload_alone(copy: &CopyFor<'_>, alive: &FrameBytes) -> Arc<Frame> {
    let message = copy.message;
    let frame = match message.content {
        Content::Text => Frame::text(alive),
        Content::Binary => Frame::binary(alive),
    };
    let frame = frame
        .received(message.received)
        .common(message.is_common())
        .of_feed(message.is_of_feed);
    frame.body(&message.payload).finish()
}
