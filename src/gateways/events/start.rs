//! `weirgate events`, the gateway between devices and HTTP services: its start and its pages.
//!
//! Also how other threads send replies and pushes to the loop, and `POST /internal/broadcast`: from the body to the
//! response with the number of devices.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use tokio::sync::oneshot;

use crate::commands::GatewayKind;
use crate::gateways::events::broadcast::{Broadcast, Wrong, refusal};
use crate::gateways::events::bus::PushOutcome;
use crate::gateways::events::bus::open::Bus;
use crate::gateways::events::http_calls::{CallLimits, Calls};
use crate::gateways::events::internal;
use crate::gateways::events::internal::InternalAccess;
use crate::gateways::events::metrics;
use crate::gateways::events::proxy::{Proxied, ProxiedPath, Proxy, ProxyLimits, ProxySettings};
use crate::gateways::events::settings::EventsSettings;
use crate::gateways::events::{
    BROADCAST_PATH, CALL_PATH, EventsGateway, EventsGatewaySettings, EventsService, EventsStats,
    INNER_PATHS, Input, Push,
};
use crate::gateways::shared::auth::warn_of_short;
use crate::gateways::shared::feed::NoFeed;
use crate::services;
use crate::services::{ServicesAway, Upstream};
use weirgate_bus::runtime::{Clock, LateWake, tls_roots};
use weirgate_core::FrameBytes;
use weirgate_server::http::{
    Answer, Bytes, ClientModule, FrontPage, Route, StatusCode, aside, client_routes,
};
use weirgate_server::run::{CommonSettings, Inputs, Parts, Prepared, Question, RunError, say};
use weirgate_server::settings::{Checked, Part, Rows};
use weirgate_server::telemetry::{GatewayMetric, Telemetry, names};
use weirgate_wire::admission::Quota;
use weirgate_wire::base::Finding;
use weirgate_wire::json::ObjectWriter;

/// `weirgate events`.
pub(in crate::gateways) const EVENTS: GatewayKind = GatewayKind::new(
    "events",
    "Route devices' requests to HTTP services, and push events to devices",
    Rows::gateway(&[Part::Nats, Part::Redis, Part::History, Part::StopCode])
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
.dialect(crate::gateways::shared::dialects::EVENTS);

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
    let mut gateway_settings = EventsGatewaySettings {
        message_bytes_max: common.limits.message_bytes_max,
        ..checked.get()
    };
    let proxy_limits: ProxyLimits = checked.get();
    common.limits.message_bytes_max = CLOSE_BYTES_MIN.max(4 * gateway_settings.message_bytes_max);
    common.service_connections_max =
        gateway_settings.calls_max + proxy_connections_max(&proxy_limits);
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
    let stats = Arc::new(EventsStats::default());
    let services = services(&own)?;
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
    let proxy = Proxy::new(proxy_settings(proxy_limits, &services, &common, clock));
    let answers = Quota::new("answer_bytes", own.answers_bytes_max as u64);
    let for_calls = services.clone().into();
    let calls = start_calls(&own, for_calls, answers.clone(), to_loop.clone())?;
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
    metrics.extend(gateway_metrics(&stats));
    metrics.extend(proxy.metrics());
    metrics.push(away.metric());
    metrics.extend(bus.iter().flat_map(Bus::metrics));
    let (away_stats, bus_stats, bus_health) = (away.clone(), bus.clone(), bus.clone());
    let urls = EventsService::ALL.map(|service| upstream(&own, service).to_string());
    let bus_address = bus.as_ref().map(|bus| bus.address.clone());
    let gateway = EventsGateway::new(gateway_settings, common.origins(), Arc::clone(&stats));
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
    let prepared = Parts::new(EVENTS.name, common, NoFeed::default(), gateway)
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
        .asks(questions)
        .prepare(clock, move |listening| {
            let websocket = listening.url("ws", EventsGateway::PATH);
            let ([lobby, measurement, simulation], bus) = (&urls, bus_address.as_deref());
            let bus_line = bus.map_or_else(String::new, |bus| format!("\n  Bus:         {bus}"));
            let pages = listening.page_lines(13);
            let text = format!(
                "weirgate events\n  Lobby:       {lobby}\n  Measurement: {measurement}\n  \
                 Simulation:  {simulation}{bus_line}\n  WebSocket:   {websocket}{pages}"
            );
            say(&text, || {
                tracing::info!(
                    lobby,
                    measurement,
                    simulation,
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
fn proxy_connections_max(limits: &ProxyLimits) -> usize {
    let proxied = EventsService::ALL
        .iter()
        .filter(|s| !s.proxied().is_empty());
    proxied.count() * limits.service_connections_max
}

/// The services, ordered by number.
fn services(
    own: &EventsSettings,
) -> Result<[services::Service; EventsService::ALL.len()], RunError> {
    let wants_tls = EventsService::ALL
        .iter()
        .any(|&s| upstream(own, s).wants_tls());
    let tls = wants_tls.then(|| tls_roots::client(own.upstream_ca_file.as_deref()));
    let wrong = |error| RunError::Settings(format!("--upstream-ca-file: {error}"));
    let tls = tls.transpose().map_err(wrong)?;
    let service = |service: EventsService| {
        services::Service::new(service.label(), upstream(own, service), tls.clone())
    };
    Ok(EventsService::ALL.map(service))
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
fn upstream(own: &EventsSettings, service: EventsService) -> Upstream {
    let url = match service {
        EventsService::Lobby => &own.lobby_url,
        EventsService::Measurement => &own.measurement_url,
        EventsService::Simulation => &own.simulation_url,
    };
    match Upstream::parse(url) {
        Some(upstream) => upstream,
        None => unreachable!("the form of the row reads it"),
    }
}

fn proxy_settings(
    limits: ProxyLimits,
    services: &[services::Service],
    common: &CommonSettings,
    clock: Clock,
) -> ProxySettings {
    let paths = |service: EventsService| {
        let paths = service.proxied().iter();
        paths.map(|&(path, cut)| ProxiedPath { path, cut })
    };
    let proxied = |(number, service): (EventsService, &services::Service)| Proxied {
        service: service.clone(),
        paths: paths(number).collect(),
    };
    let services = EventsService::ALL.into_iter().zip(services);
    let services = services.filter(|(number, _)| !number.proxied().is_empty());
    ProxySettings {
        services: services.map(proxied).collect(),
        inner_paths: &INNER_PATHS,
        limits,
        held: common.limits.http_held.clone(),
        clock,
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
fn gateway_metrics(stats: &Arc<EventsStats>) -> Vec<GatewayMetric> {
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    vec![
        by_label(&metrics::UPSTREAM_CALLS_SKIPPED, |s| {
            s.calls_skipped().collect()
        }),
        by_label(&metrics::UPSTREAM_CIRCUIT_OPEN, |s| {
            s.circuits_open().collect()
        }),
        by_label(&metrics::EVENT_ERRORS, |s| s.errors().collect()),
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
