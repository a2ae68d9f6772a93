//! Positions in a kept feed. A message to a client has its position as a text, and the client sends the text back to
//! resume.
//!
//! In a stream of the bus, a position is the id of the message. Two Redis servers, such as a master and the replica that
//! replaces it, may give an id to different entries, so a position in a Redis stream also has a hash of the entry.
//!
//! On a bus without ids, a position names a message by the newest mark before the message and the number of kept messages
//! since the mark. A mark is unique, and every instance of weirgate with the mark on the connection counts the same messages
//! after the mark. Therefore a position means the same message on all instances, without any agreement between instances and
//! for any payloads.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU32;

/// The first byte of the position of a counted message.
const COUNTED: u8 = b'm';
/// The first byte of the position of a stored message without a hash.
const STORED: u8 = b's';
/// The first byte of the position of a stored message with a hash.
const HASHED: u8 = b'r';

/// Hexadecimal digits of a nonce.
const NONCE_DIGITS: usize = 12;

/// A unique text among the messages of a feed, from which messages are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// 48 random bits, new at each start of a process.
    pub nonce: u64,
    /// Each number is used once in a process.
    pub counter: u64,
}

/// The id of a message in a stream of the bus. Both parts name the message: a stream that was made anew or
/// restored from a backup may give the first part to another message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredId {
    /// JetStream: the sequence number. Redis: the milliseconds of the id.
    pub major: u64,
    /// JetStream: the time of storage, Unix nanoseconds. Redis: the number after the milliseconds.
    pub minor: u64,
}

impl StoredId {
    /// The sequence number, which no other message of the stream has; `None` on Redis, whose ids have none. On
    /// JetStream the second part is a time in nanoseconds, so it is higher than the first; on Redis the first part is
    /// the time, and higher.
    pub(super) fn number(self) -> Option<u64> {
        (self.minor > self.major).then_some(self.major)
    }
}

/// A hash of an entry of a Redis stream, without its id: the same on all instances of all versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryHash(NonZeroU32);

impl EntryHash {
    /// Shortens a hash, whose bits are all equally good.
    pub const fn of(hash: u64) -> Self {
        match NonZeroU32::new(hash as u32) {
            Some(hash) => Self(hash),
            None => Self(NonZeroU32::MIN),
        }
    }

    /// Whether two messages with the same id are not the same, as far as is known.
    pub(super) fn differ(one: Option<Self>, other: Option<Self>) -> bool {
        one.zip(other).is_some_and(|(one, other)| one != other)
    }
}

/// The position of a message in a kept feed, which clients get as a text: the feed, and the message within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The hash of the list of kept names, or of the stream's name: another feed has other messages.
    pub feed_hash: u32,
    /// The message within the feed.
    pub point: Point,
}

/// The part of a [`Position`] that names the message within its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A message of a bus without ids.
    Counted {
        /// The newest mark before the message.
        mark: Mark,
        /// Kept messages since the mark, up to this message; 0 for the mark itself.
        count: u64,
    },
    /// A message of a stream.
    Stored {
        /// Its id.
        id: StoredId,
        /// On Redis, the hash of the entry. `None` on JetStream, whose ids have the time; in a position of a version without
        /// hashes; and for a message over the limit of an instance, which does not read all of it.
        hash: Option<EntryHash>,
    },
}

/// The rank of a copy among the copies of a message, the same on all instances: a client with several matching names
/// gets a copy for each, and may lose its connection between two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopyRank(u32);

/// The place of a client in a kept feed: after a message, or after a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyPosition {
    /// The message.
    pub position: Position,
    /// The last copy of the message that the client got.
    pub copy: CopyRank,
}

/// Whether a message belongs to the kept feed, and its position there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The message has a name outside of the feed, or there is no feed.
    #[default]
    Outside,
    /// The message is of the feed, and comes once for all matching names. `None` while positions are not
    /// known.
    Kept(Option<Position>),
    /// The message is of the feed, and no client gets the message because of a limit of this instance: a
    /// resume over the message is refused.
    LeftOut(Position),
}

impl Place {
    /// The position, if there is a position.
    pub fn position(self) -> Option<Position> {
        match self {
            Self::Outside => None,
            Self::Kept(position) => position,
            Self::LeftOut(position) => Some(position),
        }
    }
}

/// For log lines: a number of Redis as Redis writes it, `1700000000000-0`.
impl fmt::Display for StoredId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.minor)
    }
}

impl StoredId {
    /// No id is higher.
    pub(super) const MAX: Self = Self {
        major: u64::MAX,
        minor: u64::MAX,
    };
}

