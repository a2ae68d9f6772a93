//! The output of a feed for the hub.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::Serialize;
use weirgate_wire::auth::StreamSubjects;

use super::gaps::Gaps;
use super::{
    Body, Content, CopyFor, Frame, Mark, Message, Now, PageCursor, Place, Position, RetainedCut,
};

/// The name of a topic. Feeds make names, gateways join topics by name; the hub only compares names. Clones share the text,
/// so a name of a client is stored once.
#[derive(Clone, Serialize)]
#[serde(into = "String")]
pub struct TopicName(Text);

#[derive(Clone)]
enum Text {
    Fixed(&'static str),
    Shared(Arc<str>),
}

impl TopicName {
    /// Makes a name known at compile time, without an allocation.
    pub const fn fixed(name: &'static str) -> Self {
        Self(Text::Fixed(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Fixed(name) => name,
            Text::Shared(name) => name,
        }
    }

    /// The name for another thread, without a copy of a shared text.
    pub fn shared(&self) -> Arc<str> {
        match &self.0 {
            Text::Fixed(name) => Arc::from(*name),
            Text::Shared(name) => Arc::clone(name),
        }
    }
}

impl<T: Into<Arc<str>>> From<T> for TopicName {
    fn from(name: T) -> Self {
        Self(Text::Shared(name.into()))
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.as_str().to_owned()
    }
}

impl Default for TopicName {
    fn default() -> Self {
        Self::fixed("")
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for TopicName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for TopicName {}

impl Hash for TopicName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for TopicName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TopicName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

/// The effect of a publication on the topic's retained frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// The retained frame does not change.
    Keep,
    /// The publication's frame is the first frame for a new client.
    Set,
    /// New clients get nothing until the next frame.
    Clear,
}

/// One frame or message for one topic.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Topic whose members get the frame.
    pub topic: TopicName,
    /// What the members get.
    pub body: Body,
    /// `false`: only the retained frame and the history change (quiet catch-up); members get nothing now.
    pub deliver: bool,
    /// The change of the retained frame.
    pub retain: Retain,
    /// The place in the kept feed: with a position, the core keeps the frame for clients that resume.
    pub place: Place,
    /// The full name of the message, if the topic is a pattern.
    pub subject: Option<Arc<str>>,
    /// The number of the request that the message answers, if it is a last value: such a message is not for all
    /// members.
    pub request: Option<u64>,
}

impl Publication {
    /// A frame or a message for the members of a topic, outside of the kept feed.
    pub fn new(topic: TopicName, body: impl Into<Body>) -> Self {
        Self {
            topic,
            body: body.into(),
            deliver: true,
            retain: Retain::Keep,
            place: Place::Outside,
            subject: None,
            request: None,
        }
    }

    /// The frame for the members; `None` for a message, which the gateway renders.
    pub fn frame(&self) -> Option<&Arc<Frame>> {
        match &self.body {
            Body::Frame(frame) => Some(frame),
            Body::Message(_) => None,
        }
    }

    /// The copy for clients of the message's own name, or of a pattern.
    pub(super) fn copy_for<'a>(
        &'a self,
        message: &'a Arc<Message>,
        pattern: Option<&'a TopicName>,
        content: Content,
    ) -> CopyFor<'a> {
        CopyFor {
            message,
            name: self.subject.as_deref().unwrap_or(self.topic.as_str()),
            pattern,
            position: self.place.position(),
            content,
        }
    }
}

/// A frame for the members of a topic: that of a publication, or one that the gateway has rendered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery<'a> {
    pub(super) topic: &'a TopicName,
    /// For the members that get its kind of content, shared by all send queues.
    pub(super) frame: &'a Arc<Frame>,
    /// As in [`Publication`].
    pub(super) deliver: bool,
    pub(super) retain: Retain,
    pub(super) place: Place,
}

