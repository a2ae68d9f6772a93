//! Tables by client: the key of a connection, a table by client for gateways, a set of slots, and the room that tables give
//! back after many clients have gone.
//!
//! Sessions are in memory by slot. A walk over a `SlotSet` reads memory from front to back, so that the processor can
//! prefetch it, in whatever order the clients arrived.
//!
//! A table grows with the highest number of clients so far. When less than a quarter of the room is
//! used, the table shrinks to twice the used room, so that a table that shrinks and grows again does
//! not pay for each client.

use std::fmt;

use slab::Slab;

/// A connection, from accept to the end of the socket. The slot is free again only after the shell has
/// called `handle_released`; the generation tells the occupants of a slot apart, so that an event of an
/// ended socket never reaches the next occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Index in the table of sessions.
    pub slot: u32,
    /// The number of the occupant of the slot.
    pub generation: u32,
}

impl SessionKey {
    /// Returns the key as a 64-bit number, for a poll token.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// Reverses [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// As operators see and name a connection.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.slot, self.generation)
    }
}

/// A value for each client. A key of a former client of the slot finds nothing.
#[derive(Debug)]
pub struct ByClient<C> {
    slots: Vec<Option<(u32, C)>>,
    len: usize,
}

impl<C> Default for ByClient<C> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
        }
    }
}

impl<C> ByClient<C> {
    /// Returns the client's value; `None` for a client that has ended.
    pub fn get(&self, key: SessionKey) -> Option<&C> {
        let (generation, client) = self.slots.get(key.slot as usize)?.as_ref()?;
        (*generation == key.generation).then_some(client)
    }

    /// Returns the client's value for changes; `None` for a client that has ended.
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut C> {
        let (generation, client) = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        (*generation == key.generation).then_some(client)
    }

    /// Iterates over all clients, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SessionKey, &mut C)> {
        self.slots_mut(0, usize::MAX)
    }

    /// Iterates over the clients in `count` slots from `first` on.
    pub(crate) fn slots_mut(
        &mut self,
        first: usize,
        count: usize,
    ) -> impl Iterator<Item = (SessionKey, &mut C)> {
        let slots = self.slots.iter_mut().enumerate().skip(first).take(count);
        slots.filter_map(|(slot, entry)| {
            let (generation, client) = entry.as_mut()?;
            let key = SessionKey {
                slot: slot as u32,
                generation: *generation,
            };
            Some((key, client))
        })
    }

    /// Slots, including those without a client.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The number of clients.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no client.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a client. The slot is free: the client before was removed when the session ended.
    pub(super) fn insert(&mut self, key: SessionKey, client: C) -> &mut C {
        let slot = key.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let entry = &mut self.slots[slot];
        debug_assert!(entry.is_none(), "two clients in one slot");
        self.len += usize::from(entry.is_none());
        let (_, client) = entry.insert((key.generation, client));
        client
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<C> {
        self.get(key)?;
        let (_, client) = self.slots[key.slot as usize].take()?;
        self.len -= 1;
        trim(&mut self.slots, Option::is_none);
        Some(client)
    }
}

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// A bit for each slot, and in the summary a bit for each word other than 0.
#[derive(Debug, Default)]
pub(super) struct SlotSet {
    words: Vec<u64>,
    summary: Vec<u64>,
    len: usize,
}

