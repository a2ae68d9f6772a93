//! Which entries of a stream were read. A stream that is made anew, or that a server with another clock continues, has ids
//! that were there before, or lower ones; then only this tells a new entry from one that was read.

use std::collections::{HashSet, VecDeque};

use foldhash::quality::RandomState;

use super::super::prints::EntryPrint;
use weirgate_core::StoredId;

/// The most entries that are known, for 24 bytes each.
const KNOWN_MAX: usize = 16 * 1024;

/// What an entry that comes is to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It was not read before.
    New,
    /// It was read before, or a loss that was reported has it.
    PassedOver,
    /// Nobody knows whether it was read before, and no loss was reported since the last new one.
    PassedOverUnsaid,
}

/// The last entries that were read.
#[derive(Debug)]
pub(super) struct KnownEntries {
    /// In the order in which they were read first.
    entries: VecDeque<EntryPrint>,
    /// The most of them.
    max: usize,
    /// What is to be known of the entries up to this id was said: they are before the history, or were read and forgotten, or a
    /// loss that was reported has those that were not read. Another server may have them, and they are no news.
    after: StoredId,
    /// After a reported loss, the newest entry that was there: up to the first one from it on, the entries that are read first
    /// raise `after`.
    lost_until: Option<StoredId>,
    /// A loss was reported since the last entry that was read first.
    is_loss_told: bool,
    /// The newest entry of another server when the reader came to it. What this server adds later is new whatever its id, as its
    /// clock may be behind.
    found_until: StoredId,
    /// Those of `entries` that may be read again, and are then passed over.
    passed_over: HashSet<EntryPrint, RandomState>,
}

impl Default for KnownEntries {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            max: KNOWN_MAX,
            after: StoredId::default(),
            lost_until: None,
            is_loss_told: false,
            found_until: StoredId::default(),
            passed_over: HashSet::default(),
        }
    }
}

impl KnownEntries {
    /// Entries up to this id are not read.
    pub(super) fn begin_after(&mut self, after: StoredId) {
        self.after = self.after.max(after);
    }

    /// The server of before has another stream: its entries after this id are new whatever their ids.
    pub(super) fn begin_new_life(&mut self, after: StoredId) {
        (self.after, self.found_until) = (after, StoredId::default());
    }

    /// The id after which every entry that was read is known, and no reported loss has others.
    pub(super) fn after(&self) -> StoredId {
        self.after
    }

    /// Handles that the reader has come to another server, with this newest entry.
    pub(super) fn found_other(&mut self, newest: Option<StoredId>) {
        self.found_until = newest.unwrap_or_default();
    }

    /// Handles that a loss was reported while this entry was the newest one.
    pub(super) fn lost_until(&mut self, newest: StoredId) {
        (self.lost_until, self.is_loss_told) = (Some(newest), true);
    }

    /// Whether the entry was read.
    pub(super) fn has(&self, print: EntryPrint) -> bool {
        self.entries.contains(&print)
    }

    /// Notes an entry that is read.
    pub(super) fn note(&mut self, print: EntryPrint) -> Noted {
        if !self.passed_over.is_empty() && self.passed_over.remove(&print) {
            return Noted::PassedOver;
        }
        if print.id <= self.found_until.min(self.after) {
            return match std::mem::replace(&mut self.is_loss_told, true) {
                true => Noted::PassedOver,
                false => Noted::PassedOverUnsaid,
            };
        }
        self.is_loss_told = false;
        // A lower id is of a server whose clock is behind, which goes on from here.
        if self.lost_until.is_some() || print.id <= self.after {
            self.after = print.id;
            self.lost_until.take_if(|until| *until <= print.id);
        }
        if self.entries.len() >= self.max
            && let Some(forgotten) = self.entries.pop_front()
        {
            self.passed_over.remove(&forgotten);
            self.after = self.after.max(forgotten.id);
        }
        self.entries.push_back(print);
        Noted::New
    }

    /// Remembers at most so many entries.
    #[cfg(test)]
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Handles that reading goes on after an id that may be lower than before. From now on, entries that were read are passed
    /// over, whenever they come: the server may get those that it lacks much later, from another one or from a dump.
    pub(super) fn pass_over_after(&mut self, after: StoredId) {
        let met_again = self.entries.iter().filter(|print| print.id > after);
        self.passed_over.extend(met_again);
    }
}
