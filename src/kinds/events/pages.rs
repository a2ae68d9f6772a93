//! What the events gateway says of itself: `/health`, `/healthz` and its metrics.

use std::sync::Arc;

use super::bus::BusPages;
use crate::gateways::events::EventsStats;
use crate::http::services::ServicesAway;
use crate::http::{Answer, Route, StatusCode};
use crate::telemetry::{GatewayMetric, Telemetry, names};
use crate::wire::object_writer::ObjectWriter;

/// `/healthz` (contract events, row "Set-up").
pub(super) fn healthz() -> Answer {
    let mut object = ObjectWriter::new();
    object.string("status", "ok");
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// `/health`, as the other gateways have it, with the services that do not answer and the bus
/// between instances.
pub(super) fn health_route(
    telemetry: &Arc<Telemetry>,
    away: ServicesAway,
    bus: Option<BusPages>,
) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("service", "gateway");
        object.string("status", "healthy");
        object.number("connections", telemetry.event_loop.clients());
        away.write(&mut object);
        if let Some(bus) = &bus {
            bus.write(&mut object);
        }
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// What the gateway counts itself.
pub(super) fn gateway_metrics(stats: &Arc<EventsStats>) -> Vec<GatewayMetric> {
    let [skipped, open, errors, pushes, forgotten, waiting] = [(); 6].map(|()| Arc::clone(stats));
    vec![
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
        GatewayMetric::Number(
            &names::EVENT_WAITING_BYTES,
            Box::new(move || waiting.waiting_bytes()),
        ),
    ]
}
