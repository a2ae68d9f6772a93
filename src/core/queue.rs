//! A FIFO with two entries inline. Most clients have at most one frame waiting, so an idle or healthy
//! connection needs no heap for the queue, and a drained queue gives its heap back.
//!
//! The queue knows the total weight of its entries: the ring on the heap keeps the sum of its own, and the two inline
//! entries are weighed when the weight is asked for. The entries of a send queue are frames. Only replayed frames have
//! a weight, their bytes: these count for no limit of the queue.

use std::sync::Arc;

use super::frame_bytes::QueueRoom;
use super::{ConflationKey, Frame};
use weirgate_wire::base::ChunkedQueue;

/// Room of a new ring: with the two inline entries a burst of 16, in one allocation instead of three.
const RING_ENTRIES: usize = 14;

/// A ring grows by so many bytes at most: the queues of all clients that read nothing grow with the same message, so a
/// turn may take this step for each of them.
const RING_BYTES: usize = 4 * 1024;

/// A value with a weight.
pub(super) trait Weigh {
    /// The weight, constant while the value is in the queue.
    fn weight(&self) -> usize;

    /// Returns the counter for the memory of a queue with this value, once the queue is longer than a burst.
    fn room(&self) -> Option<QueueRoom>;
}

/// First in, first out; the first two entries are inline, the others in a ring on the heap.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Filled from the front: `head[1]` only while `head[0]` is, `rest` only while both are.
    head: [Option<T>; 2],
    /// Boxed, so it takes 8 bytes in every idle session instead of 40.
    rest: Option<Box<Ring<T>>>,
}

#[derive(Debug)]
struct Ring<T> {
    entries: ChunkedQueue<T, RING_BYTES>,
    weight: usize,
    /// Entries with a weight.
    heavies: usize,
    /// The number of entries at the front that are known to have a weight.
    front_heavies: usize,
    /// The counted memory, once the ring has grown.
    room: Option<QueueRoom>,
}

impl<T: Weigh> Ring<T> {
    /// Counts the ring's memory, which has become larger through `value`.
    #[cold]
    fn count_growth(&mut self, value: &T) {
        self.room = self.room.take().or_else(|| value.room());
        self.count_room();
    }

    fn count_room(&mut self) {
        if let Some(room) = &mut self.room {
            room.set(self.entries.room_bytes());
        }
    }

    /// Removes the first entry; `None` if the queue is empty.
    fn pop_front(&mut self) -> Option<T> {
        let first = self.entries.pop_front();
        let weight = first.as_ref().map_or(0, T::weight);
        if weight > 0 {
            self.weight -= weight;
            self.heavies -= 1;
            self.front_heavies = self.front_heavies.saturating_sub(1);
        }
        self.count_room();
        first
    }

    /// Removes the entries that do not stay; returns the number removed.
    fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) -> usize {
        let before = self.entries.len();
        let (weight, heavies) = (&mut self.weight, &mut self.heavies);
        self.entries.retain(|entry| {
            let stays = stays(entry);
            if !stays && entry.weight() > 0 {
                *weight -= entry.weight();
                *heavies -= 1;
            }
            stays
        });
        let gone = before - self.entries.len();
        if gone > 0 {
            self.front_heavies = 0;
        }
        self.count_room();
        gone
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            head: [None, None],
            rest: None,
        }
    }
}

