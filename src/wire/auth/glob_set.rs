//! A set of patterns of Redis. Answers two questions, each within a budget of steps: does any pattern match a name, and do
//! the patterns together match every name that another pattern matches?

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::glob::{Bytes, Glob, Piece};
use super::match_budget::{MatchBudget, OverBudget};
use crate::base::allocated_bytes;

/// The cost of an automaton state in steps, in addition to one step for each of its positions: it takes memory, and a
/// search among the known states.
const STATE_STEPS: usize = 16;

/// A set of patterns as one automaton: its state is the set of all positions in the patterns that the bytes read so far
/// may lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct GlobSet {
    /// The names of patterns that match exactly one name, in order and each once. As patterns, their indexes follow those
    /// of [`GlobSet::wild`].
    exact: Box<[Box<[u8]>]>,
    /// The other patterns.
    wild: Box<[Glob]>,
    /// Only [`GlobSet::contain`] needs them, and most sets only have to match names.
    kinds: OnceLock<ByteKinds>,
}

/// A partition of all bytes: no pattern of a set distinguishes two bytes of the same kind.
#[derive(Clone, Debug)]
struct ByteKinds {
    /// The bytes that the patterns name: each is a kind of its own.
    named: Bytes,
    /// The other kinds.
    others: Box<[Bytes]>,
}

impl ByteKinds {
    /// Finds the kinds. Each byte that a pattern names singly is one; the sets of the patterns divide the rest.
    fn new(globs: &GlobSet) -> Self {
        let mut named = Bytes::default();
        for byte in globs.exact.iter().flat_map(|name| name.iter()) {
            named.insert(*byte);
        }
        for piece in globs.wild.iter().flat_map(Glob::pieces) {
            if let Piece::Byte(byte) = piece {
                named.insert(*byte);
            }
        }
        let mut others = vec![named.complement()];
        for set in globs.wild.iter().flat_map(Glob::sets) {
            refine(&mut others, *set);
        }
        others.retain(|kind| !kind.is_empty());
        Self {
            named,
            others: others.into(),
        }
    }

    fn len(&self) -> usize {
        self.named.len() + self.others.len()
    }

    /// A byte of each kind that has bytes in `set`: one that is in `set`.
    fn within(&self, set: Bytes) -> impl Iterator<Item = u8> {
        let named = self.named.both(set).iter();
        let others = self.others.iter();
        named.chain(others.filter_map(move |kind| kind.both(set).first()))
    }
}

/// A position in the set: the index of a pattern, and of its next piece.
type Position = (u32, u32);

impl GlobSet {
    pub(super) fn new(globs: impl IntoIterator<Item = Glob>) -> Self {
        let (mut exact, mut wild) = (BTreeSet::new(), Vec::new());
        for glob in globs {
            match glob.as_exact() {
                Some(name) => drop(exact.insert(name)),
                None => wild.push(glob),
            }
        }
        Self {
            exact: exact.into_iter().map(Vec::into_boxed_slice).collect(),
            wild: wild.into(),
            kinds: OnceLock::new(),
        }
    }

    /// Makes what [`Self::contain`] needs, which takes time for each byte of the patterns. Without it, the first question
    /// makes it.
    pub(super) fn prepare_contain(&self) {
        self.kinds();
    }