impl Mark {
    /// Reads a mark from the text of [`Display`](fmt::Display); accepts no other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (nonce, counter) = text.split_once('.')?;
        Self::of(nonce, counter)
    }

    fn of(nonce: &str, counter: &str) -> Option<Self> {
        let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_nonce = nonce.len() == NONCE_DIGITS && nonce.bytes().all(is_lower_hex);
        let nonce = u64::from_str_radix(nonce, 16).ok().filter(|_| is_nonce)?;
        let counter = from_base_36(counter)?;
        Some(Self { nonce, counter })
    }
}

impl Position {
    /// The most bytes of a position's text.
    pub const BYTES_MAX: usize = 64;

    /// The hash of a feed, from the bytes of the name of its stream, or of its names: the same on all instances of all
    /// versions.
    pub fn feed_hash(names: impl IntoIterator<Item = u8>) -> u32 {
        fnv_1a(names)
    }

    /// The position of a message after a mark.
    pub fn counted(feed_hash: u32, mark: Mark, count: u64) -> Self {
        let point = Point::Counted { mark, count };
        Self { feed_hash, point }
    }

    /// The position of a message of a stream whose ids tell all messages apart.
    pub fn stored(feed_hash: u32, id: StoredId) -> Self {
        Self::hashed(feed_hash, id, None)
    }

    /// The position of a message of a stream, with its hash.
    pub fn hashed(feed_hash: u32, id: StoredId, hash: Option<EntryHash>) -> Self {
        let point = Point::Stored { id, hash };
        Self { feed_hash, point }
    }

    /// Appends the text. Every kept message needs such a text, so it is written without a formatter, and the text of a
    /// mark is made once for all messages after the mark.
    pub(super) fn append(self, out: &mut Vec<u8>) {
        let (id, hash) = match self.point {
            Point::Counted { mark, count } => {
                HEAD.with_borrow_mut(|head| out.extend_from_slice(head.text(self.feed_hash, mark)));
                return push_base_36(out, count);
            }
            Point::Stored { id, hash } => (id, hash.map(|hash| u64::from(hash.0.get()))),
        };
        out.push(if hash.is_some() { HASHED } else { STORED });
        push_base_36(out, u64::from(self.feed_hash));
        for number in [id.major, id.minor].into_iter().chain(hash) {
            out.push(b'.');
            push_base_36(out, number);
        }
    }
}

thread_local! {
    /// The head of the newest text of a counted message.
    static HEAD: RefCell<PositionHead> = const { RefCell::new(PositionHead { made_from: None, text: Vec::new() }) };
}

/// The text of a position up to the count, and the hash of the feed and the mark from which it was made.
struct PositionHead {
    made_from: Option<(u32, Mark)>,
    text: Vec<u8>,
}

impl PositionHead {
    /// Returns the text, which is made anew only if the feed or the mark is another than in the call before.
    fn text(&mut self, feed_hash: u32, mark: Mark) -> &[u8] {
        if self.made_from != Some((feed_hash, mark)) {
            self.made_from = Some((feed_hash, mark));
            self.text = vec![COUNTED];
            push_base_36(&mut self.text, u64::from(feed_hash));
            self.text.extend_from_slice(format!(".{mark}.").as_bytes());
        }
        &self.text
    }
}

impl CopyRank {
    /// The copy for the message's own name: the last, with the position of the message.
    pub const LAST: Self = Self(u32::MAX);

    /// The copy for a pattern.
    pub fn of_pattern(pattern: &str) -> Self {
        let hash = fnv_1a(pattern.bytes());
        Self(hash.min(u32::MAX - 1))
    }

    /// Appends the end of the text of a position, for a copy before the last.
    pub(super) fn append(self, out: &mut Vec<u8>) {
        if self != Self::LAST {
            out.push(b'.');
            push_base_36(out, u64::from(self.0));
        }
    }
}

impl CopyPosition {
    /// Reads the text of a position ([`Display`](fmt::Display) of [`Position`]), with or without the rank of a copy
    /// after it. Accepts no other text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > Position::BYTES_MAX {
            return None;
        }
        let mut parts = text.get(1..)?.split('.');
        let mut number = || from_base_36(parts.next()?);
        let feed_hash = u32::try_from(number()?).ok()?;
        let point = match text.as_bytes()[0] {
            kind @ (STORED | HASHED) => Point::Stored {
                id: StoredId {
                    major: number()?,
                    minor: number()?,
                },
                hash: match kind {
                    HASHED => Some(EntryHash(u32::try_from(number()?).ok()?.try_into().ok()?)),
                    _ => None,
                },
            },
            COUNTED => {
                let mark = Mark::of(parts.next()?, parts.next()?)?;
                let count = from_base_36(parts.next()?)?;
                Point::Counted { mark, count }
            }
            _ => return None,
        };
        let copy = match parts.next() {
            Some(rank) => {
                let rank = CopyRank(u32::try_from(from_base_36(rank)?).ok()?);
                Some(rank).filter(|rank| *rank != CopyRank::LAST)?
            }
            None => CopyRank::LAST,
        };
        let position = Position { feed_hash, point };
        parts.next().is_none().then_some(Self { position, copy })
    }
}

