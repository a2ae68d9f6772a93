//! Lists that grow a chunk at a time.
//!
//! A vector that is full moves all its entries into memory of twice the size, in one step, and the memory is new: the
//! kernel makes each of its pages when it is first written to. With 65,536 topics that takes some milliseconds, in
//! which the loop serves nobody. These lists never move an entry of a full chunk, so one step makes a chunk of
//! [`CHUNK_BYTES`] at most. With few entries there is one chunk, an ordinary list. A chunk without entries gives its
//! memory back.

use std::collections::VecDeque;
use std::iter;
use std::ops::{Index, IndexMut};

use slab::Slab;

/// The size of a chunk: a few pages, and less than what the allocator asks the kernel for each time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The entries of a chunk, a power of two.
const fn entries_of_chunk(chunk_bytes: usize, entry_bytes: usize) -> usize {
    const LEAST: usize = 64;
    let entries = chunk_bytes / if entry_bytes == 0 { 1 } else { entry_bytes };
    match entries {
        0..=LEAST => LEAST,
        _ => 1 << entries.ilog2(),
    }
}

/// A slab: entries by the numbers that they get.
#[derive(Clone, Debug)]
pub struct ChunkedSlab<T> {
    chunks: Vec<Slab<T>>,
    /// Chunks with fewer entries than fit. The last of them gets the next entry.
    with_room: Vec<u32>,
    /// The chunk that has lost its last entry last: it keeps its memory, so that a table whose length goes up and down by
    /// one allocates nothing.
    emptied: Option<u32>,
    len: usize,
}

impl<T> Default for ChunkedSlab<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            with_room: Vec::new(),
            emptied: None,
            len: 0,
        }
    }
}

impl<T> ChunkedSlab<T> {
    /// Entries of a chunk. In a slab an entry is larger than `T`, because a vacant one has the number of the next.
    const ENTRIES: usize = entries_of_chunk(CHUNK_BYTES, size_of::<T>() + size_of::<usize>());

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every number of an entry is below this one.
    pub fn numbers(&self) -> usize {
        match &self.chunks[..] {
            // The only chunk grows as any vector, so it may be smaller than a full one.
            [only] => only.capacity().min(Self::ENTRIES),
            chunks => chunks.len() * Self::ENTRIES,
        }
    }

    /// The entry of a number.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        let (chunk, at) = Self::place(number);
        self.chunks.get(chunk)?.get(at)
    }

    /// The entry of a number, for changes.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (chunk, at) = Self::place(number);
        self.chunks.get_mut(chunk)?.get_mut(at)
    }

    /// Adds an entry. Returns its number, which may have been that of an entry that was removed.
    pub fn insert(&mut self, value: T) -> u32 {
        let chunk = match self.with_room.last() {
            Some(&chunk) => chunk as usize,
            None => self.add_chunk(),
        };
        let entries = &mut self.chunks[chunk];
        // The first chunk grows as any vector.
        if chunk > 0 && entries.capacity() == 0 {
            *entries = Slab::with_capacity(Self::ENTRIES);
        }
        let at = entries.insert(value);
        if entries.len() == Self::ENTRIES {
            self.with_room.pop();
        }
        self.len += 1;
        (chunk * Self::ENTRIES + at) as u32
    }

    /// Removes an entry.
    ///
    /// # Panics
    /// If no entry has the number.
    pub fn remove(&mut self, number: u32) -> T {
        let (chunk, at) = Self::place(number);
        let entries = &mut self.chunks[chunk];
        let value = entries.remove(at);
        self.len -= 1;
        if entries.len() + 1 == Self::ENTRIES {
            self.with_room.push(chunk as u32);
        }
        if entries.is_empty() {
            self.note_emptied(chunk as u32);
        }
        value
    }

    /// The entries with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(chunk, entries)| {
            let entries = entries.iter();
            entries.map(move |(at, value)| ((chunk * Self::ENTRIES + at) as u32, value))
        })
    }

    #[inline]
    fn place(number: u32) -> (usize, usize) {
        let number = number as usize;
        (number / Self::ENTRIES, number % Self::ENTRIES)
    }

    #[cold]
    fn add_chunk(&mut self) -> usize {
        let chunk = self.chunks.len();
        self.chunks.push(Slab::new());
        self.with_room.push(chunk as u32);
        chunk
    }

    /// Notes that a chunk has lost its last entry, and gives back the memory of the one that did so before.
    #[cold]
    fn note_emptied(&mut self, chunk: u32) {
        let before = self.emptied.replace(chunk).filter(|of| *of != chunk);
        let Some(before) = before.filter(|of| self.chunks[*of as usize].is_empty()) else {
            return;
        };
        self.chunks[before as usize] = Slab::new();
        let is_gone = |entries: &Slab<T>| entries.capacity() == 0;
        if self.chunks.last().is_some_and(is_gone) {
            while self.chunks.len() > 1 && self.chunks.last().is_some_and(is_gone) {
                self.chunks.pop();
            }
            let chunks = self.chunks.len() as u32;
            self.with_room.retain(|of| *of < chunks);
        }
    }
}

