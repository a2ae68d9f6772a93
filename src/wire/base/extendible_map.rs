//! A hash table that grows a little at a time.
//!
//! A full hash table moves all its entries into one of twice the size, in one step. With 57,344 names that takes some
//! milliseconds, in which the loop serves nobody, and the tables of several owners are full at the same number of names.
//! This table is made of parts, and a part that is full is split in two (extendible hashing; Fagin, Nievergelt, Pippenger
//! and Strong, 1979), so no step moves more than [`PART_MAX`] entries. With few entries there is one part, an ordinary
//! hash table.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, Hash};

use foldhash::quality::RandomState;

/// The most entries of a part: a hash table of 4,096 places is full with these.
const PART_MAX: usize = 3_584;

/// The most bits of a hash that choose a part: enough for a thousand million entries.
const BITS_MAX: u32 = 20;

/// The first of these bits. A part finds its entries by other bits of the same hash: the lowest and the highest.
const FIRST_BIT: u32 = 32;

/// A hash map in parts, each of which grows alone.
#[derive(Clone, Debug)]
pub struct ExtendibleMap<K, V> {
    hasher: RandomState,
    /// The part for the bits of a hash. The length is a power of two; empty while there is at most one part.
    directory: Vec<u32>,
    parts: Vec<Part<K, V>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Part<K, V> {
    entries: HashMap<K, V, RandomState>,
    /// How many bits of the hash are the same for all keys of the part.
    bits: u32,
}

impl<K, V> Default for ExtendibleMap<K, V> {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            directory: Vec::new(),
            parts: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> ExtendibleMap<K, V> {
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
        self.parts.iter().flat_map(|part| part.entries.keys())
    }
}

impl<K: Eq + Hash, V> ExtendibleMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts.get(self.part_of(key))?.entries.get(key)
    }

    /// The value of a key, for changes.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.part_of(key);
        self.parts.get_mut(at)?.entries.get_mut(key)
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
        let at = self.part_with_room(&key);
        let before = self.parts[at].entries.insert(key, value);
        self.len += usize::from(before.is_none());
        before
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
        let at = self.part_with_room(&key);
        match self.parts[at].entries.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(make())
            }
        }
    }

    /// Removes a key. Returns its value.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.part_of(key);
        let entries = &mut self.parts.get_mut(at)?.entries;
        let value = entries.remove(key)?;
        // Of many entries the memory is given back: the only part of a small table keeps its own.
        if entries.is_empty() && !self.directory.is_empty() {
            *entries = HashMap::with_hasher(self.hasher.clone());
        }
        self.len -= 1;
        Some(value)
    }

    fn bits_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        (self.hasher.hash_one(key) >> FIRST_BIT) as usize
    }

    fn part_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        match self.directory.len() {
            0 => 0,
            len => self.directory[self.bits_of(key) & (len - 1)] as usize,
        }
    }

    /// The part for a key. Splits parts until this one has room for another entry.
    fn part_with_room(&mut self, key: &K) -> usize {
        if self.parts.is_empty() {
            self.parts.push(Part {
                entries: HashMap::with_hasher(self.hasher.clone()),
                bits: 0,
            });
        }
        loop {
            let at = self.part_of(key);
            let part = &self.parts[at];
            if part.entries.len() < PART_MAX || part.bits == BITS_MAX {
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
        let room = || HashMap::with_capacity_and_hasher(PART_MAX, self.hasher.clone());
        let (mut kept, mut moved) = (room(), room());
        for (key, value) in std::mem::take(&mut part.entries) {
            let half = match self.hasher.hash_one(&key) >> FIRST_BIT & bit {
                0 => &mut kept,
                _ => &mut moved,
            };
            half.insert(key, value);
        }
        part.entries = kept;
        if self.directory.is_empty() {
            self.directory.push(0);
        }
        if self.directory.len() as u64 == bit {
            self.directory.extend_from_within(..);
        }
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
        let (mut map, mut model) = (ExtendibleMap::default(), BTreeMap::new());
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
        let mut map = ExtendibleMap::default();
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
