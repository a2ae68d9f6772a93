//! The NATS source against a real nats-server: what comes, in which order, and what outages do.
#![cfg(feature = "nats")]
#![allow(deprecated)] // the nats crate is, as a whole

#[path = "common/nats_server.rs"]
mod nats_server;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use nats::jetstream::{AckPolicy, ConsumerConfig, JetStream, StreamConfig};
use nats_server::NatsServer;
use weirgate::feeds::{BusEvent, BusMessage};
use weirgate::sources::nats::{NatsSettings, NatsSource, StreamSpec, SubscriptionSpec};
use weirgate::sources::{Clock, Source, SourceLink};
use weirgate::telemetry::BusStatus;

const LEVELS: &str = "levels.signals";
const FLOW: &str = "market.flow";
const PATIENCE: Duration = Duration::from_secs(12);

fn settings(url: &str) -> NatsSettings {
    let stream = |name: &str, subjects: &[&str]| StreamSpec {
        name: name.into(),
        subjects: subjects.iter().map(|&s| s.into()).collect(),
        max_age_s: 86_400,
    };
    let subscription = |stream: &str, subject: &str, durable: &str| SubscriptionSpec {
        stream: stream.into(),
        subject: subject.into(),
        durable: durable.into(),
    };
    NatsSettings {
        urls: url.into(),
        streams: vec![
            stream("LEVEL_SIGNALS", &["levels.*"]),
            stream("MARKET_DATA", &["market.*", "market.*.*"]),
        ],
        subscriptions: vec![
            subscription("LEVEL_SIGNALS", LEVELS, "gateway_levels"),
            subscription("MARKET_DATA", FLOW, "gateway_flow"),
        ],
        ephemeral: false,
        reconnect_delay_min_ms: 100,
        reconnect_delay_max_ms: 2_000,
        watchdog_interval_ms: 500,
        watchdog_misses: 2,
        backlog_quiet_min: 4,
    }
}

/// A source on its thread, and what it hands over.
struct Running {
    events: Receiver<BusEvent>,
    status: Arc<BusStatus>,
    thread: thread::JoinHandle<()>,
}

fn run(settings: NatsSettings) -> Running {
    run_with_room(settings, 4_096)
}

fn run_with_room(settings: NatsSettings, room: usize) -> Running {
    let specs = settings.subscriptions.iter();
    let names: Vec<_> = specs
        .map(|s| (s.durable.as_str(), s.subject.as_str()))
        .collect();
    let status = Arc::new(BusStatus::new(&names, 1));
    let (sender, events) = bounded(room);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    let source = Box::new(NatsSource::new(settings, Arc::clone(&status)));
    let thread = thread::spawn(move || source.run(link));
    Running {
        events,
        status,
        thread,
    }
}

/// What the tests look at, in short: `levels 7`, `flow 3 quiet`, `Up`, `CaughtUp`, `Down`.
fn short(event: &BusEvent) -> String {
    match event {
        BusEvent::Message(m) => {
            let name = if &*m.subject == LEVELS {
                "levels"
            } else {
                "flow"
            };
            let quiet = if m.quiet { " quiet" } else { "" };
            format!("{name} {}{quiet}", String::from_utf8_lossy(&m.payload))
        }
        BusEvent::Down(_) => "Down".into(),
        other => format!("{other:?}"),
    }
}

impl Running {
    fn next(&self) -> BusEvent {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// Everything up to and with the first event of that short form.
    fn until(&self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|s| s != last) {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => seen.push(short(&event)),
                Err(_) => panic!("no {last} after {seen:?}"),
            }
        }
        seen
    }

    /// The same without `CaughtUp`, which comes before or after a backlog of a few messages,
    /// whichever way they were fetched.
    fn until_but_caught_up(&self, last: &str) -> Vec<String> {
        let mut seen = self.until(last);
        seen.retain(|s| s != "CaughtUp");
        seen
    }

    fn next_message(&self) -> BusMessage {
        match self.next() {
            BusEvent::Message(message) => message,
            other => panic!("{other:?} instead of a message"),
        }
    }

    fn nothing_comes_for(&self, time: Duration) {
        if let Ok(event) = self.events.recv_timeout(time) {
            panic!("{event:?}");
        }
    }

    /// Lets the source end by itself: it does when it has something to hand over to nobody.
    fn end(self, server: &mut NatsServer) {
        thread::sleep(Duration::from_millis(100)); // acknowledgements leave every 5 ms
        drop(self.events);
        server.shut_down();
        self.thread.join().expect("the source ends");
    }
}

