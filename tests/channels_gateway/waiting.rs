//! `subscribed` is sent when it is true, and no later than a second.

use weirgate_core::{Gateway as _, RetainedCut};
use weirgate_wire::admission::Quota;

use super::*;

#[test]
fn an_answer_waits_for_redis_and_those_behind_it_too() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick:A", "indicators:*"]);
    bench.ping(key);
    assert_eq!(bench.kinds(key), []);
    bench.confirm("indicators:*");
    assert_eq!(bench.kinds(key), []);
    bench.confirm("market:tick:A");
    bench.publish("market:tick:A", &[], "1");
    let want = [("subscribed", 2), ("pong", 3), ("data", 4)];
    assert_eq!(bench.kinds(key), kinds(&want));
}

#[test]
fn what_comes_before_the_confirmation_keeps_its_place() {
    let mut bench = Bench::up(settings());
    let (first, second) = (bench.client(), bench.client());
    bench.subscribe(first, &["market:tick"]);
    bench.confirm("market:tick");
    bench.subscribe(second, &["market:tick", "market:tick:B"]);
    bench.publish("market:tick", &[], "1");
    bench.confirm("market:tick:B");
    assert_eq!(
        bench.kinds(second),
        kinds(&[("data", 2), ("subscribed", 3)])
    );
    assert_eq!(bench.kinds(first), kinds(&[("subscribed", 2), ("data", 3)]));
}

#[test]
fn a_name_that_stands_is_answered_at_once_until_its_last_holder_leaves() {
    let mut bench = Bench::up(settings());
    let (first, second) = (bench.client(), bench.client());
    bench.subscribe(first, &["market:tick"]);
    bench.confirm("market:tick");
    bench.subscribe(second, &["market:tick"]);
    assert_eq!(bench.kinds(second), kinds(&[("subscribed", 2)]));
    bench.unsubscribe(first, &["market:tick"]);
    assert!(bench.world.outputs.wanted["market:tick"]);
    bench.world.end(second, true);
    assert!(!bench.world.outputs.wanted["market:tick"]);
    bench.subscribe(first, &["market:tick"]);
    let so_far = [("subscribed", 2), ("unsubscribed", 3)];
    assert_eq!(bench.kinds(first), kinds(&so_far), "asked for anew");
    bench.confirm("market:tick");
    assert_eq!(bench.kinds(first), kinds(&[("subscribed", 4)]));
}

#[test]
fn nobody_waits_longer_than_a_second() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    bench.world.advance(SECOND / 2);
    bench.subscribe(key, &["indicators:a"]);
    bench.world.advance(SECOND / 2 - 1);
    assert_eq!(bench.kinds(key), []);
    bench.world.advance(1);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    bench.world.advance(SECOND / 2);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 3)]));
    // It may still be confirmed, and is told to nobody twice.
    bench.confirm("market:tick");
    assert_eq!(bench.kinds(key), []);
    bench.subscribe(key, &["market:tick"]);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 4)]));
}

#[test]
fn a_bus_that_confirms_late_is_waited_for_longer() {
    let mut bench = Bench::made(settings(), |gateway| gateway.with_slow_bus(5 * SECOND));
    bench.bus(BusEvent::Up);
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    bench.world.advance(5 * SECOND);
    assert_eq!(bench.kinds(key), []);
    bench.confirm("market:tick");
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    bench.subscribe(key, &["indicators:a"]);
    bench.world.advance(6 * SECOND);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 3)]));
}

#[test]
fn while_redis_is_away_answers_come_at_once() {
    let mut bench = Bench::new(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    // The source confirms what it restores, then says that it is there.
    bench.confirm("market:tick");
    bench.bus(BusEvent::Up);
    bench.subscribe(key, &["market:tick"]);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 3)]));
    bench.subscribe(key, &["indicators:a"]);
    bench.ping(key);
    assert_eq!(bench.kinds(key), []);
    bench.down();
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 4), ("pong", 5)]));
    bench.subscribe(key, &["indicators:b"]);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 6)]));
}

#[test]
fn who_changes_his_mind_waits_for_nothing() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    bench.unsubscribe(key, &["market:tick"]);
    assert_eq!(
        bench.kinds(key),
        kinds(&[("subscribed", 2), ("unsubscribed", 3)])
    );
    assert!(!bench.world.outputs.wanted["market:tick"]);
}

