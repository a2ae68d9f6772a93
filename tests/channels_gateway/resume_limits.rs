//! What is kept for clients that come back has limits.

use super::resume::{at, limits, offsets};
use super::*;

const TICK: &str = "market:tick";

#[test]
fn messages_have_a_limit_of_bytes_over_all_names_and_the_oldest_go_first() {
    let small = HistoryLimits {
        bytes_max: 10_000,
        ..limits()
    };
    let mut bench = Bench::remembering(settings(), small);
    let (_, old) = bench.member(TICK);
    bench.publish(TICK, &[], "1");
    let (_, new) = bench.member("market:tick:B");
    for n in 0..60 {
        bench.publish("market:tick:B", &[], &n.to_string());
        assert!(bench.stats.history_bytes() <= 10_000);
    }
    assert!(bench.stats.history_messages() < 30);
    assert_eq!(bench.comes_back(TICK, &old).0, json!(false));
    let (recovered, missed) = bench.comes_back("market:tick:B", &at(&new, 50));
    assert_eq!((recovered, missed.len()), (json!(true), 10));
    // One that is larger than all room.
    bench.publish("market:tick:B", &[], &format!("\"{}\"", "x".repeat(10_000)));
    assert_eq!(
        bench.comes_back("market:tick:B", &at(&new, 60)).0,
        json!(false)
    );
    assert_eq!(
        bench.comes_back("market:tick:B", &at(&new, 61)).0,
        json!(true)
    );
}

#[test]
fn names_with_history_are_bounded_and_those_without_members_make_room() {
    let small = HistoryLimits {
        names_max: 2,
        ..limits()
    };
    let mut bench = Bench::remembering(settings(), small);
    let (a, at_a) = bench.member("market:tick:A");
    let (_, at_b) = bench.member("market:tick:B");
    let (_, at_c) = bench.member("market:tick:C");
    assert_eq!((at_a["offset"].clone(), at_c), (json!(0), Value::Null));
    assert_eq!(bench.stats.without_history(), 1);
    bench.publish("market:tick:C", &[], "1");
    let got = bench.comes_back("market:tick:C", &at(&at_a, 0));
    assert_eq!(got, (json!(false), vec![]));
    // The one without members goes.
    bench.world.end(a, true);
    assert!(bench.world.outputs.wanted["market:tick:A"]);
    let (_, at_d) = bench.member("market:tick:D");
    assert_eq!(at_d["offset"], 0);
    assert!(!bench.world.outputs.wanted["market:tick:A"]);
    assert_eq!(bench.comes_back("market:tick:B", &at_b).0, json!(true));
    assert_eq!(bench.stats.history_names(), 2);
}

#[test]
fn names_without_members_make_room_for_names_of_clients() {
    let mut few = settings();
    few.all_clients.names_max = 2;
    let mut bench = Bench::remembering(few, limits());
    let (gone, _) = bench.member("market:tick:A");
    let (stays, _) = bench.member("market:tick:B");
    bench.world.end(gone, true);
    bench.subscribe(stays, &["market:tick:C", "market:tick:D"]);
    bench.confirm("market:tick:C");
    let got = bench.got(stays);
    assert_eq!(got[0]["channels"], json!(["market:tick:C"]));
    assert_eq!(
        got[0]["errors"],
        json!(["Server limit of channels exceeded (2)"])
    );
    assert!(!bench.world.outputs.wanted["market:tick:A"]);
}

#[test]
fn what_does_not_fit_in_the_send_queue_is_not_sent_and_nobody_is_dropped() {
    let many = HistoryLimits {
        messages: 10_000,
        bytes_max: 1 << 24,
        ..limits()
    };
    let mut bench = Bench::remembering(settings(), many);
    let (_, position) = bench.member(TICK);
    let payload = format!("\"{}\"", "x".repeat(1_000));
    for _ in 0..400 {
        bench.publish(TICK, &[], &payload);
    }
    assert_eq!(bench.comes_back(TICK, &position), (json!(false), vec![]));
    let (recovered, missed) = bench.comes_back(TICK, &at(&position, 200));
    assert_eq!((recovered, missed.len()), (json!(true), 200));
    assert_eq!(bench.numbers(), [("recovered", 1), ("queue", 1)]);
    assert_eq!(bench.open().len(), 3);
    // Nor over the client's rate.
    let mut rated = settings();
    rated.outbound_per_second = Some(5);
    let mut bench = Bench::remembering(rated, limits());
    let (_, position) = bench.member(TICK);
    for n in 1..=8 {
        bench.publish(TICK, &[], &n.to_string());
    }
    assert_eq!(
        bench.comes_back(TICK, &at(&position, 2)),
        (json!(false), vec![])
    );
    assert_eq!(bench.comes_back(TICK, &at(&position, 3)).1.len(), 5);
}

/// Thousands who come back at once: each turn answers some, and the turn ends.
#[test]
fn a_storm_of_resumes_takes_turns() {
    let more = HistoryLimits {
        messages: 1_000,
        ..limits()
    };
    let mut bench = Bench::remembering(settings(), more);
    let (gone, position) = bench.member(TICK);
    bench.world.end(gone, true);
    for n in 1..=100 {
        bench.publish(TICK, &[], &n.to_string());
    }
    let keys: Vec<_> = (0..200).map(|_| bench.client()).collect();
    bench.world.held = true;
    let request = json!({"action": "subscribe", "channels": [TICK], "since": { TICK: position }});
    keys.iter().for_each(|&key| bench.say(key, &request));
    let now = bench.world.now;
    let mut sent = vec![bench.world.hub.stats().messages_queued];
    while bench.world.hub.poll_timeout() == Some(0) {
        bench.world.hub.handle_timeout(now);
        sent.push(bench.world.hub.stats().messages_queued);
        // The bus is not kept waiting.
        bench.publish(TICK, &[], "0");
    }
    assert!(sent.len() > 16, "{sent:?}");
    let most = sent.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(most <= Some(1_300), "{sent:?}");
    bench.world.held = false;
    bench.world.settle();
    for key in keys {
        let got = bench.got(key);
        assert_eq!(got[0]["recovered"], json!({ TICK: true }));
        let got = offsets(&got[1..]);
        assert!(got.iter().copied().eq(1..=got.len() as u64) && got.len() > 100);
    }
}
