//! The Redis protocol (RESP2): packing commands, and reading values piece by piece. Pure.
//!
//! The reader allocates for bytes that have arrived, not for the announced length. Of a string over the limit it keeps
//! only the beginning, and reads and drops the rest. (The parser of the `redis` crate collects a string of any length
//! before it returns it, and has no limit to set.)

mod entry_fields;

use std::mem;

use self::entry_fields::EntryFields;
use crate::socket::{Lines, take_up_to};

/// The longest line: a status, an error, a number.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// The deepest nesting of lists: the fields of an entry in the answer to `XREAD`.
const DEPTH_MAX: usize = 5;
/// The most items for which memory is allocated before they have arrived.
const ITEMS_ROOM_MAX: usize = 16;
/// The most bytes for which memory is allocated before they have arrived.
const BYTES_ROOM_MAX: usize = 64 * 1024;

/// Appends a command to `out`.
pub(crate) fn pack<T: AsRef<[u8]>>(out: &mut Vec<u8>, parts: impl ExactSizeIterator<Item = T>) {
    header(out, b'*', parts.len());
    for part in parts {
        let part = part.as_ref();
        header(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A value of RESP, the protocol of Redis, as the server sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A short text: `OK`, `PONG`.
    Status(String),
    /// A refusal: a code in capitals, then words.
    Error(String),
    /// A number.
    Integer(i64),
    /// A string, any bytes.
    Bulk(Vec<u8>),
    /// The first bytes of a string over the limit: one byte more than the limit.
    Cut(Vec<u8>),
    /// No string, or no list.
    Nil,
    /// A list.
    Array(Vec<Self>),
}

/// The limits of a [`RespReader`].
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// The longest string that is kept whole.
    pub bulk_bytes_max: usize,
    /// The longest list, except for the list of the fields of an entry.
    pub items_max: usize,
    /// The fields to keep of each entry of a stream, with their values. Other fields are dropped as they arrive, because
    /// other programs may add any number of fields of any size. If empty, no list counts as the fields of an entry.
    pub entry_fields: &'static [EntryField],
    /// Whether the lists inside the outermost list are returned one by one as they arrive, and at the end the outermost
    /// list without them. So an answer of any length takes little memory.
    pub singly: bool,
}

/// A field that is kept of the entry of a stream.
#[derive(Clone, Copy, Debug)]
pub struct EntryField {
    /// Its name.
    pub name: &'static [u8],
    /// The longest value that is kept whole, if [`ReadLimits::bulk_bytes_max`] is no less.
    pub bytes_max: usize,
}

const TOO_MANY_ITEMS: &str = "a list with too many items";

/// Reads values from pieces of any size.
#[derive(Debug)]
pub struct RespReader {
    limits: ReadLimits,
    lines: Lines,
    bulk: Option<Bulk>,
    /// The lists that are not complete, the outermost first.
    open: Vec<Open>,
    /// The bytes taken since the last call of [`Self::take_bytes`].
    bytes: usize,
}

/// A string that is arriving.
#[derive(Debug)]
struct Bulk {
    /// What has arrived of the part that is kept; how many bytes of that part are missing.
    kept: Vec<u8>,
    to_keep: usize,
    is_cut: bool,
    /// How many bytes after that part are missing, which are dropped.
    to_discard: usize,
    /// How many bytes of the line end after the string are missing.
    to_end: usize,
}

/// A list that is arriving.
#[derive(Debug)]
struct Open {
    items: Vec<Value>,
    missing: usize,
    /// The strings of a list that may be the fields of an entry.
    fields: Option<EntryFields>,
}

impl RespReader {
    /// Creates a reader for a new connection.
    pub fn new(limits: ReadLimits) -> Self {
        Self {
            limits,
            lines: Lines::default(),
            bulk: None,
            open: Vec::new(),
            bytes: 0,
        }
    }

    /// Sets the limits that apply from the next list or string on.
    pub(crate) fn set_limits(&mut self, limits: ReadLimits) {
        self.limits = limits;
    }

    /// Takes bytes from `input` up to the end of the next value, and returns the value. Returns `None` if it took all
    /// of `input` and needs more.
    ///
    /// # Errors
    /// Why the bytes are not the Redis protocol, or exceed the limits of nesting or length. The reader is of no use
    /// afterwards.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Value>, &'static str> {
        let bytes = input.len();
        let value = self.next_value(input);
        self.bytes += bytes - input.len();
        value
    }

    /// The bytes taken since the last call.
    pub fn take_bytes(&mut self) -> usize {
        mem::take(&mut self.bytes)
    }

    /// As [`Self::next`], without the count of bytes. If the call before has returned the last item of a list by itself
    /// ([`ReadLimits::singly`]), this call returns the list without such items.
    fn next_value(&mut self, input: &mut &[u8]) -> Result<Option<Value>, &'static str> {
        if let Some(whole) = self.open.pop_if(|open| open.missing == 0) {
            return Ok(Some(whole.into_value()));
        }
        loop {
            let value = match &mut self.bulk {
                Some(bulk) => {
                    if !bulk.take(input)? {
                        return Ok(None);
                    }
                    self.bulk.take().map(Bulk::into_value)
                }
                None => match self.lines.next(input, LINE_BYTES_MAX)? {
                    Some(line) => self.begin(&line)?,
                    None => return Ok(None),
                },
            };
            if let Some(value) = value
                && let Some(whole) = self.place(value)?
            {
                return Ok(Some(whole));
            }
        }
    }

    /// Reads a value of a single line, or begins a longer value.
    /// `None`: a longer value has begun.
    fn begin(&mut self, line: &[u8]) -> Result<Option<Value>, &'static str> {
        let line = line.strip_suffix(b"\r\n");
        let line = line.ok_or("a line that ends without a carriage return")?;
        let (kind, text) = line.split_first().ok_or("an empty line")?;
        let value = match kind {
            b'+' => Value::Status(String::from_utf8_lossy(text).into_owned()),
            b'-' => Value::Error(String::from_utf8_lossy(text).into_owned()),
            b':' => Value::Integer(integer(text)?),
            b'$' => match length(text)? {
                Some(bytes) => {
                    self.bulk = Some(Bulk::new(bytes, self.bulk_bytes_max()));
                    return Ok(None);
                }
                None => Value::Nil,
            },
            b'*' => match length(text)? {
                Some(0) => Value::Array(Vec::new()),
                Some(items) => return self.open(items).map(|()| None),
                None => Value::Nil,
            },
            _ => return Err("a value of no known kind"),
        };
        Ok(Some(value))
    }

    /// The longest string that is kept whole in the innermost open list.
    fn bulk_bytes_max(&self) -> usize {
        let (kept, bytes_max) = (self.limits.entry_fields, self.limits.bulk_bytes_max);
        let fields = self.open.last().and_then(|open| open.fields.as_ref());
        fields.map_or(bytes_max, |fields| fields.bytes_max(kept).min(bytes_max))
    }

    /// Begins a list of so many items. The fields of an entry have no limit of their number, because only a few of them
    /// are kept.
    fn open(&mut self, items: usize) -> Result<(), &'static str> {
        let may_be_fields = self.may_open_fields();
        if items > self.limits.items_max && !may_be_fields {
            return Err(TOO_MANY_ITEMS);
        }
        if self.open.len() == DEPTH_MAX {
            return Err("too many lists in lists");
        }
        self.open.push(Open {
            items: Vec::with_capacity(items.min(ITEMS_ROOM_MAX)),
            missing: items,
            fields: may_be_fields.then(EntryFields::default),
        });
        Ok(())
    }

    /// Whether a list that begins here may be the fields of an entry: `[[ID, FIELDS]…]` is the answer to XRANGE, and
    /// `[[KEY, [[ID, FIELDS]…]]…]` that to XREAD. In the latter, the list of the entries is as deep as the fields are in
    /// the former, but has no strings.
    fn may_open_fields(&self) -> bool {
        !self.limits.entry_fields.is_empty() && matches!(self.open.len(), 2 | 4)
    }

    /// Puts a value in the innermost open list. Without an open list returns the value; if the outermost list is now
    /// complete, returns that list.
    fn place(&mut self, mut value: Value) -> Result<Option<Value>, &'static str> {
        loop {
            let is_outermost = self.open.len() == 1;
            let Some(open) = self.open.last_mut() else {
                return Ok(Some(value));
            };
            open.missing -= 1;
            if self.limits.singly && is_outermost && matches!(value, Value::Array(_)) {
                return Ok(Some(value));
            }
            open.put(value, &self.limits)?;
            if open.missing > 0 {
                return Ok(None);
            }
            match self.open.pop() {
                Some(whole) => value = whole.into_value(),
                // It was open a moment ago, so this does not happen.
                None => return Ok(None),
            }
        }
    }
}

