//! Subjects whose streams are not ours to make: looked for, waited for, and in nobody's way.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::silence::through;
use super::*;

/// The two usual subjects, `news` in whichever stream holds it, and `prices` in a named one.
fn with_foreign_streams(url: &str) -> NatsSettings {
    let foreign = |stream: Option<&str>, subject: &str| SubscriptionSpec {
        stream: stream.map(str::to_owned),
        subject: subject.to_owned(),
        durable: format!("gateway_{subject}"),
    };
    let mut settings = settings(url);
    settings
        .subscriptions
        .extend([foreign(None, "news"), foreign(Some("BY_NAME"), "prices")]);
    settings
}

fn make_stream(js: &JetStream, name: &str, subject: &str) {
    assert!(js.stream_info(name).is_err(), "{name} was made already");
    js.add_stream(StreamConfig {
        name: name.into(),
        subjects: vec![subject.into()],
        ..StreamConfig::default()
    })
    .expect("a stream");
}

#[test]
fn streams_that_are_there_are_found() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_stream(&js, "OTHER", "news.>");
    make_stream(&js, "PAPER", "news");
    make_stream(&js, "BY_NAME", "prices");
    publish(&js, "prices", 0..1);
    let source = run(with_foreign_streams(&server.url()));
    assert_eq!(
        source.until("CaughtUp"),
        ["prices 0 quiet", "WarmedUp", "Up", "CaughtUp"]
    );
    assert!(js.consumer_info("PAPER", "gateway_news").is_ok());
    publish(&js, "news", 0..1);
    assert_eq!(source.until("news 0"), ["news 0"]);
    let lag = |at: usize| source.status.consumers()[at].lag();
    eventually("the lags are known", || {
        lag(2) == Some(0) && lag(3) == Some(0)
    });
}

#[test]
fn streams_that_are_missing_are_waited_for_and_the_others_go_on() {
    let server = NatsServer::start();
    let source = run(with_foreign_streams(&server.url()));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    assert!(source.status.subscribed());
    let js = jetstream(&server.url());
    // Longer than a silent server is borne with.
    source.nothing_comes_for(Duration::from_secs(2));
    publish(&js, FLOW, 0..1);
    assert_eq!(source.until("flow 0"), ["flow 0"]);

    for (stream, subject) in [("NEWS", "news"), ("BY_NAME", "prices")] {
        make_stream(&js, stream, subject);
        publish(&js, subject, 1..2);
        // What was stored before the stream was found is quiet, so its end has to be told; a stream that is found at the
        // same moment may tell its end after a message.
        if short(&source.next()) == format!("{subject} 1 quiet") {
            assert_eq!(source.until("CaughtUp"), ["WarmedUp", "CaughtUp"]);
        }
        publish(&js, subject, 2..3);
        let next = format!("{subject} 2");
        let mut seen = source.until(&next);
        seen.retain(|event| event != "CaughtUp");
        assert_eq!(seen, [next.as_str()]);
    }
    js.delete_stream("NEWS").expect("deleted");
    eventually("its lag is not known any more", || {
        source.status.consumers()[2].lag().is_none()
    });
    publish(&js, FLOW, 1..2);
    assert_eq!(source.until("flow 1"), ["flow 1"]);
    make_stream(&js, "PAPER", "news");
    publish(&js, "news", 3..4);
    let seen = source.until_but_up("news 3");
    assert_eq!(seen, ["news 3"]);
}

#[test]
fn who_may_not_ask_for_a_stream_has_to_name_it() {
    let denied = r#"{ publish: { deny: "$JS.API.STREAM.NAMES" } }"#;
    let server = NatsServer::start_with(&format!(
        "authorization {{ users: [{{ user: u, password: p, permissions: {denied} }}] }}"
    ));
    let url = server.url_as("u:p");
    let source = run(with_foreign_streams(&url));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    let away = source.status.of_consumers(|c| Some(c.is_away().into()));
    let away: Vec<_> = away.map(|(_, away)| away).collect();
    assert_eq!(away, [0, 0, 1, 0], "the others go on");
    let mut named = with_foreign_streams(&url);
    named.subscriptions[2].stream = Some("NEWS".into());
    assert_eq!(run(named).until("CaughtUp"), ["Up", "CaughtUp"]);
}

#[test]
fn what_comes_while_a_subject_is_attached_is_relayed_at_once() {
    let server = NatsServer::start();
    let (armed, js) = (Arc::new(AtomicBool::new(false)), jetstream(&server.url()));
    let (is_armed, flow) = (Arc::clone(&armed), js.clone());
    // A message of another subject reaches the source before the answer to the request for a consumer does.
    let late = move |bytes: &mut Vec<u8>| {
        let subscribes = bytes.starts_with(b"SUB ");
        if subscribes && is_armed.swap(false, SeqCst) {
            publish(&flow, FLOW, 0..1);
            thread::sleep(Duration::from_millis(100));
        }
    };
    let mut settings = with_foreign_streams(&through(&server, late, |_| {}));
    settings.times.ping_interval_ms = 4_000;
    let source = run(settings);
    source.until("CaughtUp");
    armed.store(true, SeqCst);
    make_stream(&js, "NEWS", "news");
    eventually("the subject is attached", || !armed.load(SeqCst));
    let subscribed = Instant::now();
    source.until("flow 0");
    let took = subscribed.elapsed();
    assert!(took < patient(Duration::from_secs(1)), "{took:?}");
}
