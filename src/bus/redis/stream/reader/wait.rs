//! The step at the end of the stream: waits for the next entries, and asks whether the last read entry is still there. The
//! entries are held until that is known.

use super::super::entry::{StreamEntry, id_text, stream_entries};
use super::super::prints::EntryPrint;
use super::super::state::StateAnswer;
use super::executed::{EXECUTED_ASKED_MS, ExecutedAround};
use super::replication::Replication;
use super::round::{RoundAnswers, words};
use super::start::Held;
use super::{RedisStreamReader, Step, StreamReadError};
use crate::kept::KeptEvent;

/// How long an `XREAD` waits at the server for the next entry, milliseconds.
pub(in crate::redis::stream) const BLOCK_MS: u64 = 1_000;

/// What the answers say.
struct Waited {
    /// The next entries, of which none was read yet.
    entries: Vec<StreamEntry>,
    /// The newest entry of the stream, if it was asked for.
    newest: Option<EntryPrint>,
    state: StateAnswer,
    /// The state has just shown that the stream of before is back.
    is_back: bool,
    executed: ExecutedAround,
    now_ms: u64,
}

impl RedisStreamReader {
    /// The commands, before that for the state of the stream.
    pub(super) fn wait_commands(&self, asks_newest: bool) -> Vec<Vec<String>> {
        let key = self.key();
        let (count, block) = (self.settings.held_max.to_string(), BLOCK_MS.to_string());
        let from = match self.position.last_read() {
            Some(last) => id_text(last.id),
            // The first entries of an empty stream may have any ids.
            None => "0-0".to_owned(),
        };
        let mut commands = vec![words([
            "XREAD", "COUNT", &count, "BLOCK", &block, "STREAMS", key, &from,
        ])];
        if asks_newest {
            commands.push(words(["XREVRANGE", key, "+", "-", "COUNT", "1"]));
        }
        if self.writes.is_due() {
            commands.push(words(["INFO", "replication"]));
        }
        commands
    }

    /// Whether to ask for what the server has executed. While the last read entry is there, an earlier number only makes the
    /// proof harder.
    pub(super) fn is_executed_due(&self) -> bool {
        if self.position.last_read().is_none() {
            return true;
        }
        let is_due = self.check.is_gone()
            || self.check.is_idle()
            || self.round.executed_age_ms() >= EXECUTED_ASKED_MS;
        // Without the script there are no counters, and a user who may not ask is not asked for.
        is_due && self.check.may_script() && self.evidence.knows_executed()
    }

    /// Handles the answers to [`Self::wait_commands`].
    pub(super) fn take_waited(
        &mut self,
        asks_newest: bool,
        mut answers: RoundAnswers,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        self.step = Step::WAIT;
        let (waited, replication) = self.read_answers(asks_newest, &mut answers)?;
        let is_same_data = |now: &Replication| self.server.has_same_data(now);
        if !replication.as_ref().is_none_or(is_same_data) {
            self.step = Step::Inspect;
            return Ok(());
        }
        match self.step_instead(&waited) {
            Some(step) => self.step = step,
            None => self.hand_over_waited(waited, out)?,
        }
        match replication {
            Some(replication) => self.note_written(replication, answers.now_ms),
            None => self.plan_written(answers.now_ms),
        }
        Ok(())
    }

    /// Reads what the answers say of the stream, and where the server gets its writes from, if that was asked for.
    fn read_answers(
        &mut self,
        asks_newest: bool,
        answers: &mut RoundAnswers,
    ) -> Result<(Waited, Option<Replication>), StreamReadError> {
        let (first, bytes) = answers.next_or_nil();
        let entries = stream_entries(first)?;
        if !entries.is_empty() {
            self.check.measure(bytes / entries.len());
        }
        let newest = match asks_newest {
            true => self.newest(answers.next_or_nil())?,
            false => None,
        };
        let replication = match self.writes.is_due() {
            true => answers.next().map(|(info, _)| Replication::read(&info)),
            false => None,
        };
        let was_read = self.position.last_read().is_some();
        // `false`: the server of this connection was inspected already.
        let state = self.take_state(answers.next(), false)?;
        let is_back = !was_read && self.position.last_read().is_some();
        if entries.is_empty() {
            self.position = self.position.emptied(answers.before_ms);
        }
        let entries = entries.into_iter().map(StreamEntry::read);
        let waited = Waited {
            entries: entries.collect::<Result<_, _>>()?,
            newest,
            state,
            is_back,
            executed: answers.executed,
            now_ms: answers.now_ms,
        };
        Ok((waited, replication))
    }

