//! Reads a Redis stream over all connections: chooses the next commands, and interprets the answers. Pure.
//!
//! The reader has to know whether entries were trimmed before it could read them. If the last entry that it read is
//! still in the stream, nothing after it was trimmed; so each answer is checked against this entry, by its id and its
//! content: a stream that was made anew may give the same id to another entry. While there is much
//! to read, each answer begins with the last entry of the answer before, and the parser returns the entries one by one.
//! At the end of the stream, the reader asks for the last entry after each answer.
//!
//! If the last entry is gone, the counters of the stream can still prove that nothing was lost, in two ways:
//! - It was trimmed: exactly as many entries were removed as were read, and the oldest entry that is left was not read.
//! - It was deleted (`XDEL`): no later entry was ever deleted, and trims, which begin at the oldest entry, have not come
//!   as far.
//!
//! The counters prove less than the entry, because a stream that was deleted and made anew can have the same numbers: a young
//! one after a single transaction. So they count only if the stream is the same. The server counts the commands that can add
//! entries to any stream, and what can delete one: commands, and keys that expire or are evicted. Since the stream was last
//! seen, nothing of the latter may have happened; or fewer entries can have been added than the stream has ever had, so that
//! it is older. The counters of another server prove nothing.
//!
//! Before an entry was read, there is nothing to compare. On a connection that has seen the stream empty, the counters show
//! how many entries were removed since, if the stream is the same. If it may not be, the server can still have executed no
//! more commands that add entries to any stream than there are entries. Then, too, nothing was lost.
//!
//! Another server whose newest entry is older than the last one that was read is behind, as a replica may be, or its stream
//! is another one. The reader leaves it for some time: from a server that is behind, the entries would come twice. A master
//! and its replicas count the bytes of all writes. By this count, which the reader asks for now and then, a replica may
//! turn out to lack writes that a server had when the entries were read: then the reader waits until the replica has
//! them, for however long that takes.
//!
//! If the reader then goes on in the stream of another server, in one that was made anew, or in another data set of the same
//! server (a replica gets the one of its master), it begins with the history: ids
//! up to the last one that was read may be of new entries, for example if the clock of the server is behind. It passes over
//! the entries that it has read before (`known.rs`), whenever they come: the server may get those that it lacks later.
//!
//! While the key is missing, the reader waits for any entry. If the last one that was read is there again, it is the same stream
//! (`RENAME`, `RESTORE`), and reading goes on after it. Any other stream begins with the history, too: it may be an old one that
//! was put there whole.

mod executed;
mod info;
mod known;
mod replication;

use self::executed::Executed;
use self::info::info_line;
use self::known::{KnownEntries, Noted};
use self::replication::{Replication, WrittenTo};
use super::super::resp::Value;
use super::ENTRY_FIELDS;
use super::entry::{StreamEntry, entries, id_text, message, next_id, stream_entries};
use super::prints::{EntryPrint, EntryPrints};
use super::range::{ENTRIES_MAX, RangeSize};
use super::state::{Counters, LastEntry, STATE, StreamState};
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

