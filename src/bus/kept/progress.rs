//! How far the source has read the stream. The readers of all messages of a name (`"last":"all"`) need it, because each
//! has a connection of its own, perhaps to a server that is behind.

use std::sync::{Arc, Mutex, PoisonError};

use super::KeptEvent;
use weirgate_core::StoredId;

/// What the source of a stream writes, and the readers for clients look up. Clones are of the same source.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceProgress(Arc<Mutex<Progress>>);

/// How far the source has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The number of its connections so far.
    pub(crate) connections: u64,
    /// The newest entry that it has read; `None` if it knows of no entry.
    pub(crate) reached: Option<StoredId>,
}

impl SourceProgress {
    pub(crate) fn now(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the source has another connection.
    pub(crate) fn connected(&self) {
        self.with(|progress| progress.connections += 1);
    }

    /// Notes the newest entry that was read, before the loop gets it: the pages must not end before an entry that the loop
    /// has.
    pub(crate) fn read(&self, reached: Option<StoredId>) {
        self.with(|progress| progress.reached = reached);
    }

    /// Notes how far the source has come by these events, as [`Self::read`]. After a loss it has come nowhere: the stream may
    /// be another one.
    pub(crate) fn note(&self, events: &[KeptEvent]) {
        let reached = events.iter().rev().find_map(|event| match event {
            KeptEvent::Message { id, .. } | KeptEvent::Bad { id, .. } | KeptEvent::Head(id) => {
                Some(Some(*id))
            }
            // After a loss no entry is known; the other events say nothing of it.
            KeptEvent::Lost => Some(None),
            _ => None,
        });
        if let Some(reached) = reached {
            self.read(reached);
        }
    }

    fn with(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