impl<T: Weigh> Queue<T> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match &self.rest {
            Some(rest) => self.head.len() + rest.entries.len(),
            None => usize::from(self.head[0].is_some()) + usize::from(self.head[1].is_some()),
        }
    }

    pub(super) fn weight(&self) -> usize {
        let inline: usize = self.head.iter().flatten().map(T::weight).sum();
        inline + self.rest.as_ref().map_or(0, |r| r.weight)
    }

    /// Entries with a weight.
    pub(super) fn heavies(&self) -> usize {
        let inline = self.head.iter().flatten().filter(|e| e.weight() > 0);
        inline.count() + self.rest.as_ref().map_or(0, |r| r.heavies)
    }

    /// The counted memory of the queue.
    pub(super) fn room_bytes(&self) -> usize {
        let room = self.rest.as_ref().and_then(|r| r.room.as_ref());
        room.map_or(0, QueueRoom::bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head[0].is_none()
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&T> {
        self.head[0].as_ref()
    }

    /// The entry with `index` entries before.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match self.head.get(index) {
            Some(inline) => inline.as_ref(),
            None => self.rest.as_ref()?.entries.get(index - self.head.len()),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let rest = self.rest.iter().flat_map(|r| r.entries.iter());
        self.head.iter().flatten().chain(rest)
    }

    /// The number of entries before the first entry without a weight. All calls together look at each entry only once.
    pub(super) fn heavy_front(&mut self) -> usize {
        let light = |entry: &Option<T>| entry.as_ref().is_none_or(|entry| entry.weight() == 0);
        if let Some(at) = self.head.iter().position(light) {
            return at;
        }
        let Some(rest) = &mut self.rest else {
            return self.head.len();
        };
        let is_heavy = |entry: &T| entry.weight() > 0;
        while rest.entries.get(rest.front_heavies).is_some_and(is_heavy) {
            rest.front_heavies += 1;
        }
        self.head.len() + rest.front_heavies
    }

    /// Adds the last entry.
    #[inline]
    pub(super) fn push_back(&mut self, value: T) {
        if self.head[0].is_none() {
            self.head[0] = Some(value);
        } else if self.head[1].is_none() {
            self.head[1] = Some(value);
        } else {
            self.push_behind(value);
        }
    }

    /// Adds an entry behind those in `head`, and allocates the ring for the first of them.
    fn push_behind(&mut self, value: T) {
        let rest = self.rest.get_or_insert_with(|| {
            Box::new(Ring {
                entries: ChunkedQueue::with_capacity(RING_ENTRIES),
                weight: 0,
                heavies: 0,
                front_heavies: 0,
                room: None,
            })
        });
        if rest.entries.reserve_one() {
            rest.count_growth(&value);
        }
        rest.weight += value.weight();
        rest.heavies += usize::from(value.weight() > 0);
        rest.entries.push_back(value);
    }

    /// Removes the first entry; `None` if the queue is empty.
    pub(super) fn pop_front(&mut self) -> Option<T> {
        let first = self.head[0].take()?;
        self.head[0] = self.head[1].take();
        if let Some(rest) = &mut self.rest {
            self.head[1] = rest.pop_front();
        }
        if self.head[1].is_none() {
            self.rest = None;
        }
        Some(first)
    }

    /// Removes the entries that `keep` refuses, except the first `fixed`; returns the number removed.
    pub(super) fn retain_after(&mut self, fixed: usize, mut keep: impl FnMut(&T) -> bool) -> usize {
        let mut index = 0;
        let mut stays = |entry: &T| {
            index += 1;
            index <= fixed || keep(entry)
        };
        let mut gone = 0;
        for place in &mut self.head {
            gone += usize::from(place.take_if(|entry| !stays(entry)).is_some());
        }
        if let Some(rest) = &mut self.rest {
            gone += rest.retain(stays);
        }
        if gone > 0 {
            if self.head[0].is_none() {
                self.head[0] = self.head[1].take();
            }
            for at in 0..self.head.len() {
                if self.head[at].is_none() {
                    self.head[at] = self.rest.as_mut().and_then(|rest| rest.pop_front());
                }
            }
            if self.head[1].is_none() {
                self.rest = None;
            }
        }
        gone
    }
}

/// A frame in a queue: 16 bytes for any size of the frame.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) frame: Arc<Frame>,
    /// The number in [`Prefix::Seq`](super::Prefix), 0 for frames without a number; and the bits [`REPLAYED`] and [`KEYED`].
    bits: u64,
}

/// The bit of a replayed frame. No client gets so many messages that a number needs the bit.
const REPLAYED: u64 = 1 << 63;

/// The bit of a frame with a conflation key: a walk over a long queue looks at no other frame itself.
const KEYED: u64 = 1 << 62;

impl Entry {
    pub(super) fn new(frame: Arc<Frame>, seq: u64) -> Self {
        let keyed = if frame.is_state() { KEYED } else { 0 };
        Self {
            frame,
            bits: seq | keyed,
        }
    }

