//! The pages of the levels gateway: `/health`, `/page/keys` with the ages of relayed keys, and for the demo `/page/tab`
//! with the connection of a browser tab.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use crate::gateways::levels::client::{TabQuestion, tab_name};
use crate::gateways::levels::relay::RelaySettings;
use crate::gateways::levels::slow_line::SlowLine;
use crossbeam_channel::Sender;
use std::sync::Arc;
use tokio::sync::oneshot;
use weirgate_runtime::{Clock, LateWake};
use weirgate_server::http::{Answer, Handler, LateAnswer, RequestParts, Route, StatusCode};
use weirgate_server::telemetry::Telemetry;
use weirgate_wire::json::ObjectWriter;

/// The path of [`tab_route`], which the demo alone has.
pub(super) const TAB_PATH: &str = "/page/tab";

/// `GET /page/tab?name=NAME&bytes_per_second=N`: the numbers of a tab's connection; also sets the pace of a tab on the
/// slow line. Only the tab that gave its connection the name knows the name.
pub(super) fn tab_route(asks: Sender<TabQuestion>, wake: LateWake, line: SlowLine) -> Route {
    let answer = move |request: RequestParts, _| {
        let query = request.head.uri.query().unwrap_or_default();
        line.set_pace(query);
        let (tell, outcome) = oneshot::channel();
        // The browser may have disconnected.
        let tell = move |snapshot| drop(tell.send(snapshot));
        // No connection has the empty name. Sending fails only after the end of the loop.
        let _ = asks.send((tab_name(query).unwrap_or_default(), Box::new(tell)));
        wake.wake();
        async move {
            // After the end of the loop, the question is dropped.
            let answer = match outcome.await {
                Ok(Some(snapshot)) => Answer::client(&snapshot),
                // The tab has not sent its name yet. The request is not wrong.
                Ok(None) => Answer::json(StatusCode::OK, "null".to_owned()),
                Err(_) => Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
            };
            LateAnswer::from(answer.no_store())
        }
    };
    Route {
        path: TAB_PATH,
        methods: Route::GET,
        answer: Handler::later(answer),
    }
}

/// `/health` of the levels gateway (protocol-levels.md, "HTTP"). `nats_url` is shown as it is, so it must not have
/// a password.
pub(super) fn health_route(telemetry: &Arc<Telemetry>, nats_url: String) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| health(&telemetry, &nats_url))
}

/// `/page/keys`: for each relayed key, how long ago its newest good message arrived, in milliseconds, or null.
pub(super) fn keys_route(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    relays: Vec<RelaySettings>,
) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/page/keys", move |_| {
        keys(&telemetry, &relays, clock.mono_us())
    })
}

