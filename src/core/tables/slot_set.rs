//! A set of slots: a two-level bitset.
//!
//! Sessions are in memory by slot. A walk over a `SlotSet` reads memory from front to back, so that the processor can
//! prefetch it, in whatever order the clients arrived.

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// A bit for each slot, and in the summary a bit for each word other than 0.
#[derive(Debug, Default)]
pub(crate) struct SlotSet {
    words: Vec<u64>,
    summary: Vec<u64>,
    len: usize,
}

impl SlotSet {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        let (at, bit) = place(slot as usize);
        self.words.get(at).is_some_and(|word| word & bit != 0)
    }

    #[inline]
    pub(crate) fn insert(&mut self, slot: u32) {
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
    pub(crate) fn remove(&mut self, slot: u32) {
        let (at, bit) = place(slot as usize);
        if self.words.get(at).is_some_and(|word| word & bit != 0) {
            self.unset(at, bit);
        }
    }

    /// Removes and returns the first slot that is not before `slot`.
    #[inline]
    pub(crate) fn take_from(&mut self, slot: u32) -> Option<u32> {
        let (at, bit) = place(slot as usize);
        match self.words.get(at)? & !(bit - 1) {
            0 => self.take_behind(at),
            word => Some(self.take_first(at, word)),
        }
    }

    fn take_behind(&mut self, at: usize) -> Option<u32> {
        let at = first_from(&self.summary, at + 1)?;
        Some(self.take_first(at, self.words[at]))
    }

    /// Removes and returns the first slot of a part of a word.
    #[inline]
    fn take_first(&mut self, at: usize, part: u64) -> u32 {
        self.unset(at, part & part.wrapping_neg());
        (at * BITS) as u32 + part.trailing_zeros()
    }

    /// The slot of the set that has `index` slots of the set before it; 0 if there is none.
    pub(crate) fn slot_at(&self, mut index: usize) -> u32 {
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
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
        self.summary.fill(0);
        self.len = 0;
    }

    /// Clears a bit, which must be set, of the word at this index.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use weirgate_wire::base::SplitMix64;

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
}
