//! Positions of a client with a rate of its own: while the newest message of a conflated name waits for the
//! client's slot, the client is told no position behind that message.

use weirgate_core::DrainPlan;

use super::resume::{Kept, TICK, at, data, limits};
use super::*;

/// A name of which slow clients get the newest message only.
const CONFLATED: &str = "market:conflated";
/// A name outside of the kept feed.
const ASKED: &str = "news";

/// A member of both names with a slot every 10 s, and what it got: the first message of the conflated name. The
/// second has the position 2 and waits.
fn waiting() -> (Kept, SessionKey) {
    let mut kept = Kept::with(settings(), limits());
    kept.bench.feed = kept.bench.feed.conflating(|name| name == CONFLATED);
    let key = kept.bench.world.connect("/ws?max_hz=0.1", None);
    kept.bench.subscribe(key, &[CONFLATED, TICK]);
    kept.publish(CONFLATED, "1");
    kept.bench.got(key);
    kept.publish(CONFLATED, "2");
    assert_eq!(kept.bench.got(key), [json!(null); 0], "the message waits");
    (kept, key)
}

/// What came since the last call: the type or the data, each with the position.
fn told(kept: &mut Kept, key: SessionKey) -> Vec<(Value, Option<String>)> {
    let told = |message: &Value| {
        let kind = message.get("data").unwrap_or_else(|| &message["type"]);
        let position = message.get("pos").and_then(Value::as_str);
        (kind.clone(), position.map(str::to_owned))
    };
    kept.bench.got(key).iter().map(told).collect()
}

fn of(told: &[(Value, Option<u64>)]) -> Vec<(Value, Option<String>)> {
    let told = told.iter();
    told.map(|(kind, count)| (kind.clone(), count.map(at)))
        .collect()
}

#[test]
fn a_message_past_one_that_waits_leaves_without_its_position() {
    let (mut kept, key) = waiting();
    let other = kept.bench.world.connect("/ws?max_hz=0.1", None);
    kept.bench.got(other);
    kept.bench.subscribe(other, &[CONFLATED, TICK]);
    kept.publish(TICK, "3");
    kept.publish(TICK, "4");
    // No slot has opened: a busy name does not make the rate void.
    let want = of(&[(json!(3), None), (json!(4), None)]);
    assert_eq!(told(&mut kept, key), want);
    // Nothing waits for the other client, and for no other client anything changes.
    let want = of(&[
        (json!("subscribed"), Some(2)),
        (json!(3), Some(3)),
        (json!(4), Some(4)),
    ]);
    assert_eq!(told(&mut kept, other), want);
    kept.bench.world.hub.check_invariants();
    // A client that was cut here has the position of the first message.
    let (_, answer, got) = kept.comes_back(&[CONFLATED, TICK], &at(1));
    assert_eq!(answer["recovered"], json!({CONFLATED: true, TICK: true}));
    assert_eq!(data(&got), [json!(2), json!(3), json!(4)]);
    kept.bench.world.advance(10 * SECOND);
    let got = told(&mut kept, key);
    assert!(got.contains(&(json!(2), Some(at(2)))), "{got:?}");
    kept.publish(TICK, "5");
    assert_eq!(told(&mut kept, key), of(&[(json!(5), Some(5))]));
}

#[test]
fn what_waits_leaves_before_an_answer_a_status_and_newest_messages() {
    let held = (json!(2), Some(2));
    let status = (json!("status"), Some(3));
    let (mut kept, key) = waiting();
    kept.publish(TICK, "3");
    kept.bench.unsubscribe(key, &[ASKED]);
    let missed = (json!(3), None);
    let want = [
        missed.clone(),
        held.clone(),
        (json!("unsubscribed"), Some(3)),
    ];
    assert_eq!(told(&mut kept, key), of(&want));

    let (mut kept, key) = waiting();
    kept.publish("market:new", "3");
    let request = json!({"action": "subscribe", "channels": ["market:new"], "last": 1});
    kept.bench.say(key, &request);
    let want = [
        held.clone(),
        (json!("subscribed"), None),
        (json!(3), Some(3)),
        status.clone(),
    ];
    assert_eq!(told(&mut kept, key), of(&want));

    let (mut kept, key) = waiting();
    kept.publish("market:other", "3");
    let now = kept.bench.world.now;
    kept.bench.world.hub.drain(now, DrainPlan::default());
    kept.bench.world.settle();
    assert_eq!(told(&mut kept, key), of(&[held, status]));
}

/// The types or the data of what came since the last call.
fn kinds_of(kept: &mut Kept, key: SessionKey) -> Vec<Value> {
    told(kept, key).into_iter().map(|(kind, _)| kind).collect()
}

