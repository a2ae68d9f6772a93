//! Puts source, feed, hub and reactor together from resolved settings, and runs them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, never};

use crate::auth::Origins;
use crate::clock::Clock;
use crate::feeds::levels::{LevelsFeed, LevelsFeedSettings, TOPIC};
use crate::gateways::LevelsGateway;
use crate::http::{Cors, HttpPlane, HttpSettings, ReadyLimits, Route, Site, pages};
use crate::hub::{Core, DrainPlan, Feed, FrameBytes, Hub};
use crate::reactor::{
    CLOSE_REASONS, CONNECTION_OUTCOMES, ListenSettings, Reactor, ReactorSettings, Seams,
    TurnBudgets, Wake,
};
use crate::settings::{CommonSettings, DemoSettings, LevelsSettings, LogFormat, banner};
use crate::sources::simulated::{SimulatedSettings, SimulatedSource};
use crate::sources::{Source, SourceLink};
use crate::telemetry::logging::{self, LoggingError};
use crate::telemetry::{Build, BusStatus, LoopLabels, Telemetry};

/// The levels contract's durables and their subjects, as `/health` shows them.
const CONSUMERS: [(&str, &str); 2] = [
    ("gateway_levels", "levels.signals"),
    ("gateway_flow", "market.flow"),
];

/// The page inside the binary.
const PAGE: &str = include_str!("http/page/index.html");

/// From the last turn of the loop to the end of the HTTP side.
const HTTP_STOP: Duration = Duration::from_millis(200);

/// Why a gateway ended without a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Settings: `RUST_LOG` cannot be read.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// Settings: the address is taken, or is none of this machine's.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Us: a thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Us: the poll failed.
    #[error("the event loop failed: {0}")]
    Loop(io::Error),
    /// Settings: the gateway needs a source that is not in this build.
    #[error("this build has no {0} source")]
    NotBuilt(&'static str),
}

/// Runs the levels gateway until a signal.
///
/// # Errors
/// It could not start, or the loop failed.
#[cfg(feature = "nats")]
pub fn levels(settings: LevelsSettings) -> Result<(), RunError> {
    use crate::sources::nats::NatsSource;

    let process = Process::start(&settings.common)?;
    let now_unix_ms = process.clock.now().unix_ms;
    let status = Arc::new(BusStatus::new(&CONSUMERS, now_unix_ms));
    let source = NatsSource::new(nats_settings(&settings), Arc::clone(&status));
    let shown_url = settings.nats_url.to_string();
    let plan = LevelsPlan {
        gateway: "levels",
        common: &settings.common,
        session_length_min: settings.session_length_min,
        shown_url: &shown_url,
        status: Arc::clone(&status),
    };
    let announce = |addr: SocketAddr| {
        say(&banner::levels_start(&settings.nats_url, addr.port()));
        announce_subscribed(status);
    };
    run_levels(process, &plan, Box::new(source), announce)
}

/// Without the NATS source there is nothing to run.
///
/// # Errors
/// Always.
#[cfg(not(feature = "nats"))]
pub fn levels(_: LevelsSettings) -> Result<(), RunError> {
    Err(RunError::NotBuilt("NATS"))
}

/// Runs the levels gateway on a simulated market until a signal.
///
/// # Errors
/// It could not start, or the loop failed.
pub fn demo(settings: DemoSettings) -> Result<(), RunError> {
    let process = Process::start(&settings.common)?;
    let now_unix_ms = process.clock.now().unix_ms;
    let status = Arc::new(BusStatus::new(&CONSUMERS, now_unix_ms));
    let market = SimulatedSettings {
        levels: settings.levels,
        seed: settings.seed,
    };
    let rate_hz = f64::from(settings.rate_hz);
    let source = SimulatedSource::new(market, rate_hz, Arc::clone(&status));
    let plan = LevelsPlan {
        gateway: "demo",
        common: &settings.common,
        session_length_min: settings.session_length_min,
        shown_url: "simulated",
        status,
    };
    let announce = |addr| say(&banner::demo_start(addr));
    run_levels(process, &plan, Box::new(source), announce)
}

/// What every process has before it has a gateway.
struct Process {
    clock: Clock,
}

impl Process {
    fn start(common: &CommonSettings) -> Result<Self, RunError> {
        logging::init(match common.log_format {
            LogFormat::Text => logging::LogFormat::Text,
            LogFormat::Json => logging::LogFormat::Json,
        })?;
        for warning in &common.warnings {
            tracing::warn!("{warning}");
        }
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            tracing::warn!(%error, "the limit on open files could not be raised");
        }
        Ok(Self {
            clock: Clock::start(),
        })
    }
}

/// The levels gateway apart from its source.
struct LevelsPlan<'a> {
    gateway: &'static str,
    common: &'a CommonSettings,
    session_length_min: u32,
    shown_url: &'a str,
    status: Arc<BusStatus>,
}