#[test]
fn a_name_that_the_bus_refuses_is_an_error_for_each_of_its_clients() {
    let mut bench = Bench::up(settings());
    let [waits, later, other] = [(); 3].map(|()| bench.client());
    bench.subscribe(other, &["indicators:a"]);
    bench.confirm("indicators:a");
    assert_eq!(bench.kinds(other), kinds(&[("subscribed", 2)]));
    bench.subscribe(waits, &["market:tick"]);
    bench.refuse("market:tick");
    bench.subscribe(later, &["market:tick"]);
    for key in [waits, later] {
        let got = bench.got(key);
        assert_eq!(got[0]["channels"], json!(["market:tick"]));
        let error = [&got[1]["type"], &got[1]["error"], &got[1]["requestId"]];
        assert_eq!(
            error,
            [
                &json!("error"),
                &json!("Refused by the bus: market:tick"),
                &json!(null)
            ]
        );
        assert_eq!(got.len(), 2);
    }
    bench.confirm("market:tick");
    bench.publish("market:tick", &[], "1");
    assert_eq!(bench.kinds(waits), kinds(&[("data", 4)]));
    // The bus takes the name away: a number is missing.
    bench.refuse("market:tick");
    assert_eq!(bench.kinds(waits), kinds(&[("error", 6)]));
    assert_eq!(bench.kinds(other), []);
}

/// The members get a status once the messages come again: only then is it worth to ask for what was missed.
#[test]
fn a_name_that_the_bus_takes_away_and_gives_back_is_a_loss() {
    let mut bench = Bench::retaining();
    let [holds, late, plain, other] = [(); 4].map(|()| bench.client());
    let asks = |bench: &mut Bench, key, name| {
        bench.say(
            key,
            &json!({"action": "subscribe", "channels": [name], "status": true}),
        );
    };
    for (key, name) in [(holds, "market:tick"), (other, "indicators:a")] {
        asks(&mut bench, key, name);
        bench.confirm(name);
        bench.end(name);
    }
    bench.subscribe(plain, &["market:tick"]);
    bench.end("market:tick");
    bench.refuse("market:tick");
    let told = [("subscribed", 2), ("retained", 3), ("error", 5)];
    assert_eq!(bench.kinds(holds), kinds(&told));
    assert_eq!(
        bench.kinds(plain),
        kinds(&[("subscribed", 2), ("error", 4)])
    );
    asks(&mut bench, late, "market:tick");
    bench.kinds(late);
    // Refused once more on another connection.
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    bench.refuse("market:tick");
    bench.confirm("indicators:a");
    bench.bus(BusEvent::Up);
    bench.world.advance(5 * SECOND);
    for key in [holds, late, plain] {
        bench.kinds(key);
    }
    bench.confirm("market:tick");
    bench.world.advance(SECOND);
    for key in [holds, late] {
        let got = bench.got(key);
        let lost: Vec<_> = got.iter().map(|message| &message["lost"]).collect();
        assert_eq!(lost, [&json!(true)], "{got:?}");
    }
    bench.publish("market:tick", &[], "1");
    let seq = |got: Vec<(String, u64)>| got.iter().map(|(_, seq)| *seq).collect::<Vec<_>>();
    assert_eq!(seq(bench.kinds(plain)), [6], "a number is missing");
    let told = bench.got(other);
    assert!(told.iter().all(|message| message["type"] != "error"));
    // Once.
    bench.refuse("market:tick");
    bench.got(holds);
    bench.unsubscribe(holds, &["market:tick"]);
    bench.unsubscribe(plain, &["market:tick"]);
    bench.unsubscribe(late, &["market:tick"]);
    asks(&mut bench, holds, "market:tick");
    bench.got(holds);
    bench.confirm("market:tick");
    bench.end("market:tick");
    bench.world.advance(SECOND);
    let got = bench.got(holds);
    assert!(
        got.iter().all(|message| message["type"] != "status"),
        "{got:?}"
    );
}

