//! Reads a Redis stream over all connections: chooses the next commands, and interprets the answers. Pure.
//!
//! The reader has to know whether entries were trimmed before it could read them. If the last entry that it read is
//! still in the stream, nothing after it was trimmed; so each answer is checked against this entry, by its id and its
//! content: a stream that was made anew may give the same id to another entry.
//!
//! Each round of commands belongs to a [`Step`]:
//! - `inspect.rs`, first on each connection: is the server the one of before, and is the last read entry still there?
//! - `catch_up.rs`, while there is much to read: each answer begins with the last entry of the answer before.
//! - `wait.rs`, at the end of the stream: the reader asks for the last entry after each answer.
//!
//! If the last entry is gone, `evidence.rs` says whether the counters of the stream still prove that nothing was lost.
//! Otherwise the reader reports a loss, and `start.rs` decides where it begins again. A server that only lacks
//! entries for a time, such as a replica, is left or waited for (`writes.rs`).

mod catch_up;
mod entry_check;
mod evidence;
mod executed;
mod info;
mod inspect;
mod known;
#[cfg(test)]
mod model;
mod position;
mod replication;
mod reports;
#[cfg(test)]
mod rig;
mod round;
mod server;
mod start;
mod wait;
mod writes;

use self::entry_check::{EntryCheck, StateQuestion};
use self::evidence::Evidence;
use self::known::{KnownEntries, Noted};
use self::position::ReadPosition;
use self::replication::Replication;
use self::reports::Reports;
use self::round::{Answer, CommandRound, words};
use self::server::KnownServer;
pub(super) use self::wait::BLOCK_MS;
use self::writes::WritesWatch;
use super::super::resp::Value;
use super::ENTRY_FIELDS;
use super::entry::{StreamEntry, entries, id_text};
use super::prints::EntryPrint;
use super::range::RangeSize;
use super::state::{LastEntry, STATE, StateAnswer};
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

/// The most entries of an answer to `XREAD`, which are held until they are checked. More are read as a backlog.
const HELD_MAX: usize = 16;

/// How far this process has read a stream of Redis, and how it reads on: commands out, answers in.
#[derive(Debug, Default)]
pub struct RedisStreamReader {
    settings: ReaderSettings,
    step: Step,
    round: CommandRound,
    /// The size of the answers with entries that are there already.
    range: RangeSize,
    position: ReadPosition,
    evidence: Evidence,
    check: EntryCheck,
    server: KnownServer,
    writes: WritesWatch,
    reports: Reports,
    /// The entries that were read, for a stream that has other entries after a lower id.
    known: KnownEntries,
}

/// What is read, and how much of it at a time.
#[derive(Debug, Default)]
struct ReaderSettings {
    key: String,
    /// At the start, older entries than this are left out, milliseconds.
    history_ms: u64,
    /// The longest values that the parser keeps of the [fields](ENTRY_FIELDS) of an entry, bytes: with the first byte over the
    /// limit.
    value_bytes_max: [usize; 2],
    /// The most entries of an answer that is held in memory until the check after it.
    held_max: usize,
}

/// The commands whose answers are next.
#[derive(Clone, Copy, Debug, Default)]
enum Step {
    /// Ask for the newest entry, and whether the last read entry is still there.
    #[default]
    Inspect,
    /// Read the entries that are there already, beginning with the last read one.
    CatchUp {
        /// Whether the answer began with the last read entry, so that nothing was lost before it.
        is_proved: bool,
    },
    /// Wait for the next entries, and then ask whether the last read entry is still there.
    Wait {
        /// Whether to ask for the newest entry, too: the stream is there again, with more than one answer holds.
        asks_newest: bool,
    },
}

