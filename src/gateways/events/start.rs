//! `weirgate events`, the gateway between devices and HTTP services: its start and its pages.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;

use crate::commands::{GatewayKind, TokenUse};
use crate::gateways::events::bus::open::PushBus;
use crate::gateways::events::http_calls::{CallLimits, Calls};
use crate::gateways::events::identify::device_of;
use crate::gateways::events::internal::InternalAccess;
use crate::gateways::events::metrics::gateway_metrics;
use crate::gateways::events::proxy::{
    Proxied, ProxiedPath, Proxy, ProxyLimits, ProxySettings, ProxyTokens,
};
use crate::gateways::events::pusher::Pusher;
use crate::gateways::events::settings::{EventsSettings, joined_by_space};
use crate::gateways::events::to_loop::ToLoop;
use crate::gateways::events::{
    BROADCAST_PATH, CALL_PATH, EventsGateway, EventsGatewaySettings, EventsStats, Input,
    ServiceRow, Services, internal,
};
use crate::gateways::shared::auth::{KeyUpdates, authenticator, warn_of};
use crate::gateways::shared::no_feed::NoFeed;
use crate::services;
use crate::services::{CALL_CONNECTION_BYTES, ServicesAway, Upstream};
use weirgate_core::FrameBytes;
use weirgate_runtime::{Clock, LateWake, tls_roots};
use weirgate_server::http::{Answer, ClientModule, FrontPage, Route, StatusCode};
use weirgate_server::run::{
    CommonSettings, Inputs, Listening, Parts, Prepared, RunError, StartQuestion, room_for_services,
    say,
};
use weirgate_server::settings::{Checked, Rows, TablePart};
use weirgate_server::telemetry::{GatewayMetric, Telemetry};
use weirgate_wire::admission::Quota;
use weirgate_wire::base::Finding;
use weirgate_wire::json::ObjectWriter;

/// `weirgate events`.
pub(in crate::gateways) const EVENTS: GatewayKind = GatewayKind::new(
    "events",
    "Route devices' requests to HTTP services, and push events to devices",
    Rows::gateway(&[
        TablePart::Nats,
        TablePart::Redis,
        TablePart::History,
        TablePart::StopCode,
        TablePart::RequireAuth,
        TablePart::Tokens,
    ])
    .own(&[
        super::settings::SERVICES,
        super::settings::DEVICES,
        super::settings::BUS,
    ])
    .changes(super::settings::CHANGES)
    .defaults(super::settings::defaults),
    start,
)
.check(super::settings::check)
.dialect(crate::gateways::shared::dialects::EVENTS)
.tokens(TokenUse::Names(|identity| {
    device_of(identity, None).map(drop)
}));

/// The time limit of a whole call, as a multiple of the time limit for silence (contract events,
/// `HTTP_TIMEOUT_SECONDS`).
const WHOLE_SILENCES: u32 = 6;

/// The fewest calls at a time for each service: one reserved, so that a service that hangs leaves the others one, and one of
/// all services. The part of one of many processes may be less.
const CALLS_MIN: usize = 2;

/// A message over `MAX_MESSAGE_BYTES` is refused. The connection is closed only for a message that is also over four
/// times `MAX_MESSAGE_BYTES` and over this number (contract events, row `message_too_large`).
const CLOSE_BYTES_MIN: usize = 1024 * 1024;

/// The page for browsers.
const FRONT: FrontPage = FrontPage {
    gateway: EVENTS.name,
    path: EventsGateway::PATH,
    status: StatusCode::NOT_FOUND,
    client: "/events.js",
    tail: "--subscribe DEVICE",
    documents: &[
        "docs/guides/hello/events.md",
        "docs/guides/events.md",
        "docs/reference/protocol-events.md",
    ],
};

