//! Where reading begins: at first, and again after a loss.
//!
//! At first, the entries of the history are read. If the reader goes on in the stream of another server, in one that was made
//! anew, or in another data set of the same server (a replica gets the one of its master), it begins with the history, too: ids
//! up to the last one that was read may be of new entries, for example if the clock of the server is behind. It passes over
//! the entries that it has read before ([`KnownEntries`](super::known::KnownEntries)), whenever they come: the server may get
//! those that it lacks later.
//!
//! While the key is missing, the reader waits for any entry. If the last one that was read is there again, it is the same stream
//! (`RENAME`, `RESTORE`), and reading goes on after it. Any other stream begins with the history, too: it may be an old one that
//! was put there whole.

use super::super::prints::EntryPrint;
use super::super::state::Counters;
use super::position::ReadPosition;
use super::{HELD_MAX, RedisStreamReader};
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

/// What is known of the number of entries in a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    counters: Option<Counters>,
    /// There are at least so many.
    entries: u64,
}

impl Held {
    /// The counters, if there are any, and the number of entries that have come.
    pub(super) fn new(counters: Option<Counters>, entries: usize) -> Self {
        Self {
            counters,
            entries: entries as u64,
        }
    }

    /// Whether all entries that are left come after this id.
    fn has_only_after(self, id: StoredId) -> bool {
        self.counters.is_some_and(|counters| counters.is_gone(id))
    }

    fn entries(self) -> u64 {
        self.counters
            .map_or(self.entries, |counters| counters.length)
    }
}

impl RedisStreamReader {
    /// Whether the first inspection has decided where reading begins.
    pub(super) fn has_begun(&self) -> bool {
        self.position != ReadPosition::Unset
    }

    /// Begins with the entries of the last `history_ms`. The newest entry bounds the time, because the server's clock
    /// may be behind.
    pub(super) fn begin(&mut self, newest: Option<StoredId>) {
        self.reports.begin(newest);
        let after = newest.map(|newest| self.history_start(newest, None));
        self.position = ReadPosition::first(after.unwrap_or_default());
        if let Some(after) = after {
            self.known.begin_after(after);
        }
    }

    /// The id after which the entries of the last `history_ms` come, and those since the stream was empty.
    fn history_start(&self, newest: StoredId, empty_since_ms: Option<u64>) -> StoredId {
        let now_ms = self.round.answered_ms();
        let empty_ms = empty_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let ms = self.settings.history_ms.saturating_add(empty_ms);
        let major = newest.major.min(now_ms).saturating_sub(ms);
        StoredId { major, minor: 0 }
    }

    /// Continues after a loss: the last entry is gone, or none was read so far, so nothing proves that no entry is
    /// missing; or the stream was made anew, and may have new entries with lower ids.
    pub(super) fn go_on_after_loss(
        &mut self,
        newest: Option<EntryPrint>,
        counters: Option<Counters>,
        is_other: bool,
        out: &mut Vec<KeptEvent>,
    ) {
        out.push(KeptEvent::Lost);
        self.position = self.position.without_entry();
        self.evidence.forget_count();
        let was_empty = self.position.empty_since_ms().is_some();
        // That another server had no entry does not say that those of this one are new.
        if let Some(newest) = newest.filter(|_| !was_empty || is_other) {
            // 0: only the counters say how many entries there are.
            return self.begin_again(newest, Held::new(counters, 0), is_other, out);
        }
        self.evidence.is_anew = false;
        self.reports.begin_anew(None);
        self.position = self.position.rewound();
        if is_other {
            self.known.pass_over_after(self.position.after());
        }
    }

    /// Decides where reading begins in a stream that lacks the last entry that was read. If all that is left is newer than
    /// this entry, reading goes on after it. Otherwise, older entries may be new, too: reading begins with the history, and
    /// passes over what was read.
    pub(super) fn begin_again(
        &mut self,
        newest: EntryPrint,
        held: Held,
        is_other: bool,
        out: &mut Vec<KeptEvent>,
    ) {
        let last = self.position.last_known_id();
        self.known.lost_until(newest.id);
        let is_above = newest.id > last;
        let was_empty = self.position.empty_since_ms().is_some();
        // A stream that was empty or missing counts as another one, and so does one that lacks the last entry and has
        // no newer one.
        let is_anew = std::mem::take(&mut self.evidence.is_anew) || was_empty || !is_above;
        if held.has_only_after(last) && !is_anew && !is_other {
            // The last entry that was read may be one of a stream with lower ids than the one before.
            return self.known.pass_over_after(last);
        }
        if is_anew {
            let reached = Some(newest.id).filter(|_| !is_above || !was_empty);
            self.reports.begin_anew(reached);
        }
        let is_new_life = is_anew && !is_other;
        match self.reread_start(newest, held, is_new_life) {
            Some(after) => {
                self.known.pass_over_after(after);
                self.position = self.position.moved_to(after);
            }
            None => self.skip_to(newest, out),
        }
        match is_new_life {
            true => self.known.begin_new_life(self.position.after()),
            false => self.known.begin_after(self.position.after()),
        }
    }

    /// After which id [`Self::begin_again`] reads. `None`: after `newest`. It was read already; or all entries are older than
    /// those that are known, and the server may only lack the last ones; or all are older than the history.
    fn reread_start(&self, newest: EntryPrint, held: Held, is_new_life: bool) -> Option<StoredId> {
        if self.known.has(newest) {
            return None;
        }
        let last = self.position.last_known_id();
        let empty_since_ms = self.position.empty_since_ms();
        // A stream that was away and has many entries at once was put there whole, so that its newest entry may be old.
        let is_whole = empty_since_ms.is_some() && held.entries() >= HELD_MAX as u64;
        let end = match is_whole {
            true => last.max(newest.id),
            false => newest.id,
        };
        let mut after = self.history_start(end, empty_since_ms);
        if !is_new_life {
            after = after.max(self.known.after());
        }
        if newest.id > last && empty_since_ms.is_none() {
            after = after.min(last);
        }
        (after < newest.id).then_some(after)
    }

    /// Goes on after the newest entry. The stream is at an earlier state, and may get back what it lacks.
    fn skip_to(&mut self, newest: EntryPrint, out: &mut Vec<KeptEvent>) {
        self.known.pass_over_after(newest.id);
        self.position = ReadPosition::Read(newest);
        self.reports.reached = Some(newest.id);
        out.push(KeptEvent::Head {
            id: newest.id,
            hash: Some(newest.hash),
        });
    }
}

#[cfg(test)]
mod tests;
