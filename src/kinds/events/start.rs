//! Puts the events gateway together.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use rustls::ClientConfig;

use super::EVENTS;
use super::broadcast::Pusher;
use super::pages::{health_route, healthz, metrics};
use crate::feeds::NoFeed;
use crate::gateways::events::{EventsGateway, EventsGatewaySettings, EventsStats};
use crate::http::Route;
use crate::http::calls::{CallLimits, Called, Calls, Upstream};
use crate::http::internal::{self, InternalAccess};
use crate::http::proxy::{self, ProxySettings, ProxyStats};
use crate::hub::{FrameBytes, Reply};
use crate::reactor::{LateWake, Outside};
use crate::run::{CommonSettings, Inside, Parts, RunError, say, start_process};
use crate::settings::Checked;
use crate::trust;

/// Silences that the whole of a call may last (contract events, `HTTP_TIMEOUT_SECONDS`).
const WHOLE_SILENCES: u32 = 6;

/// A message is refused from `MAX_MESSAGE_BYTES` on; its connection ends only from the larger of
/// this and four times that (contract events, row `message_too_large`).
const CLOSE_BYTES_MIN: usize = 1024 * 1024;

/// Runs the events gateway until a signal.
pub(super) fn start(checked: &Checked) -> Result<(), RunError> {
    let gateway_settings = gateway_settings(checked);
    let mut common = CommonSettings::new(checked);
    common.limits.message_bytes_max = CLOSE_BYTES_MIN.max(4 * gateway_settings.message_bytes_max);
    let services = Services::new(checked);
    let access = internal_access(checked);
    let clock = start_process(checked)?;
    if access.token.is_none() {
        tracing::warn!("INTERNAL_AUTH_TOKEN is not set: nobody can push events");
    }
    let stats = Arc::new(EventsStats::default());
    let called = services.each().map(called);
    let call_stats = called.each_ref().map(|called| Arc::clone(&called.stats));

    let wake = LateWake::default();
    let (reply, replies) = unbounded();
    let tls = services.tls(checked)?;
    let proxy_stats = ProxyStats::default();
    let proxy = proxy_settings(checked, &services, tls.clone(), proxy_stats.clone());
    let calls = start_calls(checked, called.into(), tls, reply, wake.clone())?;
    let (push, commands) = unbounded();
    let frame_bytes = FrameBytes::default();
    let pusher = Pusher {
        push,
        wake: wake.clone(),
        frame_bytes: frame_bytes.clone(),
        clock,
        json_depth_max: gateway_settings.json_depth_max,
    };
    let gateway = EventsGateway::new(gateway_settings, common.origins(), Arc::clone(&stats));
    Parts::new(EVENTS.name, common, NoFeed::default(), gateway)
        .frame_bytes(frame_bytes)
        .routes(move |telemetry| {
            let broadcast = move |body| pusher.clone().answer(body);
            let mut routes = vec![
                health_route(telemetry),
                Route::get("/healthz", |_| healthz()),
                internal::route("/internal/broadcast", access, broadcast),
            ];
            routes.extend(proxy::routes(proxy));
            routes
        })
        .metrics(metrics(&stats, call_stats))
        .metrics(proxy_stats.metrics())
        .outside(move |outside| {
            if let Outside::Call(call) = outside {
                calls.make(call);
            }
        })
        .inside(Inside {
            commands,
            replies,
            wake,
        })
        .run(clock, |listening| {
            let port = listening.addr.port();
            let [lobby, measurement, simulation] = services.each();
            say(&format!(
                "weirgate events\n  Lobby:       {lobby}\n  Measurement: {measurement}\n  \
                 Simulation:  {simulation}\n  WebSocket:   ws://localhost:{port}/ws"
            ));
        })
}

fn gateway_settings(checked: &Checked) -> EventsGatewaySettings {
    // A part of a message is none.
    let whole = checked.milli("rate-limit-burst") / 1000;
    EventsGatewaySettings {
        message_bytes_max: checked.number("message-bytes-max"),
        rate_burst: u32::try_from(whole).unwrap_or(u32::MAX).max(1),
        rate_per_second_milli: checked.milli("rate-limit-rps"),
        calls_max: checked.number("calls-max"),
        orphans_max: checked.number("orphans-max"),
        json_depth_max: checked.number("json-depth-max"),
    }
}

fn internal_access(checked: &Checked) -> InternalAccess {
    let token = checked.secret("internal-auth-token");
    InternalAccess {
        token: token.map(|token| token.expose().to_owned()),
        body_bytes_max: checked.number("broadcast-bytes-max"),
    }
}

/// Where the services are.
struct Services {
    /// Where `lobby.*` is handled.
    lobby: Upstream,
    /// Where jobs of `measurement.*` are handled.
    measurement: Upstream,
    /// Where `simulation.*` is handled.
    simulation: Upstream,
}

impl Services {
    fn new(checked: &Checked) -> Self {
        let service = |flag| checked.formed(flag, Upstream::parse);
        Self {
            lobby: service("lobby-url"),
            measurement: service("measurement-url"),
            simulation: service("simulation-url"),
        }
    }

    /// In the order in which the gateway numbers them.
    fn each(&self) -> [&Upstream; 3] {
        [&self.lobby, &self.measurement, &self.simulation]
    }

    /// TLS, where a service is at `https://`.
    fn tls(&self, checked: &Checked) -> Result<Option<Arc<ClientConfig>>, RunError> {
        let ca_file = checked.path("upstream-ca-file");
        if !self.each().into_iter().any(Upstream::wants_tls) {
            return Ok(None);
        }
        let config = trust::client_config(ca_file.as_deref());
        config
            .map(|config| Some(Arc::new(config.with_no_client_auth())))
            .map_err(|error| RunError::Settings(format!("TLS to services: {error}")))
    }
}

fn called(upstream: &Upstream) -> Called {
    Called {
        upstream: upstream.clone(),
        stats: Arc::default(),
    }
}

fn proxy_settings(
    checked: &Checked,
    services: &Services,
    tls: Option<Arc<ClientConfig>>,
    stats: ProxyStats,
) -> ProxySettings {
    ProxySettings {
        measurement: services.measurement.clone(),
        simulation: services.simulation.clone(),
        tls,
        silence_timeout_ms: checked.number("proxy-silence-timeout-ms"),
        service_connections_max: checked.number("proxy-connections-max"),
        trusted_proxies: checked.networks("trusted-proxies"),
        stats,
    }
}

fn start_calls(
    checked: &Checked,
    services: Vec<Called>,
    tls: Option<Arc<ClientConfig>>,
    reply: Sender<Reply>,
    wake: LateWake,
) -> Result<Calls, RunError> {
    let silence = Duration::from_millis(checked.milli("http-timeout-s"));
    let limits = CallLimits {
        silence,
        whole: silence * WHOLE_SILENCES,
        answer_bytes_max: checked.number("upstream-answer-bytes-max"),
    };
    let replied = move |answer| {
        // After the loop's end nobody waits for it.
        let _ = reply.send(answer);
        wake.wake();
    };
    Calls::start(services, tls, limits, Box::new(replied)).map_err(RunError::Thread)
}
