//! The metrics of events alone, and where the values of those of the gateway itself come from.

use std::sync::Arc;

use super::EventsGateway;
use super::envelope::Code;
use crate::gateways::shared::access::AccessStats;
use crate::gateways::shared::counts::{Count, labelled};
use crate::gateways::shared::metrics::AUTH_REFUSALS;
use crate::services;
use weirgate_server::telemetry::GatewayMetric;

metric_names! {
    UPSTREAM_CALLS = Counter "weirgate_upstream_calls_total" ["service", "outcome"]
        "Calls to services that have ended.";
    UPSTREAM_CALL_DURATION = Histogram "weirgate_upstream_call_duration_seconds" ["service"]
        "Time of a call to a service, until the end of the response.";
    UPSTREAM_CALLS_SKIPPED = Counter "weirgate_upstream_calls_skipped_total" ["service"]
        "Calls to services that were not made because the service had failed too often.";
    UPSTREAM_CIRCUIT_OPEN = Gauge "weirgate_upstream_circuit_open" ["service"]
        "1 while weirgate makes no calls to a service after too many failures, for some client addresses or all.";
    EVENT_ERRORS = Counter "weirgate_event_errors_total" ["code"]
        "Error messages sent to devices.";
    MESSAGES_FORGOTTEN = Counter "weirgate_messages_forgotten_total" []
        "Messages of devices that weirgate dropped before it forwarded them to a service: the device had disconnected or was cut off, or its token had expired.";
    EVENTS_BUS_PUSHES_WAITING = Gauge "weirgate_events_bus_pushes_waiting" []
        "Pushes that wait for the counts of other instances.";
    EVENTS_BUS_PUSHES_SENT = Counter "weirgate_events_bus_pushes_sent_total" []
        "Pushes published for other instances.";
    EVENTS_BUS_PUSHES_RECEIVED = Counter "weirgate_events_bus_pushes_received_total" []
        "Pushes received from other instances.";
    EVENTS_BUS_PUSHES_INCOMPLETE = Counter "weirgate_events_bus_pushes_incomplete_total" []
        "Pushes answered while the bus was away or without the counts of all other instances.";
    EVENTS_BUS_PUSHES_REFUSED = Counter "weirgate_events_bus_pushes_refused_total" []
        "Pushes refused because too many waited for other instances.";
    EVENTS_BUS_LOST = Counter "weirgate_events_bus_messages_lost_total" []
        "Losses on the bus between instances: messages that this instance did not read in time; an outage counts once.";
    EVENTS_BUS_IGNORED = Counter "weirgate_events_bus_messages_ignored_total" ["reason"]
        "Messages on the bus between instances that had no effect.";
    PROXY_REQUESTS = Counter "weirgate_proxy_requests_total" ["service", "outcome"]
        "Requests to the proxy that have ended.";
    PROXY_HEAD_DURATION = Histogram "weirgate_proxy_head_duration_seconds" ["service"]
        "Time from the head of a proxied request to the head of the response.";
    PROXY_WAITS = Counter "weirgate_proxy_waits_total" ["service"]
        "Proxied requests that waited for a connection to the service.";
    PROXY_ADDRESS_WAITS = Counter "weirgate_proxy_address_waits_total" ["service"]
        "Proxied requests that waited because the client's address had its share of the connections.";
    PROXY_UNGATHERED_BODIES = Counter "weirgate_proxy_ungathered_bodies_total" ["service"]
        "Small request bodies that the proxy passed on in pieces, because other bodies had used up the memory for \
         them.";
}

/// Counters that any thread may read.
#[derive(Debug, Default)]
pub struct EventsStats {
    /// Messages of ended clients that were dropped and not forwarded.
    pub messages_forgotten: Count,
    /// Events that services pushed.
    pub pushes: Count,
    /// Counters of tokens.
    pub access: Arc<AccessStats>,
    pub(super) errors: [Count; Code::ALL.len()],
}

impl EventsStats {
    /// Error messages to clients, by code.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(Code::ALL.map(Code::word), &self.errors)
    }
}

/// The metrics of the gateway.
pub(super) fn gateway_metrics(
    stats: &Arc<EventsStats>,
    gateway: &EventsGateway,
) -> Vec<GatewayMetric> {
    let by_service = &gateway.service_stats();
    let waiting = Arc::new(gateway.waiting_bytes().clone());
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    vec![
        services::numbers(&UPSTREAM_CALLS_SKIPPED, by_service, |s| s.skipped.get()),
        services::numbers(&UPSTREAM_CIRCUIT_OPEN, by_service, |s| s.open.get()),
        by_label(&EVENT_ERRORS, |s| s.errors().collect()),
        GatewayMetric::by_label(&AUTH_REFUSALS, &stats.access, |s| s.refusals().collect()),
        number(&MetricName::PUSHES, |s| s.pushes.get()),
        number(&MESSAGES_FORGOTTEN, |s| s.messages_forgotten.get()),
        GatewayMetric::number(&MetricName::EVENT_WAITING_BYTES, &waiting, |waiting| {
            waiting.held()
        }),
    ]
}
