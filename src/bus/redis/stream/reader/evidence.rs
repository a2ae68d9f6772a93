//! What proves that nothing was lost between two answers about a stream. Pure.
//!
//! If the last entry that was read is still there, nothing after it was trimmed. If it is gone, the counters of the stream can
//! still prove that nothing was lost, in two ways:
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

use super::super::entry::StreamEntry;
use super::super::state::{Counters, StateAnswer};
use super::executed::{Executed, ExecutedAround};
use super::position::ReadPosition;
use weirgate_core::StoredId;

/// What was known when the stream was last seen.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// An answer has shown that the stream was deleted and made anew since the last entry was read, or that another server has
    /// another stream. Nothing else proves the contrary: a loss is reported, and the new stream is read.
    pub(super) is_anew: bool,
    /// The entries added up to the last one, for the check by counters. Set anew by each answer while no entry was
    /// read, because until then it is enough to know how many were [removed](Self::removed).
    counted: Option<Counted>,
    /// While no entry was read: how many entries had been removed from the stream.
    removed: u64,
    /// What the server had executed before the stream was last seen: before an answer showed that it is the one of the last read
    /// entry; while no entry was read, before the server said that there is none, and that none has come and gone.
    executed: Option<Executed>,
}

/// The number of entries that were ever added, up to the entry of this id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    id: StoredId,
    added: u64,
}

impl Evidence {
    /// The count of entries, which [`Self::restore_count`] takes back.
    pub(super) fn count(&self) -> Option<Counted> {
        self.counted
    }

    /// Forgets what was counted since [`Self::count`]: the counters of a server that is left say nothing of the one before.
    pub(super) fn restore_count(&mut self, counted: Option<Counted>) {
        self.counted = counted;
    }

    /// The next answer counts the entries anew.
    pub(super) fn forget_count(&mut self) {
        self.counted = None;
    }

    /// If there is no count yet, sets it from the counters of an answer after which reading goes on at `after`.
    pub(super) fn count_from(&mut self, state: StateAnswer, after: StoredId) {
        // A last id below the last read entry is from a stream that was made anew after these entries were read.
        let counters = state.counters.filter(|counters| counters.last >= after);
        let counted = counters.map(|counters| Counted {
            id: counters.last,
            added: counters.added,
        });
        self.counted = self.counted.or(counted);
    }

    /// Counts an entry that is read.
    pub(super) fn count_entry(&mut self, id: StoredId) {
        if let Some(counted) = &mut self.counted
            && id > counted.id
        {
            (counted.id, counted.added) = (id, counted.added + 1);
        }
    }

    /// Compares the counters with the count. Neither number falls while a stream exists. Forgets the count if one has fallen,
    /// because later the new stream may reach the numbers of the old one; returns whether it has.
    pub(super) fn is_count_fallen(&mut self, counters: Counters) -> bool {
        let fallen = self
            .counted
            .take_if(|counted| counters.added < counted.added || counters.last < counted.id);
        fallen.is_some()
    }

    /// How many entries the stream has got after this one, if that is known.
    pub(super) fn added_after(&self, id: StoredId, state: StateAnswer) -> Option<u64> {
        let counted = self.counted.filter(|counted| counted.id == id)?;
        Some(state.counters?.added.saturating_sub(counted.added))
    }

    /// Notes how many entries were removed from a stream of which none was read.
    pub(super) fn note_removed(&mut self, state: StateAnswer) {
        self.removed = state.counters.map_or(0, Counters::removed);
    }

    /// Whether it is known what the server had executed.
    pub(super) fn knows_executed(&self) -> bool {
        self.executed.is_some()
    }

    /// Notes what the server had executed before it was seen that the stream is the same, or that another one is read.
    pub(super) fn note_executed(&mut self, executed: Option<Executed>) {
        self.executed = executed;
    }

    /// As [`Self::note_executed`], if the server has said it.
    pub(super) fn note_executed_if_known(&mut self, executed: Option<Executed>) {
        self.executed = executed.or(self.executed);
    }

    /// What the server has executed since the stream was last seen, if it says so.
    pub(super) fn executed_since(&self, now: Option<Executed>) -> Option<Executed> {
        let (now, seen) = now.zip(self.executed)?;
        now.since(seen)
    }

    /// Whether nothing was lost between the last entry that was read and these `entries`, which follow it. `executed`: what
    /// the server had executed after this state.
    pub(super) fn proves(
        &self,
        position: ReadPosition,
        (state, executed): (StateAnswer, Option<Executed>),
        entries: &[StreamEntry],
    ) -> bool {
        if self.is_anew {
            return false;
        }
        if state.is_there == Some(true) && position.last_read().is_some() {
            return true;
        }
        let after = position.after();
        let counted = self.counted.filter(|counted| counted.id == after);
        let (Some(counters), Some(counted)) = (state.counters, counted) else {
            return false;
        };
        let since = self.executed_since(executed);
        let is_spared = since.is_some_and(|since| since.spared(state.counters));
        let is_same = is_spared && counters.last >= after;
        let is_gone = counters.is_gone(after);
        let was_trimmed = is_gone && counters.removed() == counted.added + counters.gone(entries);
        let was_deleted = !is_gone && counters.last_deleted == after;
        is_same && (was_trimmed || was_deleted)
    }

    /// While no entry was read: whether entries may have been removed since the stream was last seen, in addition to these
    /// `entries`, the first ones. `executed`: around the answers with the entries and the state. `has_script`: the server
    /// returns the counters of a stream.
    pub(super) fn may_lack_first(
        &mut self,
        entries: &[StreamEntry],
        state: StateAnswer,
        executed: ExecutedAround,
        has_script: bool,
    ) -> bool {
        let since = self.executed_since(executed.after);
        let counts_anew = executed.after.and(self.executed).is_some() && since.is_none();
        // No more entries can have been added than came.
        let has_all = since.is_some_and(|since| since.additions() <= entries.len() as u64);
        // The counters of a stream that was made anew say nothing of the one before.
        let is_same = since.is_some_and(|since| since.spared(state.counters));
        let was_trimmed = self.was_trimmed(entries, state);
        let is_whole = match state.counters {
            Some(_) => !was_trimmed && (has_all || is_same),
            // A stream without an entry may not be there at all.
            None => has_all || is_same && has_script && entries.is_empty(),
        };
        if !entries.is_empty() {
            return !is_whole;
        }
        // While the stream is empty, what was added may be of another stream. The next entry decides, unless the server has
        // begun to count anew: then nothing says what has come and gone.
        if is_whole || was_trimmed || counts_anew || self.executed.is_none() {
            self.executed = executed.before;
        }
        was_trimmed || counts_anew
    }

    /// While no entry was read: whether others than these `entries` were removed, by the counters, which count as seen then.
    fn was_trimmed(&mut self, entries: &[StreamEntry], state: StateAnswer) -> bool {
        let removed_before = self.removed;
        self.note_removed(state);
        let gone = state.counters.map_or(0, |counters| counters.gone(entries));
        // Nothing else was removed if the count has grown by those of these entries that are gone already, or, in a
        // stream that was made anew and counts from 0, is just them.
        self.removed != removed_before + gone && self.removed != gone
    }
}

#[cfg(test)]
mod tests;