/// A notice from the bus, in order with the publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusNotice {
    /// The bus was reached, and all subscriptions requested until then are made.
    Up,
    /// The bus cannot be reached.
    Down,
    /// Messages were lost: a connection to the bus has ended, with all subscriptions of that
    /// connection. Comes before [`Self::Down`], and again if a connection ends before [`Self::Up`].
    Gap,
    /// As [`Self::Gap`], of names beside the stream that is the kept feed: nothing of the stream was lost.
    GapBeside,
    /// The subjects of the stream that is the kept feed.
    Subjects(StreamSubjects),
    /// How far the source has read the stream that is the kept feed.
    ReadTo(ReadTo),
    /// A notice about the positions of the kept feed, which only the core uses.
    Feed(FeedNotice),
    /// A message on a topic was skipped, and so lost.
    Skipped {
        /// The topic.
        topic: TopicName,
        /// The full name of the message, if known: the topic may be a pattern.
        subject: Option<Arc<str>>,
        /// The place in the kept feed.
        place: Place,
    },
    /// The bus has responded to a request to subscribe to a topic.
    Settled {
        /// The requested topic.
        topic: TopicName,
        /// The number of the request. A later request for the same topic waits for another notice: in
        /// between the earlier request may have been cancelled.
        number: u64,
        /// `true`: the bus has subscribed, so messages published from here on arrive; `false`: the bus
        /// has refused, and no messages will come.
        is_confirmed: bool,
    },
    /// A stored message that a request is about was left out.
    ValueSkipped {
        /// The full name of the message.
        subject: Arc<str>,
        /// The number of the request.
        number: u64,
    },
    /// The bus has sent a page of last values: as publications before this notice.
    RetainedPage {
        /// The number of the request.
        number: u64,
        /// How far the bus has read.
        cursor: Arc<PageCursor>,
        /// Whether this request goes on. `false`: another may go on from the cursor.
        is_open: bool,
    },
    /// The bus did not answer a request for last values in time, or cannot answer it for now. Another may go on from the
    /// cursor, later.
    RetainedUnanswered {
        /// The number of the request.
        number: u64,
        /// How far the bus has read.
        cursor: Arc<PageCursor>,
    },
    /// The bus has sent all last values of a topic: as publications before this notice, if there are
    /// any.
    RetainedEnd {
        /// The requested topic.
        topic: TopicName,
        /// The number of the request.
        number: u64,
        /// Why values are missing; `None` if they are whole.
        cut: Option<RetainedCut>,
    },
}

/// How far the source of a stream has read. A bus without a stream says nothing of it: its messages come as they are
/// published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadTo {
    /// To its end: messages come as they are stored.
    #[default]
    End,
    /// What was stored before this time, Unix milliseconds. There is more to read.
    StoredMs(i64),
    /// Not known: there may be more to read.
    Unknown,
}

/// A notice about the positions of the kept feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedNotice {
    /// From here on, the messages are counted from this mark.
    Mark {
        /// The hash of the list of kept names.
        feed_hash: u32,
        /// The mark.
        mark: Mark,
        /// Messages of the feed since the previous mark, if there was a mark since the last [`BusNotice::Gap`].
        count: u64,
    },
    /// The messages have no positions until the next [`Self::Mark`], because messages may be lost unnoticed.
    NoPositions,
    /// The position of the newest message of a stream in which there is no message to read.
    Head(Position),
    /// Messages were lost before the last [`BusNotice::Gap`], of which clients have been notified.
    Hole,
    /// Whether messages before the next one may be lost, which the source is about to find out. If they are, a
    /// [`BusNotice::Gap`] or [`Self::Hole`] comes before the answer. `true` while in doubt: the source has an answer, about
    /// the messages before its question, and later ones are in doubt.
    InDoubt(bool),
}

/// Counters of a feed, for health and metrics. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Counters per subject or channel family, in the feed's own order.
    pub subjects: Vec<SubjectStats>,
    /// The time of the newest good message, Unix milliseconds.
    pub last_message_unix_ms: Option<i64>,
    /// Whether the cache was filled, or found empty, at least once.
    pub caught_up: bool,
    /// Messages of subjects that are not relayed.
    pub messages_ignored: u64,
    /// Losses reported by the bus.
    pub gaps: u64,
}

impl FeedStats {
    /// Returns counters for these subjects, all 0.
    pub fn of<'a>(subjects: impl IntoIterator<Item = &'a str>) -> Self {
        let counted = |subject: &str| SubjectStats {
            subject: subject.to_owned(),
            ..SubjectStats::default()
        };
        Self {
            subjects: subjects.into_iter().map(counted).collect(),
            ..Self::default()
        }
    }

    /// Copies the numbers of the same feed at a later moment. The subjects do not change, so the copy
    /// allocates nothing.
    pub fn update(&mut self, later: &Self) {
        debug_assert_eq!(self.subjects.len(), later.subjects.len());
        let mut subjects = std::mem::take(&mut self.subjects);
        for (held, later) in subjects.iter_mut().zip(&later.subjects) {
            let subject = std::mem::take(&mut held.subject);
            *held = SubjectStats { subject, ..*later };
        }
        *self = Self { subjects, ..*later };
    }
}