    /// An entry that counts for no limit of the queue, and that no newer frame replaces.
    pub(super) fn replayed(frame: Arc<Frame>, seq: u64) -> Self {
        let mut entry = Self::new(frame, seq);
        entry.bits |= REPLAYED;
        entry
    }

    /// The number in [`Prefix::Seq`](super::Prefix); 0 for frames without a number.
    pub(super) fn seq(&self) -> u64 {
        self.bits & !(REPLAYED | KEYED)
    }

    /// The conflation key by which a newer frame may replace the frame: none of a replayed frame.
    #[inline]
    pub(super) fn key(&self) -> Option<ConflationKey> {
        match self.bits & (REPLAYED | KEYED) {
            KEYED => self.frame.key(),
            _ => None,
        }
    }

    /// Whether the frame is replayed: then it counts for no limit of the queue, and no newer frame replaces it.
    #[inline]
    pub(super) fn is_replayed(&self) -> bool {
        self.bits & REPLAYED != 0
    }
}

impl Weigh for Entry {
    /// Queue bytes of a replayed frame; 0 of any other.
    fn weight(&self) -> usize {
        match self.is_replayed() {
            true => self.frame.queue_bytes(),
            false => 0,
        }
    }

    fn room(&self) -> Option<QueueRoom> {
        Some(self.frame.queue_room())
    }
}

/// A queued message costs each client only an entry; the clients share the body.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Entry>() == 16);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;

    use super::{Queue, QueueRoom, Weigh};

    impl Weigh for u32 {
        fn weight(&self) -> usize {
            *self as usize % 3
        }

        fn room(&self) -> Option<QueueRoom> {
            None
        }
    }

    /// Compares with a plain ring, over a fixed mix of operations at every small size.
    #[test]
    fn behaves_like_a_ring() {
        let (mut queue, mut model) = (Queue::default(), VecDeque::new());
        let mut state = 7_u32;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 29 {
                0..=3 => {
                    queue.push_back(step);
                    model.push_back(step);
                }
                4..=6 => assert_eq!(queue.pop_front(), model.pop_front()),
                _ => {
                    let fixed = (state >> 20 & 3) as usize;
                    let before = model.len();
                    let mut index = 0;
                    model.retain(|v| {
                        index += 1;
                        index <= fixed || v % 3 != 0
                    });
                    let gone = queue.retain_after(fixed, |v| v % 3 != 0);
                    assert_eq!(gone, before - model.len());
                }
            }
            assert_eq!(queue.len(), model.len());
            let weight: usize = model.iter().map(u32::weight).sum();
            assert_eq!(queue.weight(), weight);
            let heavies = model.iter().filter(|value| value.weight() > 0);
            assert_eq!(queue.heavies(), heavies.count());
            assert_eq!(queue.is_empty(), model.is_empty());
            assert_eq!(queue.front(), model.front());
            assert!(queue.iter().eq(model.iter()));
            assert!((0..=model.len()).all(|at| queue.get(at) == model.get(at)));
            let heavy = model.iter().take_while(|value| value.weight() > 0);
            assert_eq!(queue.heavy_front(), heavy.count());
        }
    }

    /// The number of calls of `weight`, and the weight.
    #[derive(Debug)]
    struct Looked<'a>(&'a Cell<usize>, usize);

    impl Weigh for Looked<'_> {
        fn weight(&self) -> usize {
            self.0.set(self.0.get() + 1);
            self.1
        }

        fn room(&self) -> Option<QueueRoom> {
            None
        }
    }

    #[test]
    fn the_entries_with_a_weight_are_looked_through_once() {
        let looks = Cell::new(0);
        let mut queue = Queue::default();
        (0..10_000).for_each(|_| queue.push_back(Looked(&looks, 1)));
        looks.set(0);
        for n in 0..5_000 {
            assert_eq!(queue.heavy_front(), 10_000 - n);
            queue.push_back(Looked(&looks, 0));
            queue.pop_front();
        }
        assert!(looks.get() < 50_000, "{} looks", looks.get());
    }

    #[test]
    fn gives_its_heap_back() {
        let mut queue = Queue::default();
        (0..100_u32).for_each(|n| queue.push_back(n));
        while queue.pop_front().is_some() {}
        assert!(queue.rest.is_none());
    }
}
