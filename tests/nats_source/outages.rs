//! Servers that die, freeze, forget, refuse or come late.

use std::io::Write;
use std::net::TcpStream;

use weirgate_runtime::ConsumerStatus;

use super::*;

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
    assert!(!source.status.connected() && source.status.away_ms(Now::default()).is_some());
    assert_eq!(source.status.consumers()[0].lag(), None);
    source.nothing_comes_for(Duration::from_secs(3));
    server.restart();
    let back = Instant::now();
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 20..23);
    let seen = source.until_but_up("levels 22");
    assert!(
        back.elapsed() < patient(Duration::from_secs(4)),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(seen, ["levels 20", "levels 21", "levels 22"]);
    eventually("it is up", || source.status.subscribed());
    assert!(source.status.away_ms(Now::default()).is_none());
    assert_eq!(source.status.reconnects(), 1);
}

#[test]
fn a_long_backlog_after_an_outage_is_quiet() {
    let mut server = NatsServer::start();
    let mut slow = settings(&server.url());
    // time to publish before the source is back
    slow.times.reconnect_delay_min_ms = 4_000;
    slow.times.reconnect_delay_max_ms = 4_000;
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
    let warm = ["levels 102 quiet", "WarmedUp", "Up"];
    let mut want = warm.map(str::to_owned).to_vec();
    want.extend((3..103).map(|n| format!("levels {n} quiet")));
    want.push("CaughtUp".to_owned());
    assert_eq!(source.until("CaughtUp"), want);
    publish(&js, LEVELS, 103..104);
    assert_eq!(source.until("levels 103"), ["levels 103"]);
}

/// The state of a subject waits for no backlog: neither for that of another subject, nor for its own.
#[test]
fn the_newest_message_of_every_subject_comes_before_all_backlogs() {
    let mut server = NatsServer::start();
    let mut slow = settings(&server.url());
    // time to publish before the source is back
    slow.times.reconnect_delay_min_ms = 4_000;
    slow.times.reconnect_delay_max_ms = 4_000;
    let source = run(slow);
    source.until("CaughtUp");
    server.kill();
    source.until("Down");
    server.restart();
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..100);
    publish(&js, FLOW, 0..10);
    let warm = ["levels 99 quiet", "flow 9 quiet", "WarmedUp"];
    assert_eq!(source.until("WarmedUp"), warm);
    let rest = source.until("CaughtUp");
    assert_eq!((&*rest[0], rest.len()), ("Up", 1 + 110 + 1));
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
        frozen.elapsed() < patient(Duration::from_secs(7)),
        "{:?}",
        frozen.elapsed()
    );
    thread::sleep(Duration::from_secs(8).saturating_sub(frozen.elapsed()));
    server.thaw();
    let thawed = Instant::now();
    publish(&js, LEVELS, 10..12);
    let seen = source.until_but_up("levels 11");
    assert!(
        thawed.elapsed() < patient(Duration::from_secs(5)),
        "{:?}",
        thawed.elapsed()
    );
    assert_eq!(seen, ["levels 10", "levels 11"]);
    // The durable may look bound to the connection that was left; it is taken over again. What
    // went to that connection is pushed again after the consumer's 30 s at the latest.
    let patience = PATIENCE + Duration::from_secs(40);
    let info = || js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
    eventually_within(patience, "the durable is bound", || {
        publish(&js, LEVELS, 12..13);
        source.until("levels 12");
        info().is_ok_and(|i| i.push_bound)
    });
    eventually_within(patience, "all is acknowledged", || {
        info().is_ok_and(|i| i.push_bound && i.num_ack_pending == 0)
    });
    assert_eq!(source.status.reconnects(), 1);
}

/// The connection is kept, so what the server has for it comes message by message, and is no backlog.
#[test]
fn a_server_that_stands_still_for_seconds_costs_nothing() {
    for seconds in [4, 10] {
        let server = NatsServer::start();
        let mut patient = settings(&server.url());
        patient.times.silence_max_ms = 30_000;
        let source = run(patient);
        source.until("CaughtUp");
        let publisher = nats::connect(server.url()).expect("a connection");
        publisher.publish(LEVELS, "0").expect("published");
        source.until("levels 0");
        server.freeze();
        let frozen = Instant::now();
        for n in 1..=100 {
            publisher.publish(LEVELS, n.to_string()).expect("published");
        }
        eventually("the silence is seen", || !source.status.connected());
        thread::sleep(Duration::from_secs(seconds).saturating_sub(frozen.elapsed()));
        assert!(
            !source
                .status
                .consumers()
                .iter()
                .any(ConsumerStatus::is_silent)
        );
        server.thaw();
        let mut seen = source.until("levels 100");
        if !seen.iter().any(|event| event == "Up") {
            seen.extend(source.until("Up"));
        }
        assert_eq!(seen.remove(0), "Down");
        seen.retain(|event| event != "Up" && event != "CaughtUp");
        let want: Vec<String> = (1..=100).map(|n| format!("levels {n}")).collect();
        assert_eq!(seen, want, "{seconds} s");
        eventually("all is well", || source.status.subscribed());
        assert_eq!(source.status.reconnects(), 0);
        source.nothing_comes_for(Duration::from_secs(2));
    }
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
    assert!(next.epoch > first.epoch);
    assert_eq!(next.sequence, 1);
    assert!(js.consumer_info("LEVEL_SIGNALS", "gateway_levels").is_ok());
}