impl SlotSet {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        let (at, bit) = place(slot as usize);
        self.words.get(at).is_some_and(|word| word & bit != 0)
    }

    #[inline]
    pub(super) fn insert(&mut self, slot: u32) {
        let (at, bit) = place(slot as usize);
        if at >= self.words.len() {
            self.grow(at);
        }
        let word = &mut self.words[at];
        self.len += usize::from(*word & bit == 0);
        if *word == 0 {
            let (above, bit) = place(at);
            self.summary[above] |= bit;
        }
        *word |= bit;
    }

    #[inline]
    pub(super) fn remove(&mut self, slot: u32) {
        let (at, bit) = place(slot as usize);
        if self.words.get(at).is_some_and(|word| word & bit != 0) {
            self.unset(at, bit);
        }
    }

    /// Removes and returns the first slot that is not before `slot`.
    #[inline]
    pub(super) fn take_from(&mut self, slot: u32) -> Option<u32> {
        let (at, bit) = place(slot as usize);
        let at_or_behind = self.words.get(at)? & !(bit - 1);
        let (at, word) = match at_or_behind {
            0 => {
                let at = first_from(&self.summary, at + 1)?;
                (at, self.words[at])
            }
            word => (at, word),
        };
        self.unset(at, word & word.wrapping_neg());
        Some((at * BITS) as u32 + word.trailing_zeros())
    }

    /// The slot of the set that has `index` slots of the set before it; 0 if there is none.
    pub(super) fn slot_at(&self, mut index: usize) -> u32 {
        let mut at = 0;
        while let Some(next) = first_from(&self.summary, at) {
            let mut word = self.words[next];
            let ones = word.count_ones() as usize;
            if index < ones {
                (0..index).for_each(|_| word &= word - 1);
                return (next * BITS) as u32 + word.trailing_zeros();
            }
            index -= ones;
            at = next + 1;
        }
        0
    }

    /// Removes all slots.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.summary.fill(0);
        self.len = 0;
    }

    #[inline]
    fn unset(&mut self, at: usize, bit: u64) {
        self.len -= 1;
        let word = &mut self.words[at];
        *word &= !bit;
        if *word == 0 {
            let (above, bit) = place(at);
            self.summary[above] &= !bit;
        }
    }

    #[cold]
    fn grow(&mut self, at: usize) {
        self.words.resize(at + 1, 0);
        self.summary.resize(at / BITS + 1, 0);
    }
}

/// The word of a bit, and the bit in the word.
#[inline]
fn place(index: usize) -> (usize, u64) {
    (index / BITS, 1 << (index % BITS))
}

/// The index of the first set bit from `index` on.
#[inline]
fn first_from(words: &[u64], index: usize) -> Option<usize> {
    let (at, bit) = place(index);
    let first = words.get(at)? & !(bit - 1);
    if first != 0 {
        return Some(at * BITS + first.trailing_zeros() as usize);
    }
    let behind = words[at + 1..].iter().position(|word| *word != 0)?;
    let at = at + 1 + behind;
    Some(at * BITS + words[at].trailing_zeros() as usize)
}

/// A table always keeps its memory for this many entries.
const ROOM_KEPT: usize = 1024;

/// Whether there is room for many more entries than are used.
pub(crate) fn is_too_large(used: usize, room: usize) -> bool {
    room > ROOM_KEPT && used < room / 4
}

/// Gives back memory of a table if the table uses little of it.
pub(crate) fn shrink<T>(table: &mut Vec<T>) {
    if is_too_large(table.len(), table.capacity()) {
        table.shrink_to((2 * table.len()).max(ROOM_KEPT / 2));
    }
}

/// Removes empty slots from the end of a table, and gives the room back.
pub fn trim<T>(slots: &mut Vec<T>, is_empty: impl Fn(&T) -> bool) {
    while slots.last().is_some_and(&is_empty) {
        slots.pop();
    }
    shrink(slots);
}

/// Decides when a slab gives memory back. Shrinking walks the whole slab, so not every removal tries. The remaining
/// entries may be at the end of the slab, so another attempt follows each time that half of the entries have gone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlabRoom {
    /// The slab gives memory back when it has this many entries.
    due_at: usize,
}

impl SlabRoom {
    /// An entry was added.
    pub(super) fn added<T>(&mut self, slab: &Slab<T>) {
        self.due_at = self.due_at.max(slab.len() / 4);
    }

