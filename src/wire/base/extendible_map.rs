//! A hash table that grows a little at a time.
//!
//! A full hash table moves all its entries into one of twice the size, in one step. With 57,344 names that takes some
//! milliseconds, in which the loop serves nobody, and the tables of several owners are full at the same number of names.
//! This table is made of parts, and a part that is full is split in two (extendible hashing; Fagin, Nievergelt, Pippenger
//! and Strong, 1979), so no step moves more than [`PART_MAX`] entries. With few entries there is one part, an ordinary
//! hash table.

use std::borrow::Borrow;
use std::hash::{BuildHasher as _, Hash};
use std::vec;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::{self, Entry};

/// The most entries of a part of most tables: a hash table of 4,096 places is full with these.
const PART_MAX: usize = 3_584;

/// The most bits of a hash that choose a part: enough for a thousand million entries.
const BITS_MAX: u32 = 20;

/// The first of these bits. A part finds its entries by other bits of the same hash: the lowest and the highest.
const FIRST_BIT: u32 = 32;

/// A hash map in parts, each of which grows alone. A key is hashed once, for the part and for the place in the part. Where
/// very many such tables grow with the same message, parts of fewer entries than usual keep that step short.
#[derive(Clone, Debug)]
pub struct ExtendibleMap<K, V, const PART: usize = PART_MAX> {
    hasher: RandomState,
    /// The part for the bits of a hash. The length is a power of two; empty while there is at most one part.
    directory: Vec<u32>,
    parts: Vec<Part<K, V>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Part<K, V> {
    entries: HashTable<(K, V)>,
    /// How many bits of the hash are the same for all keys of the part.
    bits: u32,
}

impl<K, V, const PART: usize> Default for ExtendibleMap<K, V, PART> {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            directory: Vec::new(),
            parts: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V, const PART: usize> ExtendibleMap<K, V, PART> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries().map(|(key, _)| key)
    }

    /// The values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries().map(|(_, value)| value)
    }

    fn entries(&self) -> impl Iterator<Item = &(K, V)> {
        self.parts.iter().flat_map(|part| part.entries.iter())
    }

    /// The memory of the table, without what its entries hold. If there are several parts, each counts as a full one.
    pub fn room_bytes(&self) -> usize {
        /// What hashbrown has for each place beside the entry.
        const PLACE_BYTES: usize = 1;
        let places = |entries: usize| match entries {
            0 => 0,
            // No table has fewer places.
            1..=3 => 4,
            // Seven eighths of the places are used.
            entries => (entries * 8 / 7).next_power_of_two(),
        };
        let places = match &self.parts[..] {
            [only] => places(only.entries.capacity()),
            parts => parts.len() * places(PART),
        };
        places * (size_of::<(K, V)>() + PLACE_BYTES)
            + self.directory.capacity() * size_of::<u32>()
            + self.parts.capacity() * size_of::<Part<K, V>>()
    }
}

/// The entries of a table that is given up. Each part is freed with its last entry.
#[derive(Debug)]
pub struct IntoIter<K, V> {
    parts: vec::IntoIter<Part<K, V>>,
    part: hash_table::IntoIter<(K, V)>,
    len: usize,
}

impl<K, V, const PART: usize> IntoIterator for ExtendibleMap<K, V, PART> {
    type Item = (K, V);
    type IntoIter = IntoIter<K, V>;

    /// The entries, in no particular order.
    fn into_iter(self) -> IntoIter<K, V> {
        IntoIter {
            parts: self.parts.into_iter(),
            part: hash_table::IntoIter::default(),
            len: self.len,
        }
    }
}

impl<K, V> Iterator for IntoIter<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        loop {
            if let Some(entry) = self.part.next() {
                self.len -= 1;
                return Some(entry);
            }
            self.part = self.parts.next()?.entries.into_iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl<K, V> ExactSizeIterator for IntoIter<K, V> {}

impl<K: Eq + Hash, V, const PART: usize> ExtendibleMap<K, V, PART> {
    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let entries = &self.parts.get(self.part_of(hash))?.entries;
        let found = entries.find(hash, |(other, _)| other.borrow() == key)?;
        Some(&found.1)
    }

