//! What `weirgate events` is made of.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use hyper::StatusCode;
use rustls::ClientConfig;
use tokio::sync::oneshot;

use super::RunError;
use super::gateway::{Inputs, Parts, run_gateway};
use super::process::{Process, say};
use crate::auth::Origins;
use crate::clock::Clock;
use crate::feeds::NoFeed;
use crate::gateways::events::broadcast::{Broadcast, Wrong, refusal};
use crate::gateways::events::{
    EventsGateway, EventsGatewaySettings, EventsStats, Input, Push, Service,
};
use crate::http::aside;
use crate::http::calls::{CallLimits, CallStats, Called, Calls, Upstream};
use crate::http::internal::{self, InternalAccess};
use crate::http::proxy::{self, ProxySettings, ProxyStats};
use crate::http::{Answer, Bytes, Route};
use crate::hub::FrameBytes;
use crate::reactor::LateWake;
use crate::settings::EventsSettings;
use crate::telemetry::{GatewayMetric, Telemetry, names};
use crate::trust;
use crate::wire::object_writer::ObjectWriter;

/// Silences that the whole of a call may last (contract events, `HTTP_TIMEOUT_SECONDS`).
const WHOLE_SILENCES: u32 = 6;

/// Runs the events gateway until a signal.
///
/// # Errors
/// It could not start, or the loop failed.
pub fn events(settings: EventsSettings) -> Result<(), RunError> {
    let process = Process::start(&settings.common)?;
    if settings.internal_token.is_none() {
        tracing::warn!("INTERNAL_AUTH_TOKEN is not set: nobody can push events");
    }
    let stats = Arc::new(EventsStats::default());
    let services = [&settings.lobby, &settings.measurement, &settings.simulation].map(called);
    let call_stats = services.each_ref().map(|called| Arc::clone(&called.stats));

    let wake = LateWake::default();
    let (input, inputs) = unbounded();
    let tls = tls(&settings)?;
    let proxy_stats = ProxyStats::default();
    let proxy = proxy_settings(&settings, tls.clone(), proxy_stats.clone());
    let calls = start_calls(&settings, services.into(), tls, input.clone(), wake.clone())?;
    let frame_bytes = FrameBytes::default();
    let pusher = Pusher {
        input,
        wake: wake.clone(),
        frame_bytes: frame_bytes.clone(),
        clock: process.clock,
        json_depth_max: settings.common.limits.json_depth_max,
    };
    let access = InternalAccess {
        token: settings
            .internal_token
            .as_ref()
            .map(|token| token.expose().to_owned()),
        body_bytes_max: settings.broadcast_bytes_max,
    };
    let origins = Origins::new(settings.common.allowed_origins.iter().cloned());
    let parts = Parts {
        name: "events",
        common: &settings.common,
        status: None,
        feed: NoFeed::default(),
        gateway: EventsGateway::new(gateway_settings(&settings), origins, Arc::clone(&stats)),
        frame_bytes,
        source: None,
        routes: Box::new(move |telemetry| {
            let broadcast = move |body| pusher.clone().answer(body);
            let mut routes = vec![
                health_route(telemetry),
                Route::get("/healthz", |_| healthz()),
                internal::route("/internal/broadcast", access, broadcast),
            ];
            routes.extend(proxy::routes(proxy));
            routes
        }),
        fallback: None,
        stats_head: None,
        stats_line: None,
        metrics: metrics(&stats, call_stats)
            .into_iter()
            .chain(proxy_stats.metrics())
            .collect(),
        inputs: Inputs {
            receiver: inputs,
            wake,
        },
        output: Box::new(move |call| calls.make(call)),
    };
    run_gateway(process, parts, |addr| {
        let port = addr.port();
        let EventsSettings {
            lobby,
            measurement,
            simulation,
            ..
        } = &settings;
        say(&format!(
            "weirgate events\n  Lobby:       {lobby}\n  Measurement: {measurement}\n  \
             Simulation:  {simulation}\n  WebSocket:   ws://localhost:{port}/ws"
        ));
    })
}

