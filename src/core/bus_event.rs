//! The events from a source to a feed, the same for every bus.

use std::sync::Arc;

use weirgate_wire::auth::StreamSubjects;
use weirgate_wire::base::Now;

use crate::{
    BusNotice, EntryHash, FeedNotice, Place, Point, Position, ReadTo, RetainedCut, StoredId,
};

/// An event on the bus, in the order of the bus.
#[derive(Debug)]
pub enum BusEvent {
    /// The bus was reached and all requested names are subscribed.
    Up,
    /// The bus is out of reach, and why; the source tries again by itself. The text never holds a password.
    Down(String),
    /// The messages that waited at the subscription (warm-up, backlog) have been handed over.
    CaughtUp,
    /// The newest message of each subject with a backlog was handed over, [quiet](BusMessage::quiet), before the backlog
    /// itself: all that follows of it is older, so the state need not wait for its end.
    WarmedUp,
    /// Messages were lost.
    Gap {
        /// Number of messages lost, if the bus gives a number.
        lost: Option<u64>,
    },
    /// Messages of names beside the stream were lost, and none of the stream.
    GapBeside {
        /// Number of messages lost, if the bus gives a number.
        lost: Option<u64>,
    },
    /// The subjects of the stream that is the kept feed: other names come from the bus, as they are published.
    Subjects(StreamSubjects),
    /// How far the source has read the stream that is the kept feed.
    ReadTo(ReadTo),
    /// A message.
    Message(BusMessage),
    /// The value of a subject was deleted: a message without a payload.
    Deleted(BusMessage),
    /// A message was not handed over. The feed counts and logs it.
    Skipped(SkippedMessage),
    /// News about the positions of the kept feed, for the history.
    Feed(FeedNotice),
    /// A subscription is confirmed: every later publication comes after this event.
    Subscribed {
        /// The confirmed subscription.
        subscription: Subscription,
        /// The number of the newest request for the subscription that the source knew.
        number: u64,
    },
    /// The bus refused a subscription; the source asks again now and then.
    Refused {
        /// The refused subscription.
        subscription: Subscription,
        /// As in [`Self::Subscribed`].
        number: u64,
        /// The reason that the bus gave.
        fault: String,
        /// The bus has withdrawn a subscription: messages are lost from here on, and no [`Self::Gap`] reports it.
        is_loss: bool,
    },
    /// A stored message that answers a question: a last value, or one of all messages. It is
    /// [quiet](BusMessage::quiet).
    LastValue {
        /// The message.
        message: BusMessage,
        /// Whether the value was deleted.
        is_deletion: bool,
        /// The number of the question that the message answers.
        number: u64,
    },
    /// The end of a page of the last values of a subscription: more follow when they are asked for.
    RetainedPage {
        /// The number of the question.
        number: u64,
        /// How far the source has read.
        cursor: Arc<PageCursor>,
        /// Whether this question goes on. `false`: the connection has ended, and another question may go on from the cursor.
        is_open: bool,
    },
    /// The bus did not answer a question for last values in time, or cannot answer it for now. Another question may go on
    /// from the cursor, later.
    RetainedUnanswered {
        /// The number of the question.
        number: u64,
        /// How far the source has read.
        cursor: Arc<PageCursor>,
    },
    /// The end of the last values of a subscription, with or without values before.
    RetainedEnd {
        /// The subscription of the question.
        subscription: Subscription,
        /// The number of the question.
        number: u64,
        /// Why values are missing; `None` if they are whole.
        cut: Option<RetainedCut>,
    },
}

impl BusEvent {
    /// A message, or the deletion of the value of its subject.
    pub fn of(message: BusMessage, is_deletion: bool) -> Self {
        match is_deletion {
            true => Self::Deleted(message),
            false => Self::Message(message),
        }
    }

    /// The notice of an event about the link to the bus, the subjects of the stream or the positions of the feed;
    /// `None` for the others.
    pub fn link_notice(&self) -> Option<BusNotice> {
        match self {
            Self::Up => Some(BusNotice::Up),
            Self::Down(_) => Some(BusNotice::Down),
            Self::Gap { .. } => Some(BusNotice::Gap),
            Self::GapBeside { .. } => Some(BusNotice::GapBeside),
            Self::Subjects(subjects) => Some(BusNotice::Subjects(subjects.clone())),
            Self::ReadTo(read_to) => Some(BusNotice::ReadTo(*read_to)),
            Self::Feed(notice) => Some(BusNotice::Feed(*notice)),
            _ => None,
        }
    }

    /// Bytes of a message: its name, its payload, and the text of it, if that was made; 0 for the other events.
    pub fn message_bytes(&self) -> usize {
        match self {
            Self::Message(message) | Self::LastValue { message, .. } => {
                message.subject.len() + message.payload.len() + message.text.made_bytes()
            }
            _ => 0,
        }
    }

    /// The message with a payload that the event brings.
    pub fn message_mut(&mut self) -> Option<&mut BusMessage> {
        match self {
            Self::Message(message) | Self::LastValue { message, .. } => Some(message),
            _ => None,
        }
    }
}

