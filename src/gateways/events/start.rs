//! `weirgate events`, the gateway between devices and HTTP services: its start and its pages.
//!
//! Also how other threads send replies and pushes to the loop, and `POST /internal/broadcast`: from the body to the
//! response with the number of devices.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use tokio::sync::oneshot;

use crate::commands::{GatewayKind, TokenUse};
use crate::gateways::events::aside::aside;
use crate::gateways::events::broadcast::{Broadcast, Wrong, refusal};
use crate::gateways::events::bus::PushOutcome;
use crate::gateways::events::bus::open::Bus;
use crate::gateways::events::connection::device_of;
use crate::gateways::events::http_calls::{CallLimits, Calls};
use crate::gateways::events::internal;
use crate::gateways::events::internal::InternalAccess;
use crate::gateways::events::metrics;
use crate::gateways::events::proxy::{
    Proxied, ProxiedPath, Proxy, ProxyLimits, ProxySettings, ProxyTokens,
};
use crate::gateways::events::settings::{EventsSettings, shown};
use crate::gateways::events::{
    BROADCAST_PATH, CALL_PATH, EventsGateway, EventsGatewaySettings, EventsStats, INNER_PATHS,
    Input, Push, ServiceCallStats, ServiceRow, Services,
};
use crate::gateways::shared::auth::{authenticator, warn_of, warn_of_short};
use crate::gateways::shared::feed::NoFeed;
use crate::gateways::shared::metrics::AUTH_REFUSALS;
use crate::services;
use crate::services::{ByService, ServicesAway, Upstream};
use weirgate_bus::runtime::{Clock, LateWake, tls_roots};
use weirgate_core::FrameBytes;
use weirgate_server::http::{
    Answer, Bytes, ClientModule, FrontPage, Route, StatusCode, client_routes,
};
use weirgate_server::run::{CommonSettings, Inputs, Parts, Prepared, Question, RunError, say};
use weirgate_server::settings::{Checked, Part, Rows};
use weirgate_server::telemetry::{GatewayMetric, Telemetry, names};
use weirgate_wire::admission::Quota;
use weirgate_wire::auth::Authenticator;
use weirgate_wire::base::Finding;
use weirgate_wire::json::ObjectWriter;

