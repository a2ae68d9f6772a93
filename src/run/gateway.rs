//! From feed, gateway and source to a running loop: the same for every gateway.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never};

use super::RunError;
use super::bus_away::BusAway;
use super::process::{Process, build, seed};
use super::stats_line::StatsLine;
use super::systemd;
use crate::clock::Clock;
use crate::feeds::BusEvent;
use crate::http::pages::StatsHead;
use crate::http::{Admin, Cors, Handler, HttpPlane, HttpSettings, ReadyLimits, Route, Site, pages};
use crate::hub::{Core, DrainPlan, Feed, FrameBytes, Gateway, Hub};
use crate::reactor::{
    LateWake, ListenSettings, Reactor, ReactorSettings, Seams, TurnBudgets, Wake, way_back,
};
use crate::settings::CommonSettings;
use crate::sources::{Source, SourceLink};
use crate::telemetry::{BusStatus, GatewayMetric, Telemetry};

/// From the last turn of the loop to the end of the HTTP side.
const HTTP_STOP: Duration = Duration::from_millis(200);

/// How much of `--stop-timeout-ms` a close waits while the gateway is busy with its client; the
/// rest is for the close.
const BUSY_PERCENT: u64 = 60;

/// Makes routes once there is something that they can show.
pub(super) type Routes = Box<dyn FnOnce(&Arc<Telemetry>) -> Vec<Route>>;

/// A gateway's own parts.
pub(super) struct Parts<'a, G: Gateway, F> {
    /// Its name in metrics.
    pub(super) name: &'static str,
    /// The settings that every gateway has.
    pub(super) common: &'a CommonSettings,
    /// What the source says of the bus, where there is one.
    pub(super) status: Option<Arc<BusStatus>>,
    /// The frames alive: the feed counts there what it makes.
    pub(super) frame_bytes: FrameBytes,
    /// Bus messages to publications.
    pub(super) feed: F,
    /// The client side of the contract.
    pub(super) gateway: G,
    /// The bus, where there is one.
    pub(super) source: Option<Box<dyn Source>>,
    /// Pages beside those that every gateway has.
    pub(super) routes: Routes,
    /// The answer for unknown paths, where it is not 404.
    pub(super) fallback: Option<Handler>,
    /// What `/stats` begins with.
    pub(super) stats_head: Option<StatsHead>,
    /// The line that it logs of itself.
    pub(super) stats_line: Option<StatsLine>,
    /// What the gateway counts itself.
    pub(super) metrics: Vec<GatewayMetric>,
    /// What other threads tell the gateway.
    pub(super) inputs: Inputs<G::In>,
    /// Hands other threads what they do for the gateway; must not block.
    pub(super) output: Box<dyn FnMut(G::Out)>,
}

/// What other threads tell the gateway.
pub(super) struct Inputs<I> {
    /// The loop's end of their channel.
    pub(super) receiver: Receiver<I>,
    /// Wakes the loop when something was put in; set when the loop is there.
    pub(super) wake: LateWake,
}

impl<I> Inputs<I> {
    /// Nothing ever comes.
    pub(super) fn none() -> Self {
        Self {
            receiver: never(),
            wake: LateWake::default(),
        }
    }
}

/// Runs a gateway until a signal. `announce` is called with the address once it listens.
///
/// # Errors
/// It could not start, or the loop failed.
pub(super) fn run_gateway<G, F>(
    process: Process,
    parts: Parts<'_, G, F>,
    announce: impl FnOnce(SocketAddr),
) -> Result<(), RunError>
where
    G: Gateway,
    F: Feed<Event = BusEvent>,
{
    let (clock, common) = (process.clock, parts.common);
    let limits = &common.limits;
    let feed = parts.feed.stats().clone();
    let telemetry = Telemetry::new(build(parts.name), feed, parts.status, clock.now());

    telemetry.add_gateway(parts.metrics);

    let mut routes = status_routes(common, &telemetry, clock, parts.stats_head);
    routes.extend((parts.routes)(&telemetry));
    let http = start_http(common, routes, parts.fallback, clock)?;

    let core = Core::new(common.core(), parts.frame_bytes, seed(clock));
    let hub = Hub::new(core, parts.gateway);
    let (events, bus) = bounded(limits.bus_queue_messages_max);
    let seams = |wake: &Wake| {
        parts.inputs.wake.set(wake);
        if let Some(source) = parts.source {
            start_source(source, SourceLink::new(events, waking(wake), clock))?;
        }
        let (back, returned) = way_back(wake);
        Ok(Seams {
            bus,
            inputs: parts.inputs.receiver,
            output: parts.output,
            http: http.handle(back),
            returned,
            telemetry: Arc::clone(&telemetry),
        })
    };
    let mut reactor = Reactor::bind(reactor_settings(common), hub, parts.feed, clock, seams)
        .map_err(|error| listen_error(common, error))?;
    announce(reactor.local_addr().map_err(RunError::Loop)?);
    systemd::listening(&telemetry, clock, stop_at_most(common));
    if let Some(line) = parts.stats_line {
        line.start(Arc::clone(&telemetry))
            .map_err(RunError::Thread)?;
    }
    let bus_away = BusAway::default();
    if let Some(limit_s) = common.bus_away_exit_s {
        let watching = bus_away.watch(Arc::clone(&telemetry), clock, limit_s);
        watching.map_err(RunError::Thread)?;
    }
    reactor.run().map_err(RunError::Loop)?;
    http.stop(HTTP_STOP);
    tracing::info!("stopped");
    match common.bus_away_exit_s {
        Some(limit_s) if bus_away.stops() => Err(RunError::BusAway { limit_s }),
        _ => Ok(()),
    }
}

