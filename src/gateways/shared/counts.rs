//! Counters that any thread may read, and their labels.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A number that any thread may read. The gateway is the only writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The present number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(in crate::gateways) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(in crate::gateways) fn set(&self, number: usize) {
        self.0.store(number as u64, Relaxed);
    }
}

/// Each label with its number.
pub(in crate::gateways) fn labelled<const N: usize>(
    labels: [&'static str; N],
    counts: &[Count; N],
) -> impl Iterator<Item = (&'static str, u64)> {
    labels.into_iter().zip(counts.each_ref().map(Count::get))
}