fn jetstream(url: &str) -> JetStream {
    nats::jetstream::new(nats::connect(url).expect("a connection"))
}

fn publish(js: &JetStream, subject: &str, texts: impl IntoIterator<Item = usize>) {
    for text in texts {
        js.publish(subject, text.to_string()).expect("published");
    }
}

fn make_streams(js: &JetStream) {
    for spec in settings("").streams {
        js.add_stream(StreamConfig {
            name: spec.name,
            subjects: spec.subjects,
            ..StreamConfig::default()
        })
        .expect("a stream");
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn messages_come_in_order_with_their_positions() {
    let server = NatsServer::start();
    let source = run(settings(&server.url()));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    assert!(source.status.subscribed());
    let js = jetstream(&server.url());
    // Other subjects of the same stream leave holes in the sequence and do not come.
    let mut sequences = Vec::new();
    for n in 0..50 {
        publish(&js, "levels.other", [n]);
        let ack = js.publish(LEVELS, n.to_string()).expect("published");
        sequences.push(ack.sequence);
    }
    let info = js
        .stream_info("LEVEL_SIGNALS")
        .expect("the stream that the source made");
    assert_eq!(info.config.subjects, ["levels.*"]);
    assert_eq!(info.config.max_age, Duration::from_secs(86_400));
    for (n, sequence) in sequences.into_iter().enumerate() {
        let message = source.next_message();
        assert_eq!(&*message.subject, LEVELS);
        assert_eq!(message.payload, n.to_string().into_bytes());
        assert!(!message.quiet);
        let position = message.position.expect("a position");
        assert_eq!(position.sequence, sequence);
        let created = i128::from(position.stream_created_unix_ns);
        assert_eq!(created, info.created.unix_timestamp_nanos());
    }
    let info = js
        .consumer_info("LEVEL_SIGNALS", "gateway_levels")
        .expect("the durable");
    assert_eq!(info.config.ack_policy, AckPolicy::Explicit);
    eventually("everything is acknowledged", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.is_ok_and(|i| i.num_ack_pending == 0 && i.num_pending == 0)
    });
    let lag = || source.status.consumers()[0].lag();
    eventually("the lag is known", || lag() == Some(0));
}

#[test]
fn a_restart_resumes_the_durable_with_what_came_meanwhile() {
    let mut server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..3);
    source.until("levels 2");
    source.end(&mut server);

    server.restart();
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 3..6);
    let source = run(settings(&server.url()));
    let few = [
        "levels 5 quiet",
        "Up",
        "CaughtUp",
        "levels 3",
        "levels 4",
        "levels 5",
    ];
    assert_eq!(source.until("levels 5"), few);
    source.end(&mut server);

    server.restart();
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 6..16);
    publish(&js, FLOW, 0..1);
    let source = run(settings(&server.url()));
    let seen = source.until("CaughtUp");
    let warm = ["levels 15 quiet", "flow 0 quiet", "Up"];
    let backlog: Vec<String> = (6..16).map(|n| format!("levels {n} quiet")).collect();
    assert_eq!(seen[..3], warm);
    publish(&js, FLOW, 1..2);
    let rest = source.until("flow 1");
    let all = seen[3..].iter().chain(&rest).cloned();
    let (flow, levels): (Vec<_>, Vec<_>) = all.partition(|s| s.starts_with("flow"));
    assert_eq!(levels[..10], backlog);
    // one message of market.flow is no backlog, and is not held up by the other's
    assert_eq!(flow, ["flow 0", "flow 1"]);
}

#[test]
fn a_durable_of_another_client_is_resumed_as_it_is() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    js.add_consumer(
        "LEVEL_SIGNALS",
        ConsumerConfig {
            durable_name: Some("gateway_levels".into()),
            deliver_subject: Some("odd.place.of.another".into()),
            filter_subject: LEVELS.into(),
            idle_heartbeat: Duration::from_millis(200),
            flow_control: true,
            ..ConsumerConfig::default()
        },
    )
    .expect("a durable");
    publish(&js, LEVELS, 0..3);
    let before = js
        .consumer_info("LEVEL_SIGNALS", "gateway_levels")
        .expect("it");
    let source = run(settings(&server.url()));
    source.until("levels 2");
    // Heartbeats pass, and then messages still come.
    thread::sleep(Duration::from_millis(700));
    publish(&js, LEVELS, 3..2_000);
    source.until("levels 1999");
    let after = js
        .consumer_info("LEVEL_SIGNALS", "gateway_levels")
        .expect("it");
    assert_eq!(after.config, before.config);
    assert_eq!(after.created, before.created);
    let streams = js.stream_info("LEVEL_SIGNALS").expect("the stream");
    assert_eq!(streams.config.max_age, Duration::ZERO, "it was altered");
    assert_eq!(streams.state.consumer_count, 1);
}

