//! What the table of metrics reads its values from.

use super::event_loop::{EventLoop, LoopNumbers};
use super::samples::{ByLabel, Samples};
use super::{Build, BusStatus, ProcessStats, Telemetry, log_lines};
use crate::hub::SubjectStats;

/// Everything that the process tells of itself, but for its gateway, at one moment.
pub(super) struct Reading<'a> {
    /// The loop's numbers at the end of its last turn.
    pub(super) turn: LoopNumbers,
    /// What is true in this moment, also while the loop hangs.
    pub(super) event_loop: &'a EventLoop,
    /// The bus, where the gateway has one.
    pub(super) bus: Option<&'a BusStatus>,
    /// Log lines that were not written.
    pub(super) log_lines_left_out: u64,
    /// What the kernel says.
    pub(super) process: ProcessStats,
    build: &'a Build,
}

impl<'a> Reading<'a> {
    pub(super) fn now(telemetry: &'a Telemetry) -> Self {
        Self {
            turn: telemetry.event_loop.numbers(),
            event_loop: &telemetry.event_loop,
            bus: telemetry.bus(),
            log_lines_left_out: log_lines::left_out(),
            process: ProcessStats::read(),
            build: &telemetry.build,
        }
    }

    /// A number of each subject of the feed.
    pub(super) fn subjects(&self, number: fn(&SubjectStats) -> u64) -> impl Samples {
        let each = self.turn.feed.subjects.iter();
        ByLabel(each.map(move |subject| (subject.subject.as_str(), number(subject))))
    }

    /// Version, gateway, features.
    pub(super) fn build_labels(&self) -> [&'a str; 3] {
        [self.build.version, self.build.gateway, &self.build.features]
    }
}