fn gateway_settings(settings: &EventsSettings) -> EventsGatewaySettings {
    EventsGatewaySettings {
        message_bytes_max: settings.message_bytes_max,
        rate_burst: settings.rate_burst,
        rate_per_second_milli: settings.rate_per_second_milli,
        calls_max: settings.calls_max,
        orphans_max: settings.orphans_max,
        json_depth_max: settings.common.limits.json_depth_max,
    }
}

fn called(upstream: &Upstream) -> Called {
    Called {
        upstream: upstream.clone(),
        stats: Arc::default(),
    }
}

/// TLS, where a service is at `https://`.
fn tls(settings: &EventsSettings) -> Result<Option<Arc<ClientConfig>>, RunError> {
    let services = [&settings.lobby, &settings.measurement, &settings.simulation];
    if !services.into_iter().any(Upstream::wants_tls) {
        return Ok(None);
    }
    let config = trust::client_config(settings.ca_file.as_deref());
    config
        .map(|config| Some(Arc::new(config.with_no_client_auth())))
        .map_err(|error| RunError::Settings(format!("TLS to services: {error}")))
}

fn proxy_settings(
    settings: &EventsSettings,
    tls: Option<Arc<ClientConfig>>,
    stats: ProxyStats,
) -> ProxySettings {
    ProxySettings {
        measurement: settings.measurement.clone(),
        simulation: settings.simulation.clone(),
        tls,
        silence_timeout_ms: settings.proxy_silence_timeout_ms,
        service_connections_max: settings.proxy_connections_max,
        trusted_proxies: settings.common.trusted_proxies.clone(),
        stats,
    }
}

fn start_calls(
    settings: &EventsSettings,
    services: Vec<Called>,
    tls: Option<Arc<ClientConfig>>,
    input: Sender<Input>,
    wake: LateWake,
) -> Result<Calls, RunError> {
    let silence = Duration::from_millis(settings.http_timeout_ms);
    let limits = CallLimits {
        silence,
        whole: silence * WHOLE_SILENCES,
        answer_bytes_max: settings.answer_bytes_max,
    };
    let replied = move |reply| {
        // After the loop's end nobody waits for it.
        let _ = input.send(Input::Reply(reply));
        wake.wake();
    };
    Calls::start(services, tls, limits, Box::new(replied)).map_err(RunError::Thread)
}

/// From the body of a broadcast to its answer.
#[derive(Clone)]
struct Pusher {
    input: Sender<Input>,
    wake: LateWake,
    frame_bytes: FrameBytes,
    clock: Clock,
    json_depth_max: usize,
}

impl Pusher {
    async fn answer(self, body: Bytes) -> Answer {
        let (sent, told) = oneshot::channel();
        let (bytes, pusher) = (body.len(), self.clone());
        match aside::work(bytes, move || pusher.read(&body, sent)).await {
            // After the loop's end the push is dropped, and nobody tells.
            Some(Ok(parts)) => parts
                .into_iter()
                .for_each(|part| drop(self.input.send(Input::Push(part)))),
            Some(Err(wrong)) => {
                return Answer::json(StatusCode::UNPROCESSABLE_ENTITY, refusal(&wrong));
            }
            None => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Answer::detail(status, "Internal Server Error");
            }
        }
        self.wake.wake();
        match told.await {
            Ok(count) => {
                let mut object = ObjectWriter::new();
                object.number("sent", count);
                Answer::json(StatusCode::OK, object.finish())
            }
            Err(_) => Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
        }
    }

    fn read(&self, body: &[u8], sent: oneshot::Sender<u64>) -> Result<Vec<Push>, Vec<Wrong>> {
        let broadcast = Broadcast::parse(body, self.json_depth_max)?;
        let tell = move |count| {
            // The client may have gone.
            let _ = sent.send(count);
        };
        let now = self.clock.now();
        Ok(Push::parts(
            broadcast,
            &self.frame_bytes,
            now,
            Box::new(tell),
        ))
    }
}

/// `/healthz` (contract events, row "Set-up").
fn healthz() -> Answer {
    let mut object = ObjectWriter::new();
    object.string("status", "ok");
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// `/health`, as the other gateways have it.
fn health_route(telemetry: &Arc<Telemetry>) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let mut object = ObjectWriter::new();
        object.string("service", "gateway");
        object.string("status", "healthy");
        object.number("connections", telemetry.event_loop.clients.load());
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

fn metrics(
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
