//! Who gets what Redis publishes.

use serde_json::json;
use weirgate_core::{DrainPlan, SkippedMessage};

use super::*;

#[test]
fn one_copy_for_the_name_and_one_for_each_own_pattern() {
    let mut bench = Bench::new(settings());
    let (both, exact, pattern) = (bench.client(), bench.client(), bench.client());
    bench.subscribe(
        both,
        &["market:tick:O*", "market:tick:OV", "market:tick:?V"],
    );
    bench.subscribe(exact, &["market:tick:OV"]);
    bench.subscribe(pattern, &["market:tick:O*"]);
    for key in [both, exact, pattern] {
        bench.got(key);
    }
    bench.publish(
        "market:tick:OV",
        &["market:tick:O*", "market:tick:?V"],
        "{\"n\":1.0}",
    );
    let mut sources = |key| -> Vec<Value> {
        let data = bench.got(key);
        for message in &data {
            assert_eq!(message["channel"], "market:tick:OV");
            assert_eq!(message["data"], json!({"n": 1.0}));
        }
        data.iter()
            .map(|message| message["pattern"].clone())
            .collect()
    };
    assert_eq!(
        sources(both),
        [
            json!(null),
            json!("market:tick:O*"),
            json!("market:tick:?V")
        ]
    );
    assert_eq!(sources(exact), [json!(null)]);
    assert_eq!(sources(pattern), [json!("market:tick:O*")]);
}

#[test]
fn numbers_are_each_connections_own_compressed_or_not() {
    let mut bench = Bench::new(settings());
    let plain = bench.client();
    let deflated = bench.world.connect("/ws", Some(15));
    bench.subscribe(plain, &["market:tick"]);
    bench.ping(deflated);
    bench.subscribe(deflated, &["market:tick"]);
    let payload = json!("tick ".repeat(200)).to_string();
    for _ in 0..20 {
        bench.publish("market:tick", &[], &payload);
    }
    let numbers = |messages: Vec<Value>| -> Vec<u64> {
        messages
            .iter()
            .filter_map(|message| message["seq"].as_u64())
            .collect()
    };
    assert_eq!(numbers(bench.got(plain)), (2..=22).collect::<Vec<_>>());
    assert_eq!(numbers(bench.got(deflated)), (1..=23).collect::<Vec<_>>());
    assert_eq!(bench.world.client(deflated).deflated, 20);
    assert_eq!(bench.world.client(plain).deflated, 0);
}

#[test]
fn what_is_shed_is_a_gap_and_answers_never_are() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        outbound_per_second: Some(3),
        ..settings()
    });
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    for _ in 0..5 {
        bench.publish("market:tick", &[], "1");
    }
    (0..4).for_each(|_| bench.ping(key));
    let mut want = vec![("subscribed", 2), ("data", 3), ("data", 4), ("data", 5)];
    want.extend((8..12).map(|seq| ("pong", seq)));
    assert_eq!(bench.kinds(key), kinds(&want));
    assert_eq!(bench.world.hub.stats().messages_shed, 2);
    bench.world.advance(SECOND);
    bench.publish("market:tick", &[], "1");
    assert_eq!(bench.kinds(key), kinds(&[("data", 12)]));
}

/// What came and is not relayed is one missing number for each client that would have got it.
#[test]
fn a_message_that_is_skipped_is_a_gap_for_its_receivers() {
    let mut bench = Bench::up(settings());
    let [exact, pattern, other] = [(); 3].map(|()| bench.client());
    let subscriptions = [
        (exact, "indicators:x"),
        (pattern, "indicators:*"),
        (other, "market:tick"),
    ];
    for (key, name) in subscriptions {
        bench.subscribe(key, &[name]);
        bench.confirm(name);
    }
    let too_large = "1".repeat((1 << 20) + 1);
    bench.publish("indicators:x", &["indicators:*"], &too_large);
    bench.bus(BusEvent::Skipped(SkippedMessage {
        subscription: Subscription::pattern("indicators:*"),
        place: Place::Outside,
        id: None,
        why: "a name that is not UTF-8",
    }));
    for (key, _) in subscriptions {
        bench.ping(key);
    }
    let after = |seq| kinds(&[("subscribed", 2), ("pong", seq)]);
    assert_eq!(bench.kinds(exact), after(4));
    assert_eq!(bench.kinds(pattern), after(5));
    assert_eq!(bench.kinds(other), after(3));
    assert_eq!(bench.stats.gaps_notified.get(), 3);
    assert_eq!(bench.feed.stats().subjects[0].messages_bad, 3);
}

