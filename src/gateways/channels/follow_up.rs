//! What an answer waits for, and what follows it.

use std::collections::BTreeSet;

use super::leaving::DropLater;
use super::past::{PastEnd, WantedPast};
use super::resume::Resume;
use weirgate_core::TopicName;

/// Memory of a name that an answer waits for, or that follows it.
pub(super) const NAME_BYTES: usize = 64;

/// The names that an answer waits for, and the messages that follow it.
#[derive(Debug, Default)]
pub(super) struct FollowUp {
    /// Names that the answer waits for.
    pub(super) unconfirmed: BTreeSet<TopicName>,
    /// The number of the answer, if last values of its names go to the client after it.
    pub(super) retained: Option<u64>,
    /// The client gets a message when the last values of a name have ended.
    pub(super) wants_end: bool,
    /// `None`: none of the names wants what the stream has and the history may lack.
    pub(super) past: Option<Box<WantedPast>>,
    /// `None`: the request has no `since` and no `last`.
    pub(super) resume: Option<Resume>,
}

impl FollowUp {
    /// Moves all names to `to_drop`, which drops them over several turns: very many at once would take too long.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        let resume = self.resume.into_iter();
        let sets = resume.flat_map(|resume| [resume.names, resume.held, resume.off]);
        let sets = sets.chain([self.unconfirmed]);
        sets.for_each(|set| to_drop.add_set(set));
        if let Some(past) = self.past {
            to_drop.add_past(*past);
        }
    }

    /// The memory of the names.
    pub(super) fn bytes(&self) -> usize {
        let past = self.past.as_ref();
        let resume = self.resume.as_ref();
        NAME_BYTES * self.unconfirmed.len()
            + past.map_or(0, |past| past.bytes())
            + resume.map_or(0, Resume::bytes)
    }

    /// How many names the client joins with this answer.
    pub(super) fn joined_later(&self) -> usize {
        let resume = self.resume.as_ref();
        resume.map_or(0, |resume| resume.names.len())
    }

    pub(super) fn waits(&self) -> bool {
        !self.unconfirmed.is_empty() || self.waits_for_past()
    }

    pub(super) fn waits_for_past(&self) -> bool {
        let past = self.past.as_ref();
        past.is_some_and(|past| !past.waits.is_empty())
    }

    pub(super) fn waits_for_past_of(&self, name: &TopicName) -> bool {
        let past = self.past.as_ref();
        past.is_some_and(|past| past.waits.contains_key(name))
    }

    /// Ends the wait for the newest messages of a name from the stream, unless the answer waits for the name anew.
    pub(super) fn settle_past(&mut self, name: &TopicName, end: PastEnd) {
        if let Some(past) = &mut self.past
            && past.waits.get(name) == Some(&end.wait)
            && let Some((name, _)) = past.waits.remove_entry(name)
        {
            past.note_found(name, end.cut, end.forgotten);
        }
    }
}
