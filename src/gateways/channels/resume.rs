//! The earlier messages that a `subscribe` wants, and the names of which it wants them.

use std::collections::BTreeSet;

use super::follow_up::NAME_BYTES;
use super::request::Last;
use weirgate_core::{NotRecovered, TopicName};

/// Which earlier messages of its names a request wants (`since` and `last`).
#[derive(Debug, Default)]
pub(super) enum Earlier {
    /// None: the client only joins the names.
    #[default]
    None,
    /// The missed messages.
    Missed {
        /// The position after which they come, as the client sent it.
        since: String,
        /// If not all missed messages of a name are there, the client gets so many of the newest instead.
        newest: Option<usize>,
    },
    /// So many of the newest messages of each name.
    Newest(usize),
    /// All kept messages. The client gets them after the answer, and joins the names after them.
    All(AllSince),
}

/// The position after which a client gets all kept messages. Without a valid one, the messages come from the oldest on.
#[derive(Debug)]
pub(super) enum AllSince {
    /// The request has no position.
    Absent,
    /// The position, as the client sent it.
    At(String),
    /// The position of the request was found not to be valid, for this reason: it counts for all names.
    Invalid(NotRecovered),
}

impl Earlier {
    /// `since` is the position of the request, as the client sent it.
    pub(super) fn new(since: Option<String>, last: Option<Last>) -> Self {
        match (since, last) {
            (None, None) => Self::None,
            (None, Some(Last::Newest(newest))) => Self::Newest(newest),
            (Some(since), None) => Self::Missed {
                since,
                newest: None,
            },
            (Some(since), Some(Last::Newest(newest))) => Self::Missed {
                since,
                newest: Some(newest),
            },
            (None, Some(Last::All)) => Self::All(AllSince::Absent),
            (Some(since), Some(Last::All)) => Self::All(AllSince::At(since)),
        }
    }

    /// Whether the request has a position. Then the answer says of each name whether it is recovered.
    pub(super) fn has_since(&self) -> bool {
        match self {
            Self::Missed { .. } | Self::All(AllSince::At(_) | AllSince::Invalid(_)) => true,
            Self::None | Self::Newest(_) | Self::All(AllSince::Absent) => false,
        }
    }

    /// Whether the client wants all kept messages.
    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All(_))
    }

    /// How many of the newest messages of a name the client gets; `None`: it wants none of them.
    pub(super) fn newest(&self) -> Option<usize> {
        match self {
            Self::Newest(newest) => Some(*newest),
            Self::Missed { newest, .. } => *newest,
            Self::None | Self::All(_) => None,
        }
    }

    /// Lets the client get no newest messages.
    pub(super) fn forget_newest(&mut self) {
        match self {
            Self::Newest(_) => *self = Self::None,
            Self::Missed { newest, .. } => *newest = None,
            Self::None | Self::All(_) => {}
        }
    }

    /// Whether the answer says of which granted names the client gets no earlier messages, because none are kept.
    pub(super) fn reports_off(&self) -> bool {
        matches!(self, Self::Missed { .. } | Self::All(_))
    }
}

/// A request that wants earlier messages, and its names.
#[derive(Debug, Default)]
pub(super) struct Resume {
    pub(super) earlier: Earlier,
    /// Names of the kept feed, joined with the answer.
    pub(super) names: BTreeSet<TopicName>,
    /// The names among `names` that the client has joined before, and of which it asks for the newest messages.
    pub(super) held: BTreeSet<TopicName>,
    /// All of `names` are in `held`. Decided when the answer is queued, because the client may give names up while it
    /// waits.
    pub(super) has_held_alone: bool,
    /// Granted names that this request does not resume.
    pub(super) off: BTreeSet<TopicName>,
}

impl Resume {
    /// `None` for a request that wants no earlier messages, because the client joins at once.
    pub(super) fn new(earlier: Earlier) -> Option<Self> {
        match earlier {
            Earlier::None => None,
            earlier => Some(Self::of_stream(earlier)),
        }
    }

    /// For any request of an event stream, because the client joins the names of every request with the common answer.
    pub(super) fn of_stream(earlier: Earlier) -> Self {
        Self {
            earlier,
            ..Self::default()
        }
    }

    /// Decides [`Self::has_held_alone`]: the answer is queued.
    pub(super) fn note_queued(&mut self) {
        let held = self.held.len();
        self.has_held_alone = held > 0 && held == self.names.len();
    }

    /// The memory of the names.
    pub(super) fn bytes(&self) -> usize {
        NAME_BYTES * (self.names.len() + self.held.len() + self.off.len())
    }

    /// Whether the client asks for the newest messages, whatever it has missed.
    pub(super) fn asks_newest_alone(&self) -> bool {
        matches!(self.earlier, Earlier::Newest(_))
    }

    /// Whether the client asks for the newest messages of this name, which it holds, and not only since this request.
    pub(super) fn asks_again(&self, name: &TopicName) -> bool {
        let is_new = self.names.contains(name) && !self.held.contains(name);
        !is_new && self.asks_newest_alone()
    }
}
