//! Patterns that match as in Redis (`stringmatchlen` in its `util.c`), byte by byte: `*`, `?`, `[…]` with ranges and
//! `^`, and `\` before a literal byte.
//!
//! weirgate matches only the names that clients ask for; Redis itself matches the published messages.

use std::collections::BTreeMap;

use super::match_budget::{MatchBudget, OverBudget};
use crate::base::allocated_bytes;

/// Whether a name counts as a pattern: only `*` and `?` make one, `[` and `\` alone do not (protocol-channels.md,
/// "Names and patterns").
pub(super) fn is_pattern(name: &str) -> bool {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    pub(super) fn one(byte: u8) -> Self {
        let mut set = Self::default();
        set.insert(byte);
        set
    }

    pub(super) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    /// The lowest byte.
    pub(super) fn first(self) -> Option<u8> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some((word as u32 * 64 + self.0[word].trailing_zeros()) as u8)
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn len(self) -> usize {
        self.0.map(u64::count_ones).iter().sum::<u32>() as usize
    }

    /// The bytes, the lowest first.
    pub(super) fn iter(mut self) -> impl Iterator<Item = u8> {
        std::iter::from_fn(move || {
            let byte = self.first()?;
            self.0[usize::from(byte >> 6)] &= !(1 << (byte & 63));
            Some(byte)
        })
    }

    /// The bytes that are in both sets.
    pub(super) fn both(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    pub(super) fn complement(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

/// A piece of a pattern. Small, because there is one for each byte of most patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// `*`: any bytes, none too.
    Any,
    /// `?`: one byte, whatever it is.
    AnyByte,
    /// This byte.
    Byte(u8),
    /// One byte out of the set with this index in [`Glob::sets`]: the set is empty, or has several bytes but not all.
    Set(u32),
}

impl Piece {
    /// The byte, if the piece takes a single byte.
    fn byte(&self) -> Option<u8> {
        match self {
            Self::Byte(byte) => Some(*byte),
            Self::Any | Self::AnyByte | Self::Set(_) => None,
        }
    }
}

/// The sets of a pattern while it is read: equal ones once.
#[derive(Default)]
struct Sets {
    sets: Vec<Bytes>,
    indexes: BTreeMap<Bytes, u32>,
}

impl Sets {
    /// The piece that takes one byte out of `set`.
    fn piece(&mut self, set: Bytes) -> Piece {
        match set.first() {
            Some(byte) if set == Bytes::one(byte) => return Piece::Byte(byte),
            _ if set == Bytes::ALL => return Piece::AnyByte,
            _ => {}
        }
        let next = self.sets.len() as u32;
        let index = *self.indexes.entry(set).or_insert(next);
        if index == next {
            self.sets.push(set);
        }
        Piece::Set(index)
    }
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    pieces: Box<[Piece]>,
    /// The sets of the pieces, each once.
    sets: Box<[Bytes]>,
    /// The literal bytes before the first wildcard. They are compared in a single step, and most names already differ
    /// there.
    literal: Box<[u8]>,
}

impl Glob {
    /// Reads a pattern. Every text is a pattern.
    ///
    /// # Errors
    /// The meaning of the pattern depends on the machine of the server.
    pub(super) fn parse(pattern: &str) -> Result<Self, GlobError> {
        let mut rest = pattern.as_bytes();
        let mut pieces = Vec::with_capacity(rest.len());
        let mut sets = Sets::default();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let piece = match (first, after) {
                (b'*', _) => Piece::Any,
                (b'?', _) => Piece::AnyByte,
                (b'[', _) => sets.piece(class(&mut rest)?),
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
        Ok(Self {
            literal: pieces.iter().map_while(Piece::byte).collect(),
            pieces: pieces.into(),
            sets: sets.sets.into(),
        })
    }

    /// The pattern that matches only this name: `*`, `?`, `[` and `\` are ordinary characters here.
    pub(super) fn exact(name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        Self {
            pieces: name.iter().copied().map(Piece::Byte).collect(),
            sets: Box::default(),
            literal: name.into(),
        }
    }

    /// The piece with this index; `None` at the end of the pattern.
    pub(super) fn piece(&self, at: usize) -> Option<Piece> {
        self.pieces.get(at).copied()
    }

    /// The pieces in order.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The sets of the pieces `[…]`.
    pub(super) fn sets(&self) -> &[Bytes] {
        &self.sets
    }

    /// The bytes of a piece of this pattern; `None` for `*`.
    pub(super) fn bytes(&self, piece: Piece) -> Option<Bytes> {
        match piece {
            Piece::Any => None,
            Piece::AnyByte => Some(Bytes::ALL),
            Piece::Byte(byte) => Some(Bytes::one(byte)),
            Piece::Set(set) => Some(self.sets[set as usize]),
        }
    }

    /// Whether a piece of this pattern matches this byte; always false for `*`.
    pub(super) fn takes(&self, piece: Piece, byte: u8) -> bool {
        match piece {
            Piece::Any => false,
            Piece::AnyByte => true,
            Piece::Byte(own) => own == byte,
            Piece::Set(set) => self.sets[set as usize].contains(byte),
        }
    }

    /// Memory of the pattern beside the value itself, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        [
            size_of_val(&*self.pieces),
            size_of_val(&*self.sets),
            self.literal.len(),
        ]
        .map(allocated_bytes)
        .iter()
        .sum()
    }

    /// Whether the pattern matches the whole name, within a budget of steps. Takes at most (length of the pattern) ×
    /// (length of the name) steps, because it backtracks only to the last `*`.
    pub(super) fn matches_within(
        &self,
        name: &[u8],
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        budget.spend(1)?;
        if !name.starts_with(&self.literal) {
            return Ok(false);
        }
        let (mut piece, mut at) = (self.literal.len(), self.literal.len());
        // For the last `*`: the piece after it, and the first byte of the name that it does not take.
        let mut last_any = None;
        loop {
            budget.spend(1)?;
            match (self.piece(piece), name.get(at)) {
                (None, None) => return Ok(true),
                (Some(Piece::Any), _) => {
                    piece += 1;
                    if piece == self.pieces.len() {
                        return Ok(true);
                    }
                    last_any = Some((piece, at));
                    continue;
                }
                (Some(one), Some(&byte)) if self.takes(one, byte) => {
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
    pub(super) fn as_exact(&self) -> Option<Vec<u8>> {
        (self.literal.len() == self.pieces.len()).then(|| self.literal.to_vec())
    }

    /// Whether this pattern matches every byte that `asked` matches at the same position, up to the first `*` of either.
    /// If not, this pattern alone cannot contain `asked`.
    pub(super) fn begins_wide_enough(
        &self,
        asked: &Self,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        for (own, other) in self.pieces.iter().zip(&asked.pieces) {
            budget.spend(1)?;
            match (self.bytes(*own), asked.bytes(*other)) {
                (Some(own), Some(set)) if own.both(set) == set => {}
                (Some(_), Some(_)) => return Ok(false),
                _ => break,
            }
        }
        Ok(true)
    }

    /// Whether any name matches at all: `[]` matches no byte.
    pub(super) fn matches_anything(&self) -> bool {
        !self.sets.contains(&Bytes::default())
    }

    pub(super) fn matches_everything(&self) -> bool {
        *self.pieces == [Piece::Any]
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

#[cfg(test)]
mod tests;