/// The most entries of an answer to `XREAD`, which are held until they are checked. More are read as a backlog.
const HELD_MAX: usize = 16;
/// How long an `XREAD` waits at the server for the next entry, milliseconds.
pub(super) const BLOCK_MS: u64 = 1_000;
/// The shortest time between two questions for the count of writes, milliseconds.
const WRITES_ASKED_MS: u64 = 1_000;
/// While entries come and the last one is there, the shortest time between two questions for what the server has executed,
/// milliseconds.
const EXECUTED_ASKED_MS: u64 = 1_000;
/// The questions for what the server has executed. Before Redis 7.0, a question has one section.
const ASK_EXECUTED: [[&str; 2]; 2] = [["INFO", "commandstats"], ["INFO", "stats"]];
/// If another server lacks entries that were read for longer than this, its stream counts as another one, milliseconds. The
/// time of a replica counts from when it has the writes that it is known to lack.
const BEHIND_MAX_MS: u64 = 5_000;
/// If the last entry is larger than this and the server accepts [`STATE`], the reader checks with the script, so that
/// the entry is not sent again.
const PROOF_BYTES_MAX: usize = 4 * 1024;
/// If the server does not accept [`STATE`] and the last entry is large, only every tenth answer without an entry is
/// checked.
const IDLE_PROOFS: u32 = 10;
/// How far this process has read a stream of Redis, and how it reads on: commands out, answers in.
#[derive(Debug, Default)]
pub struct RedisStreamReader {
    pub(super) key: String,
    history_ms: u64,
    /// The longest values that the parser keeps of the [fields](ENTRY_FIELDS) of an entry, bytes: with the first byte over the
    /// limit.
    value_bytes_max: [usize; 2],
    /// The most entries of an answer that is held in memory until the check after it.
    held_max: usize,
    /// The size of the answers with entries that are there already.
    range: RangeSize,
    step: ReadStep,
    /// The number of missing answers; the answers that have come, with their bytes.
    missing: usize,
    answers: Vec<(Value, usize)>,
    /// Whether the first inspection has set `after`.
    has_begun: bool,
    /// The next entry to read is the first one after this id.
    after: StoredId,
    /// The entry `after`, if it was read. It is then in the stream, unless it was trimmed or deleted.
    last_read: Option<EntryPrint>,
    /// The last entry that was read before a loss, until another one is read. If it is there again, the stream is back, and
    /// reading goes on after it.
    before: Option<EntryPrint>,
    /// While the stream is empty or missing, and may be another one than before: when its next entries were not there yet, Unix
    /// milliseconds.
    empty_ms: Option<u64>,
    /// Whether the next [`ReadStep::Wait`] asks for the newest entry: the stream is there again, with more than one answer holds.
    asks_newest: bool,
    /// When the last answers came, Unix milliseconds.
    answered_ms: u64,
    /// `last_read`, or else `before`, when the commands were made: the answers are about this entry.
    asked_about: Option<EntryPrint>,
    /// Whether it was gone by the last answer about it.
    is_gone: bool,
    /// An answer has shown that the stream was deleted and made anew since `last_read` was read, or that another server has
    /// another stream. Nothing else proves the contrary: a loss is reported, and the new stream is read.
    is_anew: bool,
    /// The newest entry that was handed over, or the newest of the stream if it has a lower id.
    reached: Option<StoredId>,
    /// The size of the largest of the recent entries, bytes; falls by an eighth with each smaller entry.
    entry_bytes: usize,
    /// The number of answers without an entry since the last entry.
    idle: u32,
    /// Whether the server may take [`STATE`].
    may_ask_state: bool,
    /// Whether a check needs the counters: the last read entry is gone, or the stream has so few entries that it may be
    /// trimmed before the check.
    needs_counters: bool,
    /// The entries added up to the last one, for the check by counters. Set anew by each answer while no entry was
    /// read, because until then it is enough to know how many were [removed](Self::removed).
    counted: Option<Counted>,
    /// While no entry was read: how many entries had been removed from the stream when it was last seen.
    removed: u64,
    /// What the server had executed before the stream was last seen: before an answer showed that it is the one of the last read
    /// entry; while no entry was read, before the server said that there is none, and that none has come and gone.
    executed: Option<Executed>,
    /// When that was last asked for, Unix milliseconds.
    executed_asked_ms: u64,
    /// Whether the next answers begin and end with these numbers. What was seen in between, they bound on both sides.
    asks_executed: bool,
    /// The `run_id
    server: Option<String>,
    /// The history of writes of its data set.
    history: Option<String>,
    /// Whether this connection has inspected the server, and it is the same as before.
    is_same_server: bool,
    /// A place in the history of writes at which a server had all entries that were read by then.
    written_to: Option<WrittenTo>,
    /// When `written_to` was last asked for, Unix milliseconds, and the newest entry that was read then.
    written_asked: (u64, Option<StoredId>),
    /// Whether the next [`ReadStep::Wait`] asks for `written_to`.
    asks_written: bool,
    /// Whether the server of this connection answers the question for `written_to`.
    may_ask_written: bool,
    /// Since when each server lacks entries that were read, Unix milliseconds.
    behind_since_ms: Option<u64>,
    /// The newest entry at the first inspection, until it is read: entries up to here are old.
    old_until: Option<StoredId>,
    /// Whether [`KeptEvent::CaughtUp`] was reported on this connection.
    is_caught_up: bool,
    /// Whether the last [`KeptEvent::Lag`] on this connection says that all was read.
    says_end: bool,
    /// The entries that were read, for a stream that has other entries after a lower id.
    known: KnownEntries,
    prints: EntryPrints,
}

/// The commands whose answers are next.
#[derive(Clone, Copy, Debug, Default)]
enum ReadStep {
    /// Ask for the newest entry, and whether the last read entry is still there.
    #[default]
    Inspect,
    /// Read the entries that are there already, beginning with the last read one.
    CatchUp {
        /// Whether the answer began with the last read entry, so that nothing was lost before it.
        is_proved: bool,
    },
    /// Wait for the next entries, and then ask whether the last read entry is still there.
    Wait,
}

const CATCH_UP: ReadStep = ReadStep::CatchUp { is_proved: false };

/// The number of entries that were ever added, up to the entry of this id.
#[derive(Clone, Copy, Debug)]
struct Counted {
    id: StoredId,
    added: u64,
}

/// An answer that does not fit its command, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamReadError {
    /// The words of the server.
    Refused(String),
    /// What is wrong with the answer.
    Wrong(&'static str),
    /// The server lacks entries that were read from another one.
    Behind,
    /// The server is a replica that will get the entries, which were read from another one.
    CatchingUp,
}

impl RedisStreamReader {
    /// A reader that begins with the entries of the last `history_ms` milliseconds. An answer that is held until it is
    /// checked has payloads of at most `answer_bytes_max` bytes, unless a single payload has more.
    pub fn new(
        key: &str,
        history_ms: u64,
        payload_bytes_max: usize,
        answer_bytes_max: usize,
    ) -> Self {
        Self {
            key: key.to_owned(),
            history_ms,
            value_bytes_max: ENTRY_FIELDS
                .map(|field| field.bytes_max.min(payload_bytes_max).saturating_add(1)),
            held_max: (answer_bytes_max / payload_bytes_max.max(1)).clamp(1, HELD_MAX),
            may_ask_state: true,
            ..Self::default()
        }
    }

