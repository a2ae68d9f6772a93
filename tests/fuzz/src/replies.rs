//! Replies of Redis: weirgate's reader against the parser of the `redis` crate.

use std::mem::discriminant;

use weirgate_bus::redis::resp::{EntryField, ReadLimits, RespReader, Value};

use super::{choices, outcome};

const LIMITS: ReadLimits = ReadLimits {
    bulk_bytes_max: 64,
    items_max: 8,
    entry_fields: &[],
    singly: false,
};

const LIMITS_OF_ENTRIES: ReadLimits = ReadLimits {
    entry_fields: &[
        EntryField {
            name: b"a",
            bytes_max: 8,
        },
        EntryField {
            name: b"data",
            bytes_max: usize::MAX,
        },
    ],
    ..LIMITS
};

fn read(bytes: &[u8], piece: usize) -> (Vec<Value>, Result<(), &'static str>) {
    read_with(LIMITS, bytes, piece)
}

fn read_with(
    limits: ReadLimits,
    bytes: &[u8],
    piece: usize,
) -> (Vec<Value>, Result<(), &'static str>) {
    let mut reader = RespReader::new(limits);
    let mut values = Vec::new();
    for mut part in bytes.chunks(piece) {
        loop {
            match reader.next(&mut part) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Err(error)),
            }
        }
        assert!(part.is_empty(), "bytes are left");
    }
    (values, Ok(()))
}

/// Whether the other parser read the same value.
fn is_same(ours: &Value, theirs: &redis::Value) -> bool {
    use redis::Value as Their;
    match (ours, theirs) {
        (Value::Nil, Their::Nil) => true,
        (Value::Integer(one), Their::Int(other)) => one == other,
        (Value::Bulk(one), Their::BulkString(other)) => one == other,
        (Value::Cut(one), Their::BulkString(other)) => {
            other.len() > LIMITS.bulk_bytes_max && one.start == other[..LIMITS.bulk_bytes_max + 1]
        }
        (Value::Status(one), Their::SimpleString(other)) => one == other,
        (Value::Status(one), Their::Okay) => one == "OK",
        // The other parser splits the words.
        (Value::Error(_), Their::ServerError(_)) => true,
        (Value::Array(one), Their::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same(one, other))
        }
        _ => false,
    }
}

/// Whether the other parser does not accept the value.
fn is_ours_alone(value: &Value) -> bool {
    match value {
        // The other parser's statuses are UTF-8.
        Value::Status(text) | Value::Error(text) => text.contains('\u{fffd}'),
        Value::Array(items) => items.iter().any(is_ours_alone),
        _ => false,
    }
}

/// A list of any length may be the fields of an entry, so more may be read than without entries, but not less.
fn check_entries(bytes: &[u8], piece: usize, values: &[Value]) {
    let of_entries = read_with(LIMITS_OF_ENTRIES, bytes, piece);
    let whole = read_with(LIMITS_OF_ENTRIES, bytes, usize::MAX);
    assert_eq!(of_entries, whole, "pieces matter to entries");
    let read = of_entries.0;
    assert!(read.len() >= values.len(), "values are missing");
    for (read, value) in read.iter().zip(values) {
        assert_eq!(discriminant(read), discriminant(value));
    }
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let ([piece], bytes) = choices(data);
    let (values, ended) = read(bytes, usize::from(piece) + 1);
    let whole = read(bytes, usize::MAX);
    assert_eq!((&values, &ended), (&whole.0, &whole.1), "pieces matter");
    check_entries(bytes, usize::from(piece) + 1, &values);
    let mut at = 0;
    for value in &values {
        // The end of each value: found by reading a byte more each time.
        let end = (at + 1..=bytes.len())
            .find(|&end| !read(&bytes[at..end], usize::MAX).0.is_empty())
            .expect("the value ends somewhere");
        if is_ours_alone(value) {
            at = end;
            continue;
        }
        match redis::parse_redis_value(&bytes[at..end]) {
            Ok(theirs) => assert!(is_same(value, &theirs), "{value:?} {theirs:?}"),
            Err(error) => panic!("{value:?}, but {error}"),
        }
        at = end;
    }
    let shapes: Vec<_> = values.iter().map(discriminant).take(4).collect();
    outcome((shapes, ended))
}
