//! How far the source has read the stream. The readers of all messages of a name (`"last":"all"`) need it, because each
//! has a connection of its own, perhaps to a server that is behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
    /// The stream that it reads: what was read of an earlier one was reported as lost. `None`: not known.
    pub(crate) stream: Option<StreamMade>,
}

/// Which stream of a name the source reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamMade {
    /// When it was made, Unix nanoseconds.
    pub(crate) made_ns: u64,
    /// When the source had reported the loss of an earlier one; `None`: it has read no other.
    pub(crate) anew_at: Option<Instant>,
}

impl Progress {
    /// Whether the source reads another stream of the name than the one that was made at this time.
    pub(crate) fn reads_other_than(&self, made_ns: u64) -> bool {
        self.stream.is_some_and(|stream| stream.made_ns != made_ns)
    }

    /// Whether the source has reported since then that the stream was made anew.
    pub(crate) fn has_changed_since(&self, then: Instant) -> bool {
        let anew_at = self.stream.and_then(|stream| stream.anew_at);
        anew_at.is_some_and(|at| then < at)
    }
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
            KeptEvent::Message { id, .. }
            | KeptEvent::Bad { id, .. }
            | KeptEvent::Head { id, .. } => Some(Some(*id)),
            // After a loss no entry is known; the other events say nothing of it.
            KeptEvent::Lost => Some(None),
            _ => None,
        });
        if let Some(reached) = reached {
            self.read(reached);
        }
    }

    /// Notes when the stream was made that the source reads, once what follows from it is on its way to the loop.
    pub(crate) fn made(&self, made_ns: u64, now: Instant) {
        self.with(|progress| {
            let anew_at = progress.stream.map(|_| now);
            progress.stream = Some(StreamMade { made_ns, anew_at });
        });
    }

    fn with(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