    /// Handles a new connection: what was read stays, and what the server of this connection can do is found out anew.
    pub fn connected(&mut self) {
        self.range = RangeSize::default();
        self.step = ReadStep::Inspect;
        self.missing = 0;
        self.answers.clear();
        self.may_ask_state = true;
        self.is_same_server = false;
        self.is_caught_up = false;
        self.says_end = false;
        self.asks_written = false;
        self.asks_newest = false;
        self.may_ask_written = false;
        self.asks_executed = false;
    }

    /// The newest entry that was read, or that the loop knows of; `None` if there is none.
    pub fn reached(&self) -> Option<StoredId> {
        self.reached
    }

    /// The next commands. [`Self::take`] takes the answers.
    pub fn commands(&mut self) -> Vec<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (key, after) = (&self.key[..], id_text(self.after));
        let is_large = self.entry_bytes > PROOF_BYTES_MAX;
        let was_read = self.last_read.is_some();
        let before = match self.step {
            ReadStep::Inspect | ReadStep::Wait => self.before,
            // In this step nobody asks whether the stream is back.
            ReadStep::CatchUp { .. } => None,
        };
        let asked = self.last_read.or(before);
        self.asked_about = asked;
        let asked_id = id_text(asked.map_or(self.after, |entry| entry.id));
        // Whether to ask with the script, and whether to ask for the entry alone if the server does not accept the
        // script.
        let (mut asks_state, mut asks_entry) = (true, asked.is_some());
        let mut commands: Vec<Vec<String>> = match self.step {
            ReadStep::Inspect => vec![
                words(&["XREVRANGE", key, "+", "-", "COUNT", "1"]),
                words(&["INFO", "server"]),
                words(&["INFO", "replication"]),
                // Whether this user may read on, before anything is handed over.
                words(&["XREAD", "COUNT", "1", "STREAMS", key, "$"]),
            ],
            ReadStep::CatchUp { .. } => {
                asks_entry = false;
                let from = match was_read {
                    true => after.clone(),
                    false => id_text(next_id(self.after)),
                };
                self.range.may_script = self.may_ask_state;
                vec![self.range.command((key, &from), was_read)]
            }
            ReadStep::Wait => {
                asks_state = is_large || self.needs_counters || !was_read;
                asks_entry &= !is_large || !was_read || self.idle.is_multiple_of(IDLE_PROOFS);
                let (count, block) = (self.held_max.to_string(), BLOCK_MS.to_string());
                // The first entries of an empty stream may have any ids.
                let from = if was_read { &after[..] } else { "0-0" };
                let mut commands = vec![words(&[
                    "XREAD", "COUNT", &count, "BLOCK", &block, "STREAMS", key, from,
                ])];
                if self.asks_newest {
                    commands.push(words(&["XREVRANGE", key, "+", "-", "COUNT", "1"]));
                }
                if self.asks_written {
                    commands.push(words(&["INFO", "replication"]));
                }
                commands
            }
        };
        if asks_state && self.may_ask_state {
            let [channel, data] = self.value_bytes_max.map(|bytes| bytes.to_string());
            commands.push(words(&[
                "EVAL_RO", STATE, "1", key, &asked_id, &channel, &data,
            ]));
        } else if asks_entry {
            commands.push(words(&["XRANGE", key, &asked_id, &asked_id]));
        }
        self.asks_executed = self.is_executed_due();
        if self.asks_executed {
            let executed = ASK_EXECUTED.map(|ask| words(&ask));
            commands.splice(0..0, executed.clone());
            commands.extend(executed);
        }
        self.missing = commands.len();
        commands
    }

    /// Whether to ask for what the server has executed. While the last read entry is there, an earlier number only makes the
    /// proof harder.
    fn is_executed_due(&self) -> bool {
        match self.step {
            ReadStep::Inspect => true,
            ReadStep::CatchUp { .. } => false,
            ReadStep::Wait if self.last_read.is_none() => true,
            ReadStep::Wait => {
                let since_ms = self.answered_ms.abs_diff(self.executed_asked_ms);
                let is_due = self.is_gone || self.idle > 0 || since_ms >= EXECUTED_ASKED_MS;
                // Without the script there are no counters, and a user who may not ask is not asked for.
                is_due && self.may_ask_state && self.executed.is_some()
            }
        }
    }

    /// Whether answers to the last commands are missing.
    pub fn waits(&self) -> bool {
        self.missing > 0
    }

    /// Whether [`Self::take`] takes the entries of the next answer one by one, and then an empty list.
    pub fn takes_entries(&self) -> bool {
        matches!(self.step, ReadStep::CatchUp { .. }) && self.answers.is_empty()
    }

    /// Takes an answer, or a single entry of an answer, with the number of its bytes.
    ///
    /// # Errors
    /// The server refuses a command, or an answer does not fit its command: the connection is of no use.
    pub fn take(
        &mut self,
        mut answer: Value,
        bytes: usize,
        now_ms: u64,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        if self.takes_entries() {
            let parts = entries(answer)?;
            if !parts.is_empty() {
                return self.take_catch_up_entry(
                    StreamEntry::read(Value::Array(parts))?,
                    bytes,
                    out,
                );
            }
            answer = Value::Nil;
        }
        self.answers.push((answer, bytes));
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return Ok(());
        }
        let before_ms = std::mem::replace(&mut self.answered_ms, now_ms);
        // What is missing in these answers may have come at any time since the ones before.
        // 0: these are the first answers.
        let before_ms = if before_ms == 0 { now_ms } else { before_ms };
        let mut answers = std::mem::take(&mut self.answers);
        let executed = self.executed_around(&mut answers);
        let mut answers = answers.into_iter();
        let (first, bytes) = answers.next().unwrap_or((Value::Nil, 0));
        match self.step {
            ReadStep::Inspect => {
                let newest = self.newest(first, bytes)?;
                let server = answers
                    .next()
                    .and_then(|(info, _)| info_line(&info, "run_id:"));
                let replication = answers.next().map(|(info, _)| Replication::read(&info));
                let replication = replication.unwrap_or_default();
                // Only checked: this user may read the stream.
                stream_entries(answers.next().map_or(Value::Nil, |(waiting, _)| waiting))?;
                let counted = self.counted;
                let is_other = self.is_other(&server, &replication);
                let state = self.state(answers.next(), is_other)?;
                let newest_id = newest.map(|newest| newest.id);
                if let Some(behind) = self.behind(is_other, &replication, newest_id, state, now_ms)
                {
                    // The counters of a server that is left say nothing of the one before.
                    self.counted = counted;
                    return Err(behind);
                }
                if state.is_there.is_none() && self.asked_about.is_some() {
                    // The server refused the script. The next inspection asks for the entry itself.
                    return Ok(());
                }
                let added_nothing = !is_other && self.added_nothing(server.as_ref(), executed[0]);
                let since = self.executed_since(executed[1]);
                self.executed = executed[0];
                self.inspected(
                    (newest, added_nothing),
                    (server, is_other),
                    (state, since),
                    out,
                );
                if newest.is_none() && self.last_read.is_none() {
                    self.empty_ms = Some(before_ms);
                }
                self.note_written(replication, now_ms);
                Ok(())
            }
            ReadStep::CatchUp { .. } => {
                // `false`: the server of this connection was inspected already.
                let state = self.state(answers.next(), false)?;
                self.end_catch_up_answer(state, now_ms, out);
                Ok(())
            }
            ReadStep::Wait => {
                let entries = stream_entries(first)?;
                if !entries.is_empty() {
                    self.measure(bytes / entries.len());
                }
                let newest = match std::mem::take(&mut self.asks_newest) {
                    true => {
                        let (newest, bytes) = answers.next().unwrap_or((Value::Nil, 0));
                        self.newest(newest, bytes)?
                    }
                    false => None,
                };
                let replication = match self.asks_written {
                    true => answers.next().map(|(info, _)| Replication::read(&info)),
                    false => None,
                };
                let was_read = self.last_read.is_some();
                // As above.
                let state = self.state(answers.next(), false)?;
                let is_back = !was_read && self.last_read.is_some();
                if entries.is_empty() && self.last_read.is_none() {
                    self.empty_ms = Some(before_ms);
                }
                // The server has another data set by now.
                if replication.iter().any(|now| !now.continues(&self.history)) {
                    self.step = ReadStep::Inspect;
                    return Ok(());
                }
                self.read((entries, newest), (state, is_back), executed, now_ms, out)?;
                match replication {
                    Some(replication) => self.note_written(replication, now_ms),
                    None => self.plan_written(now_ms),
                }
                Ok(())
            }
        }
    }

    /// Takes the answers about what the server had executed before it gave the others, and after them.
    fn executed_around(&mut self, answers: &mut Vec<(Value, usize)>) -> [Option<Executed>; 2] {
        const ASKED: usize = ASK_EXECUTED.len();
        if !self.asks_executed || answers.len() < 2 * ASKED {
            return [None; 2];
        }
        self.executed_asked_ms = self.answered_ms;
        let after = answers.split_off(answers.len() - ASKED);
        let before: Vec<_> = answers.drain(..ASKED).collect();
        [before, after].map(|info| Executed::read(&info[0].0, &info[1].0))
    }

    /// What the server has executed since the stream was last seen, if it says so.
    fn executed_since(&self, now: Option<Executed>) -> Option<Executed> {
        let (now, seen) = now.zip(self.executed)?;
        now.since(seen)
    }

    /// The newest entry, from the answer to `XREVRANGE`; `None` for an empty stream.
    fn newest(
        &mut self,
        answer: Value,
        bytes: usize,
    ) -> Result<Option<EntryPrint>, StreamReadError> {
        let newest = entries(answer)?.into_iter().next();
        let newest = newest.map(StreamEntry::read).transpose()?;
        if newest.is_some() {
            self.measure(bytes);
        }
        Ok(newest.map(|entry| self.prints.print(&entry)))
    }

    /// Updates the size of the largest of the recent entries.
    fn measure(&mut self, bytes: usize) {
        self.entry_bytes = bytes.max(self.entry_bytes - self.entry_bytes / 8);
    }

    /// Reads the answer about the state of the stream; without such an answer, nothing is known of the state. Finds out
    /// whether the stream is the one that was read.
    fn state(
        &mut self,
        answer: Option<(Value, usize)>,
        is_other_server: bool,
    ) -> Result<StreamState, StreamReadError> {
        let items = match answer {
            None => return Ok(StreamState::default()),
            Some((Value::Error(_), _)) if self.may_ask_state => {
                self.may_ask_state = false;
                return Ok(StreamState::default());
            }
            Some((answer, _)) => entries(answer)?,
        };
        let mut state = StreamState::read(&items);
        if let Some(asked) = self.asked_about
            && state.is_there == Some(true)
        {
            let found =
                LastEntry::read(&items).map(|entry| self.prints.last_print(asked.id, &entry));
            let is_it = found == Some(asked);
            match self.last_read {
                Some(_) => self.is_anew |= !is_it,
                None if is_it => self.is_back_at(asked),
                None => {}
            }
            state.is_there = Some(is_it);
        }
        self.is_gone = state.is_there.map_or(self.is_gone, |is_there| !is_there);
        if let Some(counters) = state.counters {
            self.needs_counters =
                counters.length < ENTRIES_MAX as u64 || state.is_there == Some(false);
            // Neither number falls while a stream exists. Forgets the count now, because later the new stream may reach the
            // numbers of the old one.
            let fallen = self
                .counted
                .take_if(|counted| counters.added < counted.added || counters.last < counted.id);
            self.is_anew |= fallen.is_some() && self.asked_about.is_some() && !is_other_server;
        }
        Ok(state)
    }

    /// Handles that the last entry that was read before a loss is there again, so that the stream is the same.
    fn is_back_at(&mut self, last: EntryPrint) {
        (self.after, self.reached) = (last.id, Some(last.id));
        (self.last_read, self.before, self.empty_ms) = (Some(last), None, None);
        self.counted = None;
    }

    /// Whether this connection is the first one to the server, which is not, or perhaps not, the one of before; or the server
    /// has another data set than before, because it has become a replica of another one.
    fn is_other(&self, server: &Option<String>, replication: &Replication) -> bool {
        let is_other_process = !self.is_same_server && (server.is_none() || *server != self.server);
        is_other_process || !replication.continues(&self.history)
    }

    /// Notes how far the history of writes is at the server that is read, which has all entries that were read.
    fn note_written(&mut self, replication: Replication, now_ms: u64) {
        // A server that does not say is not asked again on this connection.
        self.may_ask_written = replication.history.is_some();
        (self.written_to, self.history) = (replication.written_to, replication.history);
        self.written_asked = (now_ms, self.reached);
        self.asks_written = self.may_ask_written && self.is_gone;
    }

    /// Asks for the history of writes with the next command, if an entry was read since the answer before; and if the last
    /// entry is gone, because the counters of another data set prove nothing.
    fn plan_written(&mut self, now_ms: u64) {
        let (asked_ms, reached) = self.written_asked;
        let is_due = now_ms.abs_diff(asked_ms) >= WRITES_ASKED_MS && self.reached != reached;
        self.asks_written = self.may_ask_written && (is_due || self.is_gone);
    }

    /// The error if another server than before lacks entries that were read, and may soon have them. A replica that is
    /// cut off from its master may be behind for long, and so may one that lacks writes.
    fn behind(
        &mut self,
        is_other: bool,
        replication: &Replication,
        newest: Option<StoredId>,
        state: StreamState,
        now_ms: u64,
    ) -> Option<StreamReadError> {
        let last = state.counters.map(|counters| counters.last).max(newest);
        if !self.has_begun || !is_other || last.unwrap_or_default() >= self.after {
            self.behind_since_ms = None;
            return None;
        }
        let written_to = self.written_to.as_ref();
        if written_to.is_some_and(|place| replication.will_reach(place)) {
            self.behind_since_ms = Some(now_ms);
            return Some(StreamReadError::CatchingUp);
        }
        let since_ms = *self.behind_since_ms.get_or_insert(now_ms);
        let waits = replication.is_cut_off || now_ms.abs_diff(since_ms) < BEHIND_MAX_MS;
        waits.then_some(StreamReadError::Behind)
    }

    /// Whether nothing was added to the empty stream since the last answer.
    fn added_nothing(&self, server: Option<&String>, executed: Option<Executed>) -> bool {
        let is_same_server = server.is_some() && server == self.server.as_ref();
        let since = self.executed_since(executed);
        let has_added = since.is_none_or(|since| since.additions() > 0);
        self.last_read.is_none() && is_same_server && !has_added
    }

    /// Handles the answers of [`ReadStep::Inspect`]: begins, or continues after the last read entry, with or without a loss.
    fn inspected(
        &mut self,
        (newest, added_nothing): (Option<EntryPrint>, bool),
        (server, is_other): (Option<String>, bool),
        (state, since): (StreamState, Option<Executed>),
        out: &mut Vec<KeptEvent>,
    ) {
        if is_other {
            self.counted = None;
            let newest = newest.filter(|_| self.has_begun);
            self.known.found_other(newest.map(|newest| newest.id));
        }
        (self.server, self.is_same_server) = (server, true);
        if !self.has_begun {
            self.begin(newest.map(|newest| newest.id));
        } else if !added_nothing && !self.is_proved((state, since), &[]) {
            self.go_on(newest, state, is_other, out);
        }
        self.count_from(state);
        // An `XRANGE` from the last entry on proves that nothing was lost. Without this entry, the counters of the
        // stream have to show it.
        let is_gone = self.last_read.is_some() && state.is_there == Some(false);
        self.step = if is_gone { ReadStep::Wait } else { CATCH_UP };
        if self.old_until.is_none() {
            self.report_caught_up(out);
        }
        if self.last_read.is_none() && (newest.is_none() || self.empty_ms.is_some()) {
            // What comes from now on is checked before it is handed over.
            self.removed = state.counters.map_or(0, Counters::removed);
            self.wait_at_end(out);
        }
    }

    /// Whether nothing was lost between the last entry that was read and these `entries`, which follow it. `since`: what the
    /// server has executed from the time when the stream was last seen until after this state.
    fn is_proved(
        &self,
        (state, since): (StreamState, Option<Executed>),
        entries: &[StreamEntry],
    ) -> bool {
        if self.is_anew {
            return false;
        }
        if state.is_there == Some(true) && self.last_read.is_some() {
            return true;
        }
        let counted = self.counted.filter(|counted| counted.id == self.after);
        let (Some(counters), Some(counted)) = (state.counters, counted) else {
            return false;
        };
        let is_spared = since.is_some_and(|since| since.spared(state.counters));
        let is_same = is_spared && counters.last >= self.after;
        let is_gone = counters.is_gone(self.after);
        let was_trimmed = is_gone && counters.removed() == counted.added + counters.gone(entries);
        let was_deleted = !is_gone && counters.last_deleted == self.after;
        is_same && (was_trimmed || was_deleted)
    }

    /// If there is no count yet, sets it from the counters of this answer.
    fn count_from(&mut self, state: StreamState) {
        // A last id below the last read entry is from a stream that was made anew after these entries were read.
        let counters = state
            .counters
            .filter(|counters| counters.last >= self.after);
        let counted = counters.map(|counters| Counted {
            id: counters.last,
            added: counters.added,
        });
        self.counted = self.counted.or(counted);
    }

    /// Begins with the entries of the last `history_ms`. The newest entry bounds the time, because the server's clock
    /// may be behind.
    fn begin(&mut self, newest: Option<StoredId>) {
        self.has_begun = true;
        self.old_until = newest;
        if let Some(newest) = newest {
            self.after = self.history_start(newest, None);
            self.known.begin_after(self.after);
        }
    }

    /// The id after which the entries of the last `history_ms` come, and those since the stream was empty.
    fn history_start(&self, newest: StoredId, empty_ms: Option<u64>) -> StoredId {
        let now_ms = self.answered_ms;
        let since_ms = empty_ms.map_or(0, |empty_ms| now_ms.saturating_sub(empty_ms));
        let ms = self.history_ms.saturating_add(since_ms);
        let major = newest.major.min(now_ms).saturating_sub(ms);
        StoredId { major, minor: 0 }
    }

    /// Continues after a loss: the last entry is gone, or none was read so far, so nothing proves that no entry is
    /// missing; or the stream was made anew, and may have new entries with lower ids.
    fn go_on(
        &mut self,
        newest: Option<EntryPrint>,
        state: StreamState,
        is_other: bool,
        out: &mut Vec<KeptEvent>,
    ) {
        out.push(KeptEvent::Lost);
        self.before = self.last_read.take().or(self.before);
        self.counted = None;
        // That another server had no entry does not say that those of this one are new.
        if let Some(newest) = newest.filter(|_| self.empty_ms.is_none() || is_other) {
            // 0: only the counters say how many entries there are.
            return self.begin_again(newest, (state.counters, 0), is_other, out);
        }
        (self.is_anew, self.reached, self.old_until) = (false, None, None);
        self.after = StoredId::default();
        if is_other {
            self.known.pass_over_after(self.after);
        }
    }

    /// Decides where reading begins in a stream that lacks the last entry that was read. `held`: the counters, and how many
    /// entries there are at least. If all that is left is newer than this entry, reading goes on after it. Otherwise, older
    /// entries may be new, too: reading begins with the history, and passes over what was read.
    fn begin_again(
        &mut self,
        newest: EntryPrint,
        held: (Option<Counters>, u64),
        is_other: bool,
        out: &mut Vec<KeptEvent>,
    ) {
        let last = self.before.map_or(self.after, |before| before.id);
        self.known.lost_until(newest.id);
        let is_above = newest.id > last;
        let was_empty = self.empty_ms.is_some();
        // A stream that was empty or missing counts as another one, and so does one that lacks the last entry and has
        // no newer one.
        let is_anew = std::mem::take(&mut self.is_anew) || was_empty || !is_above;
        let has_only_later = held.0.is_some_and(|counters| counters.is_gone(last));
        if has_only_later && !is_anew && !is_other {
            // The last entry that was read may be one of a stream with lower ids than the one before.
            return self.known.pass_over_after(last);
        }
        if is_anew {
            self.reached = Some(newest.id).filter(|_| !is_above || !was_empty);
            self.old_until = None;
        }
        let is_new_life = is_anew && !is_other;
        if let Some(after) = self.reread_start(newest, last, held, is_new_life) {
            self.known.pass_over_after(after);
            self.after = after;
        } else {
            // The stream is at an earlier state, and may get back what it lacks.
            self.known.pass_over_after(newest.id);
            (self.after, self.last_read) = (newest.id, Some(newest));
            self.reached = Some(newest.id);
            out.push(KeptEvent::Head(self.after));
        }
        match is_new_life {
            true => self.known.begin_new_life(self.after),
            false => self.known.begin_after(self.after),
        }
        self.empty_ms = None;
    }

    /// After which id [`Self::begin_again`] reads. `None`: after `newest`. It was read already; or all entries are older than
    /// those that are known, and the server may only lack the last ones; or all are older than the history.
    fn reread_start(
        &self,
        newest: EntryPrint,
        last: StoredId,
        (counters, entries): (Option<Counters>, u64),
        is_new_life: bool,
    ) -> Option<StoredId> {
        if self.known.has(newest) {
            return None;
        }
        // A stream that was away and has many entries at once was put there whole, so that its newest entry may be old.
        let entries = counters.map_or(entries, |counters| counters.length);
        let is_whole = self.empty_ms.is_some() && entries >= HELD_MAX as u64;
        let end = if is_whole {
            last.max(newest.id)
        } else {
            newest.id
        };
        let mut after = self.history_start(end, self.empty_ms);
        if !is_new_life {
            after = after.max(self.known.after());
        }
        if newest.id > last && self.empty_ms.is_none() {
            after = after.min(last);
        }
        (after < newest.id).then_some(after)
    }

    /// Takes an entry of a `CatchUp` answer. If the answer did not begin with the last read entry, hands nothing over:
    /// another inspection comes first.
    fn take_catch_up_entry(
        &mut self,
        entry: StreamEntry,
        bytes: usize,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        self.measure(bytes);
        let ReadStep::CatchUp { is_proved } = &mut self.step else {
            return Ok(());
        };
        // Not the first entry of the answer.
        if !self.range.arrived(bytes) {
            return match is_proved {
                true => self.entry(entry, out),
                false => Ok(()),
            };
        }
        if self.last_read.is_some() {
            // The first entry has been handed over before, if it is the right one.
            *is_proved = self.last_read == Some(self.prints.print(&entry));
            return Ok(());
        }
        *is_proved = true;
        self.counted = None;
        self.entry(entry, out)
    }

    /// Handles the end of an answer of [`ReadStep::CatchUp`]. If the answer did not begin with the last read entry, or the
    /// stream turns out to be another one, inspects the stream again. At the end of the stream, reports that, and waits for
    /// new entries. Otherwise asks for more.
    fn end_catch_up_answer(&mut self, state: StreamState, now_ms: u64, out: &mut Vec<KeptEvent>) {
        let ReadStep::CatchUp { is_proved } = self.step else {
            return;
        };
        let may_follow = self.range.end();
        if (!is_proved || self.is_anew) && self.last_read.is_some() {
            self.step = ReadStep::Inspect;
            return;
        }
        self.count_from(state);
        if !may_follow {
            // What did not come up to `old_until` was trimmed or deleted.
            self.old_until = None;
            self.removed = state.counters.map_or(0, Counters::removed);
            self.report_caught_up(out);
            return self.wait_at_end(out);
        }
        self.step = CATCH_UP;
        self.say_behind(state, now_ms, out);
    }

    /// Reports how far the reader is behind the newest entry.
    fn say_behind(&mut self, state: StreamState, now_ms: u64, out: &mut Vec<KeptEvent>) {
        let newest_ms = state
            .counters
            .map_or(now_ms, |counters| counters.last.major);
        let counted = self.counted.filter(|counted| counted.id == self.after);
        let both = state.counters.zip(counted);
        self.says_end = false;
        // The first entries of an empty stream follow none.
        let has_before = self.after != StoredId::default();
        out.push(KeptEvent::Lag {
            messages: both.map(|(counters, counted)| counters.added.saturating_sub(counted.added)),
            ms: if has_before {
                newest_ms.saturating_sub(self.after.major)
            } else {
                0
            },
        });
    }

    /// Waits for new entries, as all that are there were read.
    fn wait_at_end(&mut self, out: &mut Vec<KeptEvent>) {
        self.step = ReadStep::Wait;
        self.say_end(out);
    }

    /// Reports that the reader has read all entries.
    fn say_end(&mut self, out: &mut Vec<KeptEvent>) {
        self.says_end = true;
        out.push(KeptEvent::Lag {
            messages: Some(0),
            ms: 0,
        });
    }

    /// While no entry was read: whether entries may have been removed since the stream was last seen, in addition to these
    /// `entries`, the first ones. `executed`: what the server had executed before the entries were asked for, and after
    /// the state was.
    fn may_lack_first(
        &mut self,
        entries: &[StreamEntry],
        state: StreamState,
        [before_entries, after_state]: [Option<Executed>; 2],
    ) -> bool {
        let since = self.executed_since(after_state);
        let counts_anew = after_state.and(self.executed).is_some() && since.is_none();
        // No more entries can have been added than came.
        let has_all = since.is_some_and(|since| since.additions() <= entries.len() as u64);
        // The counters of a stream that was made anew say nothing of the one before.
        let is_same = since.is_some_and(|since| since.spared(state.counters));
        let removed = state.counters.map_or(0, Counters::removed);
        let removed_before = std::mem::replace(&mut self.removed, removed);
        let gone = state.counters.map_or(0, |counters| counters.gone(entries));
        // Nothing else was removed if the count has grown by those of these entries that are gone already, or, in a
        // stream that was made anew and counts from 0, is just them.
        let was_trimmed = removed != removed_before + gone && removed != gone;
        let is_whole = match state.counters {
            Some(_) => !was_trimmed && (has_all || is_same),
            // A stream without an entry may not be there at all.
            None => has_all || is_same && self.may_ask_state && entries.is_empty(),
        };
        if !entries.is_empty() {
            return !is_whole;
        }
        // While the stream is empty, what was added may be of another stream. The next entry decides, unless the server has
        // begun to count anew: then nothing says what has come and gone.
        if is_whole || was_trimmed || counts_anew || self.executed.is_none() {
            self.executed = before_entries;
        }
        was_trimmed || counts_anew
    }

    /// Handles the entries of [`ReadStep::Wait`]. If they do not follow the last read entry, reports a loss first. `is_back`: the
    /// state has just shown that the stream of before is back.
    fn read(
        &mut self,
        (entries, newest): (Vec<Value>, Option<EntryPrint>),
        (state, is_back): (StreamState, bool),
        executed: [Option<Executed>; 2],
        now_ms: u64,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        let entries = entries.into_iter().map(StreamEntry::read);
        let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
        let was_read = self.last_read.is_some();
        if is_back || was_read && state.is_there.is_none() && !entries.is_empty() {
            // These entries were not checked, or were asked for from the first one on. Reads them again, beginning with the
            // last read entry.
            self.step = CATCH_UP;
            return Ok(());
        }
        let is_gone = was_read && (state.is_there == Some(false) || self.is_anew);
        let is_same_data = self.asks_written || !self.may_ask_written;
        let since = self.executed_since(executed[1]);
        if is_gone && !(is_same_data && self.is_proved((state, since), &entries)) {
            // Entries with lower ids may be new, or the counters are of another data set. An inspection comes first.
            self.step = ReadStep::Inspect;
            return Ok(());
        }
        let is_full = entries.len() >= self.held_max;
        let counted = state.counters.map_or(0, |counters| counters.length);
        if !was_read && is_full && newest.is_none() && counted != entries.len() as u64 {
            self.asks_newest = true;
            return Ok(());
        }
        if !was_read && self.may_lack_first(&entries, state, executed) {
            out.push(KeptEvent::Lost);
        }
        if !entries.is_empty() || was_read && state.is_there.is_some() {
            self.executed = executed[0].or(self.executed);
        }
        self.counted = self.counted.filter(|_| was_read);
        self.idle = self.idle.wrapping_add(1);
        if is_full {
            // Said before these entries: what follows them is not known until the next answer.
            self.step = CATCH_UP;
            self.say_behind(state, now_ms, out);
        }
        if let Some(last) = entries.last().filter(|_| !was_read) {
            let newest = newest.unwrap_or_else(|| self.prints.print(last));
            let held = (state.counters, entries.len() as u64);
            // `false`: the server is the same.
            self.begin_again(newest, held, false, out);
            entries.retain(|entry| entry.id > self.after);
        }
        let mut entries = entries.into_iter();
        entries.try_for_each(|entry| self.entry(entry, out))?;
        self.count_from(state);
        if !is_full && self.is_caught_up && !self.says_end {
            self.say_end(out);
        }
        Ok(())
    }

    /// Hands an entry over.
    fn entry(
        &mut self,
        entry: StreamEntry,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        let print = self.prints.print(&entry);
        let StreamEntry { id, fields } = entry;
        if id <= self.after {
            return Err(StreamReadError::Wrong("an entry out of order"));
        }
        (self.after, self.last_read, self.idle) = (id, Some(print), 0);
        self.before = None;
        self.reached = Some(id);
        if let Some(counted) = &mut self.counted
            && id > counted.id
        {
            (counted.id, counted.added) = (id, counted.added + 1);
        }
        match self.known.note(print) {
            Noted::New => {}
            Noted::PassedOver => return Ok(()),
            Noted::PassedOverUnsaid => {
                out.push(KeptEvent::Lost);
                return Ok(());
            }
        }
        let is_old = self.old_until.is_some_and(|until| id <= until);
        if !is_old {
            self.old_until = None;
            self.report_caught_up(out);
        }
        out.push(match message(fields) {
            Ok((subject, payload)) => KeptEvent::Message {
                id,
                subject,
                payload,
                is_deletion: false,
                is_old,
            },
            Err(why) => KeptEvent::Bad { id, why },
        });
        if self.old_until == Some(id) {
            self.old_until = None;
            self.report_caught_up(out);
        }
        Ok(())
    }

    fn report_caught_up(&mut self, out: &mut Vec<KeptEvent>) {
        if !self.is_caught_up {
            self.is_caught_up = true;
            out.push(KeptEvent::CaughtUp);
        }
    }
}

#[cfg(test)]
mod tests;
