//! The pages of the channels gateway: `/health` and the head of `/stats`.

use std::sync::Arc;

use hyper::StatusCode;

use crate::base::Clock;
use crate::gateways::channels::ChannelsStats;
use crate::http::{Answer, Route};
use crate::telemetry::{BusStatus, Telemetry};
use crate::wire::object_writer::{ObjectWriter, iso_utc};

/// `redis` or `nats`. With Redis the pages follow the contract.
#[derive(Clone, Copy)]
pub(super) struct BusName(pub(super) &'static str);

impl BusName {
    fn service(self) -> &'static str {
        match self.0 {
            "redis" => "redis-ws-gateway",
            _ => "weirgate-channels",
        }
    }

    fn write_connected(self, object: &mut ObjectWriter, telemetry: &Telemetry) {
        let is_connected = telemetry.bus().is_some_and(BusStatus::connected);
        match self.0 {
            "redis" => object.boolean("redis_connected", is_connected),
            _ => object.boolean("nats_connected", is_connected),
        }
    }
}

/// `/health` (contract channels, row HTTP).
pub(super) fn health_route(telemetry: &Arc<Telemetry>, clock: Clock, bus: BusName) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("status", "healthy");
        object.string("service", bus.service());
        bus.write_connected(&mut object, &telemetry);
        object.number("clients_connected", telemetry.event_loop.clients());
        object.string("timestamp", &iso_utc(clock.now().unix_ms));
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// Writes the head of `/stats` (contract channels, row HTTP).
pub(super) fn stats_head(
    object: &mut ObjectWriter,
    telemetry: &Telemetry,
    stats: &ChannelsStats,
    clock: Clock,
    bus: BusName,
) {
    object.number("clients_connected", telemetry.event_loop.clients());
    object.number("total_subscriptions", stats.subscriptions.get());
    object.number("channels_subscribed", stats.channels.get());
    object.number("patterns_subscribed", stats.patterns.get());
    bus.write_connected(object, telemetry);
    object.string("timestamp", &iso_utc(clock.now().unix_ms));
}
