//! The earlier messages that a `subscribe` wants, and the names of which it wants them.

use std::collections::BTreeSet;

use super::follow_up::NAME_BYTES;
use super::replay::Last;
use weirgate_core::TopicName;

/// A request with `since` or `last`.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The position, as the client sent it.
    pub(super) since: Option<String>,
    /// The messages of each name that the client gets, if it does not get the missed messages.
    pub(super) last: Option<Last>,
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
    /// `None` for a request with neither `since` nor `last`, because the client joins at once.
    pub(super) fn new(since: Option<String>, last: Option<Last>) -> Option<Self> {
        (since.is_some() || last.is_some()).then(|| Self::of_stream(since, last))
    }

    /// On an event stream the client joins the names of every request with the common answer.
    pub(super) fn of_stream(since: Option<String>, last: Option<Last>) -> Self {
        Self {
            since,
            last,
            ..Self::default()
        }
    }

    /// The memory of the names.
    pub(super) fn bytes(&self) -> usize {
        NAME_BYTES * (self.names.len() + self.held.len() + self.off.len())
    }

    /// Whether the client asks for the newest messages, whatever it has missed.
    pub(super) fn asks_newest_alone(&self) -> bool {
        self.since.is_none() && matches!(self.last, Some(Last::Newest(_)))
    }

    /// Whether the client asks for the newest messages of this name, which it holds, and not only since this request.
    pub(super) fn asks_again(&self, name: &TopicName) -> bool {
        let is_new = self.names.contains(name) && !self.held.contains(name);
        !is_new && self.asks_newest_alone()
    }
}
