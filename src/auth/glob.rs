//! Patterns as Redis matches them (`stringmatchlen` in its `util.c`), byte by byte: `*`, `?`, `[…]`
//! with ranges and `^`, and `\` before a byte that is meant itself.
//!
//! Two questions are answered here, both in bounded time: does a pattern match a name, and does a
//! set of patterns match everything that another one can. Redis itself does the matching of
//! publications.

use std::collections::BTreeSet;

/// Steps of one containment question. A question that needs more is answered with no.
const STEPS_MAX: usize = 4_000;

/// Redis takes these in a name for a pattern; `[` and `\` alone do not make one (contract
/// channels: row names).
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// A pattern whose meaning depends on the machine that Redis runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// C compares the ends of a range as `char`, which has a sign on some machines.
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

    /// The only one in it.
    fn single(&self) -> Option<u8> {
        let count: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        let word = self.0.iter().position(|word| *word != 0)?;
        (count == 1).then(|| (word as u32 * 64 + self.0[word].trailing_zeros()) as u8)
    }

    fn complement(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// `*`: any bytes, none too.
    Any,
    /// Exactly one of these.
    One(Bytes),
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
}

impl Glob {
    /// Reads a pattern. Every text is one.
    ///
    /// # Errors
    /// Its meaning is not the same everywhere.
    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        let mut rest = pattern.as_bytes();
        let mut pieces = Vec::new();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let piece = match (first, after) {
                (b'*', _) => Piece::Any,
                (b'?', _) => Piece::One(Bytes::ALL),
                (b'[', _) => Piece::One(class(&mut rest)?),
                (b'\\', [escaped, after @ ..]) => {
                    rest = after;
                    Piece::One(Bytes::one(*escaped))
                }
                _ => Piece::One(Bytes::one(first)),
            };
            if piece != Piece::Any || pieces.last() != Some(&Piece::Any) {
                pieces.push(piece);
            }
        }
        Ok(Self { pieces })
    }

    /// A name that stands for itself alone, whatever is in it.
    pub fn exact(name: &str) -> Self {
        let one = |byte| Piece::One(Bytes::one(byte));
        Self {
            pieces: name.bytes().map(one).collect(),
        }
    }

    /// Whether the pattern matches the whole name, in at most (length of the pattern) × (length of
    /// the name) steps: only the last `*` is ever gone back to.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut piece, mut at) = (0, 0);
        let mut last_any = None;
        loop {
            match (self.pieces.get(piece), name.get(at)) {
                (None, None) => return true,
                (Some(Piece::Any), _) => {
                    piece += 1;
                    last_any = Some((piece, at));
                    continue;
                }
                (Some(Piece::One(set)), Some(&byte)) if set.contains(byte) => {
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
                _ => return false,
            }
        }
    }

    /// There is a name that it matches: `[]` matches no byte.
    fn matches_anything(&self) -> bool {
        let none = Piece::One(Bytes::default());
        !self.pieces.contains(&none)
    }

    /// Matches every name.
    fn matches_everything(&self) -> bool {
        self.pieces == [Piece::Any]
    }
}

/// What stands between `[` and `]`, in Redis's own order of looking: an escaped byte, the end, a
/// range (whose end may be `]`), a byte. Without an end it goes to the end of the pattern.
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

/// Patterns that are asked about together, as one automaton: what is active after some bytes is a
/// set of places in the patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Globs {
    globs: Vec<Glob>,
    /// Bytes with equal numbers are the same to every pattern; one byte of each.
    representatives: Vec<u8>,
    class_of: Vec<usize>,
    /// What is active before the first byte.
    start: Vec<Place>,
}

/// Which pattern, and before which of its pieces. Ordered by pattern, then place.
type Place = (u32, u32);

