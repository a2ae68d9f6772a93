//! The reader of the Redis protocol, in pieces of any size and against another reader.

use proptest::prelude::*;

use super::*;

const LIMITS: ReadLimits = ReadLimits {
    bulk_bytes_max: 1_000,
    items_max: 8,
    entry_fields: &[],
    singly: false,
};

fn read_in_pieces(bytes: &[u8], sizes: &[usize]) -> Result<Vec<Value>, Malformed> {
    let mut reader = Reader::new(LIMITS);
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

fn read(bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    read_in_pieces(bytes, &[usize::MAX])
}

#[test]
fn of_an_entry_only_the_fields_that_count_are_kept() {
    let mut reader = Reader::new(ReadLimits {
        entry_fields: &[b"channel", b"data"],
        ..LIMITS
    });
    let fields = "*6\r\n$5\r\nother\r\n$9\r\n123456789\r\n$12\r\nchannel-long\r\n$2\r\nno\r\n$4\r\ndata\r\n$3\r\nyes\r\n";
    let entries = format!("*1\r\n*2\r\n$3\r\n1-0\r\n{fields}");
    let bulk = |text: &str| Value::Bulk(text.into());
    let cut = |text: &str| Value::Cut(text.into());
    let kept = Value::Array(vec![
        bulk("other"),
        cut("1"),
        cut("channel-"),
        cut("n"),
        bulk("data"),
        bulk("yes"),
    ]);
    let want = Value::Array(vec![Value::Array(vec![bulk("1-0"), kept])]);
    let of_range = reader.next(&mut entries.as_bytes());
    assert_eq!(of_range, Ok(Some(want.clone())));
    let answer = format!("*1\r\n*2\r\n$9\r\na-long-ke\r\n{entries}");
    let want = Value::Array(vec![Value::Array(vec![bulk("a-long-ke"), want])]);
    assert_eq!(reader.next(&mut answer.as_bytes()), Ok(Some(want)));
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
            Reader::new(ReadLimits {
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
    let mut reader = Reader::new(ReadLimits {
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
        redis::Value::Array(items) => Value::Array(items.into_iter().map(from_reference).collect()),
        other => panic!("not packed here: {other:?}"),
    }
}

proptest! {
    /// However the bytes are split, the packed values are read, and the `redis` crate agrees.
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

    /// No bytes cause a panic, and the split changes nothing.
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