    /// The value of a key, for changes.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let at = self.part_of(hash);
        let entries = &mut self.parts.get_mut(at)?.entries;
        let found = entries.find_mut(hash, |(other, _)| other.borrow() == key)?;
        Some(&mut found.1)
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Sets the value of a key. Returns the value before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.entry(&key) {
            (Entry::Occupied(entry), _) => Some(std::mem::replace(&mut entry.into_mut().1, value)),
            (Entry::Vacant(entry), len) => {
                *len += 1;
                entry.insert((key, value));
                None
            }
        }
    }

    /// The value of a key, for changes. A key without a value gets the default.
    pub fn get_or_insert_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.get_or_insert_with(key, V::default)
    }

    /// The value of a key, for changes. A key without a value gets what `make` returns.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let found = match self.entry(&key) {
            (Entry::Occupied(entry), _) => entry,
            (Entry::Vacant(entry), len) => {
                *len += 1;
                entry.insert((key, make()))
            }
        };
        &mut found.into_mut().1
    }

    /// Removes a key. Returns its value.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let at = self.part_of(hash);
        let entries = &mut self.parts.get_mut(at)?.entries;
        let found = entries.find_entry(hash, |(other, _)| other.borrow() == key);
        let ((_, value), _) = found.ok()?.remove();
        // One of several parts gives its memory back. The only part of a small table keeps it.
        if entries.is_empty() && !self.directory.is_empty() {
            *entries = HashTable::new();
        }
        self.len -= 1;
        Some(value)
    }

    /// The place of a key in a part with room for it, and the number of entries.
    #[inline]
    fn entry(&mut self, key: &K) -> (Entry<'_, (K, V)>, &mut usize) {
        let hash = self.hasher.hash_one(key);
        let at = self.part_with_room(hash);
        let is_same = |(other, _): &(K, V)| other == key;
        let hash_of = |(key, _): &(K, V)| self.hasher.hash_one(key);
        let entry = self.parts[at].entries.entry(hash, is_same, hash_of);
        (entry, &mut self.len)
    }

    #[inline]
    fn part_of(&self, hash: u64) -> usize {
        match self.directory.len() {
            0 => 0,
            len => self.directory[(hash >> FIRST_BIT) as usize & (len - 1)] as usize,
        }
    }

    /// The part for a hash. Splits parts until this one has room for another entry.
    fn part_with_room(&mut self, hash: u64) -> usize {
        if self.parts.is_empty() {
            self.parts.push(Part {
                entries: HashTable::new(),
                bits: 0,
            });
        }
        loop {
            let at = self.part_of(hash);
            let part = &self.parts[at];
            if part.entries.len() < PART || part.bits == BITS_MAX {
                return at;
            }
            self.split(at);
        }
    }

    /// Splits a part by the next bit of the hashes. If the directory does not tell the halves apart, it doubles.
    fn split(&mut self, at: usize) {
        let part = &mut self.parts[at];
        let bit = 1 << part.bits;
        part.bits += 1;
        let part_bits = part.bits;
        let hash_of = |(key, _): &(K, V)| self.hasher.hash_one(key);
        let room = || HashTable::with_capacity(PART);
        let (mut kept, mut moved) = (room(), room());
        for entry in std::mem::take(&mut part.entries) {
            let hash = hash_of(&entry);
            let half = match hash >> FIRST_BIT & bit {
                0 => &mut kept,
                _ => &mut moved,
            };
            half.insert_unique(hash, entry, hash_of);
        }
        part.entries = kept;
        if self.directory.is_empty() {
            self.directory.push(0);
        }
        if self.directory.len() as u64 == bit {
            self.directory.extend_from_within(..);
        }
        // Of the hashes that led to the part, those with the bit lead to the new one.
        let new = self.parts.len() as u32;
        for (bits, part) in self.directory.iter_mut().enumerate() {
            if *part == at as u32 && bits as u64 & bit != 0 {
                *part = new;
            }
        }
        self.parts.push(Part {
            entries: moved,
            bits: part_bits,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::SplitMix64;

    /// Compares with a tree, while it grows and while it becomes empty.
    #[test]
    fn behaves_like_a_tree() {
        let (mut map, mut model) = (ExtendibleMap::<u64, u64>::default(), BTreeMap::new());
        let mut random = SplitMix64::new(1);
        for step in 0..200_000_u64 {
            let key = random.next_u64() % 60_000;
            match (random.next_u64() % 4, step < 100_000) {
                (0, _) | (1 | 2, false) => assert_eq!(map.remove(&key), model.remove(&key)),
                (1, true) => *map.get_or_insert_default(key) += step,
                (_, true) => assert_eq!(map.insert(key, step), model.insert(key, step)),
                (_, false) => assert_eq!(map.get_mut(&key), model.get_mut(&key)),
            }
            if let Some(value) = map.get(&key).filter(|_| step < 100_000) {
                model.insert(key, *value);
            }
            assert_eq!(map.contains_key(&key), model.contains_key(&key));
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        }
        let mut entries = map.clone().into_iter();
        let taken: BTreeMap<u64, u64> = entries.by_ref().take(model.len() / 2).collect();
        assert_eq!(entries.len(), model.len() - taken.len());
        assert!(taken.into_iter().chain(entries).collect::<BTreeMap<_, _>>() == model);
        let mut keys: Vec<u64> = map.keys().copied().collect();
        keys.sort_unstable();
        assert!(keys.iter().eq(model.keys()) && map.parts.len() > 8);
        for key in keys {
            assert_eq!(map.remove(&key), model.remove(&key));
        }
        let room: usize = map.parts.iter().map(|part| part.entries.capacity()).sum();
        assert_eq!((map.len(), room), (0, 0));
    }

    /// One step is as long with a million entries as with four thousand.
    #[test]
    fn no_part_is_large() {
        let mut map = ExtendibleMap::<u32, ()>::default();
        for key in 0..1_000_000_u32 {
            map.insert(key, ());
        }
        let largest = map.parts.iter().map(|part| part.entries.len()).max();
        assert!(
            largest <= Some(PART_MAX) && map.parts.len() < 700,
            "{}",
            map.parts.len()
        );
        let keys = (0..1_000_000).filter(|key| map.contains_key(key));
        assert_eq!(keys.count(), 1_000_000);
    }

    #[test]
    fn an_empty_table_and_a_small_one_take_little() {
        let mut map = ExtendibleMap::<u32, u32>::default();
        assert_eq!(map.remove(&1), None);
        assert_eq!((map.get(&1), map.parts.capacity()), (None, 0));
        map.insert(1, 2);
        assert!(map.directory.is_empty() && map.parts[0].entries.capacity() < 8);
    }
}
