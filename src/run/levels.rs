//! What `weirgate levels` and `weirgate demo` are made of: the same feed and gateway, on NATS or on
//! a simulated market.

use std::net::SocketAddr;
use std::sync::Arc;

use super::RunError;
use super::gateway::{Inside, Parts, run_gateway};
use super::process::{Process, say};
use crate::auth::Origins;
use crate::feeds::levels::{Endpoint, LevelsFeed, LevelsFeedSettings, Relay, SUBJECTS, TOPIC};
use crate::gateways::{LevelsGateway, LevelsPath};
use crate::http::{page, pages};
use crate::hub::{FrameBytes, TopicName};
#[cfg(feature = "nats")]
use crate::settings::NatsUser;
use crate::settings::relay::DURABLES;
use crate::settings::{
    CommonSettings, DemoSettings, EndpointSettings, LevelsSettings, RelaySettings, banner,
};
use crate::sources::Source;
use crate::sources::simulated::{SimulatedSettings, SimulatedSource};
use crate::telemetry::BusStatus;

/// Runs the levels gateway until a signal.
///
/// # Errors
/// It could not start, or the loop failed.
#[cfg(feature = "nats")]
pub fn levels(settings: LevelsSettings) -> Result<(), RunError> {
    use crate::sources::nats::NatsSource;

    let process = Process::start(&settings.common)?;
    let now_unix_ms = process.clock.now().unix_ms;
    let consumers: Vec<_> = consumers(&settings.relays).collect();
    let status = Arc::new(BusStatus::new(&consumers, now_unix_ms));
    let source = NatsSource::new(nats_settings(&settings), Arc::clone(&status));
    let shown_url = settings.nats.url.to_string();
    let plan = LevelsPlan {
        gateway: "levels",
        common: &settings.common,
        session_length_min: settings.session_length_min,
        relays: &settings.relays,
        endpoints: &settings.endpoints,
        shown_url: &shown_url,
        status: Arc::clone(&status),
    };
    let announce = |addr: SocketAddr| {
        say(&banner::levels_start(&settings.nats.url, addr.port()));
        announce_subscribed(status);
    };
    run_levels(process, plan, Box::new(source), announce)
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
    let consumers: Vec<_> = consumers(&[]).collect();
    let status = Arc::new(BusStatus::new(&consumers, now_unix_ms));
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
        relays: &[],
        endpoints: &settings.endpoints,
        shown_url: "simulated",
        status,
    };
    let announce = |addr| say(&banner::demo_start(addr));
    run_levels(process, plan, Box::new(source), announce)
}

/// The levels gateway apart from its source.
struct LevelsPlan<'a> {
    gateway: &'static str,
    common: &'a CommonSettings,
    session_length_min: u32,
    relays: &'a [RelaySettings],
    endpoints: &'a [EndpointSettings],
    shown_url: &'a str,
    status: Arc<BusStatus>,
}

/// The durables and their subjects, as `/health` shows them.
fn consumers(relays: &[RelaySettings]) -> impl Iterator<Item = (&str, &str)> {
    let relayed = relays
        .iter()
        .map(|r| (r.durable.as_str(), r.subject.as_str()));
    DURABLES.into_iter().zip(SUBJECTS).chain(relayed)
}

/// What a path sends has its own name, so that both sides find it.
fn topic(endpoint: &EndpointSettings) -> TopicName {
    endpoint.path.clone().into()
}

fn feed_settings(plan: &LevelsPlan<'_>) -> LevelsFeedSettings {
    let relay = |relay: &RelaySettings| Relay {
        subject: relay.subject.clone(),
        key: relay.key.clone(),
    };
    let endpoint = |endpoint: &EndpointSettings| Endpoint {
        topic: topic(endpoint),
        keys: endpoint.keys.clone(),
    };
    LevelsFeedSettings {
        json_depth_max: plan.common.limits.json_depth_max,
        session_length_min: plan.session_length_min,
        bus_message_bytes_max: plan.common.limits.bus_message_bytes_max,
        relays: plan.relays.iter().map(relay).collect(),
        endpoints: plan.endpoints.iter().map(endpoint).collect(),
    }
}

fn paths(endpoints: &[EndpointSettings]) -> Vec<LevelsPath> {
    let everything = LevelsPath {
        path: LevelsGateway::PATH.to_owned(),
        topic: TOPIC,
    };
    let others = endpoints.iter().map(|endpoint| LevelsPath {
        path: endpoint.path.clone(),
        topic: topic(endpoint),
    });
    [everything].into_iter().chain(others).collect()
}