impl<T> Index<u32> for ChunkedSlab<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        let (chunk, at) = Self::place(number);
        &self.chunks[chunk][at]
    }
}

impl<T> IndexMut<u32> for ChunkedSlab<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        let (chunk, at) = Self::place(number);
        &mut self.chunks[chunk][at]
    }
}

/// A queue, first in, first out. Where very many such queues grow with the same message, chunks of fewer bytes than usual
/// keep that step short.
#[derive(Clone, Debug)]
pub struct ChunkedQueue<T, const BYTES: usize = CHUNK_BYTES> {
    /// Grows as an ordinary queue up to a chunk. Has entries if the queue has any.
    first: VecDeque<T>,
    /// The further chunks. All but the last are full.
    behind: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T, const BYTES: usize> Default for ChunkedQueue<T, BYTES> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<T, const BYTES: usize> ChunkedQueue<T, BYTES> {
    const ENTRIES: usize = entries_of_chunk(BYTES, size_of::<T>());

    /// Makes a queue with room for so many entries, at most a chunk.
    pub fn with_capacity(entries: usize) -> Self {
        Self {
            first: VecDeque::with_capacity(entries.min(Self::ENTRIES)),
            behind: VecDeque::new(),
            len: 0,
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory of the queue, without what its entries hold.
    pub fn room_bytes(&self) -> usize {
        let entries = self.first.capacity() + self.behind.len() * Self::ENTRIES;
        entries * size_of::<T>() + self.behind.capacity() * size_of::<VecDeque<T>>()
    }

    /// Makes room for another entry. Returns whether that took memory.
    #[inline]
    pub fn reserve_one(&mut self) -> bool {
        let last = self.behind.back().unwrap_or(&self.first);
        let takes_memory = last.len() == last.capacity().min(Self::ENTRIES);
        if takes_memory {
            self.grow();
        }
        takes_memory
    }

    /// Makes room for an entry. The first block grows by doubling; further blocks have their full size at once, so that
    /// no entry is moved.
    #[cold]
    fn grow(&mut self) {
        let entries = self.first.len();
        if self.behind.is_empty() && entries < Self::ENTRIES {
            let doubled = (2 * entries).clamp(4, Self::ENTRIES);
            self.first.reserve_exact(doubled - entries);
        } else {
            self.behind
                .push_back(VecDeque::with_capacity(Self::ENTRIES));
        }
    }

    /// Adds an entry behind the others.
    #[inline]
    pub fn push_back(&mut self, value: T) {
        self.reserve_one();
        self.len += 1;
        self.behind
            .back_mut()
            .unwrap_or(&mut self.first)
            .push_back(value);
    }

    /// Takes the first entry out.
    pub fn pop_front(&mut self) -> Option<T> {
        let value = self.first.pop_front()?;
        self.len -= 1;
        if self.first.is_empty()
            && let Some(next) = self.behind.pop_front()
        {
            self.first = next;
        }
        Some(value)
    }

    /// Takes the last entry out.
    pub fn pop_back(&mut self) -> Option<T> {
        let last = self.behind.back_mut().unwrap_or(&mut self.first);
        let value = last.pop_back()?;
        let is_empty = last.is_empty();
        self.len -= 1;
        if is_empty {
            self.behind.pop_back();
        }
        Some(value)
    }

    /// Keeps the entries that stay, in their order.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        if self.behind.is_empty() {
            self.first.retain(stays);
            self.len = self.first.len();
            return;
        }
        let chunks = std::mem::take(self);
        for value in chunks
            .first
            .into_iter()
            .chain(chunks.behind.into_iter().flatten())
        {
            if stays(&value) {
                self.push_back(value);
            }
        }
    }

    /// The first entry.
    pub fn front(&self) -> Option<&T> {
        self.first.front()
    }

    /// The last entry.
    pub fn back(&self) -> Option<&T> {
        self.behind.back().unwrap_or(&self.first).back()
    }

    /// The last entry, for changes.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.behind.back_mut().unwrap_or(&mut self.first).back_mut()
    }

