//! Parsers for the answers about a stream. Pure.

use super::{CHANNEL, DATA, StreamReadError};
use crate::redis::resp::{CutString, Value};
use crate::{NAME_TOO_LONG, into_name};
use weirgate_core::StoredId;

/// Whether the last read entry is still there, and the counters: the answer to [`STATE`](super::STATE), or to `XRANGE`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::redis) struct StreamProof {
    /// Whether the last read entry is there; `None` if that was not asked, or was refused.
    pub(in crate::redis::stream) is_there: Option<bool>,
    pub(in crate::redis) counters: Option<Counters>,
}

/// What an answer has of the entry that it was asked for.
pub(super) enum LastEntry<'a> {
    /// The names and values of its fields, of `XRANGE`.
    Whole(&'a [Value]),
    /// The lengths of name and value, and the sampled value, of each field, of [`STATE`](super::STATE).
    Sample(&'a [Value]),
}

/// The counters of a stream: `XINFO STREAM` of Redis 7.0.
#[derive(Clone, Copy, Debug)]
pub(in crate::redis) struct Counters {
    /// The entries that were ever added.
    pub(super) added: u64,
    /// The entries that are there.
    pub(super) length: u64,
    /// The id of the oldest entry that is there.
    pub(super) first: StoredId,
    /// The id of the entry that was added last, even if it is gone.
    pub(in crate::redis::stream) last: StoredId,
    /// The highest id that `XDEL` has deleted; trims do not count.
    pub(super) last_deleted: StoredId,
}

/// An id as Redis writes it: `1700000000000-0`.
pub(in crate::redis::stream) fn id_text(id: StoredId) -> String {
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

fn parse_id(text: &[u8]) -> Option<StoredId> {
    let (major, minor) = str::from_utf8(text).ok()?.split_once('-')?;
    Some(StoredId {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// What follows `name`, with its colon, in the answer to `INFO`.
pub(super) fn info_line(info: &Value, name: &str) -> Option<String> {
    let (Value::Bulk(info) | Value::Cut(CutString { start: info, .. })) = info else {
        return None;
    };
    let info = String::from_utf8_lossy(info);
    let mut lines = info.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
}

/// The commands other than `XADD` that can add entries to a stream, or change its counters: one alone may add any number.
const PLACING: [&str; 8] = [
    "restore",
    "restore-asking",
    "copy",
    "rename",
    "renamenx",
    "move",
    "swapdb",
    "xsetid",
];

/// The commands that can delete a stream, or replace it by another one or by a key of another kind, such as those that store
/// their result.
const REMOVING: [&str; 34] = [
    "del",
    "delex",
    "unlink",
    "flushdb",
    "flushall",
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
    "set",
    "setex",
    "psetex",
    "mset",
    "msetex",
    "rename",
    "renamenx",
    "move",
    "copy",
    "restore",
    "restore-asking",
    "swapdb",
    "sort",
    "bitop",
    "migrate",
    "sinterstore",
    "sunionstore",
    "sdiffstore",
    "zunionstore",
    "zinterstore",
    "zdiffstore",
    "zrangestore",
    "geosearchstore",
    "georadius",
    "georadiusbymember",
];

/// What removes keys without a command, as `INFO stats` counts it: their time to live, and the limit of the memory.
const REMOVED_KEYS: [&str; 2] = ["expired_keys:", "evicted_keys:"];

/// How often the server has done what concerns which entries a stream has, of any key: the answers to `INFO commandstats` and
/// `INFO stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Executed {
    /// `XADD`, of which each adds at most one entry.
    xadds: u64,
    /// The other commands that can add entries to a stream.
    placings: u64,
    /// What can delete a stream, or replace it: commands, and keys that were removed without one.
    removals: u64,
    /// All commands, of whatever kind.
    all: u64,
}

impl Executed {
    /// Reads the answers; `None` of a refusal, or if an answer is not whole.
    pub(super) fn read(commands: &Value, stats: &Value) -> Option<Self> {
        let (Value::Bulk(commands), Value::Bulk(_)) = (commands, stats) else {
            return None;
        };
        let commands = str::from_utf8(commands).ok()?;
        let mut executed = Self::default();
        for line in commands.lines() {
            if let Some((name, rest)) = line
                .strip_prefix("cmdstat_")
                .and_then(|line| line.split_once(":calls="))
            {
                let number = rest.split(',').next().unwrap_or_default();
                let calls: u64 = number.parse().ok()?;
                let of = |names: &[&str]| if names.contains(&name) { calls } else { 0 };
                executed.xadds = executed.xadds.checked_add(of(&["xadd"]))?;
                executed.placings = executed.placings.checked_add(of(&PLACING))?;
                executed.removals = executed.removals.checked_add(of(&REMOVING))?;
                executed.all = executed.all.checked_add(calls)?;
            }
        }
        for name in REMOVED_KEYS {
            let keys = info_line(stats, name)?.parse().ok()?;
            executed.removals = executed.removals.checked_add(keys)?;
        }
        // Without the heading of the section the server has not counted: then 0 would be wrong.
        commands.starts_with('#').then_some(executed)
    }

    /// What was done since `before`; `None` if the server began to count anew meanwhile (`CONFIG RESETSTAT`). That shows in the
    /// number of all commands: in the seconds between, it does not come back to what it was.
    pub(super) fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            xadds: self.xadds.checked_sub(before.xadds)?,
            placings: self.placings.checked_sub(before.placings)?,
            removals: self.removals.checked_sub(before.removals)?,
            all: self.all.checked_sub(before.all)?,
        })
    }

    /// The commands that can add entries to a stream.
    pub(super) fn additions(self) -> u64 {
        self.xadds.saturating_add(self.placings)
    }

    /// Whether a stream that had these counters before the end of this time was there at its beginning: no stream was deleted,
    /// or this one has had more entries than can have been added since.
    pub(super) fn spared(self, counters: Option<Counters>) -> bool {
        let is_older = counters.is_some_and(|counters| self.xadds < counters.added);
        self.removals == 0 || is_older && self.placings == 0
    }
}

/// A place in the history of all writes, which a master and its replicas have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrittenTo {
    /// `master_replid`. A master that begins a history of its own has another one.
    history: String,
    /// Bytes of writes since the history began.
    offset: u64,
}