/// Assembles the gateway from its settings.
fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let own: EventsSettings = checked.get();
    let mut common = CommonSettings::new(checked);
    let table = own.services();
    let stats = Arc::new(EventsStats::default());
    let (tokens, keys) = tokens(checked, &stats, clock)?;
    let mut gateway_settings = EventsGatewaySettings {
        message_bytes_max: common.limits.message_bytes_max,
        services: table.clone(),
        authenticator: tokens.authenticator.clone(),
        ..checked.get()
    };
    let mut limits: ProxyLimits = checked.get();
    let wanted = ServiceConnections::wanted(&own, &gateway_settings, &limits);
    let connections = wanted.within(room_for_services(&common, wanted.sum()));
    gateway_settings.calls_max = connections.calls.max(CALLS_MIN * table.rows().len());
    limits.connections_max = connections.proxy;
    raise_limits(&mut common, &gateway_settings, connections);
    let access = internal_access(&own);
    let services = services(&own, &table)?;
    let away = ServicesAway::of(&services);
    let (to_loop, inputs) = channel_to_loop(clock);
    let proxy = Proxy::new(ProxySettings {
        services: proxied(&table, &services),
        limits,
        held: common.limits.http_held.clone(),
        clock,
        tokens,
    });
    let answers = Quota::new("answer_bytes", own.answers_bytes_max as u64);
    let (called, held) = (services.clone(), answers.clone());
    let calls = start_calls(&own, called, held, connections.calls, to_loop.clone())?;
    let (bus, to_start) = PushBus::prepare(checked, to_loop.clone())?.unzip();
    let to_start = to_start.unwrap_or_default();
    gateway_settings.shares_pushes = bus.is_some();
    let gateway = EventsGateway::new(gateway_settings, common.origins(), Arc::clone(&stats));

    let behind = Behind {
        away,
        bus: bus.clone(),
    };
    let metrics = [calls.metrics(), proxy.metrics(), behind.metrics()];
    let metrics = metrics.into_iter().flatten();
    let metrics = metrics.chain(gateway_metrics(&stats, &gateway));
    let held = [access.bodies.clone(), answers, calls.connections()];
    let holdings: Vec<_> = proxy.holdings().chain(held).collect();
    let questions = services.iter().map(question);
    let questions: Vec<_> = questions.chain(to_start.question).collect();
    let frame_bytes = to_loop.frame_bytes.clone();
    let pusher = Pusher {
        to_loop,
        bus: bus.clone(),
    };
    let broadcast = move |body| pusher.clone().answer(body);
    let broadcast = internal::route(BROADCAST_PATH, access, clock, broadcast);
    let behind_pages = behind.clone();
    let parts = Parts::new(EVENTS.name, common, NoFeed::default(), gateway)
        .frame_bytes(frame_bytes)
        .routes(move |telemetry| routes(telemetry, behind_pages, broadcast, &proxy))
        .front(FRONT)
        .stats_head(Box::new(move |_, object| behind.write(object)))
        .metrics(metrics)
        .holdings(holdings)
        .inputs(inputs)
        .output(move |call| calls.make(call))
        .threads(move || to_start.threads.start())
        .asks(questions);
    let bus_address = bus.as_ref().map(|bus| bus.address.clone());
    let announce = move |listening: &Listening| announce(&own, bus_address.as_deref(), listening);
    let prepared = keys.add_to(parts).prepare(clock, announce)?;
    Ok(prepared.ending_with(move || {
        if let Some(bus) = &bus {
            bus.announce_stop();
        }
    }))
}

/// The channels by which other threads send inputs to the loop.
fn channel_to_loop(clock: Clock) -> (ToLoop, Inputs<Input>) {
    let (input, receiver) = unbounded();
    let (replies, received_replies) = unbounded();
    let to_loop = ToLoop {
        input,
        replies,
        wake: LateWake::default(),
        frame_bytes: FrameBytes::default(),
        clock,
    };
    let wake = to_loop.wake.clone();
    (
        to_loop,
        Inputs::new(receiver, wake).urgent(received_replies),
    )
}

/// Who may push events, and how large their bodies may be. Warns if nobody may.
fn internal_access(own: &EventsSettings) -> InternalAccess {
    let token = own.internal_auth_token.as_ref();
    if token.is_none() {
        tracing::warn!("INTERNAL_AUTH_TOKEN is not set: nobody can push events");
    }
    InternalAccess {
        token: token.map(|token| token.secret().clone()),
        body_bytes_max: own.broadcast_bytes_max,
        bodies: Quota::new("broadcast_bytes", own.broadcasts_bytes_max),
    }
}

