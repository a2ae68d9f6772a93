//! Counters of the gateway, for metrics and pages. The gateway is the only writer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::call::EventsService;
use super::envelope::Code;

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct EventsStats {
    errors: [AtomicU64; Code::ALL.len()],
    skipped: [AtomicU64; EventsService::ALL.len()],
    open: [AtomicBool; EventsService::ALL.len()],
    forgotten: AtomicU64,
    pushes: AtomicU64,
    waiting_bytes: AtomicU64,
}

impl EventsStats {
    /// Error messages to clients, by code.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.errors.iter().map(|count| count.load(Relaxed));
        Code::ALL.into_iter().map(Code::word).zip(counts)
    }

    /// Calls not made because the service was not called at the time.
    pub fn calls_skipped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.skipped.iter().map(|count| count.load(Relaxed));
        EventsService::ALL
            .into_iter()
            .map(EventsService::label)
            .zip(counts)
    }

    /// 1 for a service that is not called at present, or probed.
    pub fn circuits_open(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let open = self.open.iter().map(|open| open.load(Relaxed).into());
        EventsService::ALL
            .into_iter()
            .map(EventsService::label)
            .zip(open)
    }

    /// Messages of ended clients, dropped in place of being forwarded.
    pub fn messages_forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }

    /// Events that services pushed.
    pub fn pushes(&self) -> u64 {
        self.pushes.load(Relaxed)
    }

    /// Bytes of messages that wait or are being answered, over all connections.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Relaxed)
    }

    pub(super) fn store_waiting_bytes(&self, bytes: usize) {
        self.waiting_bytes.store(bytes as u64, Relaxed);
    }

    pub(super) fn count_error(&self, code: Code) {
        if let Some(count) = self.errors.get(code as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_skipped(&self, service: EventsService) {
        if let Some(count) = self.skipped.get(service as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_forgotten(&self) {
        self.forgotten.fetch_add(1, Relaxed);
    }

    pub(super) fn count_push(&self) {
        self.pushes.fetch_add(1, Relaxed);
    }

    pub(super) fn store_circuit(&self, service: EventsService, is_open: bool) {
        if let Some(open) = self.open.get(service as usize) {
            open.store(is_open, Relaxed);
        }
    }
}
