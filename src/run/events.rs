//! What `weirgate events` is made of.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use hyper::StatusCode;
use rustls::ClientConfig;
use tokio::sync::oneshot;

use super::RunError;
use super::gateway::{Inside, Parts, run_gateway};
use super::process::{Process, say};
use crate::auth::Origins;
use crate::clock::Clock;
use crate::feeds::NoFeed;
use crate::gateways::events::broadcast::{Broadcast, Wrong, refusal};
use crate::gateways::events::{
    BROADCAST_PATH, CALL_PATH, EventsGateway, EventsGatewaySettings, EventsStats, INNER_PATHS,
    Push, Service,
};
use crate::http::aside;
use crate::http::calls::{CallLimits, Calls};
use crate::http::internal::{self, InternalAccess};
use crate::http::proxy::{Proxied, ProxiedPath, Proxy, ProxySettings};
use crate::http::services::{self, Upstream};
use crate::http::{Answer, Bytes, Route};
use crate::hub::{FrameBytes, Reply};
use crate::reactor::{LateWake, Outside};
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
    let services = services(&settings)?;
    let wake = LateWake::default();
    let (reply, replies) = unbounded();
    let proxy = Proxy::new(proxy_settings(&settings, &services, process.clock));
    let calls = start_calls(&settings, services.into(), reply, wake.clone())?;
    let (push, commands) = unbounded();
    let frame_bytes = FrameBytes::default();
    let pusher = Pusher {
        push,
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
    let mut metrics = calls.metrics();
    metrics.extend(gateway_metrics(&stats));
    metrics.extend(proxy.metrics());
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
                internal::route(BROADCAST_PATH, access, broadcast),
            ];
            routes.extend(proxy.routes());
            routes
        }),
        fallback: None,
        stats_head: None,
        stats_line: None,
        metrics,
        outside: Box::new(move |outside| {
            if let Outside::Call(call) = outside {
                calls.make(call);
            }
        }),
        inside: Inside {
            commands,
            replies,
            wake,
        },
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

/// The services, in the order of their numbers.
fn services(
    settings: &EventsSettings,
) -> Result<[services::Service; Service::ALL.len()], RunError> {
    let upstream = |service| match service {
        Service::Lobby => &settings.lobby,
        Service::Measurement => &settings.measurement,
        Service::Simulation => &settings.simulation,
    };
    let wants_tls = Service::ALL
        .map(upstream)
        .into_iter()
        .any(Upstream::wants_tls);
    let tls = wants_tls.then(|| tls(settings)).transpose()?;
    let service = |service: Service| {
        services::Service::new(service.label(), upstream(service).clone(), tls.clone())
    };
    Ok(Service::ALL.map(service))
}

fn tls(settings: &EventsSettings) -> Result<Arc<ClientConfig>, RunError> {
    let config = trust::client_config(settings.ca_file.as_deref());
    config
        .map(|config| Arc::new(config.with_no_client_auth()))
        .map_err(|error| RunError::Settings(format!("TLS to services: {error}")))
}

fn proxy_settings(
    settings: &EventsSettings,
    services: &[services::Service],
    clock: Clock,
) -> ProxySettings {
    let paths = |service: Service| {
        let paths = service.proxied().iter();
        paths.map(|&(path, cut)| ProxiedPath { path, cut })
    };
    let proxied = |(number, service): (Service, &services::Service)| Proxied {
        service: service.clone(),
        paths: paths(number).collect(),
    };
    let services = Service::ALL.into_iter().zip(services);
    let services = services.filter(|(number, _)| !number.proxied().is_empty());
    let trusted = settings.common.trusted_proxies.clone();
    ProxySettings {
        services: services.map(proxied).collect(),
        inner_paths: &INNER_PATHS,
        silence_timeout_ms: settings.proxy_silence_timeout_ms,
        service_connections_max: settings.proxy_connections_max,
        trusts: Box::new(move |peer| trusted.trusts(peer)),
        clock,
    }
}

fn start_calls(
    settings: &EventsSettings,
    services: Vec<services::Service>,
    reply: Sender<Reply>,
    wake: LateWake,
) -> Result<Calls, RunError> {
    let silence = Duration::from_millis(settings.http_timeout_ms);
    let limits = CallLimits {
        silence,
        whole: silence * WHOLE_SILENCES,
        answer_bytes_max: settings.answer_bytes_max,
    };
    let replied = move |answer| {
        // After the loop's end nobody waits for it.
        let _ = reply.send(answer);
        wake.wake();
    };
    let calls = Calls::start(services, CALL_PATH, limits, Box::new(replied));
    calls.map_err(RunError::Thread)
}

/// From the body of a broadcast to its answer.
#[derive(Clone)]
struct Pusher {
    push: Sender<Push>,
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
                .for_each(|part| drop(self.push.send(part))),
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
        object.number("connections", telemetry.event_loop.clients());
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// What the gateway counts itself.
fn gateway_metrics(stats: &Arc<EventsStats>) -> Vec<GatewayMetric> {
    let [skipped, open, errors, pushes, forgotten] = [(); 5].map(|()| Arc::clone(stats));
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
    ]
}