/// `weirgate events`.
pub(in crate::gateways) const EVENTS: GatewayKind = GatewayKind::new(
    "events",
    "Route devices' requests to HTTP services, and push events to devices",
    Rows::gateway(&[
        Part::Nats,
        Part::Redis,
        Part::History,
        Part::StopCode,
        Part::RequireAuth,
        Part::Tokens,
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

/// The most bytes of a service's response to a call, unless the limit on all responses together is lower.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The time limit of a whole call, as a multiple of the time limit for silence (contract events,
/// `HTTP_TIMEOUT_SECONDS`).
const WHOLE_SILENCES: u32 = 6;

/// A message over `MAX_MESSAGE_BYTES` is refused. The connection is closed only for a message that is also over four
/// times `MAX_MESSAGE_BYTES` and over this number (contract events, row `message_too_large`).
const CLOSE_BYTES_MIN: usize = 1024 * 1024;

fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let own: EventsSettings = checked.get();
    let mut common = CommonSettings::new(checked);
    let table = own.services();
    let auth = checked.auth();
    let (authenticator, keys) = authenticator(&auth, clock)?;
    warn_of(&auth, &authenticator);
    warn_of_optional_tokens(&authenticator);
    let stats = Arc::new(EventsStats::default());
    let tokens = ProxyTokens {
        authenticator,
        stats: Arc::clone(&stats.access),
    };
    let mut gateway_settings = EventsGatewaySettings {
        message_bytes_max: common.limits.message_bytes_max,
        services: table.clone(),
        authenticator: tokens.authenticator.clone(),
        ..checked.get()
    };
    let proxy_limits: ProxyLimits = checked.get();
    common.limits.message_bytes_max = CLOSE_BYTES_MIN.max(4 * gateway_settings.message_bytes_max);
    common.service_connections_max =
        gateway_settings.calls_max + proxy_connections_max(&table, &proxy_limits);
    let token = own.internal_auth_token.clone();
    if token.is_none() {
        tracing::warn!("INTERNAL_AUTH_TOKEN is not set: nobody can push events");
    }
    warn_of_short("INTERNAL_AUTH_TOKEN", token.as_ref());
    let access = InternalAccess {
        token: token.map(|token| token.secret().clone()),
        body_bytes_max: own.broadcast_bytes_max,
        bodies: Quota::new("broadcast_bytes", own.broadcasts_bytes_max),
    };
    let services = services(&own, &table)?;
    let away = ServicesAway::of(&services);
    let (input, inputs) = unbounded();
    let to_loop = ToLoop {
        input,
        wake: LateWake::default(),
        frame_bytes: FrameBytes::default(),
        clock,
    };
    let inputs = Inputs {
        receiver: inputs,
        wake: to_loop.wake.clone(),
    };
    let frame_bytes = to_loop.frame_bytes.clone();
    let proxy = Proxy::new(ProxySettings {
        services: proxied(&table, &services),
        inner_paths: &INNER_PATHS,
        limits: proxy_limits,
        held: common.limits.http_held.clone(),
        clock,
        tokens,
    });
    let answers = Quota::new("answer_bytes", own.answers_bytes_max as u64);
    let calls = start_calls(&own, services.clone(), answers.clone(), to_loop.clone())?;
    let (bus, to_start) = Bus::prepare(checked, to_loop.clone())?.unzip();
    let to_start = to_start.unwrap_or_default();
    gateway_settings.shares_pushes = bus.is_some();
    let questions: Vec<_> = services
        .iter()
        .map(question)
        .chain(to_start.question)
        .collect();
    let pusher = Pusher {
        to_loop,
        bus: bus.clone(),
    };
    let mut metrics = calls.metrics();
    metrics.extend(proxy.metrics());
    metrics.push(away.metric());
    metrics.extend(bus.iter().flat_map(Bus::metrics));
    let (away_stats, bus_stats, bus_health) = (away.clone(), bus.clone(), bus.clone());
    let bus_address = bus.as_ref().map(|bus| bus.address.clone());
    let gateway = EventsGateway::new(gateway_settings, common.origins(), Arc::clone(&stats));
    metrics.extend(gateway_metrics(&stats, &gateway.service_stats()));
    let waiting = Arc::new(gateway.waiting_bytes().clone());
    metrics.push(GatewayMetric::number(
        &names::EVENT_WAITING_BYTES,
        &waiting,
        |waiting| waiting.held(),
    ));
    let holdings: Vec<_> = proxy
        .holdings()
        .chain([access.bodies.clone(), answers])
        .collect();
    let parts = Parts::new(EVENTS.name, common, NoFeed::default(), gateway)
        .frame_bytes(frame_bytes)
        .routes(move |telemetry| {
            let broadcast = move |body| pusher.clone().answer(body);
            let mut routes = vec![
                health_route(telemetry, away, bus_health),
                Route::get("/healthz", |_| healthz()),
                internal::route(BROADCAST_PATH, access, clock, broadcast),
            ];
            routes.extend(client_routes(ClientModule::Events));
            routes.extend(proxy.routes());
            routes
        })
        .front(FrontPage {
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
        })
        .stats_head(Box::new(move |_, object| {
            away_stats.write(object);
            if let Some(bus) = &bus_stats {
                bus.write(object);
            }
        }))
        .metrics(metrics)
        .holdings(holdings)
        .inputs(inputs)
        .output(move |call| calls.make(call))
        .threads(move || to_start.threads.start())
        .asks(questions);
    let prepared = keys
        .add_to(parts)
        .prepare(clock, move |listening| {
            let websocket = listening.url("ws", EventsGateway::PATH);
            let (lobby, measurement) = (&own.lobby_url, &own.measurement_url);
            let (simulation, bus) = (&own.simulation_url, bus_address.as_deref());
            let routes = Some(shown(&own.routes)).filter(|routes| !routes.is_empty());
            let routes_line = routes.iter().map(|routes| format!("\n  Routes:      {routes}"));
            let routes_line: String = routes_line.collect();
            let bus_line = bus.map_or_else(String::new, |bus| format!("\n  Bus:         {bus}"));
            let pages = listening.page_lines(13);
            let text = format!(
                "weirgate events\n  Lobby:       {lobby}\n  Measurement: {measurement}\n  \
                 Simulation:  {simulation}{routes_line}{bus_line}\n  WebSocket:   {websocket}{pages}"
            );
            say(&text, || {
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
        })?;
    Ok(prepared.ending_with(move || {
        if let Some(bus) = &bus {
            bus.leave();
        }
    }))
}

/// How many connections of the proxy to all proxied services there may be.
fn proxy_connections_max(table: &Services, limits: &ProxyLimits) -> usize {
    let proxied = table.rows().iter().filter(|row| !row.proxied.is_empty());
    proxied.count() * limits.service_connections_max
}

/// The services of the table, in the order of their numbers.
fn services(own: &EventsSettings, table: &Services) -> Result<Vec<services::Service>, RunError> {
    let rows = table.rows().iter().map(|row| (row.name, upstream(row)));
    let rows: Vec<_> = rows.collect();
    let wants_tls = rows.iter().any(|(_, upstream)| upstream.wants_tls());
    let tls = wants_tls.then(|| tls_roots::client(own.upstream_ca_file.as_deref()));
    let wrong = |error| RunError::Settings(format!("--upstream-ca-file: {error}"));
    let tls = tls.transpose().map_err(wrong)?;
    let service = |(name, upstream)| services::Service::new(name, upstream, tls.clone());
    Ok(rows.into_iter().map(service).collect())
}

/// The check of a service for `--check --connect`.
fn question(service: &services::Service) -> Question {
    let (service, asked) = (service.clone(), service.to_string());
    Question::new(asked.clone(), move || {
        vec![match service.ask(CALL_PATH) {
            Ok((status, place, _)) if status.is_redirection() => {
                let to = if place.is_empty() { "" } else { " to " };
                let why = "calls follow no redirect";
                Finding::Error(format!("{asked} answered {status}{to}{place}: {why}"))
            }
            Ok((status, _, ms)) => Finding::Good(format!("{asked} answered {status} in {ms} ms")),
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

/// Warns that a token is no proof while a device may also come without one.
fn warn_of_optional_tokens(authenticator: &Authenticator) {
    if !authenticator.required && authenticator.has_keys() {
        tracing::warn!(
            "there are keys for tokens and REQUIRE_AUTH is off: a device without a good token still names itself"
        );
    }
}

fn start_calls(
    own: &EventsSettings,
    services: Vec<services::Service>,
    answers: Quota,
    to_loop: ToLoop,
) -> Result<Calls, RunError> {
    let silence = Duration::from_millis(own.http_timeout_ms.unsigned_abs());
    let limits = CallLimits {
        silence,
        whole: silence * WHOLE_SILENCES,
        answer_bytes_max: ANSWER_BYTES_MAX.min(own.answers_bytes_max),
        answers,
        clock: to_loop.clock,
    };
    let replied = move |reply| to_loop.send([Input::Reply(reply)]);
    let calls = Calls::start(services, CALL_PATH, limits, Box::new(replied));
    calls.map_err(RunError::Thread)
}

/// `/healthz` (contract events, row "Set-up").
fn healthz() -> Answer {
    let mut object = ObjectWriter::new();
    object.string("status", "ok");
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// `/health` as in the other gateways, and also the services that are away and the bus between instances.
fn health_route(telemetry: &Arc<Telemetry>, away: ServicesAway, bus: Option<Bus>) -> Route {
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
fn gateway_metrics(
    stats: &Arc<EventsStats>,
    by_service: &ByService<ServiceCallStats>,
) -> Vec<GatewayMetric> {
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    vec![
        services::numbers(&metrics::UPSTREAM_CALLS_SKIPPED, by_service, |s| {
            s.skipped.get()
        }),
        services::numbers(&metrics::UPSTREAM_CIRCUIT_OPEN, by_service, |s| {
            s.open.get()
        }),
        by_label(&metrics::EVENT_ERRORS, |s| s.errors().collect()),
        GatewayMetric::by_label(&AUTH_REFUSALS, &stats.access, |s| s.refusals().collect()),
        number(&names::PUSHES, |s| s.pushes.get()),
        number(&metrics::MESSAGES_FORGOTTEN, |s| s.messages_forgotten.get()),
    ]
}

/// How other threads send inputs to the loop, with what is needed to make frames of pushes. Clones lead to the same
/// loop.
#[derive(Clone)]
pub(super) struct ToLoop {
    pub(super) input: Sender<Input>,
    pub(super) wake: LateWake,
    pub(super) frame_bytes: FrameBytes,
    pub(super) clock: Clock,
}

impl ToLoop {
    /// Sends inputs, and wakes the loop.
    pub(super) fn send(&self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            // Fails only after the end of the loop.
            let _ = self.input.send(input);
        }
        self.wake.wake();
    }

    /// Parses the body of a broadcast. After the delivery, `tell` is called with the number of deliveries.
    ///
    /// # Errors
    /// All errors in the body.
    pub(super) fn read(
        &self,
        body: &[u8],
        tell: impl FnOnce(u64) + Send + 'static,
    ) -> Result<Vec<Push>, Vec<Wrong>> {
        let broadcast = Broadcast::parse(body)?;
        let now = self.clock.now();
        Ok(Push::parts(
            broadcast,
            &self.frame_bytes,
            now,
            Box::new(tell),
        ))
    }
}

/// Turns the body of a broadcast into the response.
#[derive(Clone)]
struct Pusher {
    to_loop: ToLoop,
    /// The other instances.
    bus: Option<Bus>,
}

impl Pusher {
    async fn answer(self, body: Bytes) -> Answer {
        let shared = match self.bus.as_ref().map(|bus| (bus, bus.room(body.len()))) {
            None => None,
            Some((bus, Some(room))) => Some((bus, room)),
            Some((_, None)) => {
                let detail = "Too many pushes wait for other instances";
                return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
            }
        };
        let (sent, outcome) = oneshot::channel();
        let tell = move |count| {
            // The client may have gone.
            let _ = sent.send(count);
        };
        let (bytes, to_loop, whole) = (body.len(), self.to_loop.clone(), body.clone());
        match aside(bytes, move || to_loop.read(&body, tell)).await {
            // After the end of the loop the push is dropped, and `sent` with it.
            Some(Ok(parts)) => self.to_loop.send(parts.into_iter().map(Input::Push)),
            Some(Err(wrong)) => {
                return Answer::json(StatusCode::UNPROCESSABLE_ENTITY, refusal(&wrong));
            }
            None => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Answer::detail(status, "Internal Server Error");
            }
        }
        // The devices here do not wait for the bus.
        let others = shared.map(|(bus, room)| bus.push(whole, room));
        let Ok(count) = outcome.await else {
            return stopping();
        };
        let mut object = ObjectWriter::new();
        match others {
            None => object.number("sent", count),
            Some(others) => match others.await {
                Ok(outcome) => write_shared(&mut object, count, &outcome),
                Err(_) => return stopping(),
            },
        }
        Answer::json(StatusCode::OK, object.finish())
    }
}

/// The response after the end of the loop.
fn stopping() -> Answer {
    Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping")
}

/// Writes the deliveries of all instances together, and the ids of instances that did not answer.
fn write_shared(object: &mut ObjectWriter, count: u64, others: &PushOutcome) {
    object.number("sent", count.saturating_add(others.sent));
    object.string("bus", if others.is_up { "up" } else { "away" });
    object.number("instances", 1 + others.answered as u64);
    let missing = others.missing.iter().map(|id| id.as_str());
    object.strings("missing", missing);
}
