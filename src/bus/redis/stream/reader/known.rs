//! Which entries of a stream were read. A stream that is made anew, or that a server with another clock continues, has ids
//! that were there before, or lower ones; then only this tells a new entry from one that was read.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;

use super::StreamEntry;
use super::answers::LastEntry;
use crate::redis::resp::Value;
use weirgate_core::StoredId;

/// The most entries that are known, for 24 bytes each.
const KNOWN_MAX: usize = 16 * 1024;
/// Of a value that is longer than this, only a sample counts, so that [`STATE`](super::STATE) need not send all of it. The
/// script has these numbers, too.
const SAMPLED_FROM_BYTES: usize = 4_096;
/// The parts of the sample, evenly spread from the beginning to the end, and the bytes of each.
const SAMPLE_PARTS: usize = 16;
const PART_BYTES: usize = 256;

/// An entry of a stream, by its id and a hash of its fields: a stream that is made anew may give the same id to another
/// entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::redis::stream) struct EntryPrint {
    pub(in crate::redis::stream) id: StoredId,
    pub(in crate::redis::stream) hash: u64,
}

/// Makes the prints of entries. A print is compared only with others of the same maker.
#[derive(Debug, Default)]
pub(in crate::redis::stream) struct EntryPrints(RandomState);

fn bytes_of(value: &Value) -> &[u8] {
    match value {
        Value::Bulk(bytes) | Value::Cut(bytes) => bytes,
        _ => &[],
    }
}

fn number_of(value: &Value) -> usize {
    match value {
        Value::Integer(number) => usize::try_from(*number).unwrap_or_default(),
        _ => 0,
    }
}

/// What counts of a value.
pub(super) fn sampled(value: &[u8]) -> Cow<'_, [u8]> {
    if value.len() <= SAMPLED_FROM_BYTES {
        return Cow::Borrowed(value);
    }
    let parts = (0..SAMPLE_PARTS).map(|part| {
        let from = part * (value.len() - PART_BYTES) / (SAMPLE_PARTS - 1);
        &value[from..from + PART_BYTES]
    });
    Cow::Owned(parts.collect::<Vec<_>>().concat())
}

/// The last entries that were read.
#[derive(Debug, Default)]
pub(super) struct KnownEntries {
    /// In the order in which they were read first.
    entries: VecDeque<EntryPrint>,
    /// Of entries up to this id, nobody knows whether they were read.
    after: StoredId,
    /// Those of `entries` that may be read again, and are then passed over.
    passed_over: HashSet<EntryPrint, RandomState>,
    prints: EntryPrints,
}

impl EntryPrints {
    /// The print of an entry.
    pub(in crate::redis::stream) fn print(&self, entry: &StreamEntry) -> EntryPrint {
        self.last_print(entry.id, &LastEntry::Whole(&entry.fields))
    }

    /// As [`Self::print`], of the entry with this id in an answer about the last entry.
    fn last_print(&self, id: StoredId, entry: &LastEntry<'_>) -> EntryPrint {
        let mut hasher = self.0.build_hasher();
        // Only two names count, and one is longer than the other.
        let mut add = |name_bytes: usize, value_bytes: usize, value: &[u8]| {
            hasher.write_usize(name_bytes);
            hasher.write_usize(value_bytes);
            hasher.write(value);
        };
        match entry {
            LastEntry::Whole(fields) => {
                for field in fields.chunks_exact(2) {
                    let (name, value) = (bytes_of(&field[0]), bytes_of(&field[1]));
                    add(name.len(), value.len(), &sampled(value));
                }
            }
            LastEntry::Sample(fields) => {
                for field in fields.chunks_exact(3) {
                    add(
                        number_of(&field[0]),
                        number_of(&field[1]),
                        bytes_of(&field[2]),
                    );
                }
            }
        }
        EntryPrint {
            id,
            hash: hasher.finish(),
        }
    }
}

impl KnownEntries {
    /// The print of an entry.
    pub(super) fn print(&self, entry: &StreamEntry) -> EntryPrint {
        self.prints.print(entry)
    }

    /// As [`Self::print`], of the entry with this id in an answer about the last entry.
    pub(super) fn last_print(&self, id: StoredId, entry: &LastEntry<'_>) -> EntryPrint {
        self.prints.last_print(id, entry)
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
        self.entries.contains(&print)
    }

    /// Notes an entry that is read. Returns whether it is to be passed over.
    pub(super) fn note(&mut self, print: EntryPrint) -> bool {
        if !self.passed_over.is_empty() && self.passed_over.remove(&print) {
            return true;
        }
        if self.entries.len() == KNOWN_MAX
            && let Some(forgotten) = self.entries.pop_front()
        {
            self.passed_over.remove(&forgotten);
            self.after = self.after.max(forgotten.id);
        }
        self.entries.push_back(print);
        false
    }

    /// Handles that reading goes on after an id that may be lower than before. From now on, entries that were read are passed
    /// over, whenever they come: the server may get those that it lacks much later, from another one or from a dump.
    pub(super) fn pass_over_after(&mut self, after: StoredId) {
        let met_again = self.entries.iter().filter(|print| print.id > after);
        self.passed_over.extend(met_again);
    }
}