/// Says where the gateway listens, and which services it calls.
fn announce(own: &EventsSettings, bus: Option<&str>, listening: &Listening) {
    let websocket = listening.url("ws", EventsGateway::PATH);
    let (lobby, measurement) = (&own.lobby_url, &own.measurement_url);
    let simulation = &own.simulation_url;
    let routes = Some(joined_by_space(&own.routes)).filter(|routes| !routes.is_empty());
    let mut lines = vec![
        ("Lobby", lobby.clone()),
        ("Measurement", measurement.clone()),
        ("Simulation", simulation.clone()),
    ];
    lines.extend(routes.clone().map(|routes| ("Routes", routes)));
    lines.extend(bus.map(|bus| ("Bus", bus.to_owned())));
    lines.push(("WebSocket", websocket.clone()));
    lines.extend(listening.pages());
    say(&Listening::banner("weirgate events", &lines), || {
        tracing::info!(
            lobby,
            measurement,
            simulation,
            routes,
            bus,
            websocket,
            "weirgate events"
        );
    });
}

/// Raises the limits of the process to what the gateway needs: for messages that it refuses itself, and for connections to
/// services.
fn raise_limits(
    common: &mut CommonSettings,
    gateway: &EventsGatewaySettings,
    connections: ServiceConnections,
) {
    common.limits.message_bytes_max = CLOSE_BYTES_MIN.max(4 * gateway.message_bytes_max);
    common.service_connections_max = connections.sum();
}

/// The most open connections to all services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ServiceConnections {
    /// For calls: at least two for each service, so that a service that hangs leaves the others one of its own and one of
    /// all.
    calls: usize,
    proxy: usize,
}

impl ServiceConnections {
    /// What the limits of the settings allow, with the memory for connections.
    fn wanted(own: &EventsSettings, gateway: &EventsGatewaySettings, limits: &ProxyLimits) -> Self {
        let rows = gateway.services.rows();
        let of_memory = own.call_bytes_max / CALL_CONNECTION_BYTES;
        let of_memory = usize::try_from(of_memory).unwrap_or(usize::MAX);
        let calls = gateway.calls_max.min(of_memory);
        let proxied = rows.iter().filter(|row| !row.proxied.is_empty());
        Self {
            calls: calls.max(CALLS_MIN * rows.len()),
            proxy: limits.all_connections_max(proxied.count()),
        }
    }

    fn sum(self) -> usize {
        self.calls + self.proxy
    }

    /// The same in `room` for both: with too little, the calls have half or what the proxy does not want.
    fn within(self, room: usize) -> Self {
        let calls = self
            .calls
            .min((room / 2).max(room.saturating_sub(self.proxy)));
        let proxy = self.proxy.min(room - calls);
        Self { calls, proxy }
    }
}

/// The services of the table, in the order of their numbers.
fn services(own: &EventsSettings, table: &Services) -> Result<Vec<services::Service>, RunError> {
    let rows = table.rows().iter().map(|row| (row.name, upstream(row)));
    let rows: Vec<_> = rows.collect();
    let wants_tls = rows.iter().any(|(_, upstream)| upstream.wants_tls());
    let tls = wants_tls.then(|| tls_roots::client(own.upstream_ca_file.as_deref(), None));
    let wrong = |error| RunError::Settings(format!("--upstream-ca-file: {error}"));
    let tls = tls.transpose().map_err(wrong)?;
    let service = |(name, upstream)| services::Service::new(name, upstream, tls.clone());
    Ok(rows.into_iter().map(service).collect())
}

/// The check of a service for `--check --connect`.
fn question(service: &services::Service) -> StartQuestion {
    let (service, asked) = (service.clone(), service.to_string());
    StartQuestion::new(asked.clone(), move |_| {
        vec![match service.probe(CALL_PATH) {
            Ok(probed) if probed.status.is_redirection() => {
                let (status, target) = (probed.status, probed.redirect_target);
                let to = if target.is_empty() { "" } else { " to " };
                let why = "calls follow no redirect";
                Finding::Error(format!("{asked} answered {status}{to}{target}: {why}"))
            }
            Ok(probed) => {
                let (status, ms) = (probed.status, probed.elapsed.as_millis());
                Finding::Good(format!("{asked} answered {status} in {ms} ms"))
            }
            Err(error) => Finding::Error(format!("{asked} does not answer: {error}")),
        }]
    })
}

/// The address of a service.
fn upstream(row: &ServiceRow) -> Upstream {
    match Upstream::parse(&row.url) {
        Some(upstream) => upstream,
        None => unreachable!("the form of the setting reads it"),
    }
}

