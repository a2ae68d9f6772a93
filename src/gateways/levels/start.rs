//! `weirgate levels` and `weirgate demo`: the same feed and gateway, on NATS JetStream or on a simulated market. Their
//! entries in the list of gateways, and their start.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;

use crate::commands::GatewayKind;
use crate::gateways::levels::client::{DemoGateway, LevelsGateway, LevelsPath};
use crate::gateways::levels::feed::{KEYS, LevelsFeed, LevelsFeedSettings, LevelsJudge, SUBJECTS};
use crate::gateways::levels::pages::{TAB_PATH, health_route, keys_route, tab_route};
use crate::gateways::levels::relay::{DURABLES, RelaySettings};
use crate::gateways::levels::settings::{DemoSettings, LevelsSettings, Market};
use crate::gateways::levels::slow_line::{SlowLine, slow_route};
use crate::gateways::shared::bus::nats;
use weirgate_bus;
use weirgate_bus::nats::{LookBack, NatsSettings, NatsSource, StreamSpec, SubscriptionSpec};
use weirgate_bus::simulated::SimulatedSource;
use weirgate_core::{FrameBytes, Gateway};
use weirgate_runtime::{BusStatus, Clock, LateWake, Source, detached};
use weirgate_server::flag;
use weirgate_server::http::{PageParts, Route};
use weirgate_server::run::{
    CommonSettings, Inputs, Listening, Parts, Prepared, RunError, StartQuestion, say,
};
use weirgate_server::settings::{Checked, NatsAccess, Rows, SecretUrl, SettingsError, TablePart};

/// `weirgate levels`.
pub(in crate::gateways) const LEVELS: GatewayKind = GatewayKind::new(
    "levels",
    "Relay one state of NATS to all clients: price levels, or any subject (--relay)",
    Rows::gateway(&[
        TablePart::Bus,
        TablePart::BusMessages,
        TablePart::JetStream,
        TablePart::Nats,
        TablePart::StopCode,
    ])
    .own(&[
        super::settings::OF_LEVELS,
        super::settings::OF_BOTH,
        super::settings::SESSION,
    ]),
    start,
)
.check(|checked| {
    let nothing = super::settings::nothing_to_read(checked);
    nothing.into_iter().chain(unknown_keys(checked)).collect()
})
.dialect(crate::gateways::shared::dialects::LEVELS);

/// `weirgate demo`.
pub(in crate::gateways) const DEMO: GatewayKind = GatewayKind::new(
    "demo",
    "Run the levels gateway with a simulated market, without a broker",
    Rows::gateway(&[TablePart::Bus, TablePart::BusMessages, TablePart::StopCode])
        .own(&[
            super::settings::OF_BOTH,
            super::settings::SESSION,
            super::settings::OF_DEMO,
        ])
        .changes(super::settings::DEMO_CHANGES)
        .defaults(super::settings::demo_defaults),
    demo,
)
.check(unknown_keys)
.dialect(crate::gateways::shared::dialects::LEVELS);

/// The endpoints with keys outside the payload.
fn unknown_keys(checked: &Checked) -> Vec<SettingsError> {
    let own: LevelsSettings = checked.get();
    let relayed = own.relays.iter().map(|relay| relay.key.as_str());
    let known: Vec<_> = KEYS.into_iter().chain(relayed).collect();
    let LevelsFeedSettings { endpoints, .. } = checked.get();
    let refused = endpoints.iter().filter_map(|e| e.unknown_key(&known));
    // The first row is `--endpoint`.
    let flag = super::settings::OF_BOTH[0].flag;
    refused.map(|r| checked.refused(flag, &r)).collect()
}

/// If the newest message of a subject is bad, at most this many are fetched to find the last good one.
const LOOK_BACK_MESSAGES_MAX: u64 = 200;

/// Frames the banner.
const RULE: &str = "============================================================";

