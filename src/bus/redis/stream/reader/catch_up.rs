//! The step that reads the entries that are there already. Each answer begins with the last entry of the answer before, which
//! proves that nothing was lost between the two; the parser returns the entries one by one.

use super::super::entry::{StreamEntry, id_text, next_id};
use super::super::prints::EntryPrint;
use super::super::state::StateAnswer;
use super::round::RoundAnswers;
use super::{RedisStreamReader, Step, StreamReadError};
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

impl RedisStreamReader {
    /// The command, before that for the state of the stream.
    pub(super) fn catch_up_command(&mut self) -> Vec<String> {
        let after = self.position.after();
        let was_read = self.position.last_read().is_some();
        let from = if was_read { after } else { next_id(after) };
        self.range.may_script = self.check.may_script();
        let key = &self.settings.key;
        self.range.command((key, &id_text(from)), was_read)
    }

    /// Takes an entry of the answer. If the answer did not begin with the last read entry, hands nothing over:
    /// another inspection comes first.
    pub(super) fn take_catch_up_entry(
        &mut self,
        entry: StreamEntry,
        bytes: usize,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        self.check.measure(bytes);
        let Step::CatchUp { is_proved } = &mut self.step else {
            return Ok(());
        };
        // Not the first entry of the answer.
        if !self.range.arrived(bytes) {
            return match is_proved {
                true => self.read_entry(entry, out),
                false => Ok(()),
            };
        }
        if let Some(last) = self.position.last_read() {
            // The first entry has been handed over before, if it is the right one.
            *is_proved = last == EntryPrint::of(&entry);
            return Ok(());
        }
        *is_proved = true;
        self.evidence.forget_count();
        self.read_entry(entry, out)
    }

    /// Handles the end of the answer. If it did not begin with the last read entry, or the stream turns out to be another
    /// one, inspects the stream again. At the end of the stream, reports that, and waits for new entries. Otherwise asks for
    /// more.
    pub(super) fn end_catch_up(
        &mut self,
        mut answers: RoundAnswers,
        out: &mut Vec<KeptEvent>,
    ) -> Result<(), StreamReadError> {
        let is_proved = matches!(self.step, Step::CatchUp { is_proved: true });
        // The entries have come one by one; the end of their list has none.
        answers.next_or_nil();
        // `false`: the server of this connection was inspected already.
        let state = self.take_state(answers.next(), false)?;
        let may_follow = self.range.end();
        if (!is_proved || self.evidence.is_anew) && self.position.last_read().is_some() {
            self.step = Step::Inspect;
            return Ok(());
        }
        self.evidence.count_from(state, self.position.after());
        if may_follow {
            self.step = Step::CATCH_UP;
            self.report_lag(state, answers.now_ms, out);
            return Ok(());
        }
        // What did not come of the old entries was trimmed or deleted.
        self.reports.report_old_ended(out);
        self.evidence.note_removed(state);
        self.wait_at_end(out);
        Ok(())
    }

    /// Reports how far the reader is behind the newest entry.
    pub(super) fn report_lag(&mut self, state: StateAnswer, now_ms: u64, out: &mut Vec<KeptEvent>) {
        let after = self.position.after();
        let newest_ms = state
            .counters
            .map_or(now_ms, |counters| counters.last.major);
        let ms = match after == StoredId::default() {
            // The first entries of an empty stream follow none.
            true => 0,
            false => newest_ms.saturating_sub(after.major),
        };
        let messages = self.evidence.added_after(after, state);
        self.reports.report_lag(messages, ms, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{ModelStep, StreamServer};
    use super::super::rig::{HELD_BYTES_MAX, Log, reading, seen_empty};
    use super::*;

    #[test]
    fn how_far_it_is_behind_is_known_in_the_middle_of_much() {
        let mut server = StreamServer {
            entry_bytes: 1 << 20,
            ..StreamServer::new()
        };
        server.step(&ModelStep::Add(40));
        let mut reader = reading(HELD_BYTES_MAX);
        let mut log = Log::default();
        log.take_all(&mut reader, &mut server);
        server.step(&ModelStep::Add(40));
        log.events.clear();
        log.take_all(&mut reader, &mut server);
        let behind = log.events.iter().filter_map(|events| match events {
            KeptEvent::Lag { messages, .. } => *messages,
            _ => None,
        });
        // Before an answer to XREAD with one entry, then after answers with one new entry each.
        assert_eq!(behind.collect::<Vec<_>>()[..3], [40, 38, 37]);
    }

    #[test]
    fn the_first_entries_of_an_empty_stream_make_the_reader_late_by_no_years() {
        let (mut server, mut reader) = seen_empty(true, false);
        server.step(&ModelStep::Add(40));
        let mut log = Log::default();
        log.take_all(&mut reader, &mut server);
        let ms = log.events.iter().filter_map(|events| match events {
            KeptEvent::Lag { ms, .. } => Some(*ms),
            _ => None,
        });
        assert!(ms.clone().count() > 1 && ms.max() < Some(60_000));
    }
}