/// Redis ends the connection of a user that loses a channel.
#[test]
fn a_name_that_is_refused_after_a_loss_of_the_connection_is_a_loss_when_it_is_back() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["market:tick"], "status": true}),
    );
    bench.confirm("market:tick");
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    bench.refuse("market:tick");
    bench.bus(BusEvent::Up);
    bench.world.advance(5 * SECOND);
    let told = [
        ("subscribed", 2),
        ("status", 4),
        ("error", 5),
        ("status", 6),
    ];
    assert_eq!(bench.kinds(key), kinds(&told));
    bench.confirm("market:tick");
    bench.world.advance(SECOND);
    let got = bench.got(key);
    let lost: Vec<_> = got.iter().map(|message| &message["lost"]).collect();
    assert_eq!(lost, [&json!(true)], "{got:?}");
}

/// The errors of `subscribed` are those of the entries that are not granted, in their order.
#[test]
fn a_granted_name_that_the_bus_refuses_is_not_among_the_errors_of_the_answer() {
    let mut bench = Bench::up(settings());
    let [first, second] = [(); 2].map(|()| bench.client());
    for key in [first, second] {
        bench.say(
            key,
            &json!({"action": "subscribe", "channels": ["market:tick", "no"], "status": true}),
        );
        if key == first {
            bench.refuse("market:tick");
        }
        let got = bench.got(key);
        assert_eq!(got[0]["channels"], json!(["market:tick"]));
        assert_eq!(got[0]["errors"], json!(["Access denied to channel: no"]));
        assert_eq!(got[0]["brings"], json!({}));
        assert_eq!(got[1]["error"], json!("Refused by the bus: market:tick"));
        assert_eq!(got.len(), 2);
    }
}

/// A name that everybody holds is refused: the errors go out over several turns.
#[test]
fn the_errors_of_many_clients_wait_for_the_budget_of_a_turn() {
    let mut bench = Bench::up(settings());
    let keys: Vec<SessionKey> = (0..600).map(|_| bench.client()).collect();
    for key in &keys {
        bench.subscribe(*key, &["market:tick"]);
    }
    bench.world.held = true;
    bench.refuse("market:tick");
    bench.world.held = false;
    bench.world.settle();
    for key in keys {
        assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2), ("error", 3)]));
    }
}

#[test]
fn last_values_that_the_bus_refuses_are_an_error_for_who_waits_for_them() {
    let mut bench = Bench::retaining();
    let (first, second) = (bench.client(), bench.client());
    for (key, name) in [(first, "market:tick:*"), (second, "market:tick")] {
        bench.subscribe(key, &[name]);
        bench.confirm(name);
        bench.bus(BusEvent::RetainedEnd {
            subscription: match name.contains('*') {
                true => Subscription::pattern(name),
                false => Subscription::channel(name),
            },
            number: bench.newest_question(name),
            cut: Some(RetainedCut::Refused),
        });
        let got = bench.got(key);
        let kinds: Vec<_> = got.iter().map(|message| &message["type"]).collect();
        assert_eq!(kinds, ["subscribed", "error"]);
        let error = format!("No last values from the bus: {name}");
        assert_eq!(got[1]["error"], error.as_str());
    }
    // The values of another time, and the end without a refusal.
    bench.subscribe(first, &["market:tick:*"]);
    bench.value("market:tick:a", Some("market:tick:*"), "1");
    bench.end("market:tick:*");
    assert_eq!(bench.values(first).len(), 1);
    assert_eq!(bench.kinds(second), []);
}

#[test]
fn a_client_with_many_answers_waiting_is_not_read() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    (0..100).for_each(|_| bench.ping(key));
    assert!(!bench.world.hub.wants_read(key));
    assert_eq!(bench.kinds(key), []);
    bench.confirm("market:tick");
    let kinds = bench.kinds(key);
    assert_eq!(kinds.len(), 101);
    assert_eq!(kinds.last(), Some(&("pong".to_owned(), 102)));
    assert!(bench.world.hub.wants_read(key));
}

#[test]
fn who_leaves_while_answers_wait_leaves_nothing_behind() {
    let mut bench = Bench::up(settings());
    let (gone, other) = (bench.client(), bench.client());
    bench.subscribe(gone, &["market:tick", "indicators:*"]);
    bench.world.end(gone, true);
    assert_eq!(bench.counts(), (0, 0, 0));
    bench.subscribe(other, &["market:tick"]);
    bench.confirm("market:tick");
    assert_eq!(bench.kinds(other), kinds(&[("subscribed", 2)]));
    assert!(!bench.world.outputs.wanted["indicators:*"]);
    bench.world.end(other, true);
}