/// However much waits for the next consumer, the loop is told when it has all of it: clients get the state after it.
#[test]
fn what_waits_for_the_next_consumer_is_a_backlog_with_an_end() {
    let server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..1);
    source.until("levels 0");
    js.delete_consumer("LEVEL_SIGNALS", "gateway_levels")
        .expect("deleted");
    publish(&js, LEVELS, 1..11);
    let told = source.until("CaughtUp");
    assert_eq!(told[told.len() - 2..], ["levels 10 quiet", "CaughtUp"]);
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
        started.elapsed() < patient(Duration::from_secs(3)),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(source.status.reconnects(), 0);
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
    assert!(fault.contains("Authorization Violation"), "{fault:?}");
    assert!(!fault.contains("s3cr"), "{fault:?}");
    source.nothing_comes_for(Duration::from_secs(1));
    server.restart_with(&users("s3cr^et@"));
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);

    let source = run(settings("nats://u:s3cr@host:port"));
    let BusEvent::Down(fault) = source.next() else {
        panic!("it is not down");
    };
    assert!(fault.contains("nats://u:***@host:port"), "{fault:?}");
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
    assert!(fault.contains("JetStream"), "{fault:?}");
    assert!(!source.status.connected());
    server.restart_with("");
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
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
fn a_message_with_headers_that_are_no_headers_comes_as_any_other() {
    let server = NatsServer::start();
    let mut unnamed = settings(&server.url());
    unnamed.ephemeral = true;
    let source = run(unnamed);
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..1);
    source.until("levels 0");
    // Headers that are not even UTF-8, and the first lines of the server's own messages.
    for (name, headers) in [
        ("u", b"NATS/1.0\r\n\xff:\r\n\r\n".as_slice()),
        ("v", b"NATS/1.0 100 Idle Heartbeat\r\na: b\r\n\r\n"),
        ("w", b"NATS/1.0 409 Consumer Deleted\r\n\r\n"),
        ("x", b"NATS/1.0 503\r\n\r\n"),
    ] {
        let mut raw = TcpStream::connect(server.address()).expect("a connection");
        let (size, all) = (headers.len(), headers.len() + name.len());
        let begin = format!("CONNECT {{\"headers\":true}}\r\nHPUB levels.signals {size} {all}\r\n");
        let end = format!("{name}\r\nPING\r\n");
        let publish_raw = [begin.as_bytes(), headers, end.as_bytes()].concat();
        raw.write_all(&publish_raw).expect("sent");
        let want = format!("levels {name}");
        assert_eq!(source.until(&want), [want]);
    }
    publish(&js, LEVELS, 1..3);
    assert_eq!(source.until("levels 2"), ["levels 1", "levels 2"]);
}

#[test]
fn a_durable_that_is_paused_is_left_until_it_goes_on() {
    let server = NatsServer::start();
    let asker = nats::connect(server.url()).expect("a connection");
    if !asker.is_server_compatible_version(2, 11, 0) {
        // It pauses no consumer.
        return;
    }
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let pause = |until: &str| {
        let subject = "$JS.API.CONSUMER.PAUSE.LEVEL_SIGNALS.gateway_levels";
        let body = format!(r#"{{"pause_until":"{until}"}}"#);
        let answer = asker.request_timeout(subject, body, PATIENCE);
        answer.is_ok_and(|answer| !answer.data.is_empty())
    };
    assert!(pause("2100-01-01T00:00:00Z"));
    let js = jetstream(&server.url());
    publish(&js, LEVELS, 0..1);
    assert_eq!(source.until("levels 0"), ["levels 0"]);
    assert!(pause("2000-01-01T00:00:00Z"));
    eventually("the durable consumer is used again", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.is_ok_and(|info| info.push_bound)
    });
    publish(&js, LEVELS, 1..2);
    assert_eq!(source.until("levels 1"), ["levels 1"]);
}
