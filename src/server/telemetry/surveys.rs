//! Surveys of clients and topics, which the loop makes on request for the operator's page, and the searches that wait for
//! the next survey. The methods with "Loop:" are those that only the loop calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

use super::event_loop::Slot;
use super::hit_limit::HitLimit;
use weirgate_core::{Ended, Search, SearchOutcome, Survey};

/// A connection that has ended, for the operator's page.
#[derive(Clone, Debug)]
pub(crate) struct EndedAt {
    /// The time of the end, microseconds of the monotonic clock.
    pub at_us: u64,
    /// The limit that is behind the reason, if there is one.
    pub limit: Option<HitLimit>,
    /// The data of the log line.
    pub ended: Ended,
}

/// A survey, and the connections that had ended last when it was complete.
#[derive(Clone, Debug)]
pub(crate) struct Surveyed {
    /// Clients and topics.
    pub survey: Survey,
    /// The newest first.
    pub ends: Vec<EndedAt>,
}

/// The most searches that wait for the next survey, which carries out all of them.
pub(crate) const SEARCHES_MAX: usize = 16;

/// The result of a search, with the survey that made it.
pub(crate) type SearchResult = (SearchOutcome, Arc<Surveyed>);

/// A search that waits for the next survey.
#[derive(Debug)]
pub(crate) struct PendingSearch {
    /// What an operator searches for.
    pub search: Search,
    /// Receives the result.
    pub answer: oneshot::Sender<SearchResult>,
}

/// The newest survey, whether another one is requested, and the searches that wait for it.
#[derive(Debug)]
pub(crate) struct Surveys {
    /// Whether a survey was requested since the last one began.
    requested: AtomicBool,
    /// How many surveys were made, also those that were dropped ([`Self::put`]).
    made: AtomicU64,
    newest: Slot<Option<Arc<Surveyed>>>,
    /// Both ends of the queue of searches.
    queue: Sender<PendingSearch>,
    waiting: Receiver<PendingSearch>,
}

impl Default for Surveys {
    fn default() -> Self {
        let (queue, waiting) = bounded(SEARCHES_MAX);
        Self {
            requested: AtomicBool::default(),
            made: AtomicU64::default(),
            newest: Slot::default(),
            queue,
            waiting,
        }
    }
}

impl Surveys {
    /// Requests a survey.
    pub(crate) fn request(&self) {
        self.requested.store(true, Relaxed);
    }

    /// Requests a search, which the next survey carries out. The caller wakes the loop. Returns `None` if
    /// too many searches wait already.
    pub(crate) fn search(&self, search: Search) -> Option<oneshot::Receiver<SearchResult>> {
        let (answer, result) = oneshot::channel();
        let search = PendingSearch { search, answer };
        self.queue.try_send(search).ok()?;
        self.request();
        Some(result)
    }

    /// Loop: takes the next search that waits. Searches whose operator has left are dropped.
    pub(crate) fn next_search(&self) -> Option<PendingSearch> {
        let mut waiting = self.waiting.try_iter();
        waiting.find(|search| !search.answer.is_closed())
    }

    /// Returns the newest survey; `None` before the first.
    pub(crate) fn newest(&self) -> Option<Arc<Surveyed>> {
        self.newest.read(Option::clone)
    }

    /// Returns the number of surveys made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Loop: returns whether a survey was requested since the last one began.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Relaxed)
    }

    /// Loop: records that a survey begins.
    pub(crate) fn note_begun(&self) {
        self.requested.store(false, Relaxed);
    }

    /// Loop: publishes a survey. If a reader is just copying the last one, this survey is dropped: an open page requests the
    /// next one within a second.
    pub(crate) fn put(&self, surveyed: Arc<Surveyed>) {
        self.made.fetch_add(1, Relaxed);
        self.newest.try_write(|newest| *newest = Some(surveyed));
    }
}