/// Counters of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectStats {
    /// The subject, or the name of a family of subjects whose number has no bound.
    pub subject: String,
    /// Messages taken.
    pub messages: u64,
    /// Messages refused: no broadcast, state unchanged.
    pub messages_bad: u64,
    /// Messages not taken because a newer message of the same stream had arrived.
    pub messages_old: u64,
    /// When the newest good message arrived.
    pub last_message: Option<Now>,
    gaps: Gaps,
}

impl SubjectStats {
    /// Counts a good message. `received` is the time of storage if the message is from before the start.
    pub fn record(&mut self, received: Now) {
        self.messages += 1;
        if let Some(last) = self.last_message.replace(received) {
            self.gaps.record(since_us(received, last));
        }
    }

    /// The usual gap between two messages, microseconds.
    pub fn usual_gap_us(&self) -> u64 {
        self.gaps.usual_us()
    }

    /// The silence after which the subject counts as quiet, microseconds; `None` before ten messages.
    pub fn quiet_after_us(&self) -> Option<u64> {
        self.gaps.quiet_after_us()
    }

    /// For how long the subject has been silent, microseconds, if that is longer than usual.
    pub fn quiet_us(&self, now: Now) -> Option<u64> {
        self.gaps.quiet_us(since_us(now, self.last_message?))
    }
}

/// By the clock of the day, since a message may be from before the start; 0 if it was put back.
fn since_us(now: Now, then: Now) -> u64 {
    u64::try_from(now.unix_us.saturating_sub(then.unix_us)).unwrap_or_default()
}

/// A log line of a feed. The feed limits the number of lines; the shell logs the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedLine {
    /// A message was refused.
    BadMessage {
        /// The beginning of the subject or channel, as printable text.
        subject: String,
        /// The id in the stream of the bus, if the message has one: of Redis that of the entry, of JetStream the sequence
        /// number, in the kept feed with the time of storage after it.
        id: Option<String>,
        /// Reason of the refusal, for the log line.
        why: String,
        /// The beginning of the payload, as printable text; `None` if the source has handed none over.
        excerpt: Option<String>,
    },
    /// The number of lines about refused messages that were left out.
    LeftOut(u64),
}

/// Settings of every feed.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// The limit on a bus message, bytes; larger messages are counted, logged and skipped.
    pub bus_message_bytes_max: usize,
    /// Whether each message has its arrival time from the bus; no part of a contract.
    pub is_stamped: bool,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            bus_message_bytes_max: 16 * 1024 * 1024,
            is_stamped: false,
        }
    }
}

/// The function of a feed that reads an event on the thread of the source, before the loop gets it ([`Feed::reader`]).
pub type EventReader<E> = Arc<dyn Fn(&mut E) + Send + Sync>;

/// Turns bus events into publications. A process has one feed. Pure: no clock, no socket, no thread.
pub trait Feed: Send {
    /// An event of the bus thread.
    type Event: Send;

    /// What reads each event on the thread of its source: the work that grows with the bytes of a message. The loop passes
    /// only events to [`Self::event`] that were read. `None`: there is no such work.
    fn reader(&self) -> Option<EventReader<Self::Event>> {
        None
    }

    /// Returns an event as the loop gets it, for callers that have no thread of a source.
    fn read(&self, mut event: Self::Event) -> Self::Event {
        if let Some(read) = self.reader() {
            read(&mut event);
        }
        event
    }

    /// Appends the publications of an event to `out`.
    fn event(&mut self, now: Now, event: Self::Event, out: &mut Vec<Publication>);

    /// Returns the notice of an event for the gateway, which gets the notice before the publications of
    /// the event. For gateways whose clients choose the subscriptions of the bus.
    fn notice(&self, event: &Self::Event) -> Option<BusNotice> {
        let _ = event;
        None
    }

    /// The next log line since the last event. Later lines replace lines that were not taken.
    fn next_line(&mut self) -> Option<FeedLine> {
        None
    }

    /// The counters so far.
    fn stats(&self) -> &FeedStats;
}
