//! The metrics of events alone. The values come from the counts of the gateway, in `start`.

metric_names! {
    UPSTREAM_CALLS = Counter "weirgate_upstream_calls_total" ["service", "outcome"]
        "Ended calls of services.";
    UPSTREAM_CALL_DURATION = Histogram "weirgate_upstream_call_duration_seconds" ["service"]
        "Time of a call, to the end of the response.";
    UPSTREAM_CALLS_SKIPPED = Counter "weirgate_upstream_calls_skipped_total" ["service"]
        "Calls not made because the service had failed too often.";
    UPSTREAM_CIRCUIT_OPEN = Gauge "weirgate_upstream_circuit_open" ["service"]
        "1 while calls of a service pause after too many failures, for some addresses or all.";
    EVENT_ERRORS = Counter "weirgate_event_errors_total" ["code"]
        "Errors sent to devices.";
    MESSAGES_FORGOTTEN = Counter "weirgate_messages_forgotten_total" []
        "Messages of disconnected devices that were not forwarded.";
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
        "Messages of the bus that this instance did not take in time; an outage counts once.";
    EVENTS_BUS_IGNORED = Counter "weirgate_events_bus_messages_ignored_total" ["reason"]
        "Messages of the bus without effect.";
    PROXY_REQUESTS = Counter "weirgate_proxy_requests_total" ["service", "outcome"]
        "Ended requests to the proxy.";
    PROXY_HEAD_DURATION = Histogram "weirgate_proxy_head_duration_seconds" ["service"]
        "Time from the head of a proxied request to the head of the response.";
    PROXY_WAITS = Counter "weirgate_proxy_waits_total" ["service"]
        "Proxied requests that waited for a connection to the service.";
    PROXY_ADDRESS_WAITS = Counter "weirgate_proxy_address_waits_total" ["service"]
        "Proxied requests that waited because the client's address had its share of the connections.";
    PROXY_UNGATHERED_BODIES = Counter "weirgate_proxy_ungathered_bodies_total" ["service"]
        "Small request bodies passed on in pieces, because others filled their room.";
}