    /// The entry with `index` entries before it.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        match self.place(index) {
            (0, at) => self.first.get(at),
            (chunk, at) => self.behind.get(chunk - 1)?.get(at),
        }
    }

    /// The entry with `index` entries before it, for changes.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match self.place(index) {
            (0, at) => self.first.get_mut(at),
            (chunk, at) => self.behind.get_mut(chunk - 1)?.get_mut(at),
        }
    }

    /// All chunks, the first one first.
    fn chunks(&self) -> impl DoubleEndedIterator<Item = &VecDeque<T>> {
        iter::once(&self.first).chain(&self.behind)
    }

    /// The number of entries at the front for which `is_before` is true; it is false for all others.
    pub fn partition_point(&self, mut is_before: impl FnMut(&T) -> bool) -> usize {
        let is_first_before = |chunk: &VecDeque<T>| chunk.front().is_some_and(&mut is_before);
        // The entry is in the chunk before this one, or is the first of this one.
        match self.behind.partition_point(is_first_before) {
            0 => self.first.partition_point(is_before),
            chunk => self.start_of(chunk) + self.behind[chunk - 1].partition_point(is_before),
        }
    }

    /// The entries, the first one first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.chunks().flatten()
    }

    /// The entries from `first` on, in pieces, each with the index of its first entry.
    pub fn slices_from(&self, first: usize) -> impl Iterator<Item = (usize, &[T])> {
        let (chunk, at) = self.place(first);
        let mut start = self.start_of(chunk);
        let mut skipped = at;
        let slices = self.chunks().skip(chunk).flat_map(|of| {
            let (older, newer) = of.as_slices();
            [older, newer]
        });
        slices.filter_map(move |slice| {
            let skip = skipped.min(slice.len());
            let from = start + skip;
            (start, skipped) = (start + slice.len(), skipped - skip);
            (skip < slice.len()).then_some((from, &slice[skip..]))
        })
    }

    /// The entries before `end` in pieces, the last piece first, each with the index of its first entry.
    pub fn slices_before(&self, end: usize) -> impl Iterator<Item = (usize, &[T])> {
        let (chunk, _) = self.place(end.min(self.len));
        let behind = self.behind.iter().enumerate().take(chunk).rev();
        let behind = behind.map(|(index, of)| (index + 1, of));
        let chunks = behind.chain([(0, &self.first)]);
        let slices = chunks.flat_map(|(chunk, of)| {
            let (start, (older, newer)) = (self.start_of(chunk), of.as_slices());
            [(start + older.len(), newer), (start, older)]
        });
        slices.filter_map(move |(start, slice)| {
            let count = slice.len().min(end.saturating_sub(start));
            (count > 0).then_some((start, &slice[..count]))
        })
    }

    /// The entries from `first` on, for changes.
    pub fn iter_mut_from(&mut self, first: usize) -> impl Iterator<Item = &mut T> {
        let (chunk, at) = self.place(first);
        let mut chunks = iter::once(&mut self.first)
            .chain(&mut self.behind)
            .skip(chunk);
        let rest = chunks.next().into_iter().flat_map(move |of| {
            let at = at.min(of.len());
            of.range_mut(at..)
        });
        rest.chain(chunks.flatten())
    }

    /// The chunk of an entry, and its index there.
    #[inline]
    fn place(&self, index: usize) -> (usize, usize) {
        match index.checked_sub(self.first.len()) {
            None => (0, index),
            Some(behind) => (1 + behind / Self::ENTRIES, behind % Self::ENTRIES),
        }
    }

    /// The number of entries before a chunk.
    fn start_of(&self, chunk: usize) -> usize {
        match chunk.checked_sub(1) {
            None => 0,
            Some(full) => self.first.len() + full * Self::ENTRIES,
        }
    }
}

