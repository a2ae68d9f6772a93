//! Whether another server lacks entries that were read, and will get them. Pure.
//!
//! Another server whose newest entry is older than the last one that was read is behind, as a replica may be, or its stream
//! is another one. The reader leaves it for some time: from a server that is behind, the entries would come twice. A master
//! and its replicas count the bytes of all writes. By this count, which the reader asks for now and then, a replica may
//! turn out to lack writes that a server had when the entries were read: then the reader waits until the replica has
//! them, for however long that takes.

use super::StreamReadError;
use super::replication::{Replication, WrittenTo};
use weirgate_core::StoredId;

/// The shortest time between two questions for the count of writes, milliseconds.
pub(super) const WRITES_ASKED_MS: u64 = 1_000;
/// If another server lacks entries that were read for longer than this, its stream counts as another one, milliseconds. The
/// time of a replica counts from when it has the writes that it is known to lack.
const BEHIND_MAX_MS: u64 = 5_000;

/// How far the writes had come when entries were read, and since when a server lacks some.
#[derive(Debug, Default)]
pub(super) struct WritesWatch {
    /// A place in the history of writes at which a server had all entries that were read by then.
    written_to: Option<WrittenTo>,
    /// When that was last asked for, Unix milliseconds.
    asked_ms: u64,
    /// The newest entry that was read then.
    asked_at: Option<StoredId>,
    question: WritesQuestion,
    /// Since when each server lacks entries that were read, Unix milliseconds.
    behind_since_ms: Option<u64>,
}

/// When to ask the server of this connection for its count of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WritesQuestion {
    /// Not at all: it does not say, or was not inspected yet.
    #[default]
    Never,
    Later,
    /// With the commands that wait for the next entries.
    Next,
}

impl WritesWatch {
    /// Handles a new connection: whether its server answers is found out anew.
    pub(super) fn connected(&mut self) {
        self.question = WritesQuestion::Never;
    }

    /// Whether to ask with the commands that wait for the next entries.
    pub(super) fn is_due(&self) -> bool {
        self.question == WritesQuestion::Next
    }

    /// Whether the answers to these commands may be of another data set than before, unseen: the server would say so, and was
    /// not asked.
    pub(super) fn hides_data_set(&self) -> bool {
        self.question == WritesQuestion::Later
    }

    /// Notes how far the history of writes is at the server that is read, which has all entries up to `reached`. `is_gone`: the
    /// last one is gone.
    pub(super) fn note(
        &mut self,
        replication: &Replication,
        now_ms: u64,
        reached: Option<StoredId>,
        is_gone: bool,
    ) {
        self.written_to.clone_from(&replication.written_to);
        (self.asked_ms, self.asked_at) = (now_ms, reached);
        // A server that does not say is not asked again on this connection.
        self.question = match replication.history.is_some() {
            true if is_gone => WritesQuestion::Next,
            true => WritesQuestion::Later,
            false => WritesQuestion::Never,
        };
    }

    /// Plans to ask with the next commands if an entry was read since the answer before; and if the last entry is gone,
    /// because the counters of another data set prove nothing.
    pub(super) fn plan(&mut self, now_ms: u64, reached: Option<StoredId>, is_gone: bool) {
        if self.question == WritesQuestion::Never {
            return;
        }
        let is_time = now_ms.abs_diff(self.asked_ms) >= WRITES_ASKED_MS;
        let is_due = is_gone || is_time && reached != self.asked_at;
        self.question = match is_due {
            true => WritesQuestion::Next,
            false => WritesQuestion::Later,
        };
    }

    /// Handles that no entry is lacking.
    pub(super) fn lacks_none(&mut self) {
        self.behind_since_ms = None;
    }

    /// The error if this server, which lacks entries that were read from another one, may soon have them. A replica that is
    /// cut off from its master may be behind for long, and so may one that lacks writes.
    pub(super) fn lacks_some(
        &mut self,
        replication: &Replication,
        now_ms: u64,
    ) -> Option<StreamReadError> {
        let written_to = self.written_to.as_ref();
        if written_to.is_some_and(|place| replication.will_reach(place)) {
            self.behind_since_ms = Some(now_ms);
            return Some(StreamReadError::CatchingUp);
        }
        let since_ms = *self.behind_since_ms.get_or_insert(now_ms);
        let waits = replication.is_cut_off || now_ms.abs_diff(since_ms) < BEHIND_MAX_MS;
        waits.then_some(StreamReadError::Behind)
    }
}

#[cfg(test)]
mod tests;
