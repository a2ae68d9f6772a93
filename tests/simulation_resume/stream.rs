//! A Redis stream on a server that trims it, loses its newest entries in a failover, or has it deleted.
//!
//! No id is given twice, even in another epoch of the stream: nobody could tell two messages with one id apart.

use std::collections::{BTreeMap, VecDeque};

use weirgate_bus::redis::resp::{CutString, Value};
use weirgate_core::StoredId;

use super::redis::Item;

/// The key.
pub(crate) const KEY: &str = "ticks";
/// Publishers choose ids of whole seconds, so that many entries share the first part of an id.
const ID_STEP_MS: u64 = 1_000;

/// How publishers choose ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// The time, and a number.
    Time,
    /// A sequence number that goes on from the newest entry, and the time: as JetStream.
    Sequence,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    ids: Ids,
    /// The ids and the numbers of the messages.
    entries: VecDeque<(StoredId, usize)>,
    /// New ids are above.
    last: StoredId,
    /// The number of each id that was ever given.
    numbers: BTreeMap<StoredId, usize>,
    /// Time by which the server's clock is behind.
    behind_ms: u64,
    /// The stream is trimmed to so many entries.
    len_max: usize,
    /// The entries that were added since the stream was made.
    added: usize,
    /// How often the stream was deleted.
    deletions: usize,
    /// The number of servers before this one.
    servers: u64,
}

impl Stream {
    pub(crate) fn new(ids: Ids, len_max: usize) -> Self {
        Self {
            ids,
            entries: VecDeque::new(),
            last: StoredId { major: 0, minor: 0 },
            numbers: BTreeMap::new(),
            behind_ms: 0,
            len_max,
            added: 0,
            deletions: 0,
            servers: 0,
        }
    }

    /// Adds the message with this number.
    pub(crate) fn add(&mut self, number: usize, unix_ms: u64) {
        let now_ms = unix_ms - self.behind_ms;
        let (major, minor) = match self.ids {
            Ids::Time => (now_ms / ID_STEP_MS * ID_STEP_MS, 0),
            Ids::Sequence => (self.last.major + 1, now_ms),
        };
        let mut id = StoredId { major, minor };
        if id <= self.last {
            id = StoredId {
                minor: self.last.minor + 1,
                ..self.last
            };
        }
        while self.numbers.contains_key(&id) {
            id.minor += 1;
        }
        self.last = id;
        self.numbers.insert(id, number);
        self.entries.push_back((id, number));
        self.added += 1;
        let excess = self.entries.len().saturating_sub(self.len_max);
        self.trim(excess);
    }

