//! Reading a Redis stream over all connections: the next commands, and the sense of the answers. Pure.
//!
//! Both parts of an entry's id are compared: an entry that is still in the stream proves that nothing behind
//! the entry was trimmed. Each answer is proved, because nobody knows how long an answer was on its way. The
//! counters of a stream prove less: each misses a way to lose entries (XTRIM, XDEL, DEL, a failover to a server
//! that lags).

use super::super::resp::Value;
use crate::feeds::StoredId;
use crate::sources::stored::Told;

/// The most entries of an answer.
const ENTRIES_MAX: usize = 512;
/// The most payload bytes of an answer, unless a single payload may have more.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The time that a command waits at the server for the next entry, milliseconds.
pub(super) const BLOCK_MS: u64 = 1_000;

/// The fields of an entry.
pub(super) const CHANNEL: &[u8] = b"channel";
pub(super) const DATA: &[u8] = b"data";

/// The place of this process in a stream.
#[derive(Debug)]
pub struct StreamReader {
    key: String,
    history_ms: u64,
    entries_max: usize,
    step: Step,
    /// Whether a first look has set `after`.
    has_begun: bool,
    /// The next entry to read is the first one behind this id.
    after: StoredId,
    /// Whether the entry `after` was read, and is in the stream if nothing was lost.
    was_read: bool,
    /// The last entry from before the start of this process, until the entry is read.
    old_until: Option<StoredId>,
    /// Whether [`Told::Stands`] was said on this connection.
    stands: bool,
}

/// The commands whose answers are next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The newest entry, and whether the last read entry is still there.
    Look,
    /// The next entries, and whether the last read entry is still there behind them.
    Read,
}

/// An answer that fits no command, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The words of the server.
    Refused(String),
    /// What is wrong with the answer.
    Wrong(&'static str),
}

impl StreamReader {
    /// A reader that begins with the entries of the last `history_ms` milliseconds.
    pub fn new(key: &str, history_ms: u64, payload_bytes_max: usize) -> Self {
        Self {
            key: key.to_owned(),
            history_ms,
            entries_max: (ANSWER_BYTES_MAX / payload_bytes_max.max(1)).clamp(1, ENTRIES_MAX),
            step: Step::Look,
            has_begun: false,
            after: StoredId { major: 0, minor: 0 },
            was_read: false,
            old_until: None,
            stands: false,
        }
    }

    /// Handles a new connection.
    pub fn connected(&mut self) {
        self.step = Step::Look;
        self.stands = false;
    }

    /// The next commands.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (key, after) = (&self.key[..], text(self.after));
        let first = match self.step {
            Step::Look => words(&["XREVRANGE", key, "+", "-", "COUNT", "1"]),
            Step::Read => {
                let count = self.entries_max.to_string();
                let block = BLOCK_MS.to_string();
                words(&[
                    "XREAD", "COUNT", &count, "BLOCK", &block, "STREAMS", key, &after,
                ])
            }
        };
        let still_there = words(&["XRANGE", key, &after, &after]);
        let check = self.was_read.then_some(still_there);
        [first].into_iter().chain(check).collect()
    }

    /// Takes the answers to the commands.
    ///
    /// # Errors
    /// The server refuses a command, or an answer has another form: this connection is of no use.
    pub fn take(
        &mut self,
        answers: Vec<Value>,
        now_ms: u64,
        out: &mut Vec<Told>,
    ) -> Result<(), Trouble> {
        let mut answers = answers.into_iter();
        let first = answers.next().unwrap_or(Value::Nil);
        let is_there = match answers.next() {
            Some(check) => Some(!entries(check)?.is_empty()),
            None => None,
        };
        match self.step {
            Step::Look => self.looked(entries(first)?, is_there, now_ms, out),
            Step::Read => self.read(stream_entries(first)?, is_there, out),
        }
    }

    fn looked(
        &mut self,
        newest: Vec<Value>,
        is_there: Option<bool>,
        now_ms: u64,
        out: &mut Vec<Told>,
    ) -> Result<(), Trouble> {
        let newest = match newest.into_iter().next() {
            Some(entry) => Some(Entry::read(entry)?.id),
            None => None,
        };
        if !self.has_begun {
            self.begin(newest, now_ms);
        } else if is_there != Some(true) {
            self.go_on(newest, out);
        }
        self.step = Step::Read;
        if self.old_until.is_none() {
            self.stand(out);
        }
        Ok(())
    }

    /// Begins with the entries of the last time. The server's clock may be behind.
    fn begin(&mut self, newest: Option<StoredId>, now_ms: u64) {
        self.has_begun = true;
        self.old_until = newest;
        if let Some(newest) = newest {
            let major = newest.major.min(now_ms).saturating_sub(self.history_ms);
            self.after = StoredId { major, minor: 0 };
        }
    }

    /// Goes on where nothing proves that all is there: the last entry is gone, or no entry was read so far. The
    /// newest entry may be below the last one: after a failover to a server whose clock is behind, new ids begin
    /// below, where XREAD would never look.
    fn go_on(&mut self, newest: Option<StoredId>, out: &mut Vec<Told>) {
        out.push(Told::Lost);
        self.was_read = false;
        let newest_or_first = newest.unwrap_or(StoredId { major: 0, minor: 0 });
        if newest_or_first <= self.after {
            self.after = newest_or_first;
            self.old_until = None;
        }
        if newest == Some(self.after) {
            self.was_read = true;
            out.push(Told::Head(self.after));
        }
    }

    fn read(
        &mut self,
        entries: Vec<Value>,
        is_there: Option<bool>,
        out: &mut Vec<Told>,
    ) -> Result<(), Trouble> {
        if is_there == Some(false) {
            if entries.is_empty() {
                // A stream made anew may have smaller ids.
                self.step = Step::Look;
                return Ok(());
            }
            out.push(Told::Lost);
        }
        if entries.is_empty() {
            // The last entries of before the start are gone.
            self.old_until = None;
            self.stand(out);
        }
        for entry in entries {
            self.entry(Entry::read(entry)?, out)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, out: &mut Vec<Told>) -> Result<(), Trouble> {
        let Entry { id, fields } = entry;
        if id <= self.after {
            return Err(Trouble::Wrong("an entry out of order"));
        }
        (self.after, self.was_read) = (id, true);
        let is_old = self.old_until.is_some_and(|until| id <= until);
        if !is_old {
            self.old_until = None;
            self.stand(out);
        }
        out.push(match message(fields) {
            Ok((subject, payload)) => Told::Message {
                id,
                subject,
                payload,
                is_old,
            },
            Err(reason) => Told::Bad(reason),
        });
        if self.old_until == Some(id) {
            self.old_until = None;
            self.stand(out);
        }
        Ok(())
    }

    fn stand(&mut self, out: &mut Vec<Told>) {
        if !self.stands {
            self.stands = true;
            out.push(Told::Stands);
        }
    }
}