fn run_levels(
    process: Process,
    plan: LevelsPlan<'_>,
    source: Box<dyn Source>,
    announce: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    let frame_bytes = FrameBytes::default();
    let origins = Origins::new(plan.common.allowed_origins.iter().cloned());
    let shown_url = plan.shown_url.to_owned();
    let feed = LevelsFeed::new(feed_settings(&plan), frame_bytes.clone());
    let parts = Parts {
        name: plan.gateway,
        common: plan.common,
        status: Some(plan.status),
        feed,
        gateway: LevelsGateway::new(paths(plan.endpoints), origins),
        frame_bytes,
        source: Some(source),
        routes: Box::new(move |telemetry| {
            let mut routes = page::routes();
            routes.push(pages::levels_health_route(telemetry, shown_url));
            routes
        }),
        fallback: None,
        stats_head: None,
        stats_line: None,
        metrics: Vec::new(),
        outside: Box::new(|_| {}),
        inside: Inside::nothing(),
    };
    run_gateway(process, parts, announce)
}

#[cfg(feature = "nats")]
fn nats_settings(settings: &LevelsSettings) -> crate::sources::nats::NatsSettings {
    use crate::sources::nats::{NatsSettings, StreamSpec, SubscriptionSpec, Tls};

    const DAY_S: u64 = 24 * 60 * 60;
    let stream = |name: &str, subjects: &[&str]| StreamSpec {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&s| s.to_owned()).collect(),
        max_age_s: DAY_S,
    };
    // Streams of relays are their publishers' to make.
    let named = settings.relays.iter().map(|relay| relay.stream.as_deref());
    let ours = [Some("LEVEL_SIGNALS"), Some("MARKET_DATA")];
    let targets = ours
        .into_iter()
        .chain(named)
        .zip(consumers(&settings.relays));
    let subscriptions = targets.map(|(stream, (durable, subject))| SubscriptionSpec {
        stream: stream.map(str::to_owned),
        subject: subject.to_owned(),
        durable: durable.to_owned(),
    });
    NatsSettings {
        urls: settings.nats.url.expose().to_owned(),
        credentials: credentials(&settings.nats.user),
        tls: Tls {
            ca: settings.nats.ca.clone(),
            client: settings.nats.client.clone(),
        },
        streams: vec![
            stream("LEVEL_SIGNALS", &["levels.*"]),
            stream("MARKET_DATA", &["market.*", "market.*.*"]),
        ],
        subscriptions: subscriptions.collect(),
        ephemeral: settings.ephemeral,
        reconnect_delay_min_ms: 100,
        reconnect_delay_max_ms: 2_000,
        watchdog_interval_ms: 1_000,
        watchdog_misses: 2,
        backlog_quiet_min: 4,
    }
}

#[cfg(feature = "nats")]
fn credentials(user: &NatsUser) -> crate::sources::nats::Credentials {
    use crate::sources::nats::Credentials;

    match user {
        NatsUser::None => Credentials::None,
        NatsUser::Password(user, password) => {
            Credentials::UserPassword(user.clone(), password.expose().to_owned())
        }
        NatsUser::Token(token) => Credentials::Token(token.expose().to_owned()),
        NatsUser::Creds(path) => Credentials::CredsFile(path.clone()),
        NatsUser::Nkey(path) => Credentials::NkeyFile(path.clone()),
    }
}

/// Says the last line of the banner once the subscriptions stand.
#[cfg(feature = "nats")]
fn announce_subscribed(status: Arc<BusStatus>) {
    use std::thread;
    use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::http::ReadyLimits;
    use crate::hub::FeedStats;
    use crate::settings::endpoint::is_http_path;
    use crate::telemetry::{Build, Telemetry};

    #[test]
    fn no_endpoint_can_take_the_path_of_a_page() {
        let build = Build {
            version: "0",
            gateway: "levels",
            features: String::new(),
        };
        let clock = Clock::start();
        let telemetry = Telemetry::new(build, FeedStats::default(), None, clock.now());
        let limits = ReadyLimits {
            loop_stall_ms: 1,
            bus_grace_ms: 1,
        };
        let mut routes = pages::status_routes(&telemetry, clock, limits, None);
        routes.push(pages::levels_health_route(&telemetry, String::new()));
        routes.extend(page::routes());
        for route in routes {
            assert!(is_http_path(route.path), "{}", route.path);
        }
    }
}