/// The services behind the proxy, with their paths.
fn proxied(table: &Services, services: &[services::Service]) -> Vec<Proxied> {
    let proxied = |(row, service): (&ServiceRow, &services::Service)| Proxied {
        service: service.clone(),
        paths: row
            .proxied
            .iter()
            .map(|&(path, cut)| ProxiedPath { path, cut })
            .collect(),
    };
    let services = table.rows().iter().zip(services);
    let services = services.filter(|(row, _)| !row.proxied.is_empty());
    services.map(proxied).collect()
}

/// The judge of tokens, for devices and for the proxy, and what updates its keys.
fn tokens(
    checked: &Checked,
    stats: &EventsStats,
    clock: Clock,
) -> Result<(ProxyTokens, KeyUpdates), RunError> {
    let auth = checked.auth();
    let (authenticator, keys) = authenticator(&auth, clock)?;
    warn_of(&authenticator);
    if !authenticator.required && authenticator.has_keys() {
        tracing::warn!(
            "there are keys for tokens and REQUIRE_AUTH is off: a device without a good token still names itself"
        );
    }
    let tokens = ProxyTokens {
        authenticator,
        stats: Arc::clone(&stats.access),
    };
    Ok((tokens, keys))
}

/// Starts the threads that call the services.
fn start_calls(
    own: &EventsSettings,
    services: Vec<services::Service>,
    answers: Quota,
    connections_max: usize,
    to_loop: ToLoop,
) -> Result<Calls, RunError> {
    let silence = Duration::from_millis(own.http_timeout_ms.unsigned_abs());
    let limits = CallLimits {
        silence,
        whole: silence * WHOLE_SILENCES,
        answer_bytes_max: own.answer_bytes_max,
        answers,
        connections_max,
        clock: to_loop.clock,
    };
    let replied = move |reply| to_loop.send([Input::Reply(reply)]);
    let calls = Calls::start(services, limits, Box::new(replied));
    calls.map_err(RunError::Thread)
}

/// `/healthz` (protocol-events.md, "HTTP").
fn healthz() -> Answer {
    let mut object = ObjectWriter::new();
    object.string("status", "ok");
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// What is behind the gateway, for its pages: the services that are away, and the bus between instances.
#[derive(Clone)]
struct Behind {
    away: ServicesAway,
    bus: Option<PushBus>,
}

impl Behind {
    fn write(&self, object: &mut ObjectWriter) {
        self.away.write(object);
        if let Some(bus) = &self.bus {
            bus.write(object);
        }
    }

    fn metrics(&self) -> Vec<GatewayMetric> {
        let mut metrics = vec![self.away.metric()];
        metrics.extend(self.bus.iter().flat_map(PushBus::metrics));
        metrics
    }
}

/// The pages of the gateway, and the paths of the proxied services. `broadcast` takes pushes.
fn routes(
    telemetry: &Arc<Telemetry>,
    behind: Behind,
    broadcast: Route,
    proxy: &Proxy,
) -> Vec<Route> {
    let mut routes = vec![
        health_route(telemetry, behind),
        Route::get("/healthz", |_| healthz()),
        broadcast,
    ];
    routes.extend(ClientModule::Events.routes());
    routes.extend(proxy.routes());
    routes
}

/// `/health` as in the other gateways, and also what is behind this one.
fn health_route(telemetry: &Arc<Telemetry>, behind: Behind) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("service", "gateway");
        object.string("status", "healthy");
        object.number("connections", telemetry.event_loop.clients());
        behind.write(&mut object);
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_services_fit_in_their_memory_and_their_files() {
        let connections = |calls, proxy| ServiceConnections { calls, proxy };
        let wanted = |call_bytes_max| {
            let own = EventsSettings {
                call_bytes_max,
                ..EventsSettings::default()
            };
            let limits = ProxyLimits::default();
            ServiceConnections::wanted(&own, &EventsGatewaySettings::default(), &limits)
        };
        let of_default = wanted(EventsSettings::default().call_bytes_max);
        assert_eq!(of_default, connections(100, 512));
        assert_eq!(wanted(20 * CALL_CONNECTION_BYTES), connections(20, 512));
        let least = connections(3 * CALLS_MIN, 512);
        assert_eq!(wanted(CALL_CONNECTION_BYTES), least, "two for each service");
        for (room, calls, proxy) in [
            (612, 100, 512),
            (608, 100, 508),
            (150, 75, 75),
            (25, 12, 13),
        ] {
            assert_eq!(of_default.within(room), connections(calls, proxy), "{room}");
        }
    }
}
