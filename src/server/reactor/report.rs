//! The numbers of the loop: copies its own numbers and those of the hub and the feed for other threads at the end of each
//! turn. Also logs the lines of the feed.
//!
//! One of the numbers is made here: [`Lateness`], how late the loop is, by long turns, messages that wait for a turn, and
//! sleeps that end too late.

use std::sync::Arc;

use tracing::{info, warn};

use crate::telemetry::{
    Budget, EventLoop, LastMinute, LoopDurations, LoopTimes, ShellStats, Stage,
};
use weirgate_bus::runtime::SpinCounts;
use weirgate_core::{Feed, FeedLine, FeedStats, Gateway, Hub, HubStats, Now, OverloadStats};
use weirgate_wire::base::LogBudget;

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
    peak_before: u64,
    peak: u64,
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

    /// Records a message that arrived at `received_us`; its frame goes to clients.
    pub(super) fn taken(&mut self, received_us: u64, taken_us: u64) {
        self.stage(Stage::BusToFeed, received_us, taken_us);
        self.lateness
            .observe_us(taken_us.saturating_sub(received_us));
        self.received_us.push(received_us);
    }

    /// Records the end of a flush; `first_write_us` is the end of the first write. By then every client that takes
    /// bytes has all messages of the turn.
    pub(super) fn flushed(&mut self, first_write_us: Option<u64>, ended_us: u64) {
        let mut received = std::mem::take(&mut self.received_us);
        for received_us in received.drain(..) {
            if let Some(first_write_us) = first_write_us {
                self.stage(Stage::FirstWrite, received_us, first_write_us);
                self.stage(Stage::LastWrite, received_us, ended_us);
            }
        }
        // Keeps the capacity for the next turn.
        self.received_us = received;
    }

    /// Records how long a message was in a stage.
    pub(super) fn stage(&mut self, stage: Stage, from_us: u64, to_us: u64) {
        let us = to_us.saturating_sub(from_us);
        self.durations.observe_stage_us(stage, us);
    }

    /// Records a sleep that ended `us` microseconds later than it should.
    pub(super) fn overslept(&mut self, us: u64) {
        self.lateness.observe_us(us);
    }

    /// The lateness of the loop in the last second, microseconds.
    pub(super) fn late_us(&self) -> u64 {
        self.lateness.last_second_us()
    }

    /// Counts a used-up budget of this turn.
    pub(super) fn spent(&mut self, budget: Budget) {
        self.times.count_spent(budget);
    }

    /// Records the cost and the savings of spinning so far.
    pub(super) fn spun(&mut self, counts: SpinCounts) {
        self.times.spin = counts;
    }

    /// Ends the turn that began at `began`: copies its numbers without waiting.
    pub(super) fn turn_ended<G: Gateway>(
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
        let send_queue_peak_bytes = self.peak(began, peak);
        if feed.caught_up {
            event_loop.set_caught_up();
        }
        let copied = event_loop.turn_ended(ended, |numbers| {
            numbers.hub = HubStats {
                send_queue_peak_bytes,
                ..*hub.stats()
            };
            numbers.feed.update(feed);
            numbers.shell = shell;
            numbers.times = self.times;
        });
        self.retry_at_us = (!copied).then_some(ended.mono_us + RETRY_US);
    }

    fn log_late(&mut self, now: Now, late_us: u64) {
        if late_us >= LATE_LINE_US
            && let Some(line) = self.late_lines.line(now)
        {
            let (late_ms, lines_left_out) = (late_us / 1_000, line.suppressed);
            warn!(
                late_ms,
                lines_left_out,
                "the loop was late: a long turn, a core that others use, or a process or machine that stood still"
            );
        }
    }

    fn log_overload(&mut self, now: OverloadStats) {
        if now.is_behind == self.overload.is_behind {
            return;
        }
        if now.is_behind {
            warn!(
                "behind: the loop cannot write every message to every client, so each gets only the newest states; \
                another process, compression or fewer messages help"
            );
        } else {
            let seconds = (now.behind_us - self.overload.behind_us) as f64 / 1e6;
            let replaced = now.states_replaced - self.overload.states_replaced;
            info!(seconds, replaced, "no longer behind");
        }
        self.overload = now;
    }

    /// The time by which the next turn has to come, if the last turn could not copy its numbers.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.retry_at_us
    }

    fn peak(&mut self, now: Now, peak: u64) -> u64 {
        if now.mono_us >= self.peak_window_ends_us {
            self.peak_window_ends_us = now.mono_us + PEAK_WINDOW_US;
            self.peak_before = std::mem::take(&mut self.peak);
        }
        self.peak = self.peak.max(peak);
        self.peak.max(self.peak_before)
    }
}

