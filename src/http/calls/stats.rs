//! What is counted of calls, for the pages that show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::gateways::events::call::{Answer, CallFailure};
use crate::telemetry::Durations;

/// What came of a call, as metrics say it, in the order of [`outcome`].
const OUTCOMES: [&str; 5] = ["answered", "refused", "timeout", "unreachable", "too_large"];

fn outcome(result: &Result<Answer, CallFailure>) -> usize {
    match result {
        Ok(answer) if answer.status < 400 => 0,
        Ok(_) => 1,
        Err(CallFailure::Timeout) => 2,
        Err(CallFailure::Unreachable) => 3,
        Err(CallFailure::TooLarge) => 4,
    }
}

/// The calls of one service.
#[derive(Debug, Default)]
pub struct CallStats {
    begun: AtomicU64,
    ended: [AtomicU64; OUTCOMES.len()],
    /// From the call to the end of its answer.
    pub durations: Arc<Durations>,
}

impl CallStats {
    /// Calls that have ended, by what came of them.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.ended.iter().map(|count| count.load(Relaxed));
        OUTCOMES.into_iter().zip(counts)
    }

    /// Calls that have not ended.
    pub fn in_flight(&self) -> u64 {
        let ended = self.outcomes().map(|(_, count)| count).sum();
        self.begun.load(Relaxed).saturating_sub(ended)
    }

    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self, result: &Result<Answer, CallFailure>, took: Duration) {
        if let Some(count) = self.ended.get(outcome(result)) {
            count.fetch_add(1, Relaxed);
        }
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.durations.observe_us(took_us);
    }
}