/// A client that is about to be closed holds its name, but is a member of nothing any more: the bus still has the name.
#[test]
fn a_name_stands_while_its_last_holder_ends() {
    let mut bench = Bench::up(super::admission::with_auth());
    let in_a_second = bench.world.now.unix_ms() / 1000 + 1;
    let ends = bench
        .world
        .connect(&super::admission::target(in_a_second), None);
    let stays = bench
        .world
        .connect(&super::admission::target(in_a_second + 9), None);
    bench.subscribe(ends, &["market:tick"]);
    bench.confirm("market:tick");
    bench.got(stays);
    // In one turn: something waits for it, its time is over, and somebody else wants the name.
    bench.world.held = true;
    bench.publish("market:tick", &[], "1");
    bench.world.advance(SECOND);
    bench.subscribe(stays, &["market:tick"]);
    bench.world.held = false;
    bench.world.settle();
    assert!(bench.world.client(ends).close.is_some());
    assert_eq!(bench.kinds(stays), kinds(&[("subscribed", 2)]));
    bench.publish("market:tick", &[], "2");
    assert_eq!(bench.kinds(stays), kinds(&[("data", 3)]));
}

/// Redis has confirmed the first request, and the loop learns of that only when somebody else has
/// asked anew: by then Redis may be told to unsubscribe.
#[test]
fn a_confirmation_of_an_earlier_request_answers_no_later_one() {
    let mut bench = Bench::up(settings());
    let (first, second) = (bench.client(), bench.client());
    bench.subscribe(first, &["market:tick"]);
    let late = bench.confirmation("market:tick");
    bench.unsubscribe(first, &["market:tick"]);
    bench.subscribe(second, &["market:tick"]);
    bench.bus(late);
    assert_eq!(bench.kinds(second), [], "Redis may have nothing");
    bench.confirm("market:tick");
    assert_eq!(bench.kinds(second), kinds(&[("subscribed", 2)]));
}

/// A name that everybody holds is confirmed: the answers go out over several turns.
#[test]
fn the_answers_of_many_members_wait_for_the_budget_of_a_turn() {
    let mut bench = Bench::up(settings());
    let keys: Vec<SessionKey> = (0..1_100).map(|_| bench.client()).collect();
    for key in &keys {
        bench.subscribe(*key, &["market:tick"]);
    }
    let queued = |bench: &Bench| bench.world.hub.stats().messages_queued;
    let before = queued(&bench);
    let event = bench.confirmation("market:tick");
    let notice = bench.feed.notice(&event).expect("a notice");
    let now = bench.world.now;
    bench.world.hub.handle_notice(now, &notice);
    assert_eq!(queued(&bench), before, "nobody in the turn of the bus");
    bench.world.settle();
    for key in keys {
        assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    }
}

#[test]
fn answers_that_wait_are_charged_and_go_out_without_room_for_them() {
    let mut settings = settings();
    settings.all_clients.name_bytes_max = 20_000;
    let mut bench = Bench::up(settings);
    let held = |bench: &Bench| {
        let all = bench.world.hub.gateway().holdings();
        let bytes = all.iter().map(Quota::counts);
        let bytes = bytes.filter(|held| held.name == "name_bytes");
        bytes.map(|held| held.held).sum::<u64>()
    };
    let (key, other) = (bench.client(), bench.client_from([127, 0, 0, 2]));
    bench.subscribe(key, &["market:tick"]);
    let of_name = held(&bench);
    let mut asked = 0;
    while asked < 90 && bench.kinds(key).is_empty() {
        bench.say(
            key,
            &json!({"action": "ping", "requestId": "x".repeat(1_000)}),
        );
        asked += 1;
    }
    assert!(
        (7..=10).contains(&asked),
        "{asked}: an address has half of all"
    );
    assert!(held(&bench) <= of_name, "given back with the answers");
    bench.subscribe(other, &["market:tick:B"]);
    bench.confirm("market:tick:B");
    assert_eq!(bench.kinds(other), kinds(&[("subscribed", 2)]));
}
