//! A server that adds, trims, deletes and loses entries of a stream.

use std::collections::VecDeque;

use super::super::entry::{StreamEntry, id_text};
use super::super::prints::EntryPrint;
use super::super::range::SCRIPT;
use super::super::state::STATE;
use super::rig::NOW_MS;
use crate::redis::resp::Value;
use weirgate_core::StoredId;

const ID_STEP: u64 = 1_000;

/// A stream on a server. The payload of each entry is a serial number, which continues when the stream is made anew.
pub(super) struct StreamServer {
    pub(super) entries: VecDeque<(StoredId, u64)>,
    pub(super) last: StoredId,
    pub(super) next_serial: u64,
    /// The number of entries added since the stream was made.
    pub(super) added: u64,
    /// The highest id that was deleted since the stream was made.
    pub(super) last_deleted: StoredId,
    /// How often the stream was deleted.
    pub(super) deletions: u64,
    /// How often it was removed without a command: evicted, or expired.
    pub(super) evictions: u64,
    /// The number of failovers so far.
    pub(super) process: u64,
    /// Whether it is a replica without its master.
    pub(super) is_cut_off: bool,
    /// The history of its writes, and how far it has come, if it says so.
    pub(super) written_to: Option<(&'static str, u64)>,
    pub(super) is_replica: bool,
    /// Whether the server has counters, and the user may ask for them.
    pub(super) has_counters: bool,
    /// Whether the user may ask for what the server has executed.
    pub(super) says_executed: bool,
    pub(super) entry_bytes: usize,
    /// Whether all entries have the same content.
    pub(super) is_monotone: bool,
    /// Ids of new entries are higher than this, also in a stream that lacks the last ones.
    pub(super) clock: StoredId,
    /// The stream under another key.
    pub(super) renamed: Option<Stream>,
    /// The next serial number when it was renamed.
    pub(super) renamed_at: u64,
    /// The number of renames so far, which the server counts as commands that can add entries.
    pub(super) renames: u64,
    /// Additions, renames and deletions when the server began to count commands anew (`CONFIG RESETSTAT`).
    pub(super) counted_from: [u64; 3],
    /// The number of the data set: another one has another history of writes.
    pub(super) data_set: u64,
}

/// What a stream is: its entries, its last id, how many were ever added, and the highest id that was deleted.
pub(super) type Stream = (VecDeque<(StoredId, u64)>, StoredId, u64, StoredId);

#[derive(Clone, Debug)]
pub(super) enum ModelStep {
    Add(u8),
    Trim(u8),
    /// The entry so far before the newest one is deleted.
    Delete(u8),
    /// An entry comes after a quiet time, and all before it are trimmed by their age.
    Night,
    /// The stream is deleted and made anew, and its ids are smaller.
    Anew,
    /// The stream is deleted and made anew, and its ids begin again.
    AnewFromFirst,
    /// The stream is deleted and made anew, and its ids go on.
    AnewAbove,
    /// As before, but the server itself removes the key, without a command.
    Evicted,
    /// The key is renamed, so that there is no stream.
    RenameAway,
    /// It is renamed back, over any stream that was made meanwhile.
    RenameBack,
    /// The process gets the data set of another server, which has been a master meanwhile: it lacks so many of the newest
    /// entries, and has so many of its own, with ids among those of the others.
    AnotherDataSet(u8, u8),
    /// Another server takes over: without so many of the newest entries, and if true, with a clock that is behind.
    FailOver(u8, bool),
    /// The reader's connection ends.
    Cut,
    /// The reader sends its commands and takes the answers. With the others, entries come, or are trimmed, or one is
    /// deleted, after each command.
    Read,
    AddAmid(u8),
    TrimAmid(u8),
    DeleteAmid(u8),
}

impl StreamServer {
    /// `CONFIG RESETSTAT`.
    pub(super) fn count_anew(&mut self) {
        self.counted_from = [self.next_serial, self.renames, self.deletions];
    }

    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            last: StoredId {
                major: NOW_MS,
                minor: 0,
            },
            next_serial: 0,
            added: 0,
            last_deleted: StoredId::default(),
            deletions: 0,
            evictions: 0,
            process: 0,
            is_cut_off: false,
            written_to: None,
            is_replica: false,
            has_counters: true,
            says_executed: true,
            entry_bytes: 100,
            is_monotone: false,
            clock: StoredId::default(),
            renamed: None,
            renamed_at: 0,
            renames: 0,
            counted_from: [0; 3],
            data_set: 0,
        }
    }

    pub(super) fn swap(&mut self, stream: Stream) -> Stream {
        self.renames += 1;
        let own = (
            &mut self.entries,
            &mut self.last,
            &mut self.added,
            &mut self.last_deleted,
        );
        (
            std::mem::replace(own.0, stream.0),
            std::mem::replace(own.1, stream.1),
            std::mem::replace(own.2, stream.2),
            std::mem::replace(own.3, stream.3),
        )
    }

    fn add(&mut self) {
        self.last = self.last.max(self.clock);
        self.last.minor += ID_STEP;
        let serial = if self.is_monotone {
            0
        } else {
            self.next_serial
        };
        self.entries.push_back((self.last, serial));
        self.next_serial += 1;
        self.added += 1;
    }

    /// Carries out a step; returns the serial numbers of the entries that it has lost.
    pub(super) fn step(&mut self, step: &ModelStep) -> Vec<u64> {
        match step {
            ModelStep::Add(count) => (0..*count).for_each(|_| self.add()),
            ModelStep::Trim(count) => {
                let count = usize::from(*count).min(self.entries.len());
                self.entries.drain(..count);
            }
            ModelStep::Delete(before_newest) => {
                let at = self
                    .entries
                    .len()
                    .checked_sub(1 + usize::from(*before_newest));
                let deleted = at.and_then(|at| self.entries.remove(at));
                if let Some((id, _)) = deleted {
                    self.last_deleted = self.last_deleted.max(id);
                }
                return deleted.map(|(_, serial)| serial).into_iter().collect();
            }
            ModelStep::Night => {
                let before = self.entries.len();
                self.add();
                self.entries.drain(..before);
            }
            ModelStep::Anew => {
                self.entries.clear();
                self.deletions += 1;
                self.added = 0;
                self.last_deleted = StoredId::default();
                self.last = self.last.max(self.clock);
                self.last.major -= 1_000;
                self.clock = StoredId::default();
            }
            ModelStep::AnewAbove => {
                let (last, clock) = (self.last, self.clock);
                self.step(&ModelStep::Anew);
                (self.last, self.clock) = (last, clock);
            }
            ModelStep::Evicted => {
                self.step(&ModelStep::AnewAbove);
                self.deletions -= 1;
                self.evictions += 1;
            }
            ModelStep::AnewFromFirst => {
                self.step(&ModelStep::Anew);
                self.last = Self::new().last;
            }
            ModelStep::RenameAway => {
                if self.added > 0 && self.renamed.is_none() {
                    self.clock = self.last;
                    self.renamed_at = self.next_serial;
                    self.renamed = Some(self.swap(Stream::default()));
                }
            }
            ModelStep::RenameBack => {
                if let Some(renamed) = self.renamed.take() {
                    self.clock = self.clock.max(self.last);
                    self.swap(renamed);
                    // The entries of a stream that was there meanwhile.
                    return (self.renamed_at..self.next_serial).collect();
                }
            }
            ModelStep::AnotherDataSet(lacks, has) => {
                let before = self.last;
                let mut lost = self.step(&ModelStep::FailOver(*lacks, true));
                let renamed = self.renamed.take().map(|stream| stream.0);
                lost.extend(renamed.into_iter().flatten().map(|(_, serial)| serial));
                self.process -= 1;
                self.data_set += 1;
                self.last.minor += self.data_set;
                (0..*has).for_each(|_| self.add());
                self.clock = before;
                return lost;
            }
            ModelStep::FailOver(count, is_behind) => {
                let count = usize::from(*count).min(self.entries.len());
                let lost = self.entries.split_off(self.entries.len() - count);
                self.added -= lost.len() as u64;
                self.process += 1;
                if *is_behind {
                    self.last = self.last.max(self.clock);
                    self.clock = StoredId::default();
                    // The ids of the new server differ from those that were lost: no reader could tell two entries with
                    // the same id apart.
                    self.last = self.entries.back().map_or(self.last, |(id, _)| *id);
                    self.last.minor += self.process;
                }
                return lost.into_iter().map(|(_, serial)| serial).collect();
            }
            ModelStep::Cut
            | ModelStep::Read
            | ModelStep::AddAmid(_)
            | ModelStep::TrimAmid(_)
            | ModelStep::DeleteAmid(_) => {}
        }
        Vec::new()
    }

    pub(super) fn answer(&self, command: &[String]) -> Value {
        let id = |text: &str| {
            let (major, minor) = text.split_once('-').expect("an id");
            StoredId {
                major: major.parse().expect("a number"),
                minor: minor.parse().expect("a number"),
            }
        };
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["XREVRANGE", "ticks", "+", "-", "COUNT", "1"] => {
                Value::Array(self.entries.back().map(entry).into_iter().collect())
            }
            ["INFO", "server"] => {
                Value::Bulk(format!("a:1\r\nrun_id:{}\r\n", self.process).into_bytes())
            }
            ["INFO", "commandstats" | "stats"] if !self.says_executed => {
                Value::Error("NOPERM".to_owned())
            }
            ["INFO", "commandstats"] => {
                let [adds, renames, dels] = self.counted_from;
                let pings = if self.counted_from == [0; 3] { 900 } else { 1 };
                let mut stats = format!("# Commandstats\r\ncmdstat_ping:calls={pings},usec=1\r\n");
                for (name, calls) in [
                    ("xadd", self.next_serial - adds),
                    ("rename", self.renames - renames),
                    ("unlink", self.deletions - dels),
                ] {
                    stats += &format!("cmdstat_{name}:calls={calls},usec=1\r\n");
                }
                Value::Bulk(stats.into_bytes())
            }
            ["INFO", "stats"] => {
                let evicted = self.evictions;
                Value::Bulk(
                    format!("# Stats\r\nexpired_keys:0\r\nevicted_keys:{evicted}\r\n").into_bytes(),
                )
            }
            ["INFO", "replication"] => Value::Bulk(self.replication().into_bytes()),
            ["XREAD", "COUNT", "1", "STREAMS", "ticks", "$"] => Value::Nil,
            ["EVAL_RO", STATE, "1", "ticks", after, _, _] => match self.has_counters {
                true => self.state(id(after)),
                false => Value::Error("NOPERM".to_owned()),
            },
            ["EVAL_RO", SCRIPT, "1", "ticks", from, count, limit] if self.has_counters => {
                let (from, limit) = (id(from), limit.parse::<usize>().expect("a number"));
                let found = self.entries.iter().filter(|(id, _)| *id >= from);
                let fitting = limit.div_ceil(self.entry_bytes).next_multiple_of(4);
                let count = count.parse::<usize>().expect("a number");
                Value::Array(found.map(entry).take(count.min(fitting)).collect())
            }
            ["XRANGE", "ticks", from, "+", "COUNT", count] => {
                let from = id(from);
                let found = self.entries.iter().filter(|(id, _)| *id >= from);
                let count = count.parse().expect("a number");
                Value::Array(found.map(entry).take(count).collect())
            }
            ["XRANGE", "ticks", from, to] => {
                let (from, to) = (id(from), id(to));
                let found = self
                    .entries
                    .iter()
                    .filter(|(id, _)| (from..=to).contains(id));
                Value::Array(found.map(entry).collect())
            }
            [
                "XREAD",
                "COUNT",
                count,
                "BLOCK",
                "1000",
                "STREAMS",
                "ticks",
                after,
            ] => {
                let after = id(after);
                let found = self.entries.iter().filter(|(id, _)| *id > after);
                let count = count.parse().expect("a number");
                let found: Vec<Value> = found.map(entry).take(count).collect();
                match found.is_empty() {
                    true => Value::Nil,
                    false => {
                        let stream = vec![Value::Bulk(b"ticks".to_vec()), Value::Array(found)];
                        Value::Array(vec![Value::Array(stream)])
                    }
                }
            }
            _ => panic!("not a command: {words:?}"),
        }
    }

    fn replication(&self) -> String {
        let (role, of) = match self.is_replica || self.is_cut_off {
            true => ("slave", "slave"),
            false => ("master", "master"),
        };
        let link = if self.is_cut_off { "down" } else { "up" };
        let written_to = match self.written_to {
            Some((history, offset)) => {
                format!("master_replid:{history}\r\n{of}_repl_offset:{offset}\r\n")
            }
            None => format!("master_replid:{}\r\n", self.data_set),
        };
        format!("role:{role}\r\nmaster_link_status:{link}\r\n{written_to}")
    }

    /// The print of the newest entry.
    pub(super) fn newest(&self) -> Option<EntryPrint> {
        let newest = StreamEntry::read(entry(self.entries.back()?));
        newest.ok().map(|newest| EntryPrint::of(&newest))
    }

    fn state(&self, after: StoredId) -> Value {
        let number = |number: u64| Value::Integer(number.try_into().expect("small"));
        let id = |id: StoredId| Value::Bulk(id_text(id).into_bytes());
        let found = self.entries.iter().find(|(id, _)| *id == after);
        let none = StoredId { major: 0, minor: 0 };
        let first = self.entries.front().map_or(none, |(id, _)| *id);
        let counters = [
            number(self.added),
            number(self.entries.len() as u64),
            id(first),
            id(self.last),
            id(self.last_deleted),
        ];
        let counters = counters.into_iter().filter(|_| self.added > 0);
        let found_number = number(found.is_some().into());
        let sample = found.map_or_else(Vec::new, |(_, serial)| sample(*serial));
        let head = [found_number, Value::Array(sample)];
        Value::Array(head.into_iter().chain(counters).collect())
    }
}

fn fields(serial: u64) -> [String; 6] {
    ["channel", "a", "more", "x", "data", &serial.to_string()].map(str::to_owned)
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

fn entry((id, serial): &(StoredId, u64)) -> Value {
    let fields = fields(*serial).map(|part| bulk(&part));
    Value::Array(vec![bulk(&id_text(*id)), Value::Array(fields.to_vec())])
}

/// The sample of [`STATE`].
fn sample(serial: u64) -> Vec<Value> {
    let length = |text: &str| Value::Integer(text.len().try_into().expect("small"));
    let fields = fields(serial);
    let fields = fields.chunks_exact(2);
    fields
        .flat_map(|field| [length(&field[0]), length(&field[1]), bulk(&field[1])])
        .collect()
}
