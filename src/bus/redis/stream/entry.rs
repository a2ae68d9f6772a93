//! The entries of a stream: their ids and fields, and the answers that have them. Pure.

use super::reader::StreamReadError;
use crate::redis::resp::{CutString, Value};
use crate::{NAME_TOO_LONG, into_name};
use weirgate_core::StoredId;

/// The fields of an entry that weirgate reads.
pub(super) const CHANNEL: &[u8] = b"channel";
pub(super) const DATA: &[u8] = b"data";

/// An id as Redis writes it: `1700000000000-0`.
pub(super) fn id_text(id: StoredId) -> String {
    format!("{}-{}", id.major, id.minor)
}

/// The lowest id above `id`.
pub(super) fn next_id(id: StoredId) -> StoredId {
    let minor = id.minor.checked_add(1);
    StoredId {
        major: id.major + u64::from(minor.is_none()),
        minor: minor.unwrap_or(0),
    }
}

pub(super) fn parse_id(text: &[u8]) -> Option<StoredId> {
    let (major, minor) = str::from_utf8(text).ok()?.split_once('-')?;
    Some(StoredId {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// An entry of a stream: its id, and the names and values of its fields by turns.
pub(super) struct StreamEntry {
    pub(super) id: StoredId,
    pub(super) fields: Vec<Value>,
}

impl StreamEntry {
    /// Reads an entry `[ID, FIELDS]`; the fields stay as they are. Returns an error for another form, or an ID that
    /// cannot be read.
    pub(super) fn read(entry: Value) -> Result<Self, StreamReadError> {
        const WRONG: StreamReadError = StreamReadError::Wrong("an entry of no known form");
        let Value::Array(parts) = entry else {
            return Err(WRONG);
        };
        let mut parts = parts.into_iter();
        let (Some(Value::Bulk(id)), Some(Value::Array(fields))) = (parts.next(), parts.next())
        else {
            return Err(WRONG);
        };
        let id = parse_id(&id).ok_or(WRONG)?;
        Ok(Self { id, fields })
    }
}

/// The channel and the payload of an entry. A payload over the limit has been cut after the first byte over the limit.
pub(super) fn message(fields: Vec<Value>) -> Result<(String, Vec<u8>), &'static str> {
    let (mut channel, mut data) = (None, None);
    let mut fields = fields.into_iter();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        match (field, value) {
            (Value::Bulk(field), Value::Bulk(value)) if field == CHANNEL => channel = Some(value),
            (Value::Bulk(field), Value::Cut(_)) if field == CHANNEL => return Err(NAME_TOO_LONG),
            (
                Value::Bulk(field),
                Value::Bulk(value) | Value::Cut(CutString { start: value, .. }),
            ) if field == DATA => {
                data = Some(value);
            }
            _ => {}
        }
    }
    let channel = channel.ok_or("no field channel")?;
    Ok((into_name(channel)?, data.ok_or("no field data")?))
}

/// The entries of a range.
pub(super) fn entries(answer: Value) -> Result<Vec<Value>, StreamReadError> {
    match answer {
        Value::Array(entries) => Ok(entries),
        Value::Nil => Ok(Vec::new()),
        Value::Error(words) => Err(StreamReadError::Refused(words)),
        _ => Err(StreamReadError::Wrong("an answer that fits no question")),
    }
}

/// The entries in the answer to XREAD: `[[KEY, ENTRIES]]`.
pub(super) fn stream_entries(answer: Value) -> Result<Vec<Value>, StreamReadError> {
    let Some(stream) = entries(answer)?.into_iter().next() else {
        return Ok(Vec::new());
    };
    match entries(stream)?.into_iter().nth(1) {
        Some(list) => entries(list),
        None => Err(StreamReadError::Wrong("a stream without entries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NAME_BYTES_MAX;

    #[test]
    fn entries_of_another_form_are_bad_and_the_next_ones_come() {
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        let read = |fields: &[Value]| message(fields.to_vec());
        let (channel, data) = (bulk("channel"), bulk("data"));
        let good = [channel.clone(), bulk("a"), data.clone(), bulk("1")];
        assert_eq!(read(&good), Ok(("a".to_owned(), b"1".to_vec())));
        let long = [
            channel.clone(),
            bulk("a"),
            data.clone(),
            Value::Cut(CutString::new(b"12".to_vec(), b"")),
        ];
        assert_eq!(read(&long), Ok(("a".to_owned(), b"12".to_vec())));
        let named = |name: Vec<u8>| {
            let name = Value::Bulk(name);
            [channel.clone(), name, data.clone(), bulk("1")]
        };
        assert!(read(&named(vec![b'a'; NAME_BYTES_MAX])).is_ok());
        for bad in [
            &[][..],
            &named(vec![b'a'; NAME_BYTES_MAX + 1]),
            &named(vec![0xff]),
            &good[..2],
            &good[2..],
            &[
                channel.clone(),
                Value::Cut(CutString::new(b"aa".to_vec(), b"")),
                data.clone(),
                bulk("1"),
            ],
            &[Value::Nil, bulk("a")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