impl Open {
    /// Adds an item, or drops it if it is a field of an entry that nobody reads. Returns an error if the list has too
    /// many items.
    fn put(&mut self, value: Value, limits: &ReadLimits) -> Result<(), &'static str> {
        match &mut self.fields {
            Some(fields) if !matches!(value, Value::Array(_)) => {
                fields.take(value, limits.entry_fields);
            }
            // The announced number of items was checked, unless they may have been fields.
            _ if self.items.len() == limits.items_max => return Err(TOO_MANY_ITEMS),
            _ => self.items.push(value),
        }
        Ok(())
    }

    /// The number of items for which memory is allocated.
    #[cfg(test)]
    fn room(&self) -> usize {
        let fields = self.fields.as_ref().map_or(0, EntryFields::room);
        self.items.capacity() + fields
    }

    fn into_value(mut self) -> Value {
        let fields = self.fields.map(EntryFields::into_items);
        self.items.extend(fields.unwrap_or_default());
        Value::Array(self.items)
    }
}

impl Bulk {
    fn new(bytes: usize, bytes_max: usize) -> Self {
        let to_keep = bytes.min(bytes_max.saturating_add(1));
        Self {
            kept: Vec::with_capacity(to_keep.min(BYTES_ROOM_MAX)),
            to_keep,
            is_cut: to_keep > bytes_max,
            to_discard: bytes - to_keep,
            to_end: 2,
        }
    }