    pub(crate) fn number_of(&self, id: StoredId) -> usize {
        self.numbers[&id]
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The oldest entries are gone.
    pub(crate) fn trim(&mut self, count: usize) {
        let count = count.min(self.len());
        self.entries.drain(..count);
    }

    /// `DEL`: the next ids are smaller if the clock is set back, or the publishers count from 1.
    pub(crate) fn delete(&mut self, set_back_ms: u64) {
        self.entries.clear();
        self.deletions += 1;
        self.added = 0;
        self.last = StoredId { major: 0, minor: 0 };
        self.behind_ms += set_back_ms;
    }

    /// Another server takes over, which lacks the newest entries and has another clock. Returns the
    /// numbers of the messages that nobody will ever read again.
    pub(crate) fn fail_over(&mut self, lacks: usize, behind_ms: u64) -> Vec<usize> {
        let lacks = lacks.min(self.len());
        let lost = self.entries.split_off(self.len() - lacks);
        if let Some((id, _)) = self.entries.back() {
            self.last = *id;
        }
        self.behind_ms = behind_ms;
        self.added -= lacks;
        self.servers += 1;
        lost.into_iter().map(|(_, number)| number).collect()
    }

    /// Executes a command of the reader.
    pub(crate) fn answer(&self, command: &[String], items: &[Item], bytes_max: usize) -> Value {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let entry = |(id, number): &(StoredId, usize)| entry(*id, &items[*number], bytes_max);
        match words[..] {
            ["XREVRANGE", KEY, "+", "-", "COUNT", "1"] => {
                Value::Array(self.entries.back().map(entry).into_iter().collect())
            }
            ["INFO", "server"] => bulk(&format!("run_id:{}\r\n", self.servers)),
            ["INFO", "replication"] => bulk("role:master\r\n"),
            ["INFO", "commandstats"] => {
                let added = self.numbers.len();
                let deleted = self.deletions;
                bulk(&format!(
                    "# Commandstats\r\ncmdstat_xadd:calls={added},usec=1\r\n\
                     cmdstat_del:calls={deleted},usec=1\r\n"
                ))
            }
            ["INFO", "stats"] => bulk("# Stats\r\nexpired_keys:0\r\nevicted_keys:0\r\n"),
            ["XREAD", "COUNT", "1", "STREAMS", KEY, "$"] => Value::Nil,
            ["EVAL_RO", _, "1", KEY, after, _, _] => self.state(id_of(after), items, bytes_max),
            ["XRANGE", KEY, from, "+", "COUNT", count] => {
                let from = id_of(from);
                let first = self.entries.partition_point(|(id, _)| *id < from);
                let count = count.parse().expect("a number");
                let found = self.entries.range(first..).take(count);
                Value::Array(found.map(entry).collect())
            }
            ["XRANGE", KEY, from, to] => {
                let range = id_of(from)..=id_of(to);
                let found = self.entries.iter().filter(|(id, _)| range.contains(id));
                Value::Array(found.map(entry).collect())
            }
            ["XREAD", "COUNT", count, "BLOCK", _, "STREAMS", KEY, after] => {
                let after = id_of(after);
                let first = self.entries.partition_point(|(id, _)| *id <= after);
                let count = count.parse().expect("a number");
                let found: Vec<Value> =
                    self.entries.range(first..).take(count).map(entry).collect();
                if found.is_empty() {
                    return Value::Nil;
                }
                Value::Array(vec![Value::Array(vec![bulk(KEY), Value::Array(found)])])
            }
            _ => panic!("not a command: {words:?}"),
        }
    }

    /// Whether an entry is there, and the counters.
    fn state(&self, after: StoredId, items: &[Item], bytes_max: usize) -> Value {
        let number = |number: usize| Value::Integer(number.try_into().expect("small"));
        let id = |id: StoredId| bulk(&format!("{}-{}", id.major, id.minor));
        let found = self.entries.iter().find(|(id, _)| *id == after);
        let sample = found.map_or_else(Vec::new, |(_, at)| sample(&items[*at], bytes_max));
        let first = self.entries.front().map_or(after, |(id, _)| *id);
        let counters = [
            number(self.added),
            number(self.len()),
            id(first),
            id(self.last),
            bulk("0-0"),
        ];
        let counters = counters.into_iter().filter(|_| self.added > 0);
        let head = [number(found.is_some().into()), Value::Array(sample)];
        Value::Array(head.into_iter().chain(counters).collect())
    }
}

fn id_of(text: &str) -> StoredId {
    let (major, minor) = text.split_once('-').expect("an id");
    StoredId {
        major: major.parse().expect("a number"),
        minor: minor.parse().expect("a number"),
    }
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// An entry as the connection hands it over: fields that do not count are left out, and what is too long is cut behind
/// the first byte over the limit.
fn entry(id: StoredId, item: &Item, bytes_max: usize) -> Value {
    let id = format!("{}-{}", id.major, id.minor);
    Value::Array(vec![bulk(&id), Value::Array(fields(item, bytes_max))])
}

fn fields(item: &Item, bytes_max: usize) -> Vec<Value> {
    let data = match item.payload.len() > bytes_max {
        true => Value::Cut(CutString::new(
            item.payload[..=bytes_max].to_vec(),
            &item.payload[bytes_max + 1..],
        )),
        false => Value::Bulk(item.payload.clone()),
    };
    match item.channel.is_empty() {
        true => vec![bulk("data"), data],
        false => vec![bulk("channel"), bulk(&item.channel), bulk("data"), data],
    }
}

/// The sample of the fields, as the reader's script makes it.
fn sample(item: &Item, bytes_max: usize) -> Vec<Value> {
    let length = |value: &Value| match value {
        Value::Bulk(bytes) | Value::Cut(CutString { start: bytes, .. }) => {
            bytes.len().try_into().expect("small")
        }
        _ => 0,
    };
    let fields = fields(item, bytes_max);
    let fields = fields.chunks_exact(2);
    fields
        .flat_map(|field| {
            let lengths = [&field[0], &field[1]].map(|part| Value::Integer(length(part)));
            lengths.into_iter().chain([sampled(&field[1])])
        })
        .collect()
}

/// What the script says of a value: of over 4 KiB, sixteen parts of 256 bytes.
fn sampled(value: &Value) -> Value {
    match value {
        Value::Bulk(bytes) | Value::Cut(CutString { start: bytes, .. }) if bytes.len() > 4_096 => {
            let from = |part: usize| part * (bytes.len() - 256) / 15;
            let parts = (0..16).map(|part| &bytes[from(part)..][..256]);
            Value::Bulk(parts.collect::<Vec<_>>().concat())
        }
        short => short.clone(),
    }
}
