//! What the operator's page shows of clients and topics. The loop looks at them only while somebody
//! asks, and never waits for who reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::Slot;
use crate::hub::{Ended, Survey};

/// A connection that has ended, as the operator's page shows it.
#[derive(Clone, Debug)]
pub struct EndedAt {
    /// When, Unix milliseconds.
    pub at_unix_ms: i64,
    /// What the log line says of it.
    pub ended: Ended,
}

/// A survey, and the connections that had ended last at its end.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Clients and topics.
    pub survey: Survey,
    /// The newest first.
    pub ends: Vec<EndedAt>,
}

/// The newest survey, and whether another one is wanted.
#[derive(Debug, Default)]
pub struct Surveys {
    asked: AtomicBool,
    made: AtomicU64,
    newest: Slot<Option<Arc<Surveyed>>>,
}

impl Surveys {
    /// Asks for a survey, and returns the newest that there is; `None` before the first.
    pub fn ask(&self) -> Option<Arc<Surveyed>> {
        self.asked.store(true, Relaxed);
        self.newest.read(Option::clone)
    }

    /// Surveys made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Loop: somebody has asked since the last survey began.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: a survey begins.
    pub fn begun(&self) {
        self.asked.store(false, Relaxed);
    }

    /// Loop: a survey is there. It is left out if somebody reads in this moment: the next one comes
    /// within a second.
    pub fn put(&self, surveyed: Surveyed) {
        self.made.fetch_add(1, Relaxed);
        let surveyed = Arc::new(surveyed);
        self.newest.try_write(|newest| *newest = Some(surveyed));
    }
}
