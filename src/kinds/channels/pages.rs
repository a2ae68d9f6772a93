//! What the channels gateway says of itself: `/health` and the head of `/stats`.

use std::sync::Arc;

use hyper::StatusCode;

use crate::clock::Clock;
use crate::gateways::channels::ChannelsStats;
use crate::http::{Answer, Route};
use crate::telemetry::{BusStatus, Telemetry};
use crate::wire::iso::iso_utc;
use crate::wire::object_writer::ObjectWriter;

/// `/health` (contract channels, row HTTP).
pub(super) fn health_route(telemetry: &Arc<Telemetry>, clock: Clock) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("status", "healthy");
        object.string("service", "redis-ws-gateway");
        object.boolean("redis_connected", is_connected(&telemetry));
        object.number("clients_connected", telemetry.event_loop.clients());
        object.string("timestamp", &iso_utc(clock.now().unix_ms));
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// What `/stats` begins with (contract channels, row HTTP).
pub(super) fn stats_head(
    object: &mut ObjectWriter,
    telemetry: &Telemetry,
    stats: &ChannelsStats,
    clock: Clock,
) {
    object.number("clients_connected", telemetry.event_loop.clients());
    object.number("total_subscriptions", stats.subscriptions());
    object.number("channels_subscribed", stats.channels());
    object.number("patterns_subscribed", stats.patterns());
    object.boolean("redis_connected", is_connected(telemetry));
    object.string("timestamp", &iso_utc(clock.now().unix_ms));
}

fn is_connected(telemetry: &Telemetry) -> bool {
    telemetry.bus().is_some_and(BusStatus::connected)
}
