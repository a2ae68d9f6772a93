//! A server that is well: order, positions, warm start, durables of ours and of others.

use nats::jetstream::{AckPolicy, ConsumerConfig};

use super::*;

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
        let created = i128::from(position.epoch);
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
        "WarmedUp",
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
    let warm = ["levels 15 quiet", "flow 0 quiet", "WarmedUp", "Up"];
    let backlog: Vec<String> = (6..16).map(|n| format!("levels {n} quiet")).collect();
    assert_eq!(seen[..4], warm);
    publish(&js, FLOW, 1..2);
    let rest = source.until("flow 1");
    let all = seen[4..].iter().chain(&rest).cloned();
    let (flow, levels): (Vec<_>, Vec<_>) = all.partition(|s| s.starts_with("flow"));
    assert_eq!(levels[..10], backlog);
    // one message of market.flow is no backlog, and is not held up by the other's
    assert_eq!(flow, ["flow 0", "flow 1"]);
}

/// A durable for the levels that another client has made.
fn durable_of_another() -> ConsumerConfig {
    ConsumerConfig {
        durable_name: Some("gateway_levels".into()),
        deliver_subject: Some("odd.place.of.another".into()),
        filter_subject: LEVELS.into(),
        ..ConsumerConfig::default()
    }
}

#[test]
fn a_durable_of_another_client_is_resumed_as_it_is() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    js.add_consumer(
        "LEVEL_SIGNALS",
        ConsumerConfig {
            idle_heartbeat: Duration::from_millis(200),
            flow_control: true,
            ..durable_of_another()
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
fn acknowledgements_wait_for_others_and_a_stop_sends_them() {
    let server = NatsServer::start();
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let js = jetstream(&server.url());
    let owed = || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.expect("the durable").num_ack_pending
    };
    publish(&js, LEVELS, 0..3);
    source.until("levels 2");
    eventually("they leave", || owed() == 0);
    // A pause between two batches is short; in one of these tries the stop comes within.
    let mut first = 3;
    while owed() == 0 {
        publish(&js, LEVELS, first..first + 1);
        source.until(&format!("levels {first}"));
        first += 1;
    }
    source.stopping.stop_and_wait(PATIENCE);
    assert_eq!(owed(), 0);
    source.thread.join().expect("the source ends");
}

#[test]
fn a_consumer_that_waits_for_each_acknowledgement_is_not_held_up() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    js.add_consumer(
        "LEVEL_SIGNALS",
        ConsumerConfig {
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 1,
            ..durable_of_another()
        },
    )
    .expect("a durable");
    let source = run(settings(&server.url()));
    source.until("CaughtUp");
    let start = Instant::now();
    publish(&js, LEVELS, 0..400);
    source.until("levels 399");
    // With 200 ms for each it would be 80 seconds.
    assert!(
        start.elapsed() < patient(Duration::from_secs(10)),
        "{start:?}"
    );
}

/// Makes the durable, and is bound to it as another client.
fn bound_elsewhere(server: &NatsServer, js: &JetStream) -> (nats::Connection, nats::Subscription) {
    let config = ConsumerConfig {
        durable_name: Some("gateway_levels".into()),
        deliver_subject: Some("inbox.of.another".into()),
        filter_subject: LEVELS.into(),
        ..ConsumerConfig::default()
    };
    js.add_consumer("LEVEL_SIGNALS", config).expect("a durable");
    let connection = nats::connect(server.url()).expect("a connection");
    let messages = connection.subscribe("inbox.of.another").expect("bound");
    connection.flush().expect("flushed");
    (connection, messages)
}

