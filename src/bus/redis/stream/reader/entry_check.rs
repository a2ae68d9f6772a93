//! With which commands to ask whether the last read entry is still there: they must see each loss, but not send a large entry
//! again and again. Pure.

use super::super::range::ENTRIES_MAX;
use super::super::state::StateAnswer;

/// If the last entry is larger than this and the server accepts [`STATE`](super::super::state::STATE), the reader checks with
/// the script, so that the entry is not sent again.
pub(super) const PROOF_BYTES_MAX: usize = 4 * 1024;
/// If the server does not accept the script and the last entry is large, only every tenth answer without an entry is
/// checked.
const IDLE_PROOFS: u32 = 10;

/// What the last answers say of the next check.
#[derive(Debug, Default)]
pub(super) struct EntryCheck {
    /// The size of the largest of the recent entries, bytes; falls by an eighth with each smaller entry.
    entry_bytes: usize,
    /// The number of answers without an entry since the last entry.
    idle: u32,
    /// Whether the entry was gone by the last answer about it.
    is_gone: bool,
    /// Whether a check needs the counters: the last read entry is gone, or the stream has so few entries that it may be
    /// trimmed before the check.
    needs_counters: bool,
    /// Whether the server of this connection has refused the script.
    is_script_refused: bool,
}

/// How to ask for the state of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateQuestion {
    /// With the script.
    Script,
    /// For the entry itself, without the counters.
    Entry,
}

impl EntryCheck {
    /// Handles a new connection: its server may accept the script.
    pub(super) fn connected(&mut self) {
        self.is_script_refused = false;
    }

    /// Whether the server may take the script.
    pub(super) fn may_script(&self) -> bool {
        !self.is_script_refused
    }

    pub(super) fn script_refused(&mut self) {
        self.is_script_refused = true;
    }

    /// Whether the entry was gone by the last answer about it.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether the last answer brought no entry.
    pub(super) fn is_idle(&self) -> bool {
        self.idle > 0
    }

    /// Notes the size of an entry.
    pub(super) fn measure(&mut self, bytes: usize) {
        self.entry_bytes = bytes.max(self.entry_bytes - self.entry_bytes / 8);
    }

    /// Handles that an entry was read.
    pub(super) fn entry_read(&mut self) {
        self.idle = 0;
    }

    /// Handles an answer that may bring entries.
    pub(super) fn answered(&mut self) {
        self.idle = self.idle.wrapping_add(1);
    }

    /// Notes the state of the stream.
    pub(super) fn note(&mut self, state: StateAnswer) {
        self.is_gone = state.is_there.map_or(self.is_gone, |is_there| !is_there);
        if let Some(counters) = state.counters {
            let is_short = counters.length < ENTRIES_MAX as u64;
            self.needs_counters = is_short || state.is_there == Some(false);
        }
    }

    /// The question that goes with an inspection. `has_entry`: there is an entry to ask for.
    pub(super) fn for_inspection(&self, has_entry: bool) -> Option<StateQuestion> {
        self.question(true, has_entry)
    }

    /// The question that goes with the entries that are there already: they begin with the last read one.
    pub(super) fn for_catch_up(&self) -> Option<StateQuestion> {
        self.question(true, false)
    }

    /// The question after waiting for the next entries. `has_entry`: there is an entry to ask for; `was_read`: it is the last one
    /// that was read, and no loss was reported since.
    pub(super) fn for_wait(&self, has_entry: bool, was_read: bool) -> Option<StateQuestion> {
        let is_large = self.entry_bytes > PROOF_BYTES_MAX;
        let is_turn = !is_large || !was_read || self.idle.is_multiple_of(IDLE_PROOFS);
        self.question(
            is_large || self.needs_counters || !was_read,
            has_entry && is_turn,
        )
    }

    fn question(&self, asks_state: bool, asks_entry: bool) -> Option<StateQuestion> {
        match asks_state && self.may_script() {
            true => Some(StateQuestion::Script),
            false => asks_entry.then_some(StateQuestion::Entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{ModelStep, StreamServer};
    use super::super::rig::{Log, read, reading};
    use super::*;

    #[test]
    fn a_large_entry_is_checked_by_the_script_or_only_now_and_then() {
        let mut check = EntryCheck::default();
        assert_eq!(check.for_wait(true, true), Some(StateQuestion::Entry));
        check.measure(PROOF_BYTES_MAX + 1);
        assert_eq!(check.for_wait(true, true), Some(StateQuestion::Script));
        check.script_refused();
        let asked = (0..100).filter(|_| {
            check.answered();
            check.for_wait(true, true) == Some(StateQuestion::Entry)
        });
        assert_eq!(asked.count(), 10);
        // Smaller entries make it forget the large one.
        (0..3).for_each(|_| check.measure(100));
        check.answered();
        assert_eq!(check.for_wait(true, true), Some(StateQuestion::Entry));
    }

    #[test]
    fn while_no_entry_was_read_each_answer_has_the_counters() {
        let mut check = EntryCheck::default();
        assert_eq!(check.for_wait(false, false), Some(StateQuestion::Script));
        check.script_refused();
        assert_eq!(check.for_wait(false, false), None);
        assert_eq!(check.for_catch_up(), None);
        assert_eq!(check.for_inspection(true), Some(StateQuestion::Entry));
    }

    /// An idle reader checks with the script, or only now and then with the entry itself.
    #[test]
    fn a_large_entry_is_not_read_again_and_again() {
        for has_counters in [true, false] {
            let mut server = StreamServer {
                entry_bytes: 1 << 20,
                has_counters,
                ..StreamServer::new()
            };
            server.step(&ModelStep::Add(1));
            let mut reader = reading(1_000);
            read(&mut reader, &mut server);
            let mut again = 0;
            let mut log = Log::default();
            for _ in 0..100 {
                let commands = reader.commands();
                again += commands.iter().filter(|words| words[0] == "XRANGE").count();
                log.take(&mut reader, &mut server);
            }
            assert!(again <= if has_counters { 0 } else { 10 }, "{again}");
            assert_eq!(log.events, []);
        }
    }
}
