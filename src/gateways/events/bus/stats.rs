//! What an instance counts of the bus between instances. One writer, the thread of the exchange.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Why something that came from the bus had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// It is no message of instances, or its push cannot be read.
    Bad,
    /// A message with the same number, or a later one, came before.
    Duplicate,
    /// It is a part of a push of which other bytes are missing.
    Incomplete,
    /// The message or its push is larger than this instance takes.
    TooLarge,
    /// Its sender is one instance too many.
    Instances,
}

impl Ignored {
    const ALL: [Self; 5] = [
        Self::Bad,
        Self::Duplicate,
        Self::Incomplete,
        Self::TooLarge,
        Self::Instances,
    ];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Duplicate => "duplicate",
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too_large",
            Self::Instances => "instances",
        }
    }
}

/// Numbers that others may read at any time.
#[derive(Debug, Default)]
pub struct BusStats {
    is_up: AtomicBool,
    others: AtomicU64,
    waiting: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    incomplete: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    ignored: [AtomicU64; Ignored::ALL.len()],
}

impl BusStats {
    /// What this instance publishes comes back from the bus.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Instances that are there, this one included.
    pub fn instances(&self) -> u64 {
        1 + self.others.load(Relaxed)
    }

    /// Pushes that wait for the answers of other instances.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Pushes that were published for other instances.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Pushes of other instances.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Pushes that were answered without another instance, or while the bus was away.
    pub fn incomplete(&self) -> u64 {
        self.incomplete.load(Relaxed)
    }

    /// Pushes that were refused because too many waited.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// A push was refused because too many waited.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Messages that this instance did not take in time, and outages of the bus.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Messages of the bus were lost: so many, or an unknown number, which counts as one.
    pub fn count_lost(&self, messages: Option<u64>) {
        self.lost.fetch_add(messages.unwrap_or(1), Relaxed);
    }

    /// What came from the bus and had no effect, by reason.
    pub fn ignored(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.ignored.iter().map(|count| count.load(Relaxed));
        Ignored::ALL.into_iter().map(Ignored::word).zip(counts)
    }

    pub(super) fn store_up(&self, is_up: bool) {
        self.is_up.store(is_up, Relaxed);
    }

    pub(super) fn store_others(&self, others: usize) {
        self.others.store(others as u64, Relaxed);
    }

    pub(super) fn store_waiting(&self, waiting: usize) {
        self.waiting.store(waiting as u64, Relaxed);
    }

    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(super) fn count_received(&self) {
        self.received.fetch_add(1, Relaxed);
    }

    pub(super) fn count_incomplete(&self) {
        self.incomplete.fetch_add(1, Relaxed);
    }

    pub(super) fn count_ignored(&self, why: Ignored) {
        if let Some(count) = self.ignored.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}
