//! The memory that tables give back after many clients have gone.
//!
//! A table grows with the highest number of clients so far. When less than a quarter of the room is used, the table
//! shrinks to twice the used room, so that a table that shrinks and grows again does not pay for each client.

use slab::Slab;

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
pub(crate) fn trim_slots<T>(slots: &mut Vec<T>, is_empty: impl Fn(&T) -> bool) {
    while slots.last().is_some_and(&is_empty) {
        slots.pop();
    }
    shrink(slots);
}

/// Decides when a slab gives memory back. Shrinking walks the whole slab, so not every removal tries. The remaining
/// entries may be at the end of the slab, so another attempt follows each time that half of the entries have gone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlabRoom {
    /// The slab gives memory back when it has this many entries.
    due_at: usize,
}

impl SlabRoom {
    /// An entry was added.
    pub(crate) fn added<T>(&mut self, slab: &Slab<T>) {
        self.due_at = self.due_at.max(slab.len() / 4);
    }

    /// An entry was removed: gives back the room after the last entry, if few are left of many.
    pub(crate) fn removed<T>(&mut self, slab: &mut Slab<T>) {
        if slab.capacity() > ROOM_KEPT && slab.len() <= self.due_at {
            self.due_at = slab.len() / 2;
            slab.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gives_back_what_few_use() {
        let mut slots: Vec<Option<u64>> = (0..10_000).map(Some).collect();
        let room = slots.capacity();
        slots[100..9_999].fill(None);
        trim_slots(&mut slots, Option::is_none);
        assert_eq!(slots.capacity(), room, "the last slot is taken");
        slots[9_999] = None;
        trim_slots(&mut slots, Option::is_none);
        assert_eq!(slots.len(), 100);
        assert!((100..=ROOM_KEPT).contains(&slots.capacity()));
    }

    #[test]
    fn room_that_is_used_again_and_again_stays() {
        let mut slots: Vec<Option<u64>> = vec![Some(1); 2_000];
        let room = slots.capacity();
        for round in 0..1_000 {
            slots.resize(600 + round, Some(1));
            trim_slots(&mut slots, Option::is_none);
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