/// The last line of the banner, printed when both subscriptions are confirmed.
const SUBSCRIBED: &str = "✅ Gateway subscribed to NATS subjects";

/// Assembles the levels gateway on NATS.
fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let NatsAccess {
        urls: url,
        ephemeral,
        ..
    } = checked.get();
    let access = nats(checked, flag!("nats-url"), &url)?;
    let market = super::settings::market(&checked.get());
    let plan = LevelsPlan::new(LEVELS.name, checked, market);
    let status = plan.bus_status(clock);
    let judge = LevelsJudge::new(&plan.feed);
    let look_back = LookBack {
        messages_max: LOOK_BACK_MESSAGES_MAX,
        is_good: Arc::new(move |subject, payload| judge.is_good(subject, payload)),
    };
    let settings = NatsSettings {
        streams_optional: market == Market::IfThere,
        ephemeral,
        look_back,
        ..stream_settings(access, &plan)
    };
    let asked = format!("NATS at {url}");
    let for_question = settings.clone();
    let question = StartQuestion::new(asked, move |_| for_question.check());
    let source = NatsSource::new(settings, Arc::clone(&status));
    let subscribing = Arc::clone(&status);
    // The gateway as it is, and no further pages.
    plan.parts(
        |levels| levels,
        source,
        status,
        url.to_string(),
        clock,
        Vec::new(),
    )
    .asks([question])
    .prepare(clock, move |listening| {
        let websocket = listening.url("ws", LevelsGateway::PATH);
        let as_json = || tracing::info!(nats_url = %url, websocket, "GATEWAY SERVICE");
        say(&levels_block(&url, &websocket), as_json);
        announce_subscribed(subscribing);
    })
}

/// Assembles the levels gateway on a simulated market.
fn demo(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let DemoSettings { market, rate_hz } = checked.get();
    let mut plan = LevelsPlan::new(DEMO.name, checked, Market::On);
    // A browser may take `localhost` for 127.0.0.1 or for [::1].
    if !checked.is_set(flag!("listen")) {
        let addrs = &mut plan.common.reactor.listen.addrs;
        let other = addrs.first().and_then(|addr| addr.other_loopback());
        addrs.extend(other);
    }
    let status = plan.bus_status(clock);
    let source = SimulatedSource::new(market, f64::from(rate_hz), Arc::clone(&status));
    let (questions, inputs) = unbounded();
    let wake = LateWake::default();
    let line = SlowLine::default();
    let pages = vec![
        slow_route(),
        tab_route(questions, wake.clone(), line.clone()),
    ];
    let url = "simulated".to_owned();
    plan.parts(DemoGateway::new, source, status, url, clock, pages)
        .take_over(Arc::new(move |handover, back| {
            line.take(handover, &**back, clock.mono_us())
        }))
        .inputs(Inputs::new(inputs, wake))
        .prepare(clock, |listening| {
            let [page, websocket] = addresses(listening);
            let as_json = || tracing::info!(page, websocket, "weirgate demo: a simulated market");
            say(&welcome([&page, &websocket]), as_json);
        })
}

/// The text at the start of the demo: the addresses to open.
fn welcome([page, websocket]: [&str; 2]) -> String {
    let lines = [
        ("Page", page.to_owned()),
        ("WebSocket", websocket.to_owned()),
    ];
    Listening::banner("weirgate demo: a simulated market", &lines)
}

/// The addresses of the page and of the WebSocket.
fn addresses(listening: &Listening) -> [String; 2] {
    [("http", "/"), ("ws", LevelsGateway::PATH)].map(|(scheme, path)| listening.url(scheme, path))
}

