//! The pages of the events gateway: `/health`, `/healthz` and its metrics.

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

/// `/health` as in the other gateways, plus the unavailable services and the bus between instances.
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

/// The metrics of the gateway.
pub(super) fn gateway_metrics(stats: &Arc<EventsStats>) -> Vec<GatewayMetric> {
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    vec![
        by_label(&names::UPSTREAM_CALLS_SKIPPED, |s| {
            s.calls_skipped().collect()
        }),
        by_label(&names::UPSTREAM_CIRCUIT_OPEN, |s| {
            s.circuits_open().collect()
        }),
        by_label(&names::EVENT_ERRORS, |s| s.errors().collect()),
        number(&names::PUSHES, |s| s.pushes.get()),
        number(&names::MESSAGES_FORGOTTEN, |s| s.messages_forgotten.get()),
        number(&names::EVENT_WAITING_BYTES, |s| s.waiting_bytes.get()),
    ]
}
