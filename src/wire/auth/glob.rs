//! Patterns that match as in Redis (`stringmatchlen` in its `util.c`), byte by byte: `*`, `?`, `[…]` with ranges and
//! `^`, and `\` before a literal byte.
//!
//! Answers two questions, each within a budget of steps: does a pattern match a name, and does a set of patterns match
//! every name that another pattern matches? Redis itself matches the published messages.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::match_budget::{MatchBudget, OverBudget};

/// The cost of an automaton state in steps, in addition to one step for each of its places: it takes memory, and a
/// search among the known states.
const STATE_STEPS: usize = 16;

/// Whether a name counts as a pattern: only `*` and `?` make one, `[` and `\` alone do not (contract channels: row
/// names).
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether `outer` is a literal prefix followed by `*`, and `inner` begins with this prefix.
pub(super) fn contains(outer: &str, inner: &str) -> bool {
    const SPECIAL: [char; 4] = ['*', '?', '[', '\\'];
    let Some(prefix) = outer.strip_suffix('*').filter(|p| !p.contains(SPECIAL)) else {
        return false;
    };
    let literal = inner.split(SPECIAL).next().unwrap_or_default();
    literal.starts_with(prefix)
}

/// Why a pattern is refused: its meaning depends on the machine that Redis runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Redis compares the ends of a range as C `char`, which is signed on some machines and unsigned on others.
    #[error("a range in [...] with an end outside of ASCII")]
    RangeOutsideAscii,
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes([u64; 4]);

impl Bytes {
    const ALL: Self = Self([u64::MAX; 4]);

    fn one(byte: u8) -> Self {
        let mut set = Self::default();
        set.insert(byte);
        set
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    /// The lowest byte.
    fn first(self) -> Option<u8> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some((word as u32 * 64 + self.0[word].trailing_zeros()) as u8)
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn both(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    fn complement(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// `*`: any bytes, none too.
    Any,
    /// This byte.
    Byte(u8),
    /// One byte out of a set that is empty or has several bytes. Boxed, because most pieces are single bytes.
    Set(Box<Bytes>),
}

impl Piece {
    fn one(set: Bytes) -> Self {
        match set.first() {
            Some(byte) if set == Bytes::one(byte) => Self::Byte(byte),
            _ => Self::Set(Box::new(set)),
        }
    }

    /// The byte, if the piece takes a single byte.
    fn byte(&self) -> Option<u8> {
        match self {
            Self::Byte(byte) => Some(*byte),
            Self::Any | Self::Set(_) => None,
        }
    }

    /// The bytes of the piece; `None` for `*`.
    fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::Any => None,
            Self::Byte(byte) => Some(Bytes::one(*byte)),
            Self::Set(set) => Some(**set),
        }
    }

    /// Whether the piece matches this byte; always false for `*`.
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Any => false,
            Self::Byte(own) => *own == byte,
            Self::Set(set) => set.contains(byte),
        }
    }
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
    /// The literal bytes before the first wildcard. They are compared in a single step, and most names already differ
    /// there.
    literal: Vec<u8>,
}

impl Glob {
    /// Reads a pattern. Every text is a pattern.
    ///
    /// # Errors
    /// The meaning of the pattern depends on the machine of the server.
    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        let mut rest = pattern.as_bytes();
        let mut pieces = Vec::new();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let piece = match (first, after) {
                (b'*', _) => Piece::Any,
                (b'?', _) => Piece::one(Bytes::ALL),
                (b'[', _) => Piece::one(class(&mut rest)?),
                (b'\\', [escaped, after @ ..]) => {
                    rest = after;
                    Piece::Byte(*escaped)
                }
                _ => Piece::Byte(first),
            };
            if piece != Piece::Any || pieces.last() != Some(&Piece::Any) {
                pieces.push(piece);
            }
        }
        Ok(Self::of(pieces))
    }

    /// A name without wildcards, whatever the characters.
    pub fn exact(name: impl AsRef<[u8]>) -> Self {
        Self::of(name.as_ref().iter().copied().map(Piece::Byte).collect())
    }

    fn of(pieces: Vec<Piece>) -> Self {
        Self {
            literal: pieces.iter().map_while(Piece::byte).collect(),
            pieces,
        }
    }

    /// Whether the pattern matches the whole name. Takes at most (length of the pattern) × (length of the name) steps,
    /// because it backtracks only to the last `*`.
    pub fn matches(&self, name: &[u8]) -> bool {
        let matches = self.matches_within(name, &mut MatchBudget::unlimited());
        matches.unwrap_or(false)
    }

    fn matches_within(&self, name: &[u8], budget: &mut MatchBudget) -> Result<bool, OverBudget> {
        budget.spend(1)?;
        if !name.starts_with(&self.literal) {
            return Ok(false);
        }
        let (mut piece, mut at) = (self.literal.len(), self.literal.len());
        let mut last_any = None;
        loop {
            budget.spend(1)?;
            match (self.pieces.get(piece), name.get(at)) {
                (None, None) => return Ok(true),
                (Some(Piece::Any), _) => {
                    piece += 1;
                    if piece == self.pieces.len() {
                        return Ok(true);
                    }
                    last_any = Some((piece, at));
                    continue;
                }
                (Some(one), Some(&byte)) if one.takes(byte) => {
                    piece += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match &mut last_any {
                Some((after, from)) if *from < name.len() => {
                    *from += 1;
                    (piece, at) = (*after, *from);
                }
                _ => return Ok(false),
            }
        }
    }

    /// The name that the pattern matches, if there is exactly one.
    fn as_exact(&self) -> Option<Vec<u8>> {
        (self.literal.len() == self.pieces.len()).then(|| self.literal.clone())
    }

    /// Whether this pattern matches every byte that `asked` matches at the same place, up to the first `*` of either.
    /// If not, it cannot contain `asked` alone.
    fn begins_wide_enough(
        &self,
        asked: &Self,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        for (own, asked) in self.pieces.iter().zip(&asked.pieces) {
            budget.spend(1)?;
            match (own.bytes(), asked.bytes()) {
                (Some(own), Some(set)) if own.both(set) == set => {}
                (Some(_), Some(_)) => return Ok(false),
                _ => break,
            }
        }
        Ok(true)
    }

    /// Whether any name matches at all: `[]` matches no byte.
    fn matches_anything(&self) -> bool {
        let none = Piece::one(Bytes::default());
        !self.pieces.contains(&none)
    }

    fn matches_everything(&self) -> bool {
        self.pieces == [Piece::Any]
    }
}

/// Reads a character class after its `[`. Tries the alternatives in the order of Redis: an escaped byte, the closing
/// `]`, a range (which may end with `]`), a single byte. Without a `]` the class reaches to the end of the pattern.
fn class(rest: &mut &[u8]) -> Result<Bytes, GlobError> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut set = Bytes::default();
    loop {
        *rest = match *rest {
            [] => break,
            [b'\\', escaped, after @ ..] => {
                set.insert(*escaped);
                after
            }
            [b']', after @ ..] => {
                *rest = after;
                break;
            }
            [from, b'-', to, after @ ..] => {
                if !from.is_ascii() || !to.is_ascii() {
                    return Err(GlobError::RangeOutsideAscii);
                }
                (*from.min(to)..=*from.max(to)).for_each(|byte| set.insert(byte));
                after
            }
            [byte, after @ ..] => {
                set.insert(*byte);
                after
            }
        };
    }
    Ok(if negated { set.complement() } else { set })
}