    /// The step that comes before the entries can be handed over, if one does; they are read again after it.
    fn step_instead(&self, waited: &Waited) -> Option<Step> {
        let Waited {
            entries,
            newest,
            state,
            ..
        } = waited;
        let was_read = self.position.last_read().is_some();
        let is_unchecked = was_read && state.is_there.is_none() && !entries.is_empty();
        if waited.is_back || is_unchecked {
            // The entries were not checked, or were asked for from the first one on. Reads them again, beginning with the
            // last read entry.
            return Some(Step::CATCH_UP);
        }
        let is_gone = was_read && (state.is_there == Some(false) || self.evidence.is_anew);
        if is_gone && !self.is_proved(waited) {
            // Entries with lower ids may be new, or the counters are of another data set. An inspection comes first.
            return Some(Step::Inspect);
        }
        let length = state.counters.map_or(0, |counters| counters.length);
        let is_whole = !self.fills_answer(entries) || length == entries.len() as u64;
        if !was_read && newest.is_none() && !is_whole {
            // Where reading begins depends on the newest entry.
            return Some(Step::Wait { asks_newest: true });
        }
        None
    }

    /// Whether nothing was lost before these entries, though the last read one is gone.
    fn is_proved(&self, waited: &Waited) -> bool {
        let seen = (waited.state, waited.executed.after);
        let evidence = &self.evidence;
        // The counters of another data set prove nothing.
        !self.writes.hides_data_set() && evidence.proves(self.position, seen, &waited.entries)
    }

    /// Whether more entries may follow these in the stream.
    fn fills_answer(&self, entries: &[StreamEntry]) -> bool {
        entries.len() >= self.settings.held_max
    }

    /// Hands the entries over, which follow the last read one or are the first ones.
    fn hand_over_waited(
        &mut self,
        mut waited: Waited,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        let state = waited.state;
        let was_read = self.position.last_read().is_some();
        if !was_read {
            self.report_loss_before_first(&waited, out);
        }
        if !waited.entries.is_empty() || was_read && state.is_there.is_some() {
            self.evidence.note_executed_if_known(waited.executed.before);
        }
        self.check.answered();
        let is_full = self.fills_answer(&waited.entries);
        if is_full {
            // Said before these entries: what follows them is not known until the next answer.
            self.step = Step::CATCH_UP;
            self.report_lag(state, waited.now_ms, out);
        }
        if !was_read {
            self.begin_with_first(&mut waited, out);
        }
        for entry in waited.entries {
            self.read_entry(entry, out)?;
        }
        self.evidence.count_from(state, self.position.after());
        if !is_full {
            self.reports.report_end_again(out);
        }
        Ok(())
    }

    /// While no entry was read: reports a loss if others may have been there before these entries.
    fn report_loss_before_first(&mut self, waited: &Waited, out: &mut Vec<KeptEvent>) {
        let has_script = self.check.may_script();
        let (entries, executed) = (&waited.entries, waited.executed);
        let evidence = &mut self.evidence;
        if evidence.may_lack_first(entries, waited.state, executed, has_script) {
            out.push(KeptEvent::Lost);
        }
        evidence.forget_count();
    }

    /// While no entry was read: decides where reading begins, and leaves out the entries before.
    fn begin_with_first(&mut self, waited: &mut Waited, out: &mut Vec<KeptEvent>) {
        let Some(last) = waited.entries.last() else {
            return;
        };
        let newest = waited.newest.unwrap_or_else(|| EntryPrint::of(last));
        let held = Held::new(waited.state.counters, waited.entries.len());
        // `false`: the server is the same.
        self.begin_again(newest, held, false, out);
        let after = self.position.after();
        waited.entries.retain(|entry| entry.id > after);
    }

    /// Waits for new entries, as all that are there were read.
    pub(super) fn wait_at_end(&mut self, out: &mut Vec<KeptEvent>) {
        self.step = Step::WAIT;
        self.reports.report_end(out);
    }

    /// Asks for the history of writes with the next commands, if it is time.
    fn plan_written(&mut self, now_ms: u64) {
        let is_gone = self.check.is_gone();
        self.writes.plan(now_ms, self.reports.reached, is_gone);
    }
}
