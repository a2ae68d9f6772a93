//! The numbers of the loop: copies its own numbers and those of the hub and the feed for other threads at the end of each
//! turn, and logs when the loop is late or behind.

use std::sync::Arc;

use tracing::{info, warn};

use super::lateness::Lateness;
use crate::telemetry::{
    Budget, EventLoop, LastMinute, LoopDurations, LoopTimes, ShellStats, Stage,
};
use weirgate_core::{FeedStats, Gateway, Hub, OverloadStats};
use weirgate_runtime::SpinCounts;
use weirgate_wire::base::{LogBudget, Now};

/// The largest send queue is reported for the last window and the window before: a scrape interval of 15 s
/// misses no peak.
const PEAK_WINDOW_US: u64 = 10_000_000;

/// If a page was reading the numbers at the end of a turn, the next turn comes after this time.
const RETRY_US: u64 = 1_000;

/// Counters of the loop's turns and messages.
#[derive(Debug, Default)]
pub(super) struct LoopReport {
    durations: Arc<LoopDurations>,
    times: LoopTimes,
    /// Arrival times of this turn's messages that go to clients, microseconds of the monotonic clock.
    received_us: Vec<u64>,
    peak_window_ends_us: u64,
    /// The size of the largest send queue of the window before, and of this window, bytes.
    peak_before: u64,
    peak: u64,
    /// The time by which the next turn has to come; `None`: the last turn could copy its numbers.
    retry_at_us: Option<u64>,
    lateness: Lateness,
    last_minute: LastMinute,
    /// The state that the last log line about the loop being behind has reported.
    overload: OverloadStats,
    /// At most one line a second about a late loop.
    late_lines: LogBudget,
}

/// The lateness of a window from which on the loop logs a line, microseconds.
const LATE_LINE_US: u64 = 500_000;

impl LoopReport {
    /// Begins with all numbers at 0.
    pub(super) fn new(durations: Arc<LoopDurations>) -> Self {
        Self {
            durations,
            ..Self::default()
        }
    }

    /// Records a message that arrived at `received_us`, and that the loop took at `taken_us`; its frame goes to clients.
    pub(super) fn note_taken(&mut self, received_us: u64, taken_us: u64) {
        self.note_stage(Stage::BusToFeed, received_us, taken_us);
        self.lateness
            .observe_us(taken_us.saturating_sub(received_us));
        self.received_us.push(received_us);
    }

    /// Records the end of a flush, when every client that takes bytes has all messages of the turn. `first_write_us` is
    /// the end of the first write, `None` if no client took bytes.
    pub(super) fn note_flush_end(&mut self, first_write_us: Option<u64>, ended_us: u64) {
        let mut received = std::mem::take(&mut self.received_us);
        for received_us in received.drain(..) {
            if let Some(first_write_us) = first_write_us {
                self.note_stage(Stage::FirstWrite, received_us, first_write_us);
                self.note_stage(Stage::LastWrite, received_us, ended_us);
            }
        }
        // Keeps the capacity for the next turn.
        self.received_us = received;
    }

    /// Records how long a message was in a stage.
    pub(super) fn note_stage(&mut self, stage: Stage, from_us: u64, to_us: u64) {
        let us = to_us.saturating_sub(from_us);
        self.durations.observe_stage_us(stage, us);
    }

    /// Records a sleep that ended `us` microseconds later than it should.
    pub(super) fn note_oversleep(&mut self, us: u64) {
        self.lateness.observe_us(us);
    }

    /// The lateness of the loop in the last second, microseconds.
    pub(super) fn late_us(&self) -> u64 {
        self.lateness.last_second_us()
    }

    /// Counts a used-up budget of this turn.
    pub(super) fn count_spent(&mut self, budget: Budget) {
        self.times.count_spent(budget);
    }

    /// Records the cost and the savings of spinning so far.
    pub(super) fn set_spin(&mut self, counts: SpinCounts) {
        self.times.spin = counts;
    }