impl Step {
    const CATCH_UP: Self = Self::CatchUp { is_proved: false };
    const WAIT: Self = Self::Wait { asks_newest: false };
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
        let settings = ReaderSettings {
            key: key.to_owned(),
            history_ms,
            value_bytes_max: ENTRY_FIELDS
                .map(|field| field.bytes_max.min(payload_bytes_max).saturating_add(1)),
            held_max: (answer_bytes_max / payload_bytes_max.max(1)).clamp(1, HELD_MAX),
        };
        Self {
            settings,
            ..Self::default()
        }
    }

    /// The key of the stream.
    pub(super) fn key(&self) -> &str {
        &self.settings.key
    }

    /// Handles a new connection: what was read stays, and what the server of this connection can do is found out anew.
    pub fn connected(&mut self) {
        self.step = Step::Inspect;
        self.round.connected();
        self.range = RangeSize::default();
        self.check.connected();
        self.server.connected();
        self.writes.connected();
        self.reports.connected();
    }

    /// The newest entry that was read, or that the loop knows of; `None` if there is none.
    pub fn reached(&self) -> Option<StoredId> {
        self.reports.reached
    }

    /// The next commands. [`Self::take`] takes the answers.
    pub fn commands(&mut self) -> Vec<Vec<String>> {
        let last_read = self.position.last_read();
        let last_known = self.position.last_known();
        let (mut commands, asked_about, question) = match self.step {
            Step::Inspect => {
                let question = self.check.for_inspection(last_known.is_some());
                (inspect::commands(self.key()), last_known, question)
            }
            Step::CatchUp { .. } => {
                // In this step nobody asks whether the stream is back.
                let question = self.check.for_catch_up();
                (vec![self.catch_up_command()], last_read, question)
            }
            Step::Wait { asks_newest } => {
                let question = self
                    .check
                    .for_wait(last_known.is_some(), last_read.is_some());
                (self.wait_commands(asks_newest), last_known, question)
            }
        };
        let asks_executed = match self.step {
            Step::Inspect => true,
            Step::CatchUp { .. } => false,
            Step::Wait { .. } => self.is_executed_due(),
        };
        commands.extend(question.map(|question| self.state_command(question, asked_about)));
        self.round.begin(commands, asked_about, asks_executed)
    }

    /// The command that asks for the state of the stream.
    fn state_command(&self, question: StateQuestion, entry: Option<EntryPrint>) -> Vec<String> {
        let key = self.key();
        let id = entry.map_or_else(|| self.position.after(), |entry| entry.id);
        let id = id_text(id);
        match question {
            StateQuestion::Script => {
                let [channel, data] = self.settings.value_bytes_max.map(|bytes| bytes.to_string());
                words(["EVAL_RO", STATE, "1", key, &id, &channel, &data])
            }
            StateQuestion::Entry => words(["XRANGE", key, &id, &id]),
        }
    }

    /// Whether answers to the last commands are missing.
    pub fn waits(&self) -> bool {
        self.round.waits()
    }

    /// Whether [`Self::take`] takes the entries of the next answer one by one, and then an empty list.
    pub fn takes_entries(&self) -> bool {
        matches!(self.step, Step::CatchUp { .. }) && self.round.is_first_next()
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
                let entry = StreamEntry::read(Value::Array(parts))?;
                return self.take_catch_up_entry(entry, bytes, out);
            }
            answer = Value::Nil;
        }
        let Some(answers) = self.round.take((answer, bytes), now_ms) else {
            return Ok(());
        };
        match self.step {
            Step::Inspect => self.take_inspection(answers, out),
            Step::CatchUp { .. } => self.end_catch_up(answers, out),
            Step::Wait { asks_newest } => self.take_waited(asks_newest, answers, out),
        }
    }

    /// The newest entry, from the answer to `XREVRANGE`; `None` for an empty stream.
    fn newest(&mut self, (answer, bytes): Answer) -> Result<Option<EntryPrint>, StreamReadError> {
        let newest = entries(answer)?.into_iter().next();
        let newest = newest.map(StreamEntry::read).transpose()?;
        if newest.is_some() {
            self.check.measure(bytes);
        }
        Ok(newest.map(|entry| EntryPrint::of(&entry)))
    }

    /// Reads the answer about the state of the stream; without such an answer, nothing is known of the state. Finds out
    /// whether the stream is the one that was read.
    fn take_state(
        &mut self,
        answer: Option<Answer>,
        is_other_server: bool,
    ) -> Result<StateAnswer, StreamReadError> {
        let items = match answer {
            None => return Ok(StateAnswer::default()),
            Some((Value::Error(_), _)) if self.check.may_script() => {
                self.check.script_refused();
                return Ok(StateAnswer::default());
            }
            Some((answer, _)) => entries(answer)?,
        };
        let mut state = StateAnswer::read(&items);
        if let Some(asked) = self.round.asked_about
            && state.is_there == Some(true)
        {
            let found = LastEntry::read(&items);
            let found = found.map(|entry| EntryPrint::of_last(asked.id, &entry));
            let is_it = found == Some(asked);
            state.is_there = Some(is_it);
            match self.position.last_read() {
                Some(_) => self.evidence.is_anew |= !is_it,
                None if is_it => self.is_back_at(asked),
                None => {}
            }
        }
        self.check.note(state);
        if let Some(counters) = state.counters {
            let is_fallen = self.evidence.is_count_fallen(counters);
            let has_asked = self.round.asked_about.is_some();
            self.evidence.is_anew |= is_fallen && has_asked && !is_other_server;
        }
        Ok(state)
    }

    /// Handles that the last entry that was read before a loss is there again, so that the stream is the same.
    fn is_back_at(&mut self, last: EntryPrint) {
        self.position = ReadPosition::Read(last);
        self.reports.reached = Some(last.id);
        self.evidence.forget_count();
    }

    /// Notes how far the history of writes is at the server that is read, which has all entries that were read.
    fn note_written(&mut self, replication: Replication, now_ms: u64) {
        let (reached, is_gone) = (self.reports.reached, self.check.is_gone());
        self.writes.note(&replication, now_ms, reached, is_gone);
        self.server.note_history(replication.history);
    }

    /// Reads an entry that follows the last one. Hands it over, unless it was read before.
    fn read_entry(
        &mut self,
        entry: StreamEntry,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        let print = EntryPrint::of(&entry);
        if print.id <= self.position.after() {
            return Err(StreamReadError::Wrong("an entry out of order"));
        }
        self.position = ReadPosition::Read(print);
        self.check.entry_read();
        self.evidence.count_entry(print.id);
        self.reports.reached = Some(print.id);
        match self.known.note(print) {
            Noted::New => self.reports.hand_over(entry, print, out),
            Noted::PassedOver => {}
            Noted::PassedOverUnsaid => out.push(KeptEvent::Lost),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