/// A loss of the bus is one missing number for each client that held a name of the lost connection.
#[test]
fn a_loss_of_the_bus_is_a_gap_for_those_whom_it_concerns() {
    let mut bench = Bench::up(settings());
    let gap = || BusEvent::Gap { lost: None };
    let [holds, left, asked, refused, idle] = [(); 5].map(|()| bench.client());
    for key in [holds, left] {
        bench.subscribe(key, &["market:tick", "indicators:*"]);
    }
    bench.confirm("market:tick");
    bench.confirm("indicators:*");
    bench.unsubscribe(left, &["market:tick", "indicators:*"]);
    bench.subscribe(asked, &["market:tick:B"]);
    bench.subscribe(refused, &["market:tick:C"]);
    bench.refuse("market:tick:C");
    bench.bus(gap());
    bench.down();
    for key in [holds, left, asked, refused, idle] {
        bench.ping(key);
    }
    let subscribed = ("subscribed", 2);
    let want = [subscribed, ("pong", 4)];
    assert_eq!(bench.kinds(holds), kinds(&want), "two names, one gap");
    let want = [subscribed, ("unsubscribed", 3), ("pong", 4)];
    assert_eq!(bench.kinds(left), kinds(&want));
    assert_eq!(bench.kinds(asked), kinds(&[subscribed, ("pong", 3)]));
    let want = [subscribed, ("error", 3), ("pong", 4)];
    assert_eq!(bench.kinds(refused), kinds(&want));
    assert_eq!(bench.kinds(idle), kinds(&[("pong", 2)]));
    assert_eq!(
        (bench.stats.gaps_notified.get(), &bench.world.outputs.told),
        (1, &vec![1])
    );

    // A connection that is lost while the names are restored has carried some of them.
    bench.subscribe(left, &["market:tick"]);
    bench.confirm("market:tick");
    bench.publish("market:tick", &[], "1");
    bench.bus(gap());
    bench.bus(gap());
    bench.confirm("market:tick");
    bench.confirm("indicators:*");
    bench.confirm("market:tick:B");
    bench.bus(BusEvent::Up);
    bench.publish("market:tick", &[], "2");
    assert_eq!(bench.kinds(holds), kinds(&[("data", 5), ("data", 7)]));
    let want = [("subscribed", 5), ("data", 6), ("data", 8)];
    assert_eq!(bench.kinds(left), kinds(&want));
    // What stands again is answered at once, what is refused too.
    bench.subscribe(idle, &["market:tick", "market:tick:B", "market:tick:C"]);
    assert_eq!(bench.kinds(idle), kinds(&[("subscribed", 3), ("error", 4)]));
    assert_eq!(
        (bench.stats.gaps_notified.get(), &bench.world.outputs.told),
        (3, &vec![1, 2])
    );
}

#[test]
fn redis_is_asked_for_what_clients_hold() {
    let mut bench = Bench::new(settings());
    let clients: Vec<_> = (0..3).map(|_| bench.client()).collect();
    for key in &clients {
        bench.subscribe(*key, &["market:tick:A", "market:tick:A", "indicators:*"]);
    }
    bench.subscribe(clients[0], &["indicators:x"]);
    assert_eq!(bench.counts(), (7, 2, 1));
    assert!(bench.world.outputs.wanted.values().all(|wanted| *wanted));
    assert_eq!(bench.world.outputs.wanted.len(), 3);
    bench.unsubscribe(clients[0], &["market:tick:A", "indicators:x"]);
    assert_eq!(bench.counts(), (5, 1, 1));
    assert!(!bench.world.outputs.wanted["indicators:x"]);
    assert!(bench.world.outputs.wanted["market:tick:A"]);
    // All at once: each leaves its topics before anyone is told.
    bench.world.hub.drain(bench.world.now, DrainPlan::default());
    bench.world.settle();
    assert_eq!(bench.counts(), (0, 0, 0));
    assert!(bench.world.outputs.wanted.values().all(|wanted| !wanted));
    for key in clients {
        assert_eq!(bench.world.client(key).close, Some((1012, String::new())));
    }
}

#[test]
fn after_unsubscribed_nothing_comes() {
    let mut bench = Bench::new(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick", "indicators:*"]);
    bench.publish("market:tick", &[], "1");
    bench.unsubscribe(key, &["market:tick", "indicators:*"]);
    bench.publish("market:tick", &[], "2");
    bench.publish("indicators:a", &["indicators:*"], "2");
    let want = [("subscribed", 2), ("data", 3), ("unsubscribed", 4)];
    assert_eq!(bench.kinds(key), kinds(&want));
    assert_eq!(bench.world.frame_bytes.alive(), 0);
}
