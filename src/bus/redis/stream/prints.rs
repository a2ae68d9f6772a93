//! Prints of entries, by which an entry is known again: a stream that is made anew, or that is on another server, may give
//! the same id to another entry. Positions of clients have the hash of a print, so the hash of an entry is the same on all
//! instances of all versions. Pure.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::entry::StreamEntry;
use super::state::LastEntry;
use crate::redis::resp::{CutString, Value};
use weirgate_core::{EntryHash, StoredId};

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
    /// Of a value over the limit, only what is read counts.
    pub(super) hash: EntryHash,
}

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

impl EntryPrint {
    /// The print of an entry.
    pub(super) fn of(entry: &StreamEntry) -> Self {
        Self::of_last(entry.id, &LastEntry::Whole(&entry.fields))
    }

    /// As [`Self::of`], of the entry with this id in an answer about the last entry.
    pub(super) fn of_last(id: StoredId, entry: &LastEntry<'_>) -> Self {
        let mut hash = 0_u64;
        // Only two names count, and one is longer than the other.
        let mut add = |name_bytes: usize, value_bytes: usize, value: &[u8]| {
            let lengths = (name_bytes as u64) << 48 | value_bytes as u64;
            hash = xxh3_64_with_seed(value, hash ^ lengths);
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
        Self {
            id,
            hash: EntryHash::of(hash),
        }
    }

    /// The hash for positions of the entry; `None` if a value is over the limit, which other instances may read further.
    pub(super) fn hash_of(self, entry: &StreamEntry) -> Option<EntryHash> {
        let is_cut = |value: &Value| matches!(value, Value::Cut(_));
        (!entry.fields.iter().any(is_cut)).then_some(self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(channel: &str, data: &[u8]) -> EntryPrint {
        let bulk = |bytes: &[u8]| Value::Bulk(bytes.to_vec());
        EntryPrint::of(&StreamEntry {
            id: StoredId::default(),
            fields: vec![
                bulk(b"channel"),
                bulk(channel.as_bytes()),
                bulk(b"data"),
                bulk(data),
            ],
        })
    }

    /// Clients keep positions over updates of weirgate.
    #[test]
    fn the_hash_of_an_entry_is_the_same_in_all_versions() {
        let data: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for (length, hash) in [
            (0, 0xfb40_b178),
            (1, 0x159b_2d4e),
            (15, 0x2c3c_98f8),
            (100, 0x7d3e_0aff),
            (200, 0x6004_b96f),
            (4_096, 0x784b_aa5d),
            (10_000, 0xc440_c87f),
        ] {
            let made = print("market:tick:A", &data[..length]).hash;
            assert_eq!(made, EntryHash::of(hash), "{length} bytes");
        }
    }

    #[test]
    fn name_and_payload_count() {
        let of = print("a", b"1");
        assert_eq!(of, print("a", b"1"));
        for other in [
            print("b", b"1"),
            print("a", b"2"),
            print("a1", b""),
            print("", b"a1"),
        ] {
            assert_ne!(of, other);
        }
    }

    /// Instances with other limits read other parts of it.
    #[test]
    fn an_entry_over_the_limit_has_no_hash_for_positions() {
        let mut entry = StreamEntry {
            id: StoredId::default(),
            fields: vec![Value::Bulk(b"data".to_vec()), Value::Bulk(b"12".to_vec())],
        };
        let print = EntryPrint::of(&entry);
        assert_eq!(print.hash_of(&entry), Some(print.hash));
        entry.fields[1] = Value::Cut(CutString::new(b"12".to_vec(), b"3"));
        assert_eq!(EntryPrint::of(&entry).hash_of(&entry), None);
    }
}
