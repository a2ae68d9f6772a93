//! Surveys of clients and topics for the operator's page. The loop makes one only on request, and never waits for a
//! reader.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::Slot;
use crate::hub::{Ended, Survey};

/// A limit that has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitLimit {
    /// The setting, without dashes.
    pub flag: &'static str,
    /// The number in force.
    pub max: u64,
}

impl fmt::Display for HitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.flag, self.max)
    }
}

/// A connection that has ended, for the operator's page.
#[derive(Clone, Debug)]
pub struct EndedAt {
    /// The time of the end, microseconds of the monotonic clock.
    pub at_us: u64,
    /// The limit behind the reason.
    pub limit: Option<HitLimit>,
    /// The data of the log line.
    pub ended: Ended,
}

/// A survey, and the newest ended connections at its end.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Clients and topics.
    pub survey: Survey,
    /// The newest first.
    pub ends: Vec<EndedAt>,
}

/// The newest survey, and whether another survey is requested.
#[derive(Debug, Default)]
pub struct Surveys {
    asked: AtomicBool,
    made: AtomicU64,
    newest: Slot<Option<Arc<Surveyed>>>,
}

impl Surveys {
    /// Requests a survey.
    pub fn ask(&self) {
        self.asked.store(true, Relaxed);
    }

    /// Returns the newest survey; `None` before the first.
    pub fn newest(&self) -> Option<Arc<Surveyed>> {
        self.newest.read(Option::clone)
    }

    /// Returns the number of surveys made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Loop: whether a request came since the last survey began.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: a survey begins.
    pub fn begun(&self) {
        self.asked.store(false, Relaxed);
    }

    /// Loop: publishes a survey. The survey is dropped while a reader holds the last survey: the next survey
    /// comes within a second.
    pub fn put(&self, surveyed: Surveyed) {
        self.made.fetch_add(1, Relaxed);
        let surveyed = Arc::new(surveyed);
        self.newest.try_write(|newest| *newest = Some(surveyed));
    }
}