/// `1700000000000-0`.
fn text(id: StoredId) -> String {
    format!("{}-{}", id.major, id.minor)
}

struct Entry {
    id: StoredId,
    fields: Vec<Value>,
}

impl Entry {
    fn read(entry: Value) -> Result<Self, Trouble> {
        const WRONG: Trouble = Trouble::Wrong("an entry of no known form");
        let Value::Array(parts) = entry else {
            return Err(WRONG);
        };
        let mut parts = parts.into_iter();
        let (Some(Value::Bulk(id)), Some(Value::Array(fields))) = (parts.next(), parts.next())
        else {
            return Err(WRONG);
        };
        let id = str::from_utf8(&id).ok().and_then(|id| id.split_once('-'));
        let id = id.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = id.ok_or(WRONG)?;
        let id = StoredId { major, minor };
        Ok(Self { id, fields })
    }
}

/// The channel and the payload of an entry. A payload over the limit is cut behind the first byte over the
/// limit.
fn message(fields: Vec<Value>) -> Result<(String, Vec<u8>), &'static str> {
    let (mut channel, mut data) = (None, None);
    let mut fields = fields.into_iter();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        match (field, value) {
            (Value::Bulk(field), Value::Bulk(value)) if field == CHANNEL => channel = Some(value),
            (Value::Bulk(field), Value::Bulk(value) | Value::Cut(value)) if field == DATA => {
                data = Some(value);
            }
            _ => {}
        }
    }
    let channel = channel.ok_or("no field channel, or one that is too long")?;
    let channel = String::from_utf8(channel).map_err(|_| "a channel that is no UTF-8")?;
    Ok((channel, data.ok_or("no field data")?))
}

/// The entries of a range.
fn entries(answer: Value) -> Result<Vec<Value>, Trouble> {
    match answer {
        Value::Array(entries) => Ok(entries),
        Value::Nil => Ok(Vec::new()),
        Value::Error(words) => Err(Trouble::Refused(words)),
        _ => Err(Trouble::Wrong("an answer that fits no question")),
    }
}

/// The entries in the answer to XREAD: `[[KEY, ENTRIES]]`.
fn stream_entries(answer: Value) -> Result<Vec<Value>, Trouble> {
    let Some(stream) = entries(answer)?.into_iter().next() else {
        return Ok(Vec::new());
    };
    match entries(stream)?.into_iter().nth(1) {
        Some(list) => entries(list),
        None => Err(Trouble::Wrong("a stream without entries")),
    }
}

#[cfg(test)]
mod tests;
