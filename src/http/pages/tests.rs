use super::*;
use crate::hub::{FeedStats, Now};
use crate::telemetry::{Build, BusStatus};
use hyper::header;

pub(crate) fn telemetry(clock: Clock) -> Arc<Telemetry> {
    let consumers = [
        ("gateway_levels", "levels.signals"),
        ("gateway_flow", "market.flow"),
    ];
    let build = Build {
        version: "1.2.3",
        commit: "c0ffee",
        gateway: "levels",
        features: "nats".to_owned(),
    };
    let feed = FeedStats::of(["levels.signals"]);
    let bus = BusStatus::new(&consumers, clock.now().unix_ms);
    Telemetry::new(build, feed, Some(Arc::new(bus)), clock.now())
}

pub(crate) fn turn(telemetry: &Telemetry, fill: impl FnOnce(&mut LoopNumbers)) {
    assert!(telemetry.event_loop.turn_ended(Now::default(), fill));
}

pub(crate) fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[test]
fn ready_says_why_it_is_not() {
    let clock = Clock::start();
    let telemetry = telemetry(clock);
    let limits = ReadyLimits::default();
    let answer = ready(&telemetry, clock, &limits);
    assert_eq!(answer.status, 503);
    assert_eq!(text(&answer), r#"{"ready":false,"reasons":["starting"]}"#);
    telemetry.event_loop.set_caught_up();
    let answer = ready(&telemetry, clock, &limits);
    assert_eq!(answer.status, 200);
    assert_eq!(text(&answer), r#"{"ready":true,"reasons":[]}"#);
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    telemetry.event_loop.set_draining();
    assert_eq!(ready(&telemetry, clock, &limits).status, 503);
}

#[test]
fn stats_is_json_with_the_numbers_of_the_loop() {
    let clock = Clock::start();
    let telemetry = telemetry(clock);
    turn(&telemetry, |numbers| {
        numbers.hub.messages_sent = 42;
        numbers.feed.subjects[0].messages_bad = 1;
    });
    let answer = stats(
        ObjectWriter::new(),
        &telemetry,
        clock,
        &ReadyLimits::default(),
    );
    let value: sonic_rs::Value = sonic_rs::from_str(text(&answer)).unwrap();
    let number = |path: &[&str]| {
        let found = path
            .iter()
            .try_fold(&value, |at, key| sonic_rs::JsonValueTrait::get(at, *key));
        found.and_then(sonic_rs::JsonValueTrait::as_u64)
    };
    assert_eq!(number(&["messages", "sent"]), Some(42));
    assert_eq!(
        number(&["bus", "subjects", "levels.signals", "bad"]),
        Some(1)
    );
    assert_eq!(number(&["connections", "http"]), Some(0));
    assert_eq!(number(&["send_errors", "peer_gone"]), Some(0));
    assert_eq!(number(&["loop", "turns"]), Some(0));
}
