//! The pages of the channels gateway: the page for browsers, `/health`, and the head of `/stats`.

use std::sync::Arc;

use super::messages::iso_utc;
use super::start::CHANNELS;
use super::{ChannelsGateway, ChannelsStats};
use weirgate_runtime::{BusStatus, Clock};
use weirgate_server::http::{Answer, ClientModule, FrontPage, Route, StatusCode};
use weirgate_server::telemetry::Telemetry;
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::json::ObjectWriter;

/// The page for browsers.
pub(super) const FRONT: FrontPage = FrontPage {
    gateway: CHANNELS.name,
    path: ChannelsGateway::PATH,
    status: StatusCode::NOT_FOUND,
    client: "/channels.js",
    tail: "--subscribe NAME",
    documents: &[
        "docs/guides/hello/nats.md",
        "docs/guides/hello/redis.md",
        "docs/guides/channels.md",
        "docs/reference/protocol-channels.md",
    ],
};

/// Writes whether the bus is connected. The contract knows `redis_connected`.
fn write_connected(object: &mut ObjectWriter, telemetry: &Telemetry, bus: NameSyntax) {
    let is_connected = telemetry.bus().is_some_and(BusStatus::connected);
    let member = match bus {
        NameSyntax::Redis => "redis_connected",
        NameSyntax::Nats => "nats_connected",
    };
    object.boolean(member, is_connected);
}

/// The pages of the gateway.
pub(super) fn routes(telemetry: &Arc<Telemetry>, clock: Clock, bus: NameSyntax) -> Vec<Route> {
    let mut routes = ClientModule::Channels.routes();
    routes.push(health_route(telemetry, clock, bus));
    routes
}

/// `/health` (protocol-channels.md, "HTTP").
fn health_route(telemetry: &Arc<Telemetry>, clock: Clock, bus: NameSyntax) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("status", "healthy");
        let service = match bus {
            NameSyntax::Redis => "redis-ws-gateway",
            NameSyntax::Nats => "weirgate-channels",
        };
        object.string("service", service);
        write_connected(&mut object, &telemetry, bus);
        object.number("clients_connected", telemetry.event_loop.clients());
        object.string("timestamp", &iso_utc(clock.now().unix_ms()));
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// Writes the head of `/stats` (protocol-channels.md, "HTTP").
pub(super) fn stats_head(
    object: &mut ObjectWriter,
    telemetry: &Telemetry,
    stats: &ChannelsStats,
    clock: Clock,
    bus: NameSyntax,
) {
    object.number("clients_connected", telemetry.event_loop.clients());
    object.number("total_subscriptions", stats.subscriptions.get());
    object.number("channels_subscribed", stats.channels.get());
    object.number("patterns_subscribed", stats.patterns.get());
    write_connected(object, telemetry, bus);
    object.string("timestamp", &iso_utc(clock.now().unix_ms()));
}