    /// Memory of the patterns beside the set itself, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let exact = self.exact.iter().map(|name| allocated_bytes(name.len()));
        let wild = self.wild.iter().map(Glob::memory_bytes);
        let kinds = self
            .kinds
            .get()
            .map_or(0, |kinds| size_of_val(&*kinds.others));
        let lists = [size_of_val(&*self.exact), size_of_val(&*self.wild), kinds];
        exact.chain(wild).chain(lists.map(allocated_bytes)).sum()
    }

    /// Whether any pattern matches the whole name.
    ///
    /// # Errors
    /// The budget is used up.
    pub(super) fn match_name(
        &self,
        name: &[u8],
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        if self.exact.binary_search_by(|own| (**own).cmp(name)).is_ok() {
            return Ok(true);
        }
        for glob in &self.wild {
            if glob.matches_within(name, budget)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the patterns together match every name that `asked` matches. The answer is exact.
    ///
    /// In most cases a single pattern contains `asked`. This is checked first, because it costs far less than the check
    /// of all patterns together.
    ///
    /// # Errors
    /// The budget is used up.
    pub(super) fn contain(
        &self,
        asked: &Glob,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        if self.match_everything() || !asked.matches_anything() {
            return Ok(true);
        }
        for (position, glob) in self.wild.iter().enumerate() {
            if !glob.begins_wide_enough(asked, budget)? {
                continue;
            }
            let alone = self.with_skipped_stars(vec![(position as u32, 0)]);
            if self.contain_from(alone, asked, budget)? {
                return Ok(true);
            }
        }
        let positions = self.wild.len() + self.exact.len();
        let start = (0..positions as u32).map(|glob| (glob, 0)).collect();
        self.contain_from(self.with_skipped_stars(start), asked, budget)
    }

    /// Whether the automaton, started at these positions, accepts every name that `asked` matches.
    fn contain_from(
        &self,
        start: Vec<Position>,
        asked: &Glob,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        let kinds = self.kinds();
        // A state is a position in `asked`, and the positions in the set that the same bytes may lead to.
        let mut seen = BTreeSet::new();
        let mut open = vec![(0, start)];
        while let Some((at, active)) = open.pop() {
            budget.spend(STATE_STEPS + active.len() + kinds.len())?;
            // A pattern that is at its final `*` matches everything from here on.
            if active.iter().any(|position| self.is_last_any(*position)) {
                continue;
            }
            let Some(piece) = asked.piece(at) else {
                // A name that `asked` matches may end here, so a pattern must end here too.
                if active
                    .iter()
                    .any(|position| self.piece(*position).is_none())
                {
                    continue;
                }
                return Ok(false);
            };
            let (set, next) = match asked.bytes(piece) {
                None => {
                    open.push((at + 1, active.clone()));
                    (Bytes::ALL, at)
                }
                Some(set) => (set, at + 1),
            };
            for byte in kinds.within(set) {
                budget.spend(STATE_STEPS + active.len())?;
                let state = (next, self.after(&active, byte));
                // No pattern matches any more, but `asked` matches a name that continues from here.
                if state.1.is_empty() {
                    return Ok(false);
                }
                if seen.insert(state.clone()) {
                    open.push(state);
                }
            }
        }
        Ok(true)
    }

    pub(super) fn match_everything(&self) -> bool {
        self.wild.iter().any(Glob::matches_everything)
    }

    fn kinds(&self) -> &ByteKinds {
        self.kinds.get_or_init(|| ByteKinds::new(self))
    }

    /// The name, if the index is of a pattern that matches exactly one.
    fn exact_name(&self, glob: u32) -> Option<&[u8]> {
        let index = (glob as usize).checked_sub(self.wild.len())?;
        Some(&self.exact[index])
    }

    /// The piece at a position; `None` at the end of the pattern.
    fn piece(&self, (glob, at): Position) -> Option<Piece> {
        match self.exact_name(glob) {
            Some(name) => name.get(at as usize).copied().map(Piece::Byte),
            None => self.wild[glob as usize].piece(at as usize),
        }
    }

    /// The positions after one more byte.
    fn after(&self, active: &[Position], byte: u8) -> Vec<Position> {
        let moved = active.iter().filter_map(|&(glob, at)| {
            let takes = match self.piece((glob, at))? {
                Piece::Any => return Some((glob, at)),
                Piece::Byte(own) => own == byte,
                one => self.wild[glob as usize].takes(one, byte),
            };
            takes.then_some((glob, at + 1))
        });
        self.with_skipped_stars(moved.collect())
    }

    /// Adds the position after each `*`, because a `*` may match no bytes.
    fn with_skipped_stars(&self, mut positions: Vec<Position>) -> Vec<Position> {
        let behind = positions
            .iter()
            .filter(|position| self.is_any(**position))
            .map(|(glob, at)| (*glob, at + 1))
            .collect::<Vec<_>>();
        positions.extend(behind);
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    fn is_any(&self, position: Position) -> bool {
        self.piece(position) == Some(Piece::Any)
    }

    fn is_last_any(&self, (glob, at): Position) -> bool {
        self.is_any((glob, at)) && self.piece((glob, at + 1)).is_none()
    }
}

/// Splits the sets of bytes that are only partly within `set`.
fn refine(kinds: &mut Vec<Bytes>, set: Bytes) {
    let outside = set.complement();
    for index in 0..kinds.len() {
        let (within, without) = (kinds[index].both(set), kinds[index].both(outside));
        if !within.is_empty() && !without.is_empty() {
            kinds[index] = within;
            kinds.push(without);
        }
    }
}