/// Adds to the access what this gateway needs: the streams of the permanent subjects, if these are read, and the
/// subscriptions.
fn stream_settings(access: NatsSettings, plan: &LevelsPlan) -> NatsSettings {
    const DAY_S: u64 = 24 * 60 * 60;
    let stream = |name: &str, subjects: &[&str]| StreamSpec {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&s| s.to_owned()).collect(),
        max_age_s: DAY_S,
    };
    let streams = match plan.has_market {
        true => vec![
            stream("LEVEL_SIGNALS", &["levels.*"]),
            stream("MARKET_DATA", &["market.*", "market.*.*"]),
        ],
        false => Vec::new(),
    };
    NatsSettings {
        subscriptions: subscriptions(&streams, plan),
        streams,
        ..access
    }
}

/// Returns a subscription for each consumer of the plan. `streams` are those that weirgate makes; a relay may name no
/// stream, and then weirgate looks for it by the subject.
fn subscriptions(streams: &[StreamSpec], plan: &LevelsPlan) -> Vec<SubscriptionSpec> {
    // The streams, in the order of `LevelsPlan::consumers`. The publishers of relayed subjects create theirs.
    let named = |relay: &RelaySettings| relay.stream.clone();
    let ours = streams.iter().map(|stream| Some(stream.name.clone()));
    let streams = ours.chain(plan.relays.iter().map(named));
    let targets = streams.zip(plan.consumers());
    let subscription = |(stream, (durable, subject)): (_, (&str, &str))| SubscriptionSpec {
        stream,
        subject: subject.to_owned(),
        durable: durable.to_owned(),
    };
    targets.map(subscription).collect()
}

/// Starts a thread that waits until the subscriptions are confirmed, and then prints the last line of the banner.
fn announce_subscribed(status: Arc<BusStatus>) {
    let wait = move || {
        while !status.subscribed() {
            thread::sleep(Duration::from_millis(20));
        }
        say(SUBSCRIBED, || tracing::info!("{SUBSCRIBED}"));
    };
    // Without the thread only the line is missing.
    if let Err(error) = detached("banner", wait) {
        tracing::warn!(%error, "cannot wait for the subscriptions");
    }
}

/// The block at the start of `weirgate levels`.
fn levels_block(nats_url: &SecretUrl, websocket: &str) -> String {
    format!(
        "{RULE}\nGATEWAY SERVICE\n{RULE}\n  NATS URL: {nats_url}\n  \
         WebSocket: {websocket}\n{RULE}"
    )
}

/// The levels gateway without its source.
struct LevelsPlan {
    gateway: &'static str,
    common: CommonSettings,
    feed: LevelsFeedSettings,
    paths: Vec<LevelsPath>,
    relays: Vec<RelaySettings>,
    /// Whether the permanent subjects are read: always, or if one of their streams exists.
    has_market: bool,
}

impl LevelsPlan {
    fn new(gateway: &'static str, checked: &Checked, market: Market) -> Self {
        let LevelsSettings { relays, .. } = checked.get();
        let feed = LevelsFeedSettings {
            relays: relays.iter().map(RelaySettings::of_feed).collect(),
            messages: checked.get(),
            ..checked.get()
        };
        Self {
            gateway,
            common: CommonSettings::new(checked),
            paths: paths(&feed),
            feed,
            relays,
            has_market: market != Market::Off,
        }
    }

    /// The durable consumers and their subjects, as `/health` shows them.
    fn consumers(&self) -> impl Iterator<Item = (&str, &str)> {
        let relays = self.relays.iter();
        let relayed = relays.map(|r| (r.durable.as_str(), r.subject.as_str()));
        let permanent = DURABLES.into_iter().zip(SUBJECTS);
        let permanent = permanent.filter(|_| self.has_market);
        permanent.chain(relayed)
    }

    fn bus_status(&self, clock: Clock) -> Arc<BusStatus> {
        let consumers: Vec<_> = self.consumers().collect();
        Arc::new(BusStatus::new(&consumers, clock.mono_us()))
    }