fn run_levels(
    process: Process,
    plan: &LevelsPlan<'_>,
    source: Box<dyn Source>,
    announce: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    let (clock, common) = (process.clock, plan.common);
    let limits = &common.limits;
    let frame_bytes = FrameBytes::default();
    let feed_settings = LevelsFeedSettings {
        json_depth_max: limits.json_depth_max,
        session_length_min: plan.session_length_min,
        bus_message_bytes_max: limits.bus_message_bytes_max,
    };
    let feed = LevelsFeed::new(feed_settings, frame_bytes.clone());
    let subjects = feed.stats().subjects.iter().map(|s| s.subject.clone());
    let labels = LoopLabels {
        connection_outcomes: &CONNECTION_OUTCOMES,
        close_reasons: &CLOSE_REASONS,
        subjects: subjects.collect(),
    };
    let now = clock.now();
    let telemetry = Telemetry::new(build(plan.gateway), &labels, Some(plan.status.clone()), now);

    let mut routes = status_routes(common, &telemetry, clock);
    routes.push(pages::levels_health_route(
        &telemetry,
        plan.shown_url.to_owned(),
    ));
    let http = start_http(common, routes, Some(PAGE))?;

    let origins = Origins::new(common.allowed_origins.iter().cloned());
    let core = Core::new(limits.core(), frame_bytes, seed(clock));
    let hub = Hub::new(core, LevelsGateway::new(TOPIC, origins));
    let (events, bus) = bounded(limits.bus_queue_messages_max);
    let seams = |wake: &Wake| {
        start_source(source, SourceLink::new(events, waking(wake), clock))?;
        Ok(Seams {
            bus,
            commands: never(),
            replies: never(),
            outside: Box::new(|_| {}),
            http: http.handle(),
            telemetry: Arc::clone(&telemetry),
        })
    };
    let mut reactor = Reactor::bind(reactor_settings(common), hub, feed, clock, seams)
        .map_err(|error| listen_error(common, error))?;
    announce(reactor.local_addr().map_err(RunError::Loop)?);
    reactor.run().map_err(RunError::Loop)?;
    http.stop(HTTP_STOP);
    tracing::info!("stopped");
    Ok(())
}

fn build(gateway: &'static str) -> Build {
    let nats = cfg!(feature = "nats").then_some("nats");
    Build {
        version: env!("CARGO_PKG_VERSION"),
        gateway,
        features: nats.into_iter().collect::<Vec<_>>().join(","),
    }
}

/// Jitter differs from process to process; nothing else is random.
fn seed(clock: Clock) -> u64 {
    clock.now().unix_ms as u64 ^ u64::from(std::process::id()) << 32
}

fn status_routes(common: &CommonSettings, telemetry: &Arc<Telemetry>, clock: Clock) -> Vec<Route> {
    let ready = ReadyLimits {
        loop_stall_ms: common.loop_stall_ms,
        bus_grace_ms: common.ready_bus_grace_ms,
    };
    pages::status_routes(telemetry, clock, ready)
}

fn start_http(
    common: &CommonSettings,
    routes: Vec<Route>,
    page: Option<&'static str>,
) -> Result<HttpPlane, RunError> {
    let cors = match common.allowed_origins.as_slice() {
        [] => Cors::Any,
        listed => Cors::Listed(listed.to_vec()),
    };
    let site = Site {
        routes,
        page,
        fallback: None,
        cors,
    };
    let settings = HttpSettings {
        head_bytes_max: common.limits.head_bytes_max,
        head_headers_max: common.limits.head_headers_max,
        head_timeout_ms: common.limits.handshake_timeout_ms,
        ..HttpSettings::default()
    };
    HttpPlane::start(site, settings).map_err(RunError::Thread)
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

#[cfg(feature = "nats")]
fn nats_settings(settings: &LevelsSettings) -> crate::sources::nats::NatsSettings {
    use crate::sources::nats::{NatsSettings, StreamSpec, SubscriptionSpec};

    const DAY_S: u64 = 24 * 60 * 60;
    let stream = |name: &str, subjects: &[&str]| StreamSpec {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&s| s.to_owned()).collect(),
        max_age_s: DAY_S,
    };
    let subscription = |stream: &str, (durable, subject): (&str, &str)| SubscriptionSpec {
        stream: stream.to_owned(),
        subject: subject.to_owned(),
        durable: durable.to_owned(),
    };
    let [levels, flow] = CONSUMERS;
    NatsSettings {
        urls: settings.nats_url.expose().to_owned(),
        streams: vec![
            stream("LEVEL_SIGNALS", &["levels.*"]),
            stream("MARKET_DATA", &["market.*", "market.*.*"]),
        ],
        subscriptions: vec![
            subscription("LEVEL_SIGNALS", levels),
            subscription("MARKET_DATA", flow),
        ],
        ephemeral: settings.ephemeral,
        reconnect_delay_min_ms: 100,
        reconnect_delay_max_ms: 2_000,
        watchdog_interval_ms: 1_000,
        watchdog_misses: 2,
        backlog_quiet_min: 4,
    }
}

/// Says the last line of the banner once the subscriptions stand.
#[cfg(feature = "nats")]
fn announce_subscribed(status: Arc<BusStatus>) {
    let wait = move || {
        while !status.subscribed() {
            thread::sleep(Duration::from_millis(20));
        }
        say(&banner::levels_subscribed());
    };
    // Without the thread the line is missing, and nothing else.
    if let Err(error) = thread::Builder::new().name("banner".into()).spawn(wait) {
        tracing::warn!(%error, "cannot wait for the subscriptions");
    }
}

/// For people who read standard output; a closed one is no failure.
fn say(text: &str) {
    use std::io::Write;

    let _ = writeln!(io::stdout(), "{text}");
}