#[test]
fn a_killed_server_is_told_once_and_resumed() {
    let mut server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    publish(&jetstream(&server.url()), LEVELS, 0..20);
    source.until("levels 19");
    thread::sleep(Duration::from_millis(300));
    server.kill();
    assert_eq!(source.until("Down"), ["Down"]);
    assert!(!source.status.connected() && source.status.away_since_unix_ms().is_some());
    assert_eq!(source.status.consumers()[0].lag(), None);
    source.nothing_comes_for(Duration::from_secs(3));
    server.restart();
    let back = Instant::now();
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 20..23);
    let seen = source.until_but_caught_up("levels 22");
    assert!(
        back.elapsed() < Duration::from_secs(4),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(seen, ["Up", "levels 20", "levels 21", "levels 22"]);
    assert!(source.status.subscribed() && source.status.away_since_unix_ms().is_none());
    assert_eq!(source.status.reconnects(), 1);
}

#[test]
fn a_long_backlog_after_an_outage_is_quiet() {
    let mut server = NatsServer::start();
    let mut slow = settings(&server.url());
    // time to publish before the source is back
    (slow.reconnect_delay_min_ms, slow.reconnect_delay_max_ms) = (4_000, 4_000);
    let source = run(slow);
    source.until("CaughtUp");
    publish(&jetstream(&server.url()), LEVELS, 0..3);
    source.until("levels 2");
    thread::sleep(Duration::from_millis(300));
    server.kill();
    source.until("Down");
    server.restart();
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 3..103);
    let mut want = vec!["levels 102 quiet".to_owned(), "Up".to_owned()];
    want.extend((3..103).map(|n| format!("levels {n} quiet")));
    want.push("CaughtUp".to_owned());
    assert_eq!(source.until("CaughtUp"), want);
    publish(&js, LEVELS, 103..104);
    assert_eq!(source.until("levels 103"), ["levels 103"]);
}

#[test]
fn a_frozen_server_is_noticed_and_everything_comes_after_it() {
    let server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..10);
    source.until("levels 9");
    server.freeze();
    let frozen = Instant::now();
    assert_eq!(source.until("Down"), ["Down"]);
    assert!(
        frozen.elapsed() < Duration::from_secs(4),
        "{:?}",
        frozen.elapsed()
    );
    thread::sleep(Duration::from_secs(8).saturating_sub(frozen.elapsed()));
    server.thaw();
    let thawed = Instant::now();
    publish(&js, LEVELS, 10..12);
    let seen = source.until_but_caught_up("levels 11");
    assert!(
        thawed.elapsed() < Duration::from_secs(5),
        "{:?}",
        thawed.elapsed()
    );
    assert_eq!(seen, ["Up", "levels 10", "levels 11"]);
    // The durable may look bound to the connection that was left; it is taken over again.
    eventually("the durable is bound", || {
        publish(&js, LEVELS, 12..13);
        source.until("levels 12");
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.is_ok_and(|i| i.push_bound && i.num_ack_pending == 0)
    });
    assert_eq!(source.status.reconnects(), 1);
}

#[test]
fn an_empty_store_gets_streams_and_consumers_again() {
    let mut server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    publish(&jetstream(&server.url()), LEVELS, 0..50);
    source.until("levels 49");
    server.kill();
    source.until("Down");
    server.restart_empty();
    // A publisher was quicker than we: what it stored is news.
    let js = jetstream(&server.url());
    eventually("the stream is there again", || {
        js.publish(LEVELS, "50").is_ok()
    });
    let mut seen = source.until("levels 50");
    publish(&js, LEVELS, 51..53);
    publish(&js, FLOW, 0..1);
    seen.extend(source.until("flow 0"));
    seen.retain(|s| !s.starts_with("flow"));
    assert_eq!(seen[..2], ["Up", "CaughtUp"]);
    assert_eq!(seen[2..], ["levels 50", "levels 51", "levels 52"]);
}