/// FNV-1a: the same on all instances of all versions. (RFC 9923)
fn fnv_1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let add = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bytes.into_iter().fold(0x811c_9dc5, add)
}

/// `<nonce>.<counter>`: 12 hexadecimal digits, and a number in base 36.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counter = Vec::new();
        push_base_36(&mut counter, self.counter);
        let nonce = self.nonce & ((1 << (4 * NONCE_DIGITS)) - 1);
        write!(f, "{nonce:012x}.{}", String::from_utf8_lossy(&counter))
    }
}

/// `m<feed>.<nonce>.<counter>.<count>`, `s<feed>.<major>.<minor>`, or `r<feed>.<major>.<minor>.<hash>`; at most
/// [`Position::BYTES_MAX`] bytes.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(Self::BYTES_MAX);
        self.append(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Two digits in base 36: with pairs, a number needs half of the divisions.
const PAIRS: [[u8; 2]; 36 * 36] = {
    let mut pairs = [[0; 2]; 36 * 36];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [DIGITS[number / 36], DIGITS[number % 36]];
        number += 1;
    }
    pairs
};

/// Appends a number in base 36. Writes the first digits first, so that no written byte has to move.
fn push_base_36(out: &mut Vec<u8>, number: u64) {
    const PAIR: u64 = PAIRS.len() as u64;
    if number < 36 {
        return out.push(DIGITS[number as usize]);
    }
    if number >= PAIR {
        push_base_36(out, number / PAIR);
    }
    out.extend_from_slice(&PAIRS[(number % PAIR) as usize]);
}