/// A set of patterns as one automaton: its state is the set of all places in the patterns that the bytes read so far
/// may lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Globs {
    /// The names of patterns that match exactly one name.
    exact: BTreeSet<Vec<u8>>,
    /// The other patterns.
    wild: Vec<Glob>,
    /// Made for the first question about a pattern, because most sets only have to match names.
    together: OnceLock<Together>,
}

/// What only the question about a pattern needs.
#[derive(Clone, Debug)]
struct Together {
    /// The exact names as patterns, after those of [`Globs::wild`].
    exact: Vec<Glob>,
    /// A partition of all bytes: no pattern distinguishes two bytes of the same set.
    kinds: Vec<Bytes>,
}

impl Together {
    fn new(globs: &Globs) -> Self {
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

/// A place: the index of a pattern, and of its next piece.
type Place = (u32, u32);

impl Globs {
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
        name: &str,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        let name = name.as_bytes();
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
        for (place, glob) in self.wild.iter().enumerate() {
            if !glob.begins_wide_enough(asked, budget)? {
                continue;
            }
            let alone = self.closed(vec![(place as u32, 0)]);
            if self.contain_from(alone, asked, budget)? {
                return Ok(true);
            }
        }
        let places = self.wild.len() + self.exact.len();
        let start = (0..places as u32).map(|glob| (glob, 0)).collect();
        self.contain_from(self.closed(start), asked, budget)
    }

    /// Whether the automaton, started at these places, accepts every name that `asked` matches.
    fn contain_from(
        &self,
        start: Vec<Place>,
        asked: &Glob,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        let kinds = &self.together().kinds;
        let mut seen = BTreeSet::new();
        let mut open = vec![(0, start)];
        while let Some((at, active)) = open.pop() {
            budget.spend(STATE_STEPS + active.len() + kinds.len())?;
            // A pattern that is at its final `*` matches everything from here on.
            if active.iter().any(|place| self.is_last_any(*place)) {
                continue;
            }
            let Some(piece) = asked.pieces.get(at) else {
                if active.iter().any(|place| self.piece(*place).is_none()) {
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

    fn together(&self) -> &Together {
        self.together.get_or_init(|| Together::new(self))
    }

    fn piece(&self, (glob, at): Place) -> Option<&Piece> {
        let glob = glob as usize;
        let glob = match glob.checked_sub(self.wild.len()) {
            None => &self.wild[glob],
            Some(exact) => &self.together().exact[exact],
        };
        glob.pieces.get(at as usize)
    }

    fn after(&self, active: &[Place], byte: u8) -> Vec<Place> {
        let moved = active
            .iter()
            .filter_map(|&(glob, at)| match self.piece((glob, at))? {
                Piece::Any => Some((glob, at)),
                one => one.takes(byte).then_some((glob, at + 1)),
            });
        self.closed(moved.collect())
    }

    /// Adds the place after each `*`, because a `*` may match no bytes.
    fn closed(&self, mut places: Vec<Place>) -> Vec<Place> {
        let behind = places
            .iter()
            .filter(|place| self.is_any(**place))
            .map(|(glob, at)| (*glob, at + 1))
            .collect::<Vec<_>>();
        places.extend(behind);
        places.sort_unstable();
        places.dedup();
        places
    }

    fn is_any(&self, place: Place) -> bool {
        self.piece(place) == Some(&Piece::Any)
    }

    fn is_last_any(&self, (glob, at): Place) -> bool {
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

#[cfg(test)]
mod tests;
