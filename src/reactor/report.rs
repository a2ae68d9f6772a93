//! The hub's and the feed's counters, copied to where others may read them.

use crate::hub::{CloseReason, Feed, Gateway, Hub};
use crate::telemetry::{LoopMetrics, Phase};

/// Outcomes of a connection's request, in the order in which they are stored.
pub const CONNECTION_OUTCOMES: [&str; 3] = ["opened", "http", "refused"];

/// Metric labels of the close reasons, in the order of their numbers.
pub const CLOSE_REASONS: [&str; CloseReason::ALL.len()] = {
    let mut labels = [""; CloseReason::ALL.len()];
    let mut index = 0;
    while index < labels.len() {
        labels[index] = CloseReason::ALL[index].label();
        index += 1;
    }
    labels
};

/// Copies everything once; plain stores, nothing waits.
pub(super) fn store<G: Gateway, F: Feed>(
    metrics: &LoopMetrics,
    hub: &Hub<G>,
    feed: &F,
    accept_errors: u64,
) {
    let stats = hub.stats();
    metrics.clients.store(stats.open);
    let http = hub.core().connections() as u64 - (stats.heads + stats.open + stats.closing);
    metrics.store_connections(Phase::Head, stats.heads);
    metrics.store_connections(Phase::Open, stats.open);
    metrics.store_connections(Phase::Closing, stats.closing);
    metrics.store_connections(Phase::Http, http);
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
    metrics.frames_sent.store(stats.messages_sent);
    metrics.bytes_sent.store(stats.bytes_sent);
    metrics.messages_queued.store(stats.messages_queued);
    metrics.messages_conflated.store(stats.messages_conflated);
    metrics.messages_shed.store(stats.messages_shed);
    metrics.messages_dropped.store(stats.messages_dropped);
    metrics.messages_waiting.store(stats.messages_waiting);
    metrics.send_queue_bytes.store(stats.send_queue_bytes);
    metrics
        .frame_bytes_alive
        .store(hub.core().frame_bytes().alive());
    metrics.send_errors.store(stats.send_errors);
    metrics.accept_errors.store(accept_errors);
    metrics.deflated_frames.store(stats.frames_deflated);
    metrics.received_messages.store(stats.received_messages);
    metrics.received_bytes.store(stats.received_bytes);
    metrics.store_feed(feed.stats());
    if feed.stats().caught_up {
        metrics.set_caught_up();
    }
}
