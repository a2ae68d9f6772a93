//! Assembles the levels gateway on any source.

use std::sync::Arc;

use crossbeam_channel::unbounded;

use super::DEMO;
use super::endpoint::{self, EndpointSettings};
use super::pages::{health_route, keys_route, slow_route, tab_route};
use super::relay::{DURABLES, RelaySettings};
use super::slow::SlowLine;
use crate::base::Clock;
use crate::base::LateWake;
use crate::feeds::levels::{Endpoint, LevelsFeed, LevelsFeedSettings, Relay, SUBJECTS, TOPIC};
use crate::gateways::{DemoGateway, LevelsGateway, LevelsPath};
use crate::http::{Route, page};
use crate::hub::{FrameBytes, Gateway, TopicName};
use crate::run::{CommonSettings, Inputs, Listening, Parts, Prepared, RunError, say};
use crate::settings::Checked;
use crate::sources::Source;
use crate::sources::simulated::{SimulatedSettings, SimulatedSource};
use crate::telemetry::BusStatus;

/// Assembles the levels gateway on a simulated market.
pub(super) fn demo(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let market = SimulatedSettings {
        levels: checked.number("levels"),
        seed: checked.number("seed"),
    };
    let rate_hz = f64::from(checked.number::<u32>("rate-hz"));
    let plan = LevelsPlan::new(DEMO.name, checked, Vec::new(), true);
    let status = plan.bus_status(clock);
    let source = SimulatedSource::new(market, rate_hz, Arc::clone(&status));
    let (questions, inputs) = unbounded();
    let wake = LateWake::default();
    let line = SlowLine::default();
    let pages = vec![
        slow_route(),
        tab_route(questions, wake.clone(), line.clone()),
    ];
    let url = "simulated".to_owned();
    plan.parts(DemoGateway::new, source, status, url, clock, pages)
        .take_over(Arc::new(move |handover, back| line.take(handover, back)))
        .inputs(Inputs {
            receiver: inputs,
            wake,
        })
        .prepare(clock, |listening| {
            let [page, websocket] = addresses(listening);
            let as_json = || tracing::info!(page, websocket, "weirgate demo: a simulated market");
            say(&welcome([&page, &websocket]), as_json);
        })
}

/// The text at the start of the demo: the addresses to open.
fn welcome([page, websocket]: [&str; 2]) -> String {
    format!("weirgate demo: a simulated market\n  Page:      {page}\n  WebSocket: {websocket}")
}

/// The addresses of the page and of the WebSocket.
fn addresses(listening: &Listening) -> [String; 2] {
    [("http", "/"), ("ws", LevelsGateway::PATH)].map(|(scheme, path)| listening.url(scheme, path))
}

/// The levels gateway without its source.
pub(super) struct LevelsPlan {
    gateway: &'static str,
    common: CommonSettings,
    feed: LevelsFeedSettings,
    paths: Vec<LevelsPath>,
    pub(super) relays: Vec<RelaySettings>,
    /// Whether the permanent subjects are read, at least if their streams exist.
    pub(super) has_market: bool,
}

impl LevelsPlan {
    pub(super) fn new(
        gateway: &'static str,
        checked: &Checked,
        relays: Vec<RelaySettings>,
        has_market: bool,
    ) -> Self {
        let endpoints = endpoint::of(checked);
        Self {
            gateway,
            common: CommonSettings::new(checked),
            feed: feed_settings(checked, &relays, &endpoints),
            paths: paths(&endpoints),
            relays,
            has_market,
        }
    }

    /// The durable consumers and their subjects, as `/health` shows them.
    pub(super) fn consumers(&self) -> impl Iterator<Item = (&str, &str)> {
        let relays = self.relays.iter();
        let relayed = relays.map(|r| (r.durable.as_str(), r.subject.as_str()));
        let permanent = DURABLES.into_iter().zip(SUBJECTS);
        let permanent = permanent.filter(|_| self.has_market);
        permanent.chain(relayed)
    }

    /// Judges messages by the rules of the feed.
    pub(super) fn judge(&self) -> crate::feeds::levels::LevelsJudge {
        crate::feeds::levels::LevelsJudge::new(&self.feed)
    }

    pub(super) fn bus_status(&self, clock: Clock) -> Arc<BusStatus> {
        let consumers: Vec<_> = self.consumers().collect();
        Arc::new(BusStatus::new(&consumers, clock.now().unix_ms))
    }

    /// Assembles the gateway on a source. `shown_url` is the address of the bus, for `/health`; `more` are
    /// further pages.
    pub(super) fn parts<G: Gateway>(
        self,
        gateway: impl FnOnce(LevelsGateway) -> G,
        source: impl Source + 'static,
        status: Arc<BusStatus>,
        shown_url: String,
        clock: Clock,
        more: Vec<Route>,
    ) -> Parts<G, LevelsFeed> {
        let frame_bytes = FrameBytes::default();
        let has_status = self.common.admin_addr.is_none();
        let gateway = gateway(LevelsGateway::new(self.paths, self.common.origins()));
        let feed = LevelsFeed::new(self.feed, frame_bytes.clone());
        Parts::new(self.gateway, self.common, feed, gateway)
            .frame_bytes(frame_bytes)
            .source(source, status)
            .routes(move |telemetry| {
                let mut routes = page::routes(has_status);
                routes.push(health_route(telemetry, shown_url));
                routes.push(keys_route(telemetry, clock, self.relays));
                routes.extend(more);
                routes
            })
    }
}

/// The topic of a path has the name of the path, for both feed and gateway.
fn topic(endpoint: &EndpointSettings) -> TopicName {
    endpoint.path.clone().into()
}

fn feed_settings(
    checked: &Checked,
    relays: &[RelaySettings],
    endpoints: &[EndpointSettings],
) -> LevelsFeedSettings {
    let relay = |relay: &RelaySettings| Relay {
        subject: relay.subject.clone(),
        key: relay.key.clone(),
    };
    let endpoint = |endpoint: &EndpointSettings| Endpoint {
        topic: topic(endpoint),
        keys: endpoint.keys.clone(),
    };
    LevelsFeedSettings {
        json_depth_max: checked.number("json-depth-max"),
        session_length_min: checked.number("session-length-min"),
        bus_message_bytes_max: checked.number("bus-message-bytes-max"),
        relays: relays.iter().map(relay).collect(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        is_numbered: checked.switch("state-seq"),
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::hub::FeedStats;
    use crate::listening::ListenAddr;
    use crate::telemetry::{Build, Telemetry};

    fn listening(addrs: Vec<ListenAddr>) -> Listening {
        let build = Build {
            version: "0",
            commit: "c0ffee",
            gateway: "demo",
            features: String::new(),
        };
        let now = Clock::start().now();
        Listening {
            addrs,
            tls_addrs: Vec::new(),
            admin_addr: None,
            telemetry: Telemetry::new(build, FeedStats::default(), None, now),
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
}
