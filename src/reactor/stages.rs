//! How long the messages of one turn take in each stage.

use crate::telemetry::{LoopMetrics, Stage};

/// The messages of one turn that go to clients.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// When each arrived, microseconds of the monotonic clock.
    received_us: Vec<u64>,
}

impl Stages {
    /// The feed took a message that arrived at `received_us`; its frame goes to clients.
    pub(super) fn taken(&mut self, metrics: &LoopMetrics, received_us: u64, taken_us: u64) {
        observe(metrics, Stage::BusToFeed, received_us, taken_us);
        self.received_us.push(received_us);
    }

    /// A flush ended; `first_write_us` is the end of its first write. All messages of the turn are
    /// with every client that took bytes.
    pub(super) fn flushed(
        &mut self,
        metrics: &LoopMetrics,
        first_write_us: Option<u64>,
        ended_us: u64,
    ) {
        for received_us in self.received_us.drain(..) {
            if let Some(first_write_us) = first_write_us {
                observe(metrics, Stage::FirstWrite, received_us, first_write_us);
                observe(metrics, Stage::LastWrite, received_us, ended_us);
            }
        }
    }
}

pub(super) fn observe(metrics: &LoopMetrics, stage: Stage, from_us: u64, to_us: u64) {
    metrics.observe_stage_us(stage, to_us.saturating_sub(from_us));
}
