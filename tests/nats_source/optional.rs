//! Streams that may be absent: their subjects are left out, and nobody waits for them.

use std::sync::atomic::Ordering::SeqCst;

use super::silence::{OF_THE_STREAM, deaf, muting};
use super::*;
use weirgate_runtime::ConsumerStatus;

/// Behind every grace.
const LATE: Now = Now {
    mono_us: u64::MAX,
    unix_us: 0,
};

const NEWS: &str = "news.flash";

/// A subject of a stream of its own, beside optional streams.
fn beside_news(url: &str) -> NatsSettings {
    let mut settings = settings(url);
    settings.streams_optional = true;
    settings.subscriptions.push(SubscriptionSpec {
        stream: Some("NEWS".into()),
        subject: NEWS.into(),
        durable: "gateway_news".into(),
    });
    settings
}

fn make(js: &JetStream, name: &str, subject: &str) {
    js.add_stream(StreamConfig {
        name: name.into(),
        subjects: vec![subject.into()],
        ..StreamConfig::default()
    })
    .expect("a stream");
}

fn used(source: &Running) -> Vec<&str> {
    let used = source.status.consumers_used();
    used.map(ConsumerStatus::name).collect()
}

#[test]
fn streams_that_are_absent_are_left_out_until_one_of_them_is_there() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make(&js, "NEWS", "news.*");
    let source = run(beside_news(&server.url()));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    assert_eq!(used(&source), ["gateway_news"]);
    assert!(source.status.subscribed() && !source.status.has_away(LATE, 0));
    thread::sleep(Duration::from_secs(3));
    assert!(js.stream_info("MARKET_DATA").is_err() && js.stream_info("LEVEL_SIGNALS").is_err());
    make(&js, "MARKET_DATA", "market.*");
    eventually("both are read", || {
        source.status.of_consumers(ConsumerStatus::lag).count() == 3
    });
    assert!(js.stream_info("LEVEL_SIGNALS").is_ok(), "the other is made");
    publish(&js, LEVELS, 0..1);
    publish(&js, FLOW, 1..2);
    let mut missing = vec!["levels 0", "flow 1"];
    while !missing.is_empty() {
        let came = short(&source.next());
        missing.retain(|wanted| *wanted != came);
    }
}

#[test]
fn an_outage_leaves_them_left_out_and_streams_of_the_meantime_are_found() {
    let mut server = NatsServer::start();
    make(&jetstream(&server.url()), "NEWS", "news.*");
    let (url, mute) = muting(&server, OF_THE_STREAM);
    let source = run(beside_news(&url));
    source.until("CaughtUp");
    server.kill();
    source.until("Down");
    // Once decided, a silence about the streams keeps nobody waiting.
    mute.store(true, SeqCst);
    server.restart();
    let _deaf = deaf(&server);
    source.until("Up");
    assert_eq!(used(&source), ["gateway_news"]);
    thread::sleep(Duration::from_secs(3));
    assert!(source.status.subscribed() && !source.status.has_away(LATE, 0));
    mute.store(false, SeqCst);
    make(&jetstream(&server.url()), "LEVEL_SIGNALS", "levels.*");
    eventually("both are read", || {
        source.status.of_consumers(ConsumerStatus::lag).count() == 3
    });
}

#[test]
fn one_stream_that_is_there_makes_the_other() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make(&js, "LEVEL_SIGNALS", "levels.*");
    let source = run(beside_news(&server.url()));
    source.until("CaughtUp");
    assert_eq!(used(&source).len(), 3);
    assert!(js.stream_info("MARKET_DATA").is_ok());
}

#[test]
fn a_silence_about_the_streams_decides_nothing() {
    let server = NatsServer::start();
    make(&jetstream(&server.url()), "NEWS", "news.*");
    let (url, mute) = muting(&server, OF_THE_STREAM);
    mute.store(true, SeqCst);
    let _deaf = deaf(&server);
    let source = run(beside_news(&url));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    assert_eq!(used(&source).len(), 3);
    assert!(source.status.consumers()[0].is_away() && source.status.has_away(LATE, 0));
    mute.store(false, SeqCst);
    eventually("they are left out", || used(&source) == ["gateway_news"]);
    assert!(source.status.subscribed());
}
