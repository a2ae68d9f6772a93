//! Prints of entries, by which an entry is known again: a stream that is made anew may give the same id to another entry. Pure.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;

use super::entry::StreamEntry;
use super::state::LastEntry;
use crate::redis::resp::{CutString, Value};
use weirgate_core::StoredId;

/// Of a value that is longer than this, only a sample counts, so that [`STATE`](super::state::STATE) need not send all of it. The
/// script has these numbers, too.
const SAMPLED_FROM_BYTES: usize = 4_096;
/// The parts of the sample, evenly spread from the beginning to the end, and the bytes of each.
const SAMPLE_PARTS: usize = 16;
const PART_BYTES: usize = 256;

/// An entry of a stream, by its id and a hash of its fields: a stream that is made anew may give the same id to another
/// entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntryPrint {
    pub(super) id: StoredId,
    pub(super) hash: u64,
}

/// Makes the prints of entries. A print is compared only with others of the same maker.
#[derive(Debug, Default)]
pub(super) struct EntryPrints(RandomState);

fn bytes_of(value: &Value) -> &[u8] {
    match value {
        Value::Bulk(bytes) | Value::Cut(CutString { start: bytes, .. }) => bytes,
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

impl EntryPrints {
    /// The print of an entry.
    pub(super) fn print(&self, entry: &StreamEntry) -> EntryPrint {
        self.last_print(entry.id, &LastEntry::Whole(&entry.fields))
    }

    /// As [`Self::print`], of the entry with this id in an answer about the last entry.
    pub(super) fn last_print(&self, id: StoredId, entry: &LastEntry<'_>) -> EntryPrint {
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
