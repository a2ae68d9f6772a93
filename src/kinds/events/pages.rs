//! What the events gateway says of itself: `/health`, `/healthz` and its metrics.

use std::sync::Arc;

use crate::gateways::events::{EventsStats, Service};
use crate::http::calls::CallStats;
use crate::http::{Answer, Route, StatusCode};
use crate::telemetry::{GatewayMetric, Telemetry, names};
use crate::wire::object_writer::ObjectWriter;

/// `/healthz` (contract events, row "Set-up").
pub(super) fn healthz() -> Answer {
    let mut object = ObjectWriter::new();
    object.string("status", "ok");
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// `/health`, as the other gateways have it.
pub(super) fn health_route(telemetry: &Arc<Telemetry>) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("service", "gateway");
        object.string("status", "healthy");
        object.number("connections", telemetry.event_loop.clients.load());
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// What is counted of clients, pushes and calls.
pub(super) fn metrics(
    stats: &Arc<EventsStats>,
    calls: [Arc<CallStats>; Service::ALL.len()],
) -> Vec<GatewayMetric> {
    let calls: Vec<_> = Service::ALL
        .map(Service::label)
        .into_iter()
        .zip(calls)
        .collect();
    let durations = calls
        .iter()
        .map(|(service, calls)| (*service, Arc::clone(&calls.durations)));
    let durations = durations.collect();
    let in_flight = calls.clone();
    let outcomes = move || {
        let of = |&(service, ref calls): &(&'static str, Arc<CallStats>)| {
            let each = calls
                .outcomes()
                .map(move |(outcome, n)| ([service, outcome], n));
            each.collect::<Vec<_>>()
        };
        calls.iter().flat_map(of).collect()
    };
    let [skipped, open, errors, pushes, forgotten] = [(); 5].map(|()| Arc::clone(stats));
    vec![
        GatewayMetric::ByTwoLabels(&names::UPSTREAM_CALLS, Box::new(outcomes)),
        GatewayMetric::Durations(&names::UPSTREAM_CALL_DURATION, durations),
        GatewayMetric::ByLabel(
            &names::UPSTREAM_CALLS_IN_FLIGHT,
            Box::new(move || in_flight.iter().map(|(s, c)| (*s, c.in_flight())).collect()),
        ),
        GatewayMetric::ByLabel(
            &names::UPSTREAM_CALLS_SKIPPED,
            Box::new(move || skipped.calls_skipped().collect()),
        ),
        GatewayMetric::ByLabel(
            &names::UPSTREAM_CIRCUIT_OPEN,
            Box::new(move || open.circuits_open().collect()),
        ),
        GatewayMetric::ByLabel(
            &names::EVENT_ERRORS,
            Box::new(move || errors.errors().collect()),
        ),
        GatewayMetric::Number(&names::PUSHES, Box::new(move || pushes.pushes())),
        GatewayMetric::Number(
            &names::MESSAGES_FORGOTTEN,
            Box::new(move || forgotten.messages_forgotten()),
        ),
    ]
}
