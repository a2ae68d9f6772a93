//! How far the source has read the stream, for the pages: they have a connection of their own, perhaps to a server that is
//! behind.

use std::sync::{Arc, Mutex, PoisonError};

use weirgate_core::StoredId;

/// What the source and the pages share. Clones are of the same source.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceProgress(Arc<Mutex<Progress>>);

/// How far the source has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The number of its connections so far.
    pub(super) connections: u64,
    /// The newest entry that it has read; `None` if it knows of no entry.
    pub(super) reached: Option<StoredId>,
}

impl SourceProgress {
    pub(super) fn now(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the source has another connection.
    pub(super) fn connected(&self) {
        self.with(|progress| progress.connections += 1);
    }

    /// Notes the newest entry that was read, before the loop gets it: the pages must not end before an entry that the loop
    /// has.
    pub(super) fn read(&self, reached: Option<StoredId>) {
        self.with(|progress| progress.reached = reached);
    }

    fn with(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