#[test]
fn a_durable_bound_elsewhere_is_left_alone_and_taken_over_when_free() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    let (other_connection, other) = bound_elsewhere(&server, &js);
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
fn a_durable_that_was_ahead_is_taken_over_without_a_gap() {
    const MESSAGES: usize = 3_000;
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    let (other_connection, other) = bound_elsewhere(&server, &js);
    // No room: it stands still at the first messages, while the other one reads them all.
    let source = run_with_room(settings(&server.url()), 1);
    source.until("CaughtUp");
    fill(&server, &js, MESSAGES);
    for _ in 0..MESSAGES {
        let theirs = other.next_timeout(PATIENCE).expect("a message");
        theirs.ack().expect("acknowledged");
    }
    let info = || js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
    eventually("the other one is done", || {
        info().is_ok_and(|i| i.num_ack_pending == 0)
    });
    drop(other);
    other_connection.close();
    // time for the watchdog to see it
    thread::sleep(Duration::from_secs(2));
    let want: Vec<String> = (0..MESSAGES).map(|n| format!("levels {n}")).collect();
    let seen = source.until(want.last().expect("one"));
    assert_eq!(seen.len(), want.len());
    assert!(seen == want, "in another order");
    eventually("it was taken over", || info().is_ok_and(|i| i.push_bound));
}

/// How many messages a full stream has: 10,000, or as many as `BACKLOG` says, for measuring.
fn backlog() -> usize {
    let asked = std::env::var("BACKLOG").ok();
    asked.map_or(10_000, |n| n.parse().expect("BACKLOG is a number"))
}

/// Fills the stream without waiting for each acknowledgement.
fn fill(server: &NatsServer, js: &JetStream, count: usize) {
    let connection = nats::connect(server.url()).expect("a connection");
    for n in 0..count {
        connection
            .publish(LEVELS, n.to_string())
            .expect("published");
    }
    eventually_within(PATIENCE * 10, "everything is stored", || {
        let info = js.stream_info("LEVEL_SIGNALS");
        info.is_ok_and(|i| i.state.messages == count as u64)
    });
}

/// A source that has handed over the last of `count` messages: when it started, and how long that
/// took. A second is in the contract; it stands for "not after the backlog".
fn first_state(server: &NatsServer, count: usize) -> (Running, Instant, Duration) {
    let started = Instant::now();
    let source = run(settings(&server.url()));
    let newest = format!("levels {} quiet", count - 1);
    assert_eq!(short(&source.next()), newest);
    let took = started.elapsed();
    assert!(took < patient(Duration::from_secs(1)), "{took:?}");
    (source, started, took)
}

#[test]
fn a_full_backlog_of_a_durable_is_drained_quietly_after_the_first_state() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    drop(bound_elsewhere(&server, &js));
    // Until the server has seen it go, it would be given the first of the messages.
    eventually("the durable is free", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.is_ok_and(|i| !i.push_bound)
    });
    let count = backlog();
    fill(&server, &js, count);
    let (source, started, first_state) = first_state(&server, count);
    assert_eq!(source.until("Up"), ["WarmedUp", "Up"]);
    for n in 0..count {
        assert_eq!(short(&source.next()), format!("levels {n} quiet"));
    }
    assert_eq!(short(&source.next()), "CaughtUp");
    let caught_up = started.elapsed();
    println!("a durable with {count} messages: state {first_state:?}, caught up {caught_up:?}");
}

#[test]
fn a_full_stream_warms_the_cache_and_is_not_replayed() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    make_streams(&js);
    let count = backlog();
    fill(&server, &js, count);
    publish(&js, FLOW, 0..1);
    let (source, started, first_state) = first_state(&server, count);
    let rest = source.until("CaughtUp");
    assert_eq!(rest, ["flow 0 quiet", "WarmedUp", "Up", "CaughtUp"]);
    let caught_up = started.elapsed();
    println!("no durable, {count} messages: state {first_state:?}, caught up {caught_up:?}");
    publish(&js, LEVELS, count..count + 1);
    let next = format!("levels {count}");
    assert_eq!(source.until(&next), [next]);
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
        let want = ["levels 5", "levels 6", "levels 7"];
        assert_eq!(source.until_but_up("levels 7"), want);
    }
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