/// Reads a number in base 36. Refuses leading zeros and capitals, so that each number has a single text.
fn from_base_36(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|b| DIGITS.contains(&b));
    let is_short = text == "0" || !text.starts_with('0');
    let number = u64::from_str_radix(text, 36).ok();
    number.filter(|_| is_plain && is_short)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(feed_hash: u32, nonce: u64, counter: u64, count: u64) -> Position {
        Position::counted(feed_hash, Mark { nonce, counter }, count)
    }

    /// Reads the text of a position without a rank.
    fn parse(text: &str) -> Option<Position> {
        let whole = CopyPosition::parse(text).filter(|at| at.copy == CopyRank::LAST);
        whole.map(|at| at.position)
    }

    #[test]
    fn a_position_has_one_text() {
        let pos = position(7_483_915, 0x7f3a_09c2_b11e, 1_804, 7);
        assert_eq!(pos.to_string(), "m4gemj.7f3a09c2b11e.1e4.7");
        assert_eq!(parse(&pos.to_string()), Some(pos));
        let longest = position(u32::MAX, (1 << 48) - 1, u64::MAX, u64::MAX);
        assert!(longest.to_string().len() <= Position::BYTES_MAX);
        assert_eq!(parse(&longest.to_string()), Some(longest));
    }

    #[test]
    fn a_copy_of_a_message_has_a_text_of_its_own() {
        let pos = position(7_483_915, 0x7f3a_09c2_b11e, 1_804, 7);
        let whole = pos.to_string();
        let copy = CopyRank::LAST;
        assert_eq!(
            CopyPosition::parse(&whole),
            Some(CopyPosition {
                position: pos,
                copy
            })
        );
        let copy = CopyRank::of_pattern("market:*");
        assert!(copy < CopyRank::LAST);
        let mut text = whole.clone().into_bytes();
        copy.append(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "m4gemj.7f3a09c2b11e.1e4.7.14cru1t");
        assert_eq!(
            CopyPosition::parse(&text),
            Some(CopyPosition {
                position: pos,
                copy
            })
        );
        for text in [
            "m4gemj.7f3a09c2b11e.1e4.7.",
            "m4gemj.7f3a09c2b11e.1e4.7.01",
            "1.2",
            "",
        ] {
            assert_eq!(CopyPosition::parse(text), None, "{text:?}");
        }
        // The last copy is written without a number.
        for beyond in ["1z141z3", "1z141z4"] {
            assert_eq!(CopyPosition::parse(&format!("{whole}.{beyond}")), None);
        }
        assert_eq!(CopyPosition::parse(&format!("{text}.1")), None);
        let longest = position(u32::MAX, (1 << 48) - 1, u64::MAX, u64::MAX);
        assert!(format!("{longest}.1z141z3").len() <= Position::BYTES_MAX);
    }

    #[test]
    fn what_is_no_position_is_not_read() {
        for text in [
            "",
            "m",
            "m1",
            "m1.7f3a09c2b11e.1",
            "m1.7f3a09c2b11e.1.",
            "m1.7f3a09c2b11e..1",
            "m1.7f3a09c2b11e.1.1.1",
            "m1.7f3a09c2b11.1.1",
            "m1.7F3A09C2B11E.1.1",
            "m1.+f3a09c2b11e.1.1",
            "m01.7f3a09c2b11e.1.1",
            "m1.7f3a09c2b11e.1.01",
            "m1.7f3a09c2b11e.1.+1",
            "m1.7f3a09c2b11e.1.A",
            "m1.7f3a09c2b11e.1.3w5e11264sgsg",
            "m1z141z4.7f3a09c2b11e.1.1",
            "s1.2",
            "s1.2.",
            "s1.2.3.4",
            "s1.02.3",
            "s1.2.3w5e11264sgsg",
            "r1.2.3",
            "r1.2.3.0",
            "r1.2.3.04",
            "r1.2.3.1z141z4",
            "r1.2.3.4.5",
            "s1z141z4.2.3",
            "s1.7f3a09c2b11e.1.",
            "é1.2.3",
            "M1.7f3a09c2b11e.1.1",
            " m1.7f3a09c2b11e.1.1",
            "m1.7f3a09c2b11e.1.1\n",
            "m\u{ff11}.7f3a09c2b11e.1.1",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(Mark::parse("7f3a09c2b11e"), None);
        assert_eq!(Mark::parse("7f3a09c2b11e.-1"), None);
    }

    #[test]
    fn a_stored_message_has_the_text_of_its_id() {
        let id = StoredId {
            major: 1_804,
            minor: 1_700_000_000_123_456_789,
        };
        let pos = Position::stored(7_483_915, id);
        assert_eq!(pos.to_string(), "s4gemj.1e4.cwyvpeni7w9h");
        assert_eq!(parse(&pos.to_string()), Some(pos));
        let copy = CopyPosition::parse(&format!("{pos}.5")).expect("a copy");
        assert_eq!((copy.position, copy.copy), (pos, CopyRank(5)));
    }

    #[test]
    fn an_entry_of_redis_has_the_text_of_its_id_and_its_hash() {
        let id = StoredId {
            major: 1_700_000_000_123,
            minor: 4,
        };
        let pos = Position::hashed(7_483_915, id, Some(EntryHash::of(5 << 32 | 46_655)));
        assert_eq!(pos.to_string(), "r4gemj.loyw3v5n.4.zzz");
        assert_eq!(parse(&pos.to_string()), Some(pos));
        let copy = CopyPosition::parse(&format!("{pos}.5")).expect("a copy");
        assert_eq!((copy.position, copy.copy), (pos, CopyRank(5)));
        let [major, minor] = [u64::MAX; 2];
        let hash = Some(EntryHash::of(u64::MAX));
        let longest = Position::hashed(u32::MAX, StoredId { major, minor }, hash);
        assert!(format!("{longest}.1z141z3").len() <= Position::BYTES_MAX);
    }

    /// An earlier version sends positions without a hash.
    #[test]
    fn messages_with_the_same_id_differ_if_both_hashes_are_known_and_differ() {
        let hash = |hash: u64| Some(EntryHash::of(hash));
        assert!(EntryHash::differ(hash(1), hash(2)));
        for (one, other) in [(hash(1), hash(1)), (None, hash(2)), (None, None)] {
            assert!(!EntryHash::differ(one, other) && !EntryHash::differ(other, one));
        }
        // No hash is 0.
        assert_eq!(hash(0), hash(1));
    }

    proptest! {
        #[test]
        fn every_stored_position_is_read_back(
            feed_hash in any::<u32>(), major in any::<u64>(), minor in any::<u64>(), hash in any::<Option<u64>>(),
        ) {
            let pos = Position::hashed(feed_hash, StoredId { major, minor }, hash.map(EntryHash::of));
            prop_assert_eq!(parse(&pos.to_string()), Some(pos));
        }

        #[test]
        fn every_position_is_read_back(
            feed_hash in any::<u32>(), nonce in 0..1_u64 << 48, counter in any::<u64>(), count in any::<u64>(),
        ) {
            let pos = position(feed_hash, nonce, counter, count);
            prop_assert_eq!(parse(&pos.to_string()), Some(pos));
            let mark = Mark { nonce, counter };
            prop_assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }

        #[test]
        fn no_text_has_a_second_reading(text in "m[0-9a-z]{0,3}\\.[0-9a-f]{12}\\.[0-9a-z]{0,3}\\.[0-9a-z]{0,3}") {
            if let Some(pos) = parse(&text) {
                prop_assert_eq!(pos.to_string(), text);
            }
        }
    }
}
