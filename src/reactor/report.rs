//! The hub's and the feed's counters, copied to where others may read them.

use crate::hub::{CloseReason, Feed, Gateway, Hub, Now, SendError};
use crate::telemetry::{LoopLabels, LoopMetrics, Phase};

/// Outcomes of a connection's request, in the order in which they are stored.
const CONNECTION_OUTCOMES: [&str; 3] = ["opened", "http", "refused"];

/// Metric labels of the close reasons, in the order of their numbers.
const CLOSE_REASONS: [&str; CloseReason::ALL.len()] = {
    let mut labels = [""; CloseReason::ALL.len()];
    let mut index = 0;
    while index < labels.len() {
        labels[index] = CloseReason::ALL[index].label();
        index += 1;
    }
    labels
};

/// The largest send queue is told for the last window and the one before: a scraper that comes
/// every 15 s misses none.
const PEAK_WINDOW_US: u64 = 10_000_000;

/// The labels of what is stored here, for a feed with these subjects.
pub fn loop_labels(feed: &impl Feed) -> LoopLabels {
    let subjects = feed.stats().subjects.iter();
    LoopLabels {
        connection_outcomes: &CONNECTION_OUTCOMES,
        close_reasons: &CLOSE_REASONS,
        send_errors: &SendError::LABELS,
        subjects: subjects.map(|s| s.subject.clone()).collect(),
    }
}

/// What the loop knows besides its hub and its feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shell {
    pub(super) accept_errors: u64,
    pub(super) bus_queue_messages: usize,
    pub(super) bus_queue_messages_max: usize,
}

/// Copies once a turn; plain stores, nothing waits.
#[derive(Debug, Default)]
pub(super) struct Report {
    window_ends_us: u64,
    peak_before: u64,
    peak: u64,
}

impl Report {
    pub(super) fn store<G: Gateway, F: Feed>(
        &mut self,
        metrics: &LoopMetrics,
        now: Now,
        hub: &mut Hub<G>,
        feed: &F,
        shell: Shell,
    ) {
        let peak = hub.take_send_queue_peak();
        metrics.send_queue_peak_bytes.store(self.peak(now, peak));
        store_connections(metrics, hub);
        store_sending(metrics, hub);
        metrics.accept_errors.store(shell.accept_errors);
        let (queued, max) = (shell.bus_queue_messages, shell.bus_queue_messages_max);
        metrics.bus_queue_messages.store(queued as u64);
        metrics.bus_queue_messages_max.store(max as u64);
        metrics.store_feed(feed.stats());
    }

    fn peak(&mut self, now: Now, peak: u64) -> u64 {
        if now.mono_us >= self.window_ends_us {
            self.window_ends_us = now.mono_us + PEAK_WINDOW_US;
            self.peak_before = std::mem::take(&mut self.peak);
        }
        self.peak = self.peak.max(peak);
        self.peak.max(self.peak_before)
    }
}

fn store_connections<G: Gateway>(metrics: &LoopMetrics, hub: &Hub<G>) {
    let stats = hub.stats();
    metrics.clients.store(stats.open);
    let http = hub.core().connections() as u64 - (stats.heads + stats.open + stats.closing);
    metrics.store_connections(Phase::Head, stats.heads);
    metrics.store_connections(Phase::Open, stats.open);
    metrics.store_connections(Phase::Closing, stats.closing);
    metrics.store_connections(Phase::Http, http);
    // `usize::MAX`, no limit, stays the largest number.
    let max = u64::try_from(hub.core().limits().connections_max).unwrap_or(u64::MAX);
    metrics.connections_max.store(max);
    metrics.connections_accepted.store(stats.accepted);
    metrics.connections_returned.store(stats.returned);
    for (index, count) in [stats.opened, stats.to_http, stats.refused]
        .into_iter()
        .enumerate()
    {
        metrics.client_connections.store(index, count);
    }
    for (index, count) in stats.closes.iter().enumerate() {
        metrics.client_closes.store(index, *count);
    }
    let addresses = hub.core().known_addresses();
    metrics.addresses.store(addresses as u64);
    metrics.received_messages.store(stats.received_messages);
    metrics.received_bytes.store(stats.received_bytes);
}

fn store_sending<G: Gateway>(metrics: &LoopMetrics, hub: &Hub<G>) {
    let stats = hub.stats();
    for (stored, value) in [
        (&metrics.publications, stats.publications),
        (&metrics.frames_sent, stats.messages_sent),
        (&metrics.bytes_sent, stats.bytes_sent),
        (&metrics.messages_queued, stats.messages_queued),
        (&metrics.messages_conflated, stats.messages_conflated),
        (&metrics.messages_shed, stats.messages_shed),
        (&metrics.messages_dropped, stats.messages_dropped),
        (&metrics.messages_waiting, stats.messages_waiting),
        (&metrics.send_queue_bytes, stats.send_queue_bytes),
        (&metrics.writes, stats.writes),
        (&metrics.writes_short, stats.writes_short),
        (&metrics.deflated_frames, stats.frames_deflated),
    ] {
        stored.store(value);
    }
    for (index, count) in stats.send_errors.iter().enumerate() {
        metrics.send_errors.store(index, *count);
    }
    let core = hub.core();
    metrics.frame_bytes_alive.store(core.frame_bytes().alive());
    metrics.frame_bytes_max.store(core.limits().frame_bytes_max);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_told_for_its_window_and_the_next() {
        let mut report = Report::default();
        let at = |s: u64| Now {
            mono_us: s * 1_000_000,
            unix_ms: 0,
        };
        assert_eq!(report.peak(at(1), 5), 5);
        assert_eq!(report.peak(at(10), 9), 9);
        assert_eq!(report.peak(at(11), 2), 9);
        assert_eq!(report.peak(at(20), 0), 9);
        assert_eq!(report.peak(at(21), 0), 2);
        assert_eq!(report.peak(at(31), 0), 0);
    }
}
