//! Counters of the gateway, for metrics and pages.

use super::super::count::{Count, labelled};
use super::call::EventsService;
use super::envelope::Code;

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct EventsStats {
    /// Messages of ended clients, dropped in place of being forwarded.
    pub messages_forgotten: Count,
    /// Events that services pushed.
    pub pushes: Count,
    pub(super) errors: [Count; Code::ALL.len()],
    pub(super) skipped: [Count; EventsService::ALL.len()],
    pub(super) open: [Count; EventsService::ALL.len()],
}

impl EventsStats {
    /// Error messages to clients, by code.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(Code::ALL.map(Code::word), &self.errors)
    }

    /// Calls not made because the service was not called at the time.
    pub fn calls_skipped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(EventsService::ALL.map(EventsService::label), &self.skipped)
    }

    /// 1 for a service that is not called at present, or probed.
    pub fn circuits_open(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(EventsService::ALL.map(EventsService::label), &self.open)
    }
}
