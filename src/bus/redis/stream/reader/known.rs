//! Which entries of a stream were read. A stream that is made anew, or that a server with another clock continues, has
//! lower ids than before; then only this tells a new entry from one that was read.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::quality::RandomState;

use super::StreamEntry;
use crate::redis::resp::Value;
use weirgate_core::StoredId;

/// The most entries that are known, for 24 bytes each.
const KNOWN_MAX: usize = 16 * 1024;

/// An entry of a stream, by its id and a hash of its fields: a stream that is made anew may give the same id to another
/// entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntryPrint {
    pub(super) id: StoredId,
    hash: u64,
}

/// The last entries that were read.
#[derive(Debug, Default)]
pub(super) struct KnownEntries {
    entries: VecDeque<EntryPrint>,
    /// Of entries up to this id, nobody knows whether they were read.
    after: StoredId,
    /// The entries to pass over while a stream with lower ids is read.
    passed_over: HashSet<EntryPrint, RandomState>,
    hashes: RandomState,
}

impl KnownEntries {
    /// The print of an entry, which is compared only with others of the same reader.
    pub(super) fn print(&self, entry: &StreamEntry) -> EntryPrint {
        let mut hasher = self.hashes.build_hasher();
        for field in &entry.fields {
            if let Value::Bulk(bytes) | Value::Cut(bytes) = field {
                bytes.hash(&mut hasher);
            }
        }
        EntryPrint {
            id: entry.id,
            hash: hasher.finish(),
        }
    }

    /// Entries up to this id are not read.
    pub(super) fn begin_after(&mut self, after: StoredId) {
        self.after = after;
    }

    /// The id after which every entry that was read is known.
    pub(super) fn after(&self) -> StoredId {
        self.after
    }

    /// Whether the entry was read.
    pub(super) fn has(&self, print: EntryPrint) -> bool {
        self.passed_over.contains(&print) || self.entries.contains(&print)
    }

    /// Notes an entry that is read. Returns whether it is to be passed over.
    pub(super) fn note(&mut self, print: EntryPrint) -> bool {
        if self.entries.len() == KNOWN_MAX
            && let Some(forgotten) = self.entries.pop_front()
        {
            self.after = self.after.max(forgotten.id);
        }
        self.entries.push_back(print);
        self.passed_over.remove(&print)
    }

    /// Begins to read entries after `after` that may have been read before: these are passed over.
    pub(super) fn pass_over_after(&mut self, after: StoredId) {
        self.passed_over.extend(self.entries.drain(..));
        self.after = after;
    }

    /// Ends what [`Self::pass_over_after`] has begun.
    pub(super) fn pass_over_no_more(&mut self) {
        self.passed_over = HashSet::default();
    }
}
