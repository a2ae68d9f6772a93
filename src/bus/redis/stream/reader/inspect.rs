//! The first step on a connection, and the one after a doubt: which server this is, what its newest entry is, and whether the
//! last read entry is still there. Nothing is handed over; the answers decide where reading begins or goes on.

use super::super::entry::stream_entries;
use super::super::prints::EntryPrint;
use super::super::state::StateAnswer;
use super::info::info_line;
use super::replication::Replication;
use super::round::{RoundAnswers, words};
use super::{RedisStreamReader, Step, StreamReadError};
use crate::kept::KeptEvent;

/// The commands, before that for the state of the stream.
pub(super) fn commands(key: &str) -> Vec<Vec<String>> {
    vec![
        words(["XREVRANGE", key, "+", "-", "COUNT", "1"]),
        words(["INFO", "server"]),
        words(["INFO", "replication"]),
        // Whether this user may read on, before anything is handed over.
        words(["XREAD", "COUNT", "1", "STREAMS", key, "$"]),
    ]
}

/// What the answers say.
struct Inspection {
    newest: Option<EntryPrint>,
    run_id: Option<String>,
    replication: Replication,
    /// Whether the server is another one than before, or has another data set.
    is_other: bool,
    state: StateAnswer,
}

impl RedisStreamReader {
    /// Handles the answers.
    pub(super) fn take_inspection(
        &mut self,
        mut answers: RoundAnswers,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        let count = self.evidence.count();
        let inspection = self.read_inspection(&mut answers)?;
        if let Some(behind) = self.behind(&inspection, answers.now_ms) {
            self.evidence.restore_count(count);
            return Err(behind);
        }
        if inspection.state.is_there.is_none() && self.round.asked_about.is_some() {
            // The server refused the script. The next inspection asks for the entry itself.
            return Ok(());
        }
        self.begin_or_go_on(&inspection, &answers, out);
        self.evidence.note_executed(answers.executed.before);
        self.evidence
            .count_from(inspection.state, self.position.after());
        self.plan_after_inspection(&inspection, out);
        if inspection.newest.is_none() {
            self.position = self.position.emptied(answers.before_ms);
        }
        self.server.inspected(inspection.run_id);
        self.note_written(inspection.replication, answers.now_ms);
        Ok(())
    }

    fn read_inspection(
        &mut self,
        answers: &mut RoundAnswers,
    ) -> Result<Inspection, StreamReadError> {
        let newest = self.newest(answers.next_or_nil())?;
        let run_id = info_line(&answers.next_or_nil().0, "run_id:");
        let replication = Replication::read(&answers.next_or_nil().0);
        // Only checked: this user may read the stream.
        stream_entries(answers.next_or_nil().0)?;
        let is_other = self.server.is_other(run_id.as_ref(), &replication);
        Ok(Inspection {
            newest,
            run_id,
            replication,
            is_other,
            state: self.take_state(answers.next(), is_other)?,
        })
    }

    /// The error if another server than before lacks entries that were read, and may soon have them.
    fn behind(&mut self, inspection: &Inspection, now_ms: u64) -> Option<StreamReadError> {
        let newest = inspection.newest.map(|newest| newest.id);
        let last_added = inspection.state.counters.map(|counters| counters.last);
        let last = last_added.max(newest).unwrap_or_default();
        if !inspection.is_other || last >= self.position.after() {
            self.writes.lacks_none();
            return None;
        }
        self.writes.lacks_some(&inspection.replication, now_ms)
    }

    /// Decides where reading begins, or whether it goes on after the last read entry with or without a loss.
    fn begin_or_go_on(
        &mut self,
        inspection: &Inspection,
        answers: &RoundAnswers,
        out: &mut Vec<KeptEvent>,
    ) {
        let &Inspection {
            newest,
            is_other,
            state,
            ..
        } = inspection;
        let newest_id = newest.map(|newest| newest.id);
        let added_nothing = !is_other && self.added_nothing(inspection, answers);
        let has_begun = self.has_begun();
        if is_other {
            self.evidence.forget_count();
            self.known.found_other(newest_id.filter(|_| has_begun));
        }
        if !has_begun {
            return self.begin(newest_id);
        }
        let executed = answers.executed.after;
        if !added_nothing && !self.evidence.proves(self.position, (state, executed), &[]) {
            self.go_on_after_loss(newest, state.counters, is_other, out);
        }
    }

    /// Whether nothing was added to the empty stream since the last answer.
    fn added_nothing(&self, inspection: &Inspection, answers: &RoundAnswers) -> bool {
        let since = self.evidence.executed_since(answers.executed.before);
        let has_added = since.is_none_or(|since| since.additions() > 0);
        let is_process = self.server.is_process(inspection.run_id.as_ref());
        self.position.last_read().is_none() && is_process && !has_added
    }

    /// Plans the next step.
    fn plan_after_inspection(&mut self, inspection: &Inspection, out: &mut Vec<KeptEvent>) {
        let was_read = self.position.last_read().is_some();
        let is_empty = inspection.newest.is_none() || self.position.empty_since_ms().is_some();
        // An `XRANGE` from the last entry on proves that nothing was lost. Without this entry, the counters of the
        // stream have to show it.
        let is_gone = was_read && inspection.state.is_there == Some(false);
        self.step = if is_gone { Step::WAIT } else { Step::CATCH_UP };
        self.reports.report_unless_old(out);
        if !was_read && is_empty {
            // Old entries that were there before are gone.
            self.reports.report_old_ended(out);
            // What comes from now on is checked before it is handed over.
            self.evidence.note_removed(inspection.state);
            self.wait_at_end(out);
        }
    }
}