/// The target by which operators filter the lines of feeds in `RUST_LOG`.
const FEED_TARGET: &str = "weirgate::gateways::feed";

/// Logs the lines of the feed since its last event.
pub(super) fn log_lines(feed: &mut impl Feed) {
    while let Some(line) = feed.next_line() {
        log_line(line);
    }
}

fn log_line(line: FeedLine) {
    match line {
        FeedLine::BadMessage {
            subject,
            why,
            excerpt,
        } => warn!(target: FEED_TARGET, subject, %why, excerpt, "bad message skipped"),
        FeedLine::LeftOut(suppressed) => warn!(
            target: FEED_TARGET,
            suppressed, "more bad messages were skipped than logged"
        ),
    }
}

/// A shorter delay does not count as lateness.
const LATE_FROM_US: u64 = 20_000;

/// The length of a window. The lateness of a window is the longest delay in it.
const WINDOW_US: u64 = 250_000;

/// The lateness of the loop.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// The longest delay in this window.
    longest_us: u64,
    window_began_us: u64,
    /// The lateness of the last windows, which are a second together.
    windows_us: [u64; 4],
    total_us: u64,
}

impl Lateness {
    /// Records a turn, or the wait of a message for its turn.
    pub(super) fn observe_us(&mut self, us: u64) {
        self.longest_us = self.longest_us.max(us);
    }

    /// Ends the window if its time is over, and returns its lateness, microseconds.
    pub(super) fn tick(&mut self, now_us: u64) -> Option<u64> {
        if now_us < self.window_began_us + WINDOW_US {
            return None;
        }
        self.window_began_us = now_us;
        let longest_us = std::mem::take(&mut self.longest_us);
        let late_us = if longest_us >= LATE_FROM_US {
            longest_us
        } else {
            0
        };
        self.windows_us.rotate_left(1);
        self.windows_us[3] = late_us;
        self.total_us += late_us;
        Some(late_us)
    }

    /// The lateness of the last second, microseconds.
    pub(super) fn last_second_us(&self) -> u64 {
        self.windows_us.iter().sum()
    }

    /// The lateness since the start, microseconds.
    pub(super) fn total_us(&self) -> u64 {
        self.total_us
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_lines_of_a_feed_have_its_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            log_line(FeedLine::BadMessage {
                subject: "levels.signals".to_owned(),
                why: "not an object".to_owned(),
                excerpt: "[1]".to_owned(),
            });
            log_line(FeedLine::LeftOut(95));
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        assert_eq!(
            text,
            " WARN weirgate::gateways::feed: bad message skipped subject=\"levels.signals\" \
             why=not an object excerpt=\"[1]\"\n \
             WARN weirgate::gateways::feed: more bad messages were skipped than logged \
             suppressed=95\n"
        );
    }

    #[test]
    fn a_peak_is_told_for_its_window_and_the_next() {
        let mut report = LoopReport::default();
        let at = |s: u64| Now {
            mono_us: s * 1_000_000,
            unix_us: 0,
        };
        assert_eq!(report.peak(at(1), 5), 5);
        assert_eq!(report.peak(at(10), 9), 9);
        assert_eq!(report.peak(at(11), 2), 9);
        assert_eq!(report.peak(at(20), 0), 9);
        assert_eq!(report.peak(at(21), 0), 2);
        assert_eq!(report.peak(at(31), 0), 0);
    }

    #[test]
    fn the_longest_of_each_window_counts_for_a_second() {
        let mut lateness = Lateness::default();
        let mut second = |at_ms: u64, observed_ms: &[u64]| {
            observed_ms
                .iter()
                .for_each(|ms| lateness.observe_us(ms * 1_000));
            lateness.tick(at_ms * 1_000);
            [
                lateness.last_second_us() / 1_000,
                lateness.total_us() / 1_000,
            ]
        };
        assert_eq!(second(250, &[19]), [0, 0]);
        assert_eq!(second(300, &[100, 300]), [0, 0], "the window is open");
        assert_eq!(second(500, &[20]), [300, 300]);
        assert_eq!(second(750, &[40]), [340, 340]);
        assert_eq!(second(1_000, &[]), [340, 340]);
        assert_eq!(second(1_250, &[]), [340, 340]);
        assert_eq!(second(1_500, &[]), [40, 340]);
        assert_eq!(second(1_750, &[]), [0, 340]);
    }
}