#[test]
fn a_deleted_consumer_and_a_deleted_stream_are_made_again() {
    let server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..1);
    let first = source.next_message().position.expect("a position");
    js.delete_consumer("LEVEL_SIGNALS", "gateway_levels")
        .expect("deleted");
    publish(&js, LEVELS, 1..4);
    assert_eq!(
        source.until("levels 3"),
        ["levels 1", "levels 2", "levels 3"]
    );
    js.delete_stream("LEVEL_SIGNALS").expect("deleted");
    eventually("the stream is there again", || {
        js.publish(LEVELS, "4").is_ok()
    });
    let next = source.next_message();
    assert_eq!(next.payload, b"4");
    let next = next.position.expect("a position");
    assert!(next.stream_created_unix_ns > first.stream_created_unix_ns);
    assert_eq!(next.sequence, 1);
    assert!(js.consumer_info("LEVEL_SIGNALS", "gateway_levels").is_ok());
}

#[test]
fn a_durable_bound_elsewhere_is_left_alone_and_taken_over_when_free() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    let config = ConsumerConfig {
        durable_name: Some("gateway_levels".into()),
        deliver_subject: Some("inbox.of.another".into()),
        filter_subject: LEVELS.into(),
        ..ConsumerConfig::default()
    };
    js.add_consumer("LEVEL_SIGNALS", config).expect("a durable");
    let other_connection = nats::connect(server.url()).expect("a connection");
    let other = other_connection
        .subscribe("inbox.of.another")
        .expect("bound");
    other_connection.flush().expect("flushed");
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    publish(&js, LEVELS, 0..10);
    for n in 0..10 {
        // both get every message: the other one its own, we ours
        let theirs = other.next_timeout(PATIENCE).expect("a message");
        assert_eq!(theirs.data, n.to_string().into_bytes());
        theirs.ack().expect("acknowledged");
    }
    // It leaves while messages come.
    let publisher = thread::spawn(move || {
        for n in 10..400 {
            publish(&js, LEVELS, [n]);
            thread::sleep(Duration::from_millis(5));
        }
        js
    });
    thread::sleep(Duration::from_millis(300));
    drop(other);
    other_connection.close();
    let want: Vec<String> = (0..400).map(|n| format!("levels {n}")).collect();
    assert_eq!(source.until("levels 399"), want);
    let js = publisher.join().expect("published");
    let info = js
        .consumer_info("LEVEL_SIGNALS", "gateway_levels")
        .expect("it");
    assert!(info.push_bound);
    assert_eq!(info.num_pending, 0);
    let streams = js.stream_info("LEVEL_SIGNALS").expect("the stream");
    assert_eq!(
        streams.state.consumer_count, 1,
        "the unnamed consumer stayed"
    );
}

#[test]
fn a_server_that_comes_late_is_found() {
    let mut server = NatsServer::reserve("");
    let source = run(settings(&server.url()));
    assert_eq!(source.until("Down"), ["Down"]);
    source.nothing_comes_for(Duration::from_secs(2));
    server.restart();
    let started = Instant::now();
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    publish(&jetstream(&server.url()), FLOW, 0..1);
    assert_eq!(source.until("flow 0"), ["flow 0"]);
    // at most two seconds between attempts, and one for the rest
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(source.status.reconnects(), 0);
}

#[test]
fn a_full_stream_warms_the_cache_and_is_not_replayed() {
    let server = NatsServer::start();
    let connection = nats::connect(server.url()).expect("a connection");
    let js = nats::jetstream::new(connection.clone());
    make_streams(&js);
    for n in 0..10_000 {
        connection
            .publish(LEVELS, n.to_string())
            .expect("published");
    }
    eventually("everything is stored", || {
        let info = js.stream_info("LEVEL_SIGNALS");
        info.is_ok_and(|i| i.state.messages == 10_000)
    });
    publish(&js, FLOW, 0..1);
    let started = Instant::now();
    let source = run(settings(&server.url()));
    let seen = source.until("CaughtUp");
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        seen,
        ["levels 9999 quiet", "flow 0 quiet", "Up", "CaughtUp"]
    );
    publish(&js, LEVELS, 10_000..10_001);
    assert_eq!(source.until("levels 10000"), ["levels 10000"]);
}

