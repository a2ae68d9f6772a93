//! What a feed hands to the hub.

use std::borrow::{Borrow, Cow};
use std::sync::Arc;

use super::{Frame, Now};

/// The name of a topic. Feeds make names, gateways join them; the hub only compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(pub Cow<'static, str>);

impl TopicName {
    /// A name known at compile time; costs no allocation.
    pub const fn fixed(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<String> for TopicName {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

/// What a publication does to the frame that its topic keeps for newcomers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// Leaves it as it is.
    Keep,
    /// This frame is the first thing that a newcomer gets.
    Set,
    /// Newcomers get nothing until the next frame.
    Clear,
}

/// One frame for one topic.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Topic whose members get the frame.
    pub topic: TopicName,
    /// Frame for the members, shared by all send queues.
    pub frame: Arc<Frame>,
    /// `false`: only what is retained changes (quiet catch-up); members get nothing now.
    pub deliver: bool,
    /// What newcomers get from now on.
    pub retain: Retain,
}

/// What the bus says of itself, in its place among the publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusNotice {
    /// The bus was reached, and everything that was wanted then is subscribed.
    Up,
    /// The bus is away.
    Down,
    /// Messages were lost: a connection to the bus has ended, with all subscriptions that stood on
    /// it. Comes before [`Self::Down`], and again if a connection ends before [`Self::Up`].
    Gap,
    /// One message on a topic was lost: it came, and was skipped.
    Skipped(TopicName),
    /// The bus has answered a request to subscribe to a topic.
    Settled {
        /// What was asked for.
        topic: TopicName,
        /// The number of the request that was answered. Who has made a later request for the same
        /// topic waits for another notice: in between the topic may have been given up.
        number: u64,
        /// The subscription stands, so what is published from here on comes; `false`: the bus has
        /// refused it, and nothing will.
        stands: bool,
    },
    /// The full name of the message that the next publication is made of, where a gateway needs it: the
    /// topic may be a pattern.
    Subject(Arc<str>),
    /// The next publication is a last value, which is not to be delivered to all members.
    LastValue {
        /// The full name of the message.
        subject: Arc<str>,
        /// The number of the question that the value answers.
        number: u64,
    },
    /// The bus has answered the question for the last values of a topic: with publications before
    /// this, or with none.
    RetainedEnd {
        /// What was asked for.
        topic: TopicName,
        /// The number of the question.
        number: u64,
    },
}

/// What a feed has seen, for health and metrics. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Per subject or channel family, in the feed's own order.
    pub subjects: Vec<SubjectStats>,
    /// Unix milliseconds of the newest good message.
    pub last_message_unix_ms: Option<i64>,
    /// The cache was warmed, or found empty, at least once.
    pub caught_up: bool,
    /// Messages of subjects that are not relayed.
    pub messages_ignored: u64,
    /// Losses that the bus told of.
    pub gaps: u64,
}

impl FeedStats {
    /// Of these subjects, nothing seen yet.
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

    /// Takes the numbers of the same feed at a later moment. Its subjects do not change, so nothing
    /// is allocated.
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
    /// The subject, or a family's name where subjects are without bound.
    pub subject: String,
    /// Messages taken.
    pub messages: u64,
    /// Messages refused: no broadcast, state unchanged.
    pub messages_bad: u64,
    /// Messages not taken because a newer one of the same stream was there already.
    pub messages_old: u64,
}

/// A log line of a feed. The feed decides how many there are; the shell logs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedLine {
    /// A message was refused.
    BadMessage {
        /// Its subject or channel.
        subject: String,
        /// Reason of the refusal, for the log line.
        why: String,
        /// The beginning of its payload, as printable text.
        excerpt: String,
    },
    /// So many lines about refused messages were left out.
    LeftOut(u64),
}

/// Turns bus events into publications. One per process; pure: no clock, no socket, no thread.
pub trait Feed: Send {
    /// What the bus thread sends.
    type Event: Send;

    /// Takes one event and appends what follows from it to `out`.
    fn event(&mut self, now: Now, event: Self::Event, out: &mut Vec<Publication>);

    /// What an event tells the gateway, which hears of it before what follows from the event. For
    /// gateways whose clients choose what the bus is asked for.
    fn notice(&self, event: &Self::Event) -> Option<BusNotice> {
        let _ = event;
        None
    }

    /// What there is to log since the last event. Lines that nobody takes are replaced by later ones.
    fn next_line(&mut self) -> Option<FeedLine> {
        None
    }

    /// What was seen so far.
    fn stats(&self) -> &FeedStats;
}