impl<T: Ord, const BYTES: usize> ChunkedQueue<T, BYTES> {
    /// The index of an entry in a queue in order. `Err`: no entry is equal; the index at which it would keep the order.
    pub fn binary_search(&self, of: &T) -> Result<usize, usize> {
        let at = self.partition_point(|entry| entry < of);
        match self.get(at) {
            Some(entry) if entry == of => Ok(at),
            _ => Err(at),
        }
    }
}

impl<T, const BYTES: usize> Index<usize> for ChunkedQueue<T, BYTES> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        match self.place(index) {
            (0, at) => &self.first[at],
            (chunk, at) => &self.behind[chunk - 1][at],
        }
    }
}

impl<T, const BYTES: usize> IndexMut<usize> for ChunkedQueue<T, BYTES> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        match self.place(index) {
            (0, at) => &mut self.first[at],
            (chunk, at) => &mut self.behind[chunk - 1][at],
        }
    }
}

impl<T, const BYTES: usize> Extend<T> for ChunkedQueue<T, BYTES> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.push_back(value));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::SplitMix64;

    /// Large enough for chunks of few entries.
    type Large = [u64; 128];

    fn large(n: u64) -> Large {
        [n; 128]
    }

    /// Compares with a tree, while it grows and while it becomes empty.
    #[test]
    fn a_slab_behaves_like_a_tree() {
        let (mut slab, mut model) = (ChunkedSlab::default(), BTreeMap::new());
        let mut random = SplitMix64::new(1);
        for step in 0..8_000 {
            let grows = step % 4_000 < 2_000;
            if random.next_u64() % 8 < if grows { 6 } else { 2 } || model.is_empty() {
                let number = slab.insert(large(step));
                assert_eq!(model.insert(number, step), None);
            } else {
                let from = random.next_u64() as u32 % 2_000;
                let next = model
                    .range(from..)
                    .next()
                    .or_else(|| model.first_key_value());
                let number = *next.expect("one of them").0;
                assert_eq!(slab.get(number).map(|of| of[7]), model.remove(&number));
                slab.remove(number);
                assert!(slab.get(number).is_none() && slab.get_mut(number).is_none());
            }
            assert_eq!(
                (slab.len(), slab.is_empty()),
                (model.len(), model.is_empty())
            );
            if let Some((highest, _)) = model.last_key_value() {
                assert!((*highest as usize) < slab.numbers());
            }
            let number = random.next_u64() as u32 % 3_000;
            let value = slab.get_mut(number).map(|of| of[0]);
            assert_eq!(value, model.get(&number).copied());
        }
        let all: BTreeMap<u32, u64> = slab.iter().map(|(number, of)| (number, of[1])).collect();
        assert_eq!(all, model);
        assert!(model.iter().all(|(number, step)| slab[*number][2] == *step));
    }

    /// The room of all chunks.
    fn room<T>(slab: &ChunkedSlab<T>) -> usize {
        slab.chunks.iter().map(Slab::capacity).sum()
    }

    #[test]
    fn a_slab_gives_its_chunks_back_in_any_order() {
        let entries = 10 * ChunkedSlab::<Large>::ENTRIES as u32;
        for newest_first in [false, true] {
            let mut slab = ChunkedSlab::default();
            (0..entries).for_each(|n| assert_eq!(slab.insert(large(n.into())), n));
            let full = room(&slab);
            for n in 0..entries {
                let number = if newest_first { entries - 1 - n } else { n };
                assert_eq!(slab.remove(number)[0], u64::from(number));
            }
            assert!(
                room(&slab) <= full / 10 && slab.is_empty(),
                "{}",
                room(&slab)
            );
            for n in 0..entries {
                slab.insert(large(n.into()));
            }
            assert_eq!(
                (slab.len(), slab.iter().count()),
                (entries as usize, entries as usize)
            );
        }
    }

    #[test]
    fn a_slab_that_goes_up_and_down_by_one_keeps_its_memory() {
        let mut slab = ChunkedSlab::default();
        let entries = ChunkedSlab::<Large>::ENTRIES as u64;
        for n in 0..entries {
            slab.insert(large(n));
        }
        let last = slab.insert(large(0));
        let full = room(&slab);
        for _ in 0..10 {
            slab.remove(last);
            assert_eq!(room(&slab), full);
            assert_eq!(slab.insert(large(1)), last);
        }
    }

    /// Compares with a ring, for queues of less than a chunk and of many.
    #[test]
    fn a_queue_behaves_like_a_ring() {
        for most in [3, 60, 64, 65, 1_000] {
            let (mut queue, mut model) = (ChunkedQueue::<Large>::default(), VecDeque::new());
            let mut random = SplitMix64::new(most);
            for step in 0..6_000_u64 {
                let pushes = model.len() < most as usize && step % 3_000 < 2_000;
                match random.next_u64() % 8 {
                    0..5 if pushes => {
                        queue.push_back(large(step));
                        model.push_back(step);
                    }
                    7 => assert_eq!(queue.pop_back().map(|of| of[0]), model.pop_back()),
                    _ => assert_eq!(queue.pop_front().map(|of| of[0]), model.pop_front()),
                }
                assert_eq!(
                    (queue.len(), queue.is_empty()),
                    (model.len(), model.is_empty())
                );
                let ends = [queue.front(), queue.back()].map(|of| of.map(|of| of[1]));
                assert_eq!(
                    ends,
                    [model.front(), model.back()].map(Option::<&u64>::copied)
                );
                assert_eq!(queue.back_mut().map(|of| of[1]), model.back().copied());
                let index = random.next_u64() as usize % (model.len() + 2);
                assert_eq!(queue.get(index).map(|of| of[2]), model.get(index).copied());
                assert_eq!(
                    queue.get_mut(index).map(|of| of[2]),
                    model.get(index).copied()
                );
                let value = step.saturating_sub(random.next_u64() % (2 * most));
                let is_before = |of: &Large| of[0] < value;
                assert_eq!(
                    queue.partition_point(is_before),
                    model.partition_point(|of| *of < value)
                );
                assert_eq!(
                    queue.binary_search(&large(value)),
                    model.binary_search(&value)
                );
                let mut at = index.min(model.len());
                for (from, slice) in queue.slices_from(index) {
                    assert_eq!(from, at);
                    assert!(
                        slice
                            .iter()
                            .map(|of| of[3])
                            .eq(model.range(at..at + slice.len()).copied())
                    );
                    at += slice.len();
                }
                assert_eq!(at, model.len());
                let mut end = index.min(model.len());
                for (from, slice) in queue.slices_before(index) {
                    assert_eq!(from + slice.len(), end);
                    let of = slice.iter().map(|of| of[3]);
                    assert!(of.eq(model.range(from..end).copied()));
                    end = from;
                }
                assert_eq!(end, 0);
                let rest = model.range(index.min(model.len())..).copied();
                assert!(queue.iter_mut_from(index).map(|of| of[4]).eq(rest));
            }
            assert!(
                queue
                    .iter()
                    .rev()
                    .map(|of| of[5])
                    .eq(model.iter().rev().copied())
            );
            queue.extend((0..200).map(large));
            assert!(queue.iter().skip(model.len()).map(|of| of[6]).eq(0..200));
        }
    }

    #[test]
    fn a_queue_that_stays_short_keeps_one_chunk() {
        let mut queue = ChunkedQueue::<Large>::default();
        for n in 0..10_000 {
            queue.push_back(large(n));
            if n >= 10 {
                queue.pop_front();
            }
        }
        let room = queue.room_bytes() / size_of::<Large>();
        assert!(room <= 16 && queue.behind.is_empty(), "{room}");
    }

    #[test]
    fn an_empty_list_takes_nothing() {
        let (mut queue, slab) = (
            ChunkedQueue::<u32>::default(),
            ChunkedSlab::<u32>::default(),
        );
        assert_eq!(
            (queue.pop_front(), queue.pop_back(), queue.front()),
            (None, None, None)
        );
        assert_eq!((queue.room_bytes(), slab.chunks.capacity()), (0, 0));
        assert_eq!((slab.numbers(), slab.get(0)), (0, None));
    }
}