    /// Returns true once the string and its line end have arrived.
    fn take(&mut self, input: &mut &[u8]) -> Result<bool, &'static str> {
        let kept = take_up_to(&mut self.to_keep, input);
        self.kept.extend_from_slice(kept);
        take_up_to(&mut self.to_discard, input);
        if self.to_keep > 0 || self.to_discard > 0 {
            return Ok(false);
        }
        let end = take_up_to(&mut self.to_end, input);
        if !b"\r\n"[..2 - self.to_end].ends_with(end) {
            return Err("a string longer than announced");
        }
        Ok(self.to_end == 0)
    }

    fn into_value(self) -> Value {
        match self.is_cut {
            true => Value::Cut(self.kept),
            false => Value::Bulk(self.kept),
        }
    }
}

fn integer(text: &[u8]) -> Result<i64, &'static str> {
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
    number.ok_or("a number that is none")
}

/// Returns `None` for -1, the length of a missing string or list.
fn length(text: &[u8]) -> Result<Option<usize>, &'static str> {
    match integer(text)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) => Err("a length below zero"),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: ReadLimits = ReadLimits {
        bulk_bytes_max: 1_000,
        items_max: 8,
        entry_fields: &[],
        singly: false,
    };

    const fn field(name: &'static [u8], bytes_max: usize) -> EntryField {
        EntryField { name, bytes_max }
    }

    const OF_ENTRIES: ReadLimits = ReadLimits {
        entry_fields: &[field(b"channel", 20), field(b"data", usize::MAX)],
        ..LIMITS
    };

    fn read_in_pieces(bytes: &[u8], sizes: &[usize]) -> Result<Vec<Value>, &'static str> {
        read_with(LIMITS, bytes, sizes)
    }

    fn read_with(
        limits: ReadLimits,
        bytes: &[u8],
        sizes: &[usize],
    ) -> Result<Vec<Value>, &'static str> {
        let mut reader = RespReader::new(limits);
        let mut values = Vec::new();
        let mut sizes = sizes.iter().cycle();
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = sizes.next().map_or(1, |&n| n.max(1)).min(rest.len());
            let (mut piece, behind) = rest.split_at(size);
            rest = behind;
            while let Some(value) = reader.next(&mut piece)? {
                values.push(value);
            }
            assert!(piece.is_empty());
        }
        Ok(values)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Value>, &'static str> {
        read_in_pieces(bytes, &[usize::MAX])
    }

    #[test]
    fn of_an_entry_only_the_fields_that_count_are_kept() {
        let mut reader = RespReader::new(OF_ENTRIES);
        let fields = "*6\r\n$5\r\nother\r\n$9\r\n123456789\r\n$12\r\nchannel-long\r\n$2\r\nno\r\n$4\r\ndata\r\n$3\r\nyes\r\n";
        let entries = format!("*1\r\n*2\r\n$3\r\n1-0\r\n{fields}");
        let bulk = |text: &str| Value::Bulk(text.into());
        let kept = Value::Array(vec![bulk("data"), bulk("yes")]);
        let want = Value::Array(vec![Value::Array(vec![bulk("1-0"), kept])]);
        let of_range = reader.next(&mut entries.as_bytes());
        assert_eq!(of_range, Ok(Some(want.clone())));
        let answer = format!("*1\r\n*2\r\n$9\r\na-long-ke\r\n{entries}");
        let want = Value::Array(vec![Value::Array(vec![bulk("a-long-ke"), want])]);
        assert_eq!(reader.next(&mut answer.as_bytes()), Ok(Some(want)));
    }

    #[test]
    fn each_field_of_an_entry_has_its_own_limit() {
        let name = "n".repeat(21);
        let entry = |name: &str| {
            let fields = ["channel", name, "data", &"d".repeat(100)];
            let mut bytes = b"*1\r\n*2\r\n$3\r\n1-0\r\n".to_vec();
            pack(&mut bytes, fields.iter());
            let read = RespReader::new(OF_ENTRIES).next(&mut &bytes[..]);
            let Ok(Some(Value::Array(entries))) = read else {
                panic!("{read:?}");
            };
            let Some(Value::Array(entry)) = entries.into_iter().next() else {
                panic!("no entry");
            };
            let Some(Value::Array(fields)) = entry.into_iter().nth(1) else {
                panic!("no fields");
            };
            fields
        };
        let data = Value::Bulk(vec![b'd'; 100]);
        for (name, want) in [
            (&name[1..], Value::Bulk(vec![b'n'; 20])),
            (&name, Value::Cut(vec![b'n'; 21])),
        ] {
            let fields = entry(name);
            assert_eq!([&fields[1], &fields[3]], [&want, &data]);
        }
    }

    #[test]
    fn an_entry_may_have_any_number_of_fields() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let (other, channel) = ("$1\r\no\r\n$1\r\n1\r\n", "$7\r\nchannel\r\n$1\r\na\r\n");
        let fields = [other, channel].concat().repeat(5_000);
        let entry = format!("*2\r\n$3\r\n1-0\r\n*20002\r\n{fields}$7\r\nchannel\r\n$1\r\nb\r\n");
        let kept = Value::Array(vec![bulk("channel"), bulk("b")]);
        let want = Value::Array(vec![bulk("1-0"), kept]);
        for (before, lists) in [("", 0), ("*1\r\n*2\r\n$1\r\nk\r\n", 2)] {
            let bytes = format!("{before}*2\r\n{entry}{entry}");
            for size in [1, 1_000, usize::MAX] {
                let mut reader = RespReader::new(OF_ENTRIES);
                let (mut value, mut most) = (None, 0);
                for mut piece in bytes.as_bytes().chunks(size.min(bytes.len())) {
                    value = reader.next(&mut piece).unwrap();
                    most = most.max(reader.open.iter().map(Open::room).max().unwrap_or(0));
                }
                for _ in 0..lists {
                    let Some(Value::Array(parts)) = value else {
                        panic!("{value:?}")
                    };
                    value = parts.into_iter().last();
                }
                let want = Value::Array(vec![want.clone(), want.clone()]);
                assert_eq!(value, Some(want), "{size}");
                assert!(most <= ITEMS_ROOM_MAX + 4, "{most}");
            }
        }
    }

    #[test]
    fn other_lists_in_answers_with_entries_are_limited() {
        for bytes in ["*9\r\n".to_owned(), "*1\r\n*9\r\n".to_owned()] {
            assert_eq!(
                read_with(OF_ENTRIES, bytes.as_bytes(), &[3]),
                Err(TOO_MANY_ITEMS)
            );
        }
        for (items, is_good) in [(8, true), (9, false)] {
            for item in ["*0\r\n", "*1\r\n$1\r\na\r\n"] {
                let bytes = format!("*1\r\n*1\r\n*{items}\r\n{}", item.repeat(items));
                let read = read_with(OF_ENTRIES, bytes.as_bytes(), &[3]);
                assert_eq!(read.is_ok(), is_good, "{read:?}");
            }
        }
    }

    #[test]
    fn the_lists_of_a_list_leave_one_by_one() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let bytes = b"*3\r\n*1\r\n$1\r\na\r\n$1\r\nx\r\n*2\r\n:1\r\n*0\r\n*0\r\n+OK\r\n";
        let want = [
            (Value::Array(vec![bulk("a")]), 15),
            (
                Value::Array(vec![Value::Integer(1), Value::Array(Vec::new())]),
                19,
            ),
            (Value::Array(vec![bulk("x")]), 0),
            (Value::Array(Vec::new()), 4),
            (Value::Status("OK".into()), 5),
        ];
        for size in [1, 3, 100] {
            let (mut reader, mut values) = (
                RespReader::new(ReadLimits {
                    singly: true,
                    ..LIMITS
                }),
                Vec::new(),
            );
            for mut piece in bytes.chunks(size) {
                while let Some(value) = reader.next(&mut piece).unwrap() {
                    values.push((value, reader.take_bytes()));
                }
            }
            assert_eq!(values, want, "{size}");
        }
    }

    #[test]
    fn each_kind_of_value_is_read() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let bytes = b"+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n*2\r\n$1\r\na\r\n*1\r\n$2\r\n\r\n\r\n";
        let want = [
            Value::Status("OK".into()),
            Value::Error("ERR no".into()),
            Value::Integer(-7),
            Value::Nil,
            Value::Nil,
            Value::Array(Vec::new()),
            bulk(""),
            Value::Array(vec![bulk("a"), Value::Array(vec![bulk("\r\n")])]),
        ];
        assert_eq!(read(bytes).unwrap(), want);
        for size in 1..20 {
            assert_eq!(read_in_pieces(bytes, &[size]).unwrap(), want, "{size}");
        }
    }

    #[test]
    fn a_long_string_is_cut_and_what_follows_is_read() {
        for (length, is_cut) in [(999, false), (1_000, false), (1_001, true), (9_000, true)] {
            let mut bytes = Vec::new();
            pack(&mut bytes, [vec![7; length], b"next".to_vec()].iter());
            let first = match is_cut {
                true => Value::Cut(vec![7; 1_001]),
                false => Value::Bulk(vec![7; length]),
            };
            let want = [Value::Array(vec![first, Value::Bulk(b"next".into())])];
            for size in [1, 7, 1_000, 5_000, 50_000] {
                assert_eq!(read_in_pieces(&bytes, &[size]).unwrap(), want);
            }
        }
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut reader = RespReader::new(ReadLimits {
            bulk_bytes_max: usize::MAX,
            items_max: usize::MAX,
            entry_fields: &[],
            singly: false,
        });
        let mut input = &b"*9223372036854775807\r\n$9223372036854775807\r\nabc"[..];
        assert_eq!(reader.next(&mut input), Ok(None));
        let kept = reader.bulk.map(|bulk| bulk.kept);
        assert!(kept.is_some_and(|k| k == b"abc" && k.capacity() <= BYTES_ROOM_MAX));
    }

    #[test]
    fn what_is_no_redis_is_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$1\r\nab\r\n",
            b"$99999999999999999999\r\n",
            b"*9\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
            &[b'+'; LINE_BYTES_MAX + 1],
        ] {
            assert!(read(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
            assert!(read_in_pieces(bytes, &[3]).is_err());
        }
    }

    fn from_reference(value: redis::Value) -> Value {
        match value {
            redis::Value::Nil => Value::Nil,
            redis::Value::Int(n) => Value::Integer(n),
            redis::Value::BulkString(bytes) => Value::Bulk(bytes),
            redis::Value::Array(items) => {
                Value::Array(items.into_iter().map(from_reference).collect())
            }
            other => panic!("not packed here: {other:?}"),
        }
    }

    proptest! {
        /// However the bytes are split, the values that were packed are read, and the `redis` crate reads the same.
        #[test]
        fn what_is_packed_is_read(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8), 0..20),
            sizes in prop::collection::vec(1_usize..50, 1..10),
        ) {
            let mut bytes = Vec::new();
            let mut want = Vec::new();
            for command in &commands {
                let at = bytes.len();
                pack(&mut bytes, command.iter());
                let reference = redis::parse_redis_value(&bytes[at..]).unwrap();
                want.push(from_reference(reference));
            }
            prop_assert_eq!(read_in_pieces(&bytes, &sizes).unwrap(), want);
        }

        /// However an answer to XREAD or XRANGE is split, each entry has the last field of each name that counts.
        #[test]
        fn of_any_entries_the_fields_that_count_are_kept(
            is_range in any::<bool>(),
            entries in prop::collection::vec(prop::collection::vec(prop::sample::select(
                vec!["channel", "data", "channels", "o", ""]), 0..12), 1..8),
            sizes in prop::collection::vec(1_usize..50, 1..10),
        ) {
            let bulk = |text: &str| Value::Bulk(text.into());
            let mut bytes = Vec::new();
            if !is_range {
                bytes.extend_from_slice(b"*1\r\n*2\r\n$4\r\ndata\r\n");
            }
            header(&mut bytes, b'*', entries.len());
            let mut want = Vec::new();
            for parts in &entries {
                bytes.extend_from_slice(b"*2\r\n$3\r\n1-0\r\n");
                pack(&mut bytes, parts.iter());
                let mut kept: Vec<[&str; 2]> = Vec::new();
                for field in parts.as_chunks().0 {
                    let [name, value] = *field;
                    match kept.iter_mut().find(|field| field[0] == name) {
                        Some(field) => field[1] = value,
                        None if ["channel", "data"].contains(&name) => kept.push(*field),
                        None => {}
                    }
                }
                let kept = kept.as_flattened().iter().copied().map(bulk).collect();
                want.push(Value::Array(vec![bulk("1-0"), Value::Array(kept)]));
            }
            let mut want = Value::Array(want);
            if !is_range {
                want = Value::Array(vec![Value::Array(vec![bulk("data"), want])]);
            }
            prop_assert_eq!(read_with(OF_ENTRIES, &bytes, &sizes).unwrap(), [want]);
        }

        /// No bytes cause a panic, and however they are split, the result is the same.
        #[test]
        fn any_bytes_are_taken_or_refused(
            bytes in prop::collection::vec(prop_oneof![
                prop::sample::select(b"+-:$*\r\n0123456789".to_vec()), any::<u8>()], 0..200),
            sizes in prop::collection::vec(1_usize..20, 1..5),
        ) {
            let whole = read(&bytes);
            let pieces = read_in_pieces(&bytes, &sizes);
            prop_assert_eq!(whole.is_ok(), pieces.is_ok());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