#[test]
fn refusals_are_told_without_secrets_and_tried_again() {
    let users = |password| format!("authorization {{ user: gw, password: \"{password}\" }}");
    let mut server = NatsServer::start_with(&users("other"));
    let url = format!("http://nonsense,{}", server.url_as("gw:s3cr^et%40"));
    let source = run(settings(&url));
    let BusEvent::Down(fault) = source.next() else {
        panic!("it is not down");
    };
    assert!(fault.0.contains("Authorization Violation"), "{fault:?}");
    assert!(!fault.0.contains("s3cr"), "{fault:?}");
    source.nothing_comes_for(Duration::from_secs(1));
    server.restart_with(&users("s3cr^et@"));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);

    let source = run(settings("nats://u:s3cr@host:port"));
    let BusEvent::Down(fault) = source.next() else {
        panic!("it is not down");
    };
    assert!(fault.0.contains("nats://u:***@host:port"), "{fault:?}");
}

#[test]
fn a_server_without_jetstream_is_tried_again() {
    // -js on the command line wins, so the account is the place to forbid it
    let forbidden = "accounts { A { users: [{user: u, password: p}] } }\nno_auth_user: u";
    let mut server = NatsServer::start_with(forbidden);
    let source = run(settings(&server.url()));
    let BusEvent::Down(fault) = source.next() else {
        panic!("it is not down");
    };
    assert!(fault.0.contains("JetStream"), "{fault:?}");
    assert!(!source.status.connected());
    server.restart_with("");
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
}

#[test]
fn unnamed_consumers_give_every_process_every_message() {
    let mut server = NatsServer::start();
    let mut unnamed = settings(&server.url());
    unnamed.ephemeral = true;
    let sources = [run(unnamed.clone()), run(unnamed)];
    for source in &sources {
        source.until("CaughtUp");
    }
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..5);
    for source in &sources {
        let want = ["levels 0", "levels 1", "levels 2", "levels 3", "levels 4"];
        assert_eq!(source.until("levels 4"), want);
    }
    assert!(js.consumer_info("LEVEL_SIGNALS", "gateway_levels").is_err());
    server.kill();
    for source in &sources {
        source.until("Down");
    }
    server.restart();
    publish(&jetstream(&server.url()), LEVELS, 5..8);
    for source in &sources {
        let want = ["Up", "levels 5", "levels 6", "levels 7"];
        assert_eq!(source.until_but_caught_up("levels 7"), want);
    }
}

#[test]
fn a_full_channel_leaves_the_rest_with_the_server() {
    let server = NatsServer::start();
    let source = run_with_room(settings(&server.url()), 4);
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..2_000);
    let info = js
        .consumer_info("LEVEL_SIGNALS", "gateway_levels")
        .expect("it");
    assert!(
        info.num_ack_pending <= 512 && info.num_pending > 1_000,
        "{info:?}"
    );
    // longer than the watchdog's patience: waiting for room is no outage
    thread::sleep(Duration::from_secs(3));
    let want: Vec<String> = (0..2_000).map(|n| format!("levels {n}")).collect();
    assert_eq!(source.until("levels 1999"), want);
}

#[test]
fn a_message_that_breaks_the_crate_is_passed_over() {
    let server = NatsServer::start();
    let mut unnamed = settings(&server.url());
    unnamed.ephemeral = true;
    let source = run(unnamed);
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..1);
    source.until("levels 0");
    // headers that are not even UTF-8
    let mut raw = TcpStream::connect(server.address()).expect("a connection");
    let publish_raw = b"CONNECT {\"headers\":true}\r\nHPUB levels.signals 16 17\r\nNATS/1.0\r\n\xff:\r\n\r\nx\r\nPING\r\n";
    raw.write_all(publish_raw).expect("sent");
    publish(&js, LEVELS, 1..3);
    let seen = source.until("levels 2");
    let has = |what: &str| seen.iter().any(|s| s == what);
    assert!(has("Down") && has("levels 1"), "{seen:?}");
    publish(&js, LEVELS, 3..4);
    assert_eq!(source.until("levels 3"), ["levels 3"]);
}

#[test]
fn large_payloads_come_and_warm_the_cache() {
    let server = NatsServer::start_with("max_payload: 16777216");
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    let large = vec![b'x'; 16_000_000];
    js.publish(LEVELS, &large).expect("published");
    assert_eq!(source.next_message().payload.len(), large.len());
    let mut unnamed = settings(&server.url());
    unnamed.ephemeral = true;
    let warm = run(unnamed);
    assert_eq!(warm.next_message().payload.len(), large.len());
}
