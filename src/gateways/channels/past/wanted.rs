//! The newest messages that an answer wants of names, and what is known of those that the history lacks.

use std::collections::BTreeMap;

use super::super::follow_up::NAME_BYTES;
use super::{PAST_CLIENT_BYTES, PAST_NAME_BYTES, PastWait};
use weirgate_core::{RetainedCut, TopicName};

/// The names of an answer whose newest messages the history lacks, or may lack by the time of the answer.
#[derive(Debug, Default)]
pub(in super::super) struct WantedPast {
    /// The names that the answer waits for.
    pub(in super::super) waits: BTreeMap<TopicName, PastWait>,
    /// What is known of names that the answer does not wait for, or no longer.
    pub(in super::super) found: BTreeMap<TopicName, PastFound>,
    /// How many newest messages the history had forgotten ([`weirgate_core::Core::newest_forgotten_count`]) when the first
    /// question about one of the names was asked, perhaps for an earlier client: what it has forgotten since may be
    /// missing. `None`: no name was asked for.
    forgotten: Option<u64>,
}

/// What is known of the newest messages of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum PastFound {
    /// Some are missing, for this reason.
    Cut(RetainedCut),
    /// The history has all of them, but for those that it has forgotten since its count of forgotten newest messages
    /// was this one, which is above [`WantedPast::forgotten`].
    Since(u64),
}

impl WantedPast {
    /// The memory of the names of an answer that waits, and of the client.
    pub(in super::super) fn bytes(&self) -> usize {
        let of_client = PAST_CLIENT_BYTES * usize::from(!self.waits.is_empty());
        of_client + PAST_NAME_BYTES * self.waits.len() + NAME_BYTES * self.found.len()
    }

    /// Notes that a name is asked for when the history has forgotten so many newest messages.
    pub(in super::super) fn note_forgotten(&mut self, forgotten: u64) {
        let first = self.forgotten.unwrap_or(forgotten);
        self.forgotten = Some(first.min(forgotten));
    }

    pub(in super::super) fn note_cut(&mut self, name: TopicName, cut: RetainedCut) {
        self.found.insert(name, PastFound::Cut(cut));
    }

    /// Notes why messages of a name are missing, or that it was asked for when the history had forgotten so many newest
    /// messages: only what it has forgotten since may be missing.
    pub(in super::super) fn note_found(
        &mut self,
        name: TopicName,
        cut: Option<RetainedCut>,
        forgotten: u64,
    ) {
        match cut {
            Some(cut) => self.note_cut(name, cut),
            None if self.forgotten.is_some_and(|first| first < forgotten) => {
                self.found.insert(name, PastFound::Since(forgotten));
            }
            None => {}
        }
    }

    /// Notes why the newest messages of a name that the history has are not whole, unless more is known to be missing.
    pub(in super::super) fn note_found_cut(&mut self, name: TopicName, cut: RetainedCut) {
        let cut = PastFound::Cut(cut);
        let found = self.found.entry(name).or_insert(cut);
        if let PastFound::Since(_) = found {
            *found = cut;
        }
    }

    /// Why messages of a name are missing; `None` if none are. `has_forgotten` returns whether the history has
    /// forgotten a newest message of the name since its count of forgotten newest messages was the given one.
    pub(in super::super) fn cut(
        &self,
        name: &TopicName,
        has_forgotten: impl FnOnce(u64) -> bool,
    ) -> Option<RetainedCut> {
        let forgotten = match self.found.get(name) {
            Some(PastFound::Cut(cut)) => return Some(*cut),
            Some(PastFound::Since(forgotten)) => Some(*forgotten),
            None => self.forgotten,
        };
        let is_gone = forgotten.is_some_and(has_forgotten);
        is_gone.then_some(RetainedCut::Limit)
    }
}
