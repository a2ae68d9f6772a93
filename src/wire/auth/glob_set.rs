//! A set of patterns of Redis. Answers two questions, each within a budget of steps: does any pattern match a name, and do
//! the patterns together match every name that another pattern matches?

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::glob::{Bytes, Glob, Piece};
use super::match_budget::{MatchBudget, OverBudget};

/// The cost of an automaton state in steps, in addition to one step for each of its positions: it takes memory, and a
/// search among the known states.
const STATE_STEPS: usize = 16;

/// A set of patterns as one automaton: its state is the set of all positions in the patterns that the bytes read so far
/// may lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct GlobSet {
    /// The names of patterns that match exactly one name.
    exact: BTreeSet<Vec<u8>>,
    /// The other patterns.
    wild: Vec<Glob>,
    /// Made for the first question about a pattern, because most sets only have to match names.
    search: OnceLock<PatternSearch>,
}

/// What only [`GlobSet::contain`] needs.
#[derive(Clone, Debug)]
struct PatternSearch {
    /// The exact names as patterns; their indexes follow those of [`GlobSet::wild`].
    exact: Vec<Glob>,
    /// A partition of all bytes: no pattern distinguishes two bytes of the same set.
    kinds: Vec<Bytes>,
}

impl PatternSearch {
    fn new(globs: &GlobSet) -> Self {
        let exact: Vec<Glob> = globs.exact.iter().map(Glob::exact).collect();
        let mut kinds = vec![Bytes::ALL];
        let mut split = Bytes::default();
        for piece in globs.wild.iter().chain(&exact).flat_map(|g| &g.pieces) {
            match piece {
                Piece::Byte(byte) if !split.contains(*byte) => {
                    split.insert(*byte);
                    refine(&mut kinds, Bytes::one(*byte));
                }
                Piece::Set(set) => refine(&mut kinds, **set),
                Piece::Any | Piece::Byte(_) => {}
            }
        }
        Self { exact, kinds }
    }
}

/// A position in the set: the index of a pattern, and of its next piece.
type Position = (u32, u32);

impl GlobSet {
    pub(super) fn new(globs: impl IntoIterator<Item = Glob>) -> Self {
        let mut all = Self::default();
        for glob in globs {
            match glob.as_exact() {
                Some(name) => drop(all.exact.insert(name)),
                None => all.wild.push(glob),
            }
        }
        all
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
        if self.exact.contains(name) {
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
        let kinds = &self.search().kinds;
        let mut seen = BTreeSet::new();
        let mut open = vec![(0, start)];
        while let Some((at, active)) = open.pop() {
            budget.spend(STATE_STEPS + active.len() + kinds.len())?;
            // A pattern that is at its final `*` matches everything from here on.
            if active.iter().any(|position| self.is_last_any(*position)) {
                continue;
            }
            let Some(piece) = asked.pieces.get(at) else {
                if active
                    .iter()
                    .any(|position| self.piece(*position).is_none())
                {
                    continue;
                }
                return Ok(false);
            };
            let (set, next) = match piece.bytes() {
                None => {
                    open.push((at + 1, active.clone()));
                    (Bytes::ALL, at)
                }
                Some(set) => (set, at + 1),
            };
            for byte in kinds.iter().filter_map(|kind| kind.both(set).first()) {
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

    fn search(&self) -> &PatternSearch {
        self.search.get_or_init(|| PatternSearch::new(self))
    }

    /// The piece at a position; `None` at the end of the pattern.
    fn piece(&self, (glob, at): Position) -> Option<&Piece> {
        let glob = glob as usize;
        let glob = match glob.checked_sub(self.wild.len()) {
            None => &self.wild[glob],
            Some(exact) => &self.search().exact[exact],
        };
        glob.pieces.get(at as usize)
    }

    /// The positions after one more byte.
    fn after(&self, active: &[Position], byte: u8) -> Vec<Position> {
        let moved = active
            .iter()
            .filter_map(|&(glob, at)| match self.piece((glob, at))? {
                Piece::Any => Some((glob, at)),
                one => one.takes(byte).then_some((glob, at + 1)),
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
        self.piece(position) == Some(&Piece::Any)
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