    /// An entry was removed: gives back the room after the last entry, if few are left of many.
    pub(super) fn removed<T>(&mut self, slab: &mut Slab<T>) {
        if slab.capacity() > ROOM_KEPT && slab.len() <= self.due_at {
            self.due_at = slab.len() / 2;
            slab.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{SlotSet, *};
    use weirgate_wire::base::SplitMix64;

    #[test]
    fn a_key_of_a_former_client_finds_nothing() {
        let key = |generation| SessionKey {
            slot: 3,
            generation,
        };
        let mut clients = ByClient::default();
        clients.insert(key(1), 'a');
        assert_eq!(clients.remove(key(0)), None);
        assert_eq!(clients.remove(key(1)), Some('a'));
        assert_eq!(clients.remove(key(1)), None);
        clients.insert(key(2), 'b');
        assert!(clients.get(key(1)).is_none() && clients.get_mut(key(1)).is_none());
        assert_eq!(clients.get(key(2)), Some(&'b'));
        let all: Vec<_> = clients.iter_mut().map(|(key, c)| (key, *c)).collect();
        assert_eq!((all, clients.len()), (vec![(key(2), 'b')], 1));
    }

    /// Compares with a tree, for slots that are close together and far apart.
    #[test]
    fn behaves_like_a_tree() {
        for span in [3, 64, 65, 700, 10_000, 300_000] {
            let (mut set, mut model) = (SlotSet::default(), BTreeSet::new());
            let mut random = SplitMix64::new(span);
            for _ in 0..4_000 {
                let slot = (random.next_u64() % span) as u32;
                match random.next_u64() % 8 {
                    0..=3 => {
                        set.insert(slot);
                        model.insert(slot);
                    }
                    4 => {
                        set.remove(slot);
                        model.remove(&slot);
                    }
                    5 => {
                        let index = random.next_u64() as usize % (model.len() + 1);
                        let at = model.iter().nth(index).copied();
                        assert_eq!(set.slot_at(index), at.unwrap_or(0));
                    }
                    _ => {
                        let next = model.range(slot..).next().copied();
                        assert_eq!(set.take_from(slot), next);
                        next.inspect(|next| assert!(model.remove(next)));
                    }
                }
                assert_eq!(set.len(), model.len());
                assert_eq!(set.is_empty(), model.is_empty());
                assert_eq!(set.contains(slot), model.contains(&slot));
            }
            let all: Vec<u32> = std::iter::from_fn(|| set.take_from(0)).collect();
            assert!(all.into_iter().eq(model));
            assert!(set.is_empty());
        }
    }

    #[test]
    fn an_empty_set_has_no_slot() {
        let mut set = SlotSet::default();
        assert_eq!((set.take_from(0), set.slot_at(3)), (None, 0));
        set.remove(5);
        set.insert(5);
        set.insert(5);
        assert_eq!((set.len(), set.take_from(6)), (1, None));
        assert_eq!((set.take_from(5), set.len()), (Some(5), 0));
    }

    #[test]
    fn a_table_gives_back_what_few_use() {
        let mut slots: Vec<Option<u64>> = (0..10_000).map(Some).collect();
        let room = slots.capacity();
        slots[100..9_999].fill(None);
        trim(&mut slots, Option::is_none);
        assert_eq!(slots.capacity(), room, "the last slot is taken");
        slots[9_999] = None;
        trim(&mut slots, Option::is_none);
        assert_eq!(slots.len(), 100);
        assert!((100..=ROOM_KEPT).contains(&slots.capacity()));
    }

    #[test]
    fn room_that_is_used_again_and_again_stays() {
        let mut slots: Vec<Option<u64>> = vec![Some(1); 2_000];
        let room = slots.capacity();
        for round in 0..1_000 {
            slots.resize(600 + round, Some(1));
            trim(&mut slots, Option::is_none);
            assert_eq!(slots.capacity(), room);
        }
    }

    #[test]
    fn a_slab_shrinks_seldom_and_keeps_its_entries() {
        let (mut slab, mut room) = (Slab::new(), SlabRoom::default());
        for n in 0..10_000 {
            slab.insert(n);
            room.added(&slab);
        }
        let full = slab.capacity();
        let mut shrunk = 0;
        for n in (10..10_000).rev() {
            let before = slab.capacity();
            slab.remove(n);
            room.removed(&mut slab);
            shrunk += usize::from(slab.capacity() < before);
        }
        assert!((1..=10).contains(&shrunk), "{shrunk} times");
        assert!(slab.capacity() < full / 4);
        assert!((0..10).all(|n| slab[n] == n));
    }

    #[test]
    fn a_slab_whose_newest_entries_stay_longest_shrinks_too() {
        let (mut slab, mut room) = (Slab::new(), SlabRoom::default());
        for n in 0..10_000 {
            slab.insert(n);
            room.added(&slab);
        }
        for n in 0..10_000 {
            slab.remove(n);
            room.removed(&mut slab);
        }
        assert_eq!(slab.capacity(), 0);
    }
}