/// A name that a source can subscribe to while the source runs: a channel, or every channel that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// The channel's name or the pattern.
    pub name: Arc<str>,
    /// Whether the name is a pattern.
    pub is_pattern: bool,
}

impl Subscription {
    /// A channel, by its exact name.
    pub fn channel(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            is_pattern: false,
        }
    }

    /// Every channel that the pattern matches, as the bus matches patterns.
    pub fn pattern(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            is_pattern: true,
        }
    }
}

/// How far a question for stored messages has read; only its source knows what this means. Another question that begins
/// with it brings what comes after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageCursor {
    /// What was read of each stream, in a question for the newest messages.
    pub parts: Vec<ReadPart>,
    /// The last message that was read, in a question for all messages of the stream that is the kept feed.
    pub after: Option<StoredId>,
    /// Whether the question brings that message once more, because a client may lack a copy of it.
    pub repeats: bool,
    /// The hash of that message, if it is known and the id may be that of another message by now.
    pub hash: Option<EntryHash>,
    /// Why messages before this place may be missing; `None` if they are whole.
    pub cut: Option<RetainedCut>,
}

impl PageCursor {
    /// How far the newest messages were read.
    pub fn of(parts: Vec<ReadPart>) -> Self {
        Self {
            parts,
            ..Self::default()
        }
    }

    /// After a message of the stream; from its beginning on for `None`.
    pub fn after(after: Option<StoredId>) -> Self {
        Self {
            after,
            ..Self::default()
        }
    }

    /// After the message of the stream at a position.
    pub fn at(position: Position) -> Self {
        match position.point {
            Point::Stored { id, hash } => Self {
                hash,
                ..Self::after(Some(id))
            },
            Point::Counted { .. } => Self::default(),
        }
    }
}

/// The part of a question's messages that is in one stream, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPart {
    /// The stream.
    pub stream: String,
    /// The subjects in it.
    pub filter: String,
    /// When the stream was made, as the bus says it: another stream of this name has other messages.
    pub made: String,
    /// The number of the last message that was read.
    pub sequence: u64,
}

/// A message that the source cannot hand over.
#[derive(Debug)]
pub struct SkippedMessage {
    /// The subscription that has brought it; an empty name if it is unknown.
    pub subscription: Subscription,
    /// The place in the kept feed.
    pub place: Place,
    /// The id in the stream of the bus, if the message has one.
    pub id: Option<StoredId>,
    /// Why, for the log line.
    pub why: &'static str,
}

/// A message as received.
#[derive(Clone, Debug)]
pub struct BusMessage {
    /// NATS subject or Redis channel.
    pub subject: Arc<str>,
    /// The pattern that matched, for a Redis pattern subscription.
    pub pattern: Option<Arc<str>>,
    /// The payload, any bytes. A source with a limit cuts a larger payload after the first byte over the limit, so that
    /// the feed recognises and skips the message.
    pub payload: Vec<u8>,
    /// Position in the stream; `None` if the bus has no streams.
    pub position: Option<StreamPosition>,
    /// The time at which the source received the message.
    pub received: Now,
    /// The place in the kept feed.
    pub place: Place,
    /// Part of a warm-up or backlog: goes to the cache or the history; clients get no separate broadcast.
    pub quiet: bool,
    /// What clients get of the payload as text.
    pub text: PayloadText,
}

impl BusMessage {
    /// A message outside of the kept feed, which nobody has read yet. A source sets what it knows beside that.
    pub fn new(subject: impl Into<Arc<str>>, payload: Vec<u8>, received: Now) -> Self {
        Self {
            subject: subject.into(),
            pattern: None,
            payload,
            position: None,
            received,
            place: Place::Outside,
            quiet: false,
            text: PayloadText::Unread,
        }
    }
}

/// What clients get of a payload as text. The feed's reader ([`Feed::reader`](crate::Feed::reader)) finds it out on the thread
/// of the source: a walk over many megabytes in the loop would delay every client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PayloadText {
    /// Nobody has read it: there is no reader, or the payload is too large for anybody, or nested too deep.
    #[default]
    Unread,
    /// None: the payload is no message of this feed, and why.
    Bad(Box<str>),
    /// The payload itself.
    Payload,
    /// Another text, which is short enough to be made when a client needs it.
    Later,
    /// Another text.
    Made(Vec<u8>),
    /// No text: it would be longer than a message may be.
    TooLarge {
        /// The bytes that it would have.
        bytes: usize,
    },
}

impl PayloadText {
    fn made_bytes(&self) -> usize {
        match self {
            Self::Made(text) => text.len(),
            _ => 0,
        }
    }
}

/// A message's position in the stream of the bus: a greater position is newer.
///
/// Each source says how its bus counts. Positions of the same subject can be compared; positions of different subjects
/// need not be comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamPosition {
    /// The epoch of the stream: greater for a stream that was made anew or went back in time, so that the new messages
    /// are newer than all earlier ones, wherever the sequence starts.
    pub epoch: i64,
    /// Number of the message within the epoch.
    pub sequence: u64,
}