impl Globs {
    pub(super) fn new(globs: Vec<Glob>) -> Self {
        let (mut class_of, mut representatives) = (vec![0; 256], vec![0]);
        for piece in globs.iter().flat_map(|glob| &glob.pieces) {
            if let Piece::One(set) = piece {
                refine(&mut class_of, &mut representatives, set);
            }
        }
        let starts = (0..globs.len() as u32).map(|glob| (glob, 0)).collect();
        let mut all = Self {
            globs,
            representatives,
            class_of,
            start: Vec::new(),
        };
        all.start = all.closed(starts);
        all
    }

    /// One of them matches the whole name.
    pub(super) fn match_name(&self, name: &str) -> bool {
        self.globs.iter().any(|glob| glob.matches(name.as_bytes()))
    }

    /// Every name that `asked` matches is matched by one of them. Exact, but for questions of more
    /// than [`STEPS_MAX`] steps: those are answered with no.
    pub(super) fn contain(&self, asked: &Glob) -> bool {
        if self.match_everything() || !asked.matches_anything() {
            return true;
        }
        let mut seen = BTreeSet::new();
        let mut open = vec![(0, self.start.clone())];
        let mut steps = 0;
        while let Some((at, active)) = open.pop() {
            // From here on everything is matched.
            if active.iter().any(|place| self.is_last_any(*place)) {
                continue;
            }
            let Some(piece) = asked.pieces.get(at) else {
                if active.iter().any(|place| self.is_end(*place)) {
                    continue;
                }
                return false;
            };
            let (set, next) = match piece {
                Piece::Any => {
                    open.push((at + 1, active.clone()));
                    (&Bytes::ALL, at)
                }
                Piece::One(set) => (set, at + 1),
            };
            for byte in self.kinds_of(set) {
                steps += 1;
                if steps > STEPS_MAX {
                    return false;
                }
                let state = (next, self.after(&active, byte));
                // Nothing is matched any more, and there is a name that goes on from here.
                if state.1.is_empty() {
                    return false;
                }
                if seen.insert(state.clone()) {
                    open.push(state);
                }
            }
        }
        true
    }

    pub(super) fn match_everything(&self) -> bool {
        self.globs.iter().any(Glob::matches_everything)
    }

    /// One byte of each kind in the set.
    fn kinds_of(&self, set: &Bytes) -> Vec<u8> {
        if *set == Bytes::ALL {
            return self.representatives.clone();
        }
        if let Some(byte) = set.single() {
            return vec![byte];
        }
        let mut met = vec![false; self.representatives.len()];
        (0..=u8::MAX)
            .filter(|byte| set.contains(*byte))
            .filter(|byte| !std::mem::replace(&mut met[self.class_of[usize::from(*byte)]], true))
            .collect()
    }

    fn after(&self, active: &[Place], byte: u8) -> Vec<Place> {
        let moved = active.iter().filter_map(|&(glob, at)| {
            match self.globs[glob as usize].pieces.get(at as usize)? {
                Piece::Any => Some((glob, at)),
                Piece::One(set) => set.contains(byte).then_some((glob, at + 1)),
            }
        });
        self.closed(moved.collect())
    }

    /// With the places behind a `*` that may stand for nothing.
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

    fn is_any(&self, (glob, at): Place) -> bool {
        self.globs[glob as usize].pieces.get(at as usize) == Some(&Piece::Any)
    }

    fn is_last_any(&self, place: Place) -> bool {
        self.is_any(place) && self.is_end((place.0, place.1 + 1))
    }

    fn is_end(&self, (glob, at): Place) -> bool {
        at as usize == self.globs[glob as usize].pieces.len()
    }
}

/// Splits the kinds of bytes that `set` holds in part.
fn refine(class_of: &mut [usize], representatives: &mut Vec<u8>, set: &Bytes) {
    let mut split = vec![None; representatives.len()];
    for byte in 0..=u8::MAX {
        let class = class_of[usize::from(byte)];
        if set.contains(byte) == set.contains(representatives[class]) {
            continue;
        }
        class_of[usize::from(byte)] = *split[class].get_or_insert_with(|| {
            representatives.push(byte);
            representatives.len() - 1
        });
    }
}

#[cfg(test)]
mod tests;