#[test]
fn a_rate_is_set_and_ended_while_connected() {
    let patterns = NamePatterns::new(NameSyntax::Redis, &[CONFLATED.to_owned()]).expect("a name");
    let mut kept = Kept::made(settings(), limits(), |gateway| {
        gateway.with_conflated(patterns)
    });
    kept.bench.feed = kept.bench.feed.conflating(|name| name == CONFLATED);
    let rate = |kept: &mut Kept, key, max_hz: Value| {
        kept.bench
            .say(key, &json!({"action": "rate", "max_hz": max_hz}));
        kept.bench.got(key)
    };
    let key = kept.bench.client();
    let answer = rate(&mut kept, key, json!(0.1));
    let [answer] = &answer[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(
        (&answer["type"], &answer["max_hz"]),
        (&json!("rate"), &json!(0.1))
    );
    kept.bench.subscribe(key, &[CONFLATED, TICK]);
    kept.bench.got(key);
    for n in ["1", "2", "3"] {
        kept.publish(CONFLATED, n);
        kept.publish(TICK, n);
    }
    let want = [json!(1), json!(1), json!(2), json!(3)];
    assert_eq!(kinds_of(&mut kept, key), want, "the newest waits");
    // A faster rate begins at once: what waits leaves before the answer.
    let answers = rate(&mut kept, key, json!(2));
    assert_eq!(data(&answers), [json!(3), Value::Null]);
    kept.publish(CONFLATED, "4");
    assert_eq!(kinds_of(&mut kept, key), [Value::Null; 0]);
    kept.bench.world.advance(SECOND / 2);
    assert_eq!(kinds_of(&mut kept, key), [json!(4)]);
    kept.publish(CONFLATED, "5");
    let answers = rate(&mut kept, key, Value::Null);
    assert_eq!(data(&answers), [json!(5), Value::Null]);
    assert_eq!(answers[1]["max_hz"], Value::Null);
    for n in ["6", "7"] {
        kept.publish(CONFLATED, n);
    }
    assert_eq!(kinds_of(&mut kept, key), [json!(6), json!(7)]);
    kept.bench.world.hub.check_invariants();
}

#[test]
fn a_rate_is_refused_where_every_message_is_delivered() {
    let patterns = NamePatterns::new(NameSyntax::Redis, &[CONFLATED.to_owned()]).expect("a name");
    for conflates in [false, true] {
        let mut kept = Kept::made(settings(), limits(), |gateway| match conflates {
            true => gateway.with_conflated(patterns.clone()),
            false => gateway,
        });
        let key = kept.bench.client();
        kept.bench.subscribe(key, &[TICK]);
        kept.bench.got(key);
        let answers = |kept: &mut Kept, max_hz: Value| {
            kept.bench
                .say(key, &json!({"action": "rate", "max_hz": max_hz}));
            let got = kept.bench.got(key);
            got.iter()
                .map(|one| one["type"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(answers(&mut kept, json!(1)), [json!("error")]);
        assert_eq!(answers(&mut kept, Value::Null), [json!("rate")]);
        for wrong in [json!(0), json!("1"), json!(1e9), json!([1]), json!(true)] {
            assert_eq!(answers(&mut kept, wrong), [json!("error")]);
        }
        kept.bench.subscribe(key, &[CONFLATED]);
        kept.bench.got(key);
        let want = if conflates { "rate" } else { "error" };
        assert_eq!(answers(&mut kept, json!(1)), [json!(want)]);
    }
}

#[test]
fn a_last_value_comes_after_the_older_message_that_waits() {
    let mut bench = Bench::retaining();
    bench.feed = bench.feed.conflating(|_| true);
    let key = bench.world.connect("/ws?max_hz=0.1", None);
    bench.subscribe(key, &[TICK]);
    bench.confirm(TICK);
    bench.end(TICK);
    bench.got(key);
    bench.publish(TICK, &[], "1");
    bench.publish(TICK, &[], "2");
    let before = bench.got(key);
    assert_eq!(data(&before), [json!(1)], "the second message waits");
    bench.down();
    bench.bus(BusEvent::Up);
    bench.subscribe(key, &[TICK]);
    bench.confirm(TICK);
    bench.value(TICK, None, "3");
    bench.end(TICK);
    let mut got = bench.got(key);
    got.retain(|message| message["type"] == "data");
    assert_eq!(data(&got), [json!(2), json!(3)]);
}

/// A client that holds the conflated name asks for so many others that its request takes several turns.
#[test]
fn what_waits_leaves_before_messages_that_a_long_request_postpones() {
    // The second time they are more than may be postponed.
    for (count, bytes) in [(1, 1), (30, 200_000)] {
        let mut kept = Kept::in_steps(
            ChannelsGatewaySettings {
                channels_max: 3_000,
                ..settings()
            },
            50,
        );
        kept.bench.feed = kept.bench.feed.conflating(|name| name == CONFLATED);
        let key = kept.bench.world.connect("/ws?max_hz=0.1", None);
        kept.bench.subscribe(key, &[CONFLATED]);
        kept.publish(CONFLATED, "0");
        kept.publish(CONFLATED, "1");
        let before = data(&kept.bench.got(key));
        assert_eq!(before.last(), Some(&json!(0)), "the second waits");
        let names: Vec<String> = (0..2_000).map(|n| format!("market:{n}")).collect();
        let request = json!({"action": "subscribe", "channels": names, "last": 1});
        kept.bench.world.held = true;
        kept.bench.say(key, &request);
        while !kept.bench.world.hub.core().postpones(key) {
            assert_eq!(kept.bench.world.hub.waiting_shares(), 1);
            kept.bench.world.hub.begin_part(crate::world::PART_US);
            kept.bench.world.hub.handle_next_share(kept.bench.world.now);
        }
        let more = "x".repeat(bytes);
        for n in 2..2 + count {
            kept.publish(CONFLATED, format!(r#"[{n},"{more}"]"#));
        }
        kept.bench.world.hub.check_invariants();
        kept.bench.world.held = false;
        kept.bench.world.settle();
        kept.bench.world.advance(10 * SECOND);
        let got = data(&kept.bench.got(key));
        let number = |data: &Value| data.as_u64().or_else(|| data[0].as_u64());
        let got: Vec<u64> = got.iter().filter_map(number).collect();
        assert_eq!(got, (1..2 + count).collect::<Vec<_>>(), "{bytes} bytes");
    }
}

/// A client that takes nothing searches again and again.
#[test]
fn messages_that_searches_postpone_count_for_the_queue_of_a_client_that_takes_too_little() {
    let settings = ChannelsGatewaySettings {
        channels_max: 3_000,
        ..settings()
    };
    let mut kept = Kept::in_steps(settings, 50);
    let key = kept.bench.client();
    kept.bench.subscribe(key, &["market:tick"]);
    kept.bench.got(key);
    kept.bench.stop(key);
    let names: Vec<String> = (0..2_000).map(|n| format!("market:{n}")).collect();
    let is_open = |kept: &Kept| kept.bench.world.hub.core().is_open(key);
    let mut messages = 0;
    while is_open(&kept) && messages < 200 {
        kept.bench.world.held = true;
        let request = json!({"action": "subscribe", "channels": names, "last": 1});
        kept.bench.say(key, &request);
        while !kept.bench.world.hub.core().postpones(key) {
            kept.bench.world.hub.begin_part(crate::world::PART_US);
            kept.bench.world.hub.handle_next_share(kept.bench.world.now);
        }
        for _ in 0..10 {
            kept.publish("market:tick", format!("{:?}", "x".repeat(200_000)));
            messages += 1;
        }
        kept.bench.world.held = false;
        kept.bench.world.settle();
        let request = json!({"action": "unsubscribe", "channels": names});
        kept.bench.say(key, &request);
        kept.bench.world.settle();
    }
    // 8 MiB wait as missed messages do, and 1 MiB as live ones.
    assert!((40..=60).contains(&messages), "{messages}");
    let stats = kept.bench.world.hub.stats();
    assert_eq!(stats.closes_for(CloseReason::SendQueueHard), 1);
}

/// A client whose rate holds the newest message of each of so many names of a pattern, on a bus without a history.
fn holding(count: u64) -> (Bench, SessionKey) {
    let mut bench = Bench::retaining();
    bench.feed = bench.feed.conflating(|_| true);
    let key = bench.world.connect("/ws?max_hz=0.1", None);
    let request = json!({"action": "subscribe", "channels": [PATTERN], "status": true});
    bench.say(key, &request);
    bench.confirm(PATTERN);
    // The first one passes, and the others wait.
    for n in 0..=count {
        bench.publish(&format!("indicators:{n}"), &[PATTERN], n.to_string());
    }
    let before = bench.got(key);
    assert_eq!(data(&before).last(), Some(&json!(0)), "the others wait");
    (bench, key)
}

const PATTERN: &str = "indicators:*";

/// More names than a topic remembers keys.
#[test]
fn after_a_name_was_given_up_no_message_of_it_comes() {
    for count in [1, 64, 200] {
        let (mut bench, key) = holding(count);
        bench.unsubscribe(key, &[PATTERN]);
        bench.world.advance(20 * SECOND);
        let got = bench.got(key);
        let answer = got.iter().position(|one| one["type"] == "unsubscribed");
        assert_eq!(answer, Some(got.len() - 1), "{count}");
        bench.world.hub.check_invariants();
    }
}

#[test]
fn the_end_of_last_values_comes_after_the_messages_that_wait() {
    let (mut bench, key) = holding(3);
    bench.value("indicators:1", Some(PATTERN), "0");
    bench.end(PATTERN);
    let got = bench.got(key);
    assert_eq!(data(&got[..3]), [json!(1), json!(2), json!(3)]);
    let end = (&got[3]["type"], got[3].get("cut"));
    assert_eq!((end, got.len()), ((&json!("retained"), None), 4));
}

#[test]
fn a_notice_of_a_loss_comes_after_the_messages_that_wait_and_a_pong_before_them() {
    let (mut bench, key) = holding(1);
    bench.ping(key);
    let pong = bench.got(key);
    assert_eq!((&pong[0]["type"], pong.len()), (&json!("pong"), 1));
    bench.down();
    bench.world.advance(0);
    let got = bench.got(key);
    assert_eq!(data(&got[..1]), [json!(1)]);
    assert_eq!(got[1]["type"], "status");
}