/// Returns for the key of each relay how many milliseconds ago its last message came; `null` if none came yet.
fn keys(telemetry: &Telemetry, relays: &[RelaySettings], now_us: u64) -> Answer {
    let mut object = ObjectWriter::new();
    telemetry.event_loop.read(|numbers| {
        for relay in relays {
            let mut subjects = numbers.feed.subjects.iter();
            let stats = subjects.find(|stats| stats.subject == relay.subject);
            let last = stats.and_then(|stats| Some(stats.last_message?.mono_us));
            let age_ms = last.map(|last_us| now_us.saturating_sub(last_us) / 1_000);
            object.maybe_number(&relay.key, age_ms);
        }
    });
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// Returns the page. Its `status` is always `healthy`, also while the bus is away: `nats_connected` says that.
fn health(telemetry: &Telemetry, nats_url: &str) -> Answer {
    let numbers = telemetry.event_loop.numbers();
    let mut object = ObjectWriter::new();
    object.string("service", "gateway");
    object.string("status", "healthy");
    object.string("nats_url", nats_url);
    object.number("connections", numbers.hub.open);
    let bus = telemetry.bus();
    object.boolean("nats_connected", bus.is_some_and(|bus| bus.connected()));
    object.maybe_number("last_message_ts", numbers.feed.last_message_unix_ms);
    let mut lag = ObjectWriter::new();
    for consumer in bus.iter().flat_map(|bus| bus.consumers_used()) {
        lag.maybe_number(consumer.name(), consumer.lag());
    }
    object.object("consumer_lag", lag);
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::levels::settings::is_http_path;
    use weirgate_core::FeedStats;
    use weirgate_runtime::BusStatus;
    use weirgate_server::build_info::BuildInfo;
    use weirgate_server::http::PageParts;
    use weirgate_wire::base::Now;

    fn telemetry(clock: Clock) -> Arc<Telemetry> {
        let consumers = [
            ("gateway_levels", "levels.signals"),
            ("gateway_flow", "market.flow"),
        ];
        let build = BuildInfo {
            version: "1.2.3",
            commit: "c0ffee",
            features: "nats",
            ..BuildInfo::THIS
        };
        let bus = Arc::new(BusStatus::new(&consumers, clock.mono_us()));
        let feed = FeedStats::of(["levels.signals"]);
        Telemetry::new(build, "levels", feed, Some(bus), clock.now())
    }

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    #[test]
    fn health_keeps_the_order_of_the_contract() {
        let telemetry = telemetry(Clock::start());
        let url = "nats://u:***@nats:4222";
        assert_eq!(
            text(&health(&telemetry, url)),
            r#"{"service":"gateway","status":"healthy","nats_url":"nats://u:***@nats:4222","connections":0,"nats_connected":false,"last_message_ts":null,"consumer_lag":{"gateway_levels":null,"gateway_flow":null}}"#
        );
        let turned = telemetry.event_loop.turn_ended(Now::default(), |numbers| {
            numbers.hub.open = 3;
            numbers.feed.last_message_unix_ms = Some(1_700_000_000_000);
        });
        assert!(turned);
        let bus = telemetry.bus().unwrap();
        bus.set_up(true);
        bus.consumers()[1].set_lag(Some(7));
        assert_eq!(
            text(&health(&telemetry, url)),
            r#"{"service":"gateway","status":"healthy","nats_url":"nats://u:***@nats:4222","connections":3,"nats_connected":true,"last_message_ts":1700000000000,"consumer_lag":{"gateway_levels":null,"gateway_flow":7}}"#
        );
    }

    #[test]
    fn each_key_of_a_relay_has_the_age_of_its_message() {
        let telemetry = telemetry(Clock::start());
        let relay = |subject: &str, key: &str| RelaySettings {
            subject: subject.to_owned(),
            key: key.to_owned(),
            stream: None,
            durable: key.to_owned(),
        };
        let relays = [relay("a", "one"), relay("b", "two\""), relay("c", "three")];
        let turned = telemetry.event_loop.turn_ended(Now::default(), |numbers| {
            numbers.feed = FeedStats::of(["a", "b", "c"]);
            numbers.feed.subjects[0].last_message = Some(Now {
                mono_us: 70_000,
                unix_us: 0,
            });
            // Newer than this look.
            numbers.feed.subjects[1].last_message = Some(Now {
                mono_us: 101_000,
                unix_us: 0,
            });
        });
        assert!(turned);
        assert_eq!(
            text(&keys(&telemetry, &relays, 100_000)),
            r#"{"one":30,"two\"":0,"three":null}"#
        );
    }

    #[test]
    fn no_endpoint_can_take_the_path_of_a_page() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        for path in ["/ready", "/stats", "/metrics"] {
            assert!(is_http_path(path), "{path}, which every gateway has");
        }
        let mut routes = vec![
            health_route(&telemetry, String::new()),
            keys_route(&telemetry, clock, Vec::new()),
        ];
        routes.extend(
            PageParts {
                has_status: true,
                has_slow_line: true,
            }
            .routes(),
        );
        for route in routes {
            assert!(is_http_path(route.path), "{}", route.path);
        }
    }
}