/// How a server gets its writes: the answer to `INFO replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) is_replica: bool,
    /// It is a replica without a link to its master.
    pub(super) is_cut_off: bool,
    /// The writes that it has carried out; `None` if it does not say.
    pub(super) written_to: Option<WrittenTo>,
    /// The history of these writes, as in [`WrittenTo`].
    pub(super) history: Option<String>,
    /// The history that it has continued (`master_replid2`), as a replica that became a master does.
    earlier_history: Option<String>,
}

impl Replication {
    /// Reads the answer; of a refusal, nothing is known.
    pub(super) fn read(info: &Value) -> Self {
        let is_replica = info_line(info, "role:").as_deref() == Some("slave");
        let offset = match is_replica {
            true => "slave_repl_offset:",
            false => "master_repl_offset:",
        };
        let offset = info_line(info, offset).and_then(|offset| offset.parse().ok());
        let history = info_line(info, "master_replid:");
        let written_to = history.clone().zip(offset);
        Self {
            history,
            earlier_history: info_line(info, "master_replid2:"),
            is_replica,
            is_cut_off: info_line(info, "master_link_status:").as_deref() == Some("down"),
            written_to: written_to.map(|(history, offset)| WrittenTo { history, offset }),
        }
    }

    /// Whether the server still has the data set of this history, as far as is known.
    pub(super) fn continues(&self, history: &Option<String>) -> bool {
        let is_known = history.is_some() && self.history.is_some();
        !is_known || [&self.history, &self.earlier_history].contains(&history)
    }

    /// Whether this is a replica that will get all writes up to this place: it is in the same history, and before the place.
    pub(super) fn will_reach(&self, place: &WrittenTo) -> bool {
        let written_to = self.written_to.as_ref();
        let is_before =
            written_to.is_some_and(|to| to.history == place.history && to.offset < place.offset);
        self.is_replica && !self.is_cut_off && is_before
    }
}

impl StreamProof {
    /// Reads the answer to the script, or to `XRANGE`, which has the last read entry if it is still there.
    pub(in crate::redis) fn read(items: &[Value]) -> Self {
        let (is_there, counters) = match items {
            [Value::Integer(found), _, counters @ ..] => (*found > 0, Counters::read(counters)),
            range => (!range.is_empty(), None),
        };
        Self {
            is_there: Some(is_there),
            counters,
        }
    }
}

impl<'a> LastEntry<'a> {
    /// Reads the answer to the script, or to `XRANGE`.
    pub(super) fn read(items: &'a [Value]) -> Option<Self> {
        match items {
            [Value::Integer(_), Value::Array(sample), ..] => Some(Self::Sample(sample)),
            [Value::Array(entry)] => match &entry[..] {
                [_, Value::Array(fields)] => Some(Self::Whole(fields)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Counters {
    /// Reads the counters in the order of [`STATE`](super::STATE); `None` from a server that does not have all of them.
    fn read(items: &[Value]) -> Option<Self> {
        let [
            Value::Integer(added),
            Value::Integer(length),
            Value::Bulk(first),
            Value::Bulk(last),
            Value::Bulk(last_deleted),
        ] = items
        else {
            return None;
        };
        Some(Self {
            added: u64::try_from(*added).ok()?,
            length: u64::try_from(*length).ok()?,
            first: parse_id(first)?,
            last: parse_id(last)?,
            last_deleted: parse_id(last_deleted)?,
        })
    }

    /// How many entries were trimmed or deleted.
    pub(super) fn removed(self) -> u64 {
        self.added.saturating_sub(self.length)
    }

    /// Whether the entry with this id is before the oldest one.
    pub(super) fn is_gone(self, id: StoredId) -> bool {
        self.length == 0 || id < self.first
    }

    /// How many of these entries are before the oldest one.
    pub(super) fn gone(self, entries: &[StreamEntry]) -> u64 {
        let gone = entries.iter().filter(|entry| self.is_gone(entry.id));
        gone.count() as u64
    }
}

/// An entry of a stream: its id, and the names and values of its fields by turns.
pub(in crate::redis::stream) struct StreamEntry {
    pub(in crate::redis::stream) id: StoredId,
    pub(in crate::redis::stream) fields: Vec<Value>,
}

impl StreamEntry {
    /// Reads an entry `[ID, FIELDS]`; the fields stay as they are. Returns an error for another form, or an ID that
    /// cannot be read.
    pub(in crate::redis::stream) fn read(entry: Value) -> Result<Self, StreamReadError> {
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
pub(in crate::redis::stream) fn message(
    fields: Vec<Value>,
) -> Result<(String, Vec<u8>), &'static str> {
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
pub(in crate::redis::stream) fn entries(answer: Value) -> Result<Vec<Value>, StreamReadError> {
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
