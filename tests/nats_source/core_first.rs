//! `--core-first`: the copy of core NATS comes first, and the stream decides.

use super::*;

fn core_first(url: &str) -> NatsSettings {
    NatsSettings {
        core_first: true,
        ..settings(url)
    }
}

fn outcomes(source: &Running) -> [u64; 4] {
    let outcomes = source.status.core_first().outcomes();
    let counts: Vec<u64> = outcomes.map(|(_, count)| count).collect();
    counts
        .try_into()
        .expect("confirmed, missed, repeated, unconfirmed")
}

#[test]
fn each_message_comes_once_and_the_stream_confirms() {
    let server = NatsServer::start();
    let source = run(core_first(&server.url()));
    source.until("CaughtUp");
    let feed = nats::connect(server.url()).expect("connected");
    let js = jetstream(&server.url());
    for n in 0..200 {
        match n % 50 {
            0 => publish(&js, LEVELS, [n]),
            _ => feed.publish(LEVELS, n.to_string()).expect("published"),
        }
        if n % 50 == 49 {
            feed.flush().expect("flushed");
        }
    }
    let want: Vec<String> = (0..200).map(|n| format!("levels {n}")).collect();
    assert_eq!(source.until("levels 199"), want);
    eventually("the stream has confirmed", || {
        let [confirmed, missed, ..] = outcomes(&source);
        confirmed + missed == 200
    });
    let [confirmed, _, repeated, unconfirmed] = outcomes(&source);
    assert!(confirmed > 0, "core NATS brings nothing");
    assert_eq!((repeated, unconfirmed), (0, 0));
    eventually("everything is acknowledged", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        info.is_ok_and(|i| i.num_ack_pending == 0 && i.num_pending == 0)
    });
    assert!(source.events.is_empty(), "{:?}", source.events.try_recv());
}

#[test]
fn what_the_stream_does_not_take_is_counted_and_its_newest_message_comes_again() {
    let server = NatsServer::start();
    let js = jetstream(&server.url());
    let small = StreamConfig {
        name: "LEVEL_SIGNALS".into(),
        subjects: vec!["levels.*".into()],
        max_msg_size: 10,
        ..StreamConfig::default()
    };
    js.add_stream(&small).expect("a stream");
    let source = run(core_first(&server.url()));
    source.until("CaughtUp");
    publish(&js, LEVELS, [1]);
    source.until("levels 1");
    let feed = nats::connect(server.url()).expect("connected");
    feed.publish(LEVELS, "too large for it").expect("published");
    assert_eq!(
        source.until("levels 1"),
        ["levels too large for it", "levels 1"]
    );
    let [.., unconfirmed] = outcomes(&source);
    assert_eq!(unconfirmed, 1);
    publish(&js, LEVELS, [2]);
    assert_eq!(source.until("levels 2"), ["levels 2"]);
}

#[test]
fn an_outage_and_a_backlog_are_as_without() {
    let mut server = NatsServer::start();
    let js = jetstream(&server.url());
    let source = run(core_first(&server.url()));
    source.until("CaughtUp");
    publish(&js, LEVELS, 0..5);
    source.until("levels 4");
    server.kill();
    source.until("Down");
    server.restart();
    publish(&jetstream(&server.url()), LEVELS, 5..8);
    let want = ["Up", "levels 5", "levels 6", "levels 7"];
    assert_eq!(source.until_but_caught_up("levels 7"), want);
    source.end(&mut server);

    server.restart();
    publish(&jetstream(&server.url()), LEVELS, 8..20);
    let source = run(core_first(&server.url()));
    let backlog = source.until("CaughtUp");
    let shown = backlog.iter().filter(|event| event.starts_with("levels"));
    assert!(
        shown.clone().all(|event| event.ends_with(" quiet")),
        "{backlog:?}"
    );
    publish(&jetstream(&server.url()), LEVELS, [20]);
    assert_eq!(source.until("levels 20"), ["levels 20"]);
}

#[test]
fn without_the_permission_the_stream_brings_all() {
    let server = NatsServer::start_with(
        "authorization { users: [
            { user: gw, password: p, permissions: { subscribe: { deny: \"levels.signals\" } } }
            { user: feed, password: f }
        ] }",
    );
    let source = run(core_first(&server.url_as("gw:p")));
    source.until("CaughtUp");
    publish(&jetstream(&server.url_as("feed:f")), LEVELS, 0..3);
    assert_eq!(
        source.until("levels 2"),
        ["levels 0", "levels 1", "levels 2"]
    );
    assert_eq!(outcomes(&source)[0], 0);
    assert_eq!(source.status.refused(), 1);
}