    /// Ends the turn that began at `began`: copies its numbers without waiting.
    pub(super) fn end_turn<G: Gateway>(
        &mut self,
        event_loop: &EventLoop,
        [began, ended]: [Now; 2],
        hub: &mut Hub<G>,
        feed: &FeedStats,
        shell: ShellStats,
    ) {
        let took_us = ended.mono_us.saturating_sub(began.mono_us);
        self.durations.turns.observe_us(took_us);
        self.lateness.observe_us(took_us);
        if let Some(late_us) = self.lateness.tick(ended.mono_us) {
            self.log_late(ended, late_us);
        }
        self.times.late_us = self.lateness.total_us();
        self.times.late_last_second_us = self.lateness.last_second_us();
        let last_write = self.durations.stage(Stage::LastWrite);
        self.times.last_minute = self.last_minute.summary(last_write, ended.mono_us);
        for us in hub.take_pongs_us() {
            self.durations.pongs.observe_us(us.into());
        }
        self.log_overload(hub.stats().overload);
        let peak = hub.take_send_queue_peak();
        let send_queue_peak_bytes = self.add_peak(began, peak);
        if feed.caught_up {
            event_loop.set_caught_up();
        }
        let copied = event_loop.turn_ended(ended, |numbers| {
            numbers.hub.clone_from(hub.stats());
            numbers.hub.send_queue_peak_bytes = send_queue_peak_bytes;
            numbers.feed.update(feed);
            numbers.shell = shell;
            numbers.times = self.times;
        });
        self.retry_at_us = (!copied).then_some(ended.mono_us + RETRY_US);
    }

    /// Logs the lateness of a window, if it is high.
    fn log_late(&mut self, now: Now, late_us: u64) {
        if late_us >= LATE_LINE_US
            && let Some(lines_left_out) = self.late_lines.line(now)
        {
            let late_ms = late_us / 1_000;
            warn!(
                late_ms,
                lines_left_out,
                "the loop was late: a long turn, a core that others use, or a process or machine that stood still"
            );
        }
    }

    /// Logs that the loop is behind, or no longer is.
    fn log_overload(&mut self, overload: OverloadStats) {
        if overload.is_behind == self.overload.is_behind {
            return;
        }
        if overload.is_behind {
            warn!(
                "behind: the loop cannot write every message to every client, so each gets only the newest states; \
                another process, compression or fewer messages help"
            );
        } else {
            let seconds = (overload.behind_us - self.overload.behind_us) as f64 / 1e6;
            let replaced = overload.states_replaced - self.overload.states_replaced;
            info!(seconds, replaced, "no longer behind");
        }
        self.overload = overload;
    }

    /// The time by which the next turn has to come, if the last turn could not copy its numbers.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.retry_at_us
    }

    /// Adds the size of the largest send queue of a turn, bytes. Returns the largest of this window and the one before.
    fn add_peak(&mut self, now: Now, peak: u64) -> u64 {
        if now.mono_us >= self.peak_window_ends_us {
            self.peak_window_ends_us = now.mono_us + PEAK_WINDOW_US;
            self.peak_before = std::mem::take(&mut self.peak);
        }
        self.peak = self.peak.max(peak);
        self.peak.max(self.peak_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_told_for_its_window_and_the_next() {
        let mut report = LoopReport::default();
        let at = |s: u64| Now {
            mono_us: s * 1_000_000,
            unix_us: 0,
        };
        assert_eq!(report.add_peak(at(1), 5), 5);
        assert_eq!(report.add_peak(at(10), 9), 9);
        assert_eq!(report.add_peak(at(11), 2), 9);
        assert_eq!(report.add_peak(at(20), 0), 9);
        assert_eq!(report.add_peak(at(21), 0), 2);
        assert_eq!(report.add_peak(at(31), 0), 0);
    }
}