fn status_routes(
    common: &CommonSettings,
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    stats_head: Option<StatsHead>,
) -> Vec<Route> {
    let ready = ReadyLimits {
        loop_stall_ms: common.loop_stall_ms,
        bus_grace_ms: common.ready_bus_grace_ms,
    };
    pages::status_routes(telemetry, clock, ready, stats_head)
}

fn start_http(
    common: &CommonSettings,
    routes: Vec<Route>,
    fallback: Option<Handler>,
    clock: Clock,
) -> Result<HttpPlane, RunError> {
    let cors = match common.allowed_origins.as_slice() {
        [] => Cors::Any,
        listed => Cors::Listed(listed.to_vec()),
    };
    let site = Site {
        routes,
        fallback,
        cors,
    };
    let (site, admin) = match common.admin_addr {
        Some(addr) => {
            let (site, admin) = site.split_admin();
            (site, Some(bind_admin(addr, admin, clock)?))
        }
        None => (site, None),
    };
    let settings = HttpSettings {
        head_bytes_max: common.limits.head_bytes_max,
        head_headers_max: common.limits.head_headers_max,
        head_timeout_ms: common.limits.handshake_timeout_ms,
        ..HttpSettings::default()
    };
    HttpPlane::start(site, admin, settings).map_err(RunError::Thread)
}

fn bind_admin(addr: SocketAddr, site: Site, clock: Clock) -> Result<Admin, RunError> {
    let listen_error = |error| RunError::Listen { addr, error };
    let admin = Admin::bind(addr, site, clock).map_err(listen_error)?;
    let addr = admin.local_addr().map_err(listen_error)?;
    tracing::info!(%addr, "admin pages");
    Ok(admin)
}

/// How long a stop may take, the HTTP side's included.
fn stop_at_most(common: &CommonSettings) -> Duration {
    Duration::from_millis(common.drain_delay_ms + common.drain_ms + common.stop_timeout_ms)
}

fn waking(wake: &Wake) -> Box<dyn Fn() + Send> {
    let wake = wake.clone();
    Box::new(move || wake.wake())
}

/// The thread ends with the process: it may be blocked on its broker for as long as it likes.
fn start_source(source: Box<dyn Source>, link: SourceLink) -> io::Result<()> {
    let run = move || source.run(link);
    thread::Builder::new().name("source".into()).spawn(run)?;
    Ok(())
}

fn reactor_settings(common: &CommonSettings) -> ReactorSettings {
    let limits = &common.limits;
    ReactorSettings {
        listen: ListenSettings {
            addr: common.listen,
            backlog: common.listen_backlog,
            notsent_lowat_bytes: common.tcp_notsent_lowat_bytes,
        },
        budgets: TurnBudgets {
            accepts_max: limits.accepts_per_turn_max,
            read_bytes_max: limits.read_bytes_per_turn_max,
            publication_bytes_max: limits.turn_publication_bytes_max,
        },
        drain: DrainPlan {
            delay_us: common.drain_delay_ms * 1000,
            spread_us: common.drain_ms * 1000,
            busy_us: common.stop_timeout_ms * 1000 * BUSY_PERCENT / 100,
        },
        stop_timeout_us: common.stop_timeout_ms * 1000,
    }
}

fn listen_error(common: &CommonSettings, error: io::Error) -> RunError {
    RunError::Listen {
        addr: common.listen,
        error,
    }
}
