//! The requests in progress that end when their senders are cut off, so that an operator learns how many a cut ends.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::caller::Caller;
use weirgate_wire::base::ChunkedSlab;

/// The requests in progress on all threads. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct InProgress(Arc<Mutex<ChunkedSlab<Request>>>);

#[derive(Debug)]
struct Request {
    sender: Caller,
    /// Whether a cut has counted the request already. It stays in the list until its connection, which ends it, has had
    /// a turn.
    is_counted: Cell<bool>,
}

/// A request is in progress for as long as this value exists.
#[derive(Debug)]
pub(super) struct RequestInProgress {
    all: InProgress,
    number: u32,
}

impl InProgress {
    fn requests(&self) -> MutexGuard<'_, ChunkedSlab<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request to the list, which has it until the result is dropped.
    pub(super) fn begin(&self, sender: Caller) -> RequestInProgress {
        let request = Request {
            sender,
            is_counted: Cell::new(false),
        };
        RequestInProgress {
            number: self.requests().insert(request),
            all: self.clone(),
        }
    }

    /// How many requests end because of refusals since the last call.
    pub(super) fn count_refused(&self) -> u64 {
        let requests = self.requests();
        let uncounted = requests.iter().map(|(_, request)| request);
        let uncounted = uncounted.filter(|request| !request.is_counted.get());
        let refused = uncounted.filter(|request| request.sender.admit().is_err());
        refused.map(|request| request.is_counted.set(true)).count() as u64
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        drop(self.all.requests().remove(self.number));
    }
}