    /// Assembles the gateway with a source. `shown_url` is the address of the bus, for `/health`; `more` has further
    /// pages.
    fn parts<G: Gateway>(
        self,
        gateway: impl FnOnce(LevelsGateway) -> G,
        source: impl Source + 'static,
        status: Arc<BusStatus>,
        shown_url: String,
        clock: Clock,
        more: Vec<Route>,
    ) -> Parts<G, LevelsFeed> {
        let frame_bytes = FrameBytes::default();
        let parts = PageParts {
            has_status: self.common.admin_addr.is_none(),
            has_slow_line: more.iter().any(|route| route.path == TAB_PATH),
        };
        let gateway = gateway(LevelsGateway::new(self.paths, self.common.origins()));
        let feed = LevelsFeed::new(self.feed, frame_bytes.clone());
        Parts::new(self.gateway, self.common, feed, gateway)
            .frame_bytes(frame_bytes)
            .source(source, status)
            .routes(move |telemetry| {
                let mut routes = parts.routes();
                routes.push(health_route(telemetry, shown_url));
                routes.push(keys_route(telemetry, clock, self.relays));
                routes.extend(more);
                routes
            })
    }
}

/// Feed and gateway both name the topic of a path after the path.
fn paths(feed: &LevelsFeedSettings) -> Vec<LevelsPath> {
    let everything = LevelsPath {
        path: LevelsGateway::PATH.to_owned(),
        topic: LevelsFeed::TOPIC,
        subjects: None,
    };
    let others = feed.endpoints.iter().map(|endpoint| LevelsPath {
        path: endpoint.topic.as_str().to_owned(),
        topic: endpoint.topic.clone(),
        subjects: Some(feed.subjects_of(endpoint)),
    });
    [everything].into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use weirgate_core::FeedStats;
    use weirgate_server::build_info::BuildInfo;
    use weirgate_server::listening::ListenAddr;
    use weirgate_server::telemetry::Telemetry;

    fn listening(addrs: Vec<ListenAddr>) -> Listening {
        let now = Clock::start().now();
        Listening {
            addrs,
            tls_addrs: Vec::new(),
            admin_addr: None,
            telemetry: Telemetry::new(BuildInfo::THIS, "demo", FeedStats::default(), None, now),
        }
    }

    fn said(listening: &Listening) -> String {
        let [page, websocket] = addresses(listening);
        welcome([&page, &websocket])
    }

    #[test]
    fn the_demo_says_what_to_open() {
        for (listen, page) in [
            ("127.0.0.1:8000", "http://localhost:8000/\n"),
            ("[::]:80", "http://localhost:80/\n"),
            ("10.0.0.1:80", "http://10.0.0.1:80/\n"),
            ("127.0.0.2:80", "http://127.0.0.2:80/\n"),
            ("[fd00::1]:80", "http://[fd00::1]:80/\n"),
        ] {
            let addr = listen.parse::<SocketAddr>().expect("an address");
            let text = said(&listening(vec![addr.into()]));
            assert!(text.contains(page), "{listen}: {text}");
        }
        let unix = said(&listening(vec![ListenAddr::Unix("/run/a.sock".into())]));
        assert!(
            unix.ends_with("WebSocket: ws+unix:/run/a.sock:/ws/stream"),
            "{unix}"
        );
    }

    #[test]
    fn the_levels_block_is_the_documents() {
        let url = SecretUrl::new("nats://nats:4222");
        let expected = "\
============================================================
GATEWAY SERVICE
============================================================
  NATS URL: nats://nats:4222
  WebSocket: ws://localhost:8000/ws/stream
============================================================
✅ Gateway subscribed to NATS subjects
";
        let start = levels_block(&url, "ws://localhost:8000/ws/stream");
        assert_eq!(format!("{start}\n{}\n", SUBSCRIBED), expected);
    }

    #[test]
    fn the_banner_hides_the_password() {
        let url = SecretUrl::new("nats://ann:s3cret@nats:4222");
        let start = levels_block(&url, "ws://localhost:9000/ws/stream");
        assert!(start.contains("  NATS URL: nats://ann:***@nats:4222\n"));
        assert!(!start.contains("s3cret"));
    }
}
