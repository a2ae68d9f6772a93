//! Requests with so many names that a turn has no time for all of them, and clients that hold so many.

use super::*;
use weirgate_core::PeerEnd;

const NAMES: usize = 3_000;

/// A client has time for so many names in a turn.
fn bench(steps: u64) -> Bench {
    let settings = ChannelsGatewaySettings {
        channels_max: NAMES,
        ..settings()
    };
    Bench::in_steps(settings, steps)
}

fn names() -> Vec<String> {
    (0..NAMES).map(|n| format!("market:tick:{n}")).collect()
}

/// Says a request in one turn. Returns the number of subscriptions after it.
fn say_only(bench: &mut Bench, key: SessionKey, request: &Value) -> u64 {
    bench.world.held = true;
    bench.say(key, request);
    bench.world.held = false;
    bench.counts().0
}

/// Gives the client its shares of so many turns. Returns the number of subscriptions after them.
fn shares(bench: &mut Bench, turns: usize) -> u64 {
    for _ in 0..turns {
        assert_eq!(bench.world.hub.waiting_shares(), 1);
        bench.world.hub.begin_part(crate::world::PART_US);
        bench.world.hub.handle_next_share(bench.world.now);
    }
    bench.counts().0
}

#[test]
fn a_request_with_very_many_names_goes_on_in_later_turns() {
    let mut bench = bench(100);
    let (key, other) = (bench.client(), bench.client());
    let names = names();
    let all = NAMES as u64;
    let channels = json!(names);
    for (action, members, is_more) in [
        ("subscribe", "channels", true),
        ("unsubscribe", "channels", false),
    ] {
        let request = json!({"action": action, "channels": channels, "requestId": 7});
        let mut count = say_only(&mut bench, key, &request);
        let received = bench.world.hub.core().received().held();
        assert!(
            received > request.to_string().len() as u64 / 2,
            "{received}"
        );
        for _ in 0..5 {
            let done = if is_more { count } else { all - count };
            assert!((50..800).contains(&done), "{action}: {done}");
            assert!(!bench.world.hub.wants_read(key));
            count = shares(&mut bench, 1);
        }
        // Others have their answers meanwhile, and the next request of the client waits.
        say_only(&mut bench, other, &json!({"action": "ping"}));
        bench.world.flush();
        assert_eq!(bench.got(other)[0]["type"], "pong");
        say_only(&mut bench, key, &json!({"action": "ping", "requestId": 8}));
        bench.world.flush();
        assert_eq!(bench.got(key), [json!(null); 0]);
        bench.world.settle();
        let answers = bench.got(key);
        assert_eq!(answers[0][members], channels, "{action}");
        assert_eq!(answers[0]["requestId"], 7);
        assert_eq!(answers[1]["requestId"], 8, "in order");
        assert_eq!(answers.len(), 2);
        assert_eq!(bench.counts().0, if is_more { all } else { 0 });
        assert_eq!(bench.world.hub.core().received().held(), 0);
    }
}

#[test]
fn clients_of_other_addresses_have_their_turns_between_the_names_of_one() {
    let mut bench = bench(100);
    let crowd: Vec<_> = (0..20).map(|_| bench.client_from([192, 0, 2, 1])).collect();
    let alone = bench.client_from([192, 0, 2, 2]);
    let names = names();
    let request = json!({"action": "subscribe", "channels": names});
    for key in crowd {
        say_only(&mut bench, key, &request);
    }
    let few = json!({"action": "subscribe", "channels": &names[..300]});
    say_only(&mut bench, alone, &few);
    let mut turns = 0;
    while !bench.world.hub.wants_read(alone) {
        bench.world.hub.begin_part(crate::world::PART_US);
        bench.world.hub.handle_next_share(bench.world.now);
        turns += 1;
    }
    assert!(turns < 20, "{turns} turns");
}

#[test]
fn a_client_with_very_many_names_leaves_them_over_several_turns() {
    let mut bench = bench(15);
    let (key, other) = (bench.client(), bench.client());
    let names = names();
    bench.say(key, &json!({"action": "subscribe", "channels": names}));
    bench.subscribe(other, &["market:tick:0", "market:tick:2999"]);
    bench.got(other);
    bench.world.held = true;
    bench.world.hub.begin_part(5);
    bench
        .world
        .hub
        .handle_ended(bench.world.now, key, PeerEnd::Failed);
    let members = |bench: &Bench| bench.world.hub.core().memberships();
    let mut count = members(&bench);
    assert!(count > 2_000, "{count}");
    let mut turns = 0;
    while count > 2 {
        bench.world.advance(0);
        let left = members(&bench);
        assert!(count - left < 1_000, "{left} of {count}");
        count = left;
        turns += 1;
        assert!(turns < 1_000, "{count} are left");
    }
    // The names of the hub are gone; those of the gateway follow.
    for _ in 0..1_000 {
        bench.world.advance(0);
    }
    assert!(turns > 3, "{turns} turns");
    assert_eq!(bench.counts(), (2, 2, 0));
    bench.world.held = false;
    bench.world.settle();
    let wanted = bench.world.outputs.wanted.values();
    assert_eq!(wanted.filter(|wanted| **wanted).count(), 2);
    // The slot has another client, which is a member of nothing.
    let next = bench.client();
    bench.publish("market:tick:5", &[], "1");
    assert_eq!(bench.got(next), [json!(null); 0]);
    bench.publish("market:tick:2999", &[], "1");
    assert_eq!(bench.got(other)[0]["channel"], "market:tick:2999");
}

#[test]
fn a_client_may_leave_in_the_middle_of_a_request() {
    let mut bench = bench(100);
    let request = json!({"action": "subscribe", "channels": names()});
    for failed in [true, false] {
        let key = bench.client();
        assert!(say_only(&mut bench, key, &request) > 0);
        bench.world.end(key, failed);
        assert_eq!(bench.counts(), (0, 0, 0), "{failed}");
    }
}

/// The bus confirms one name after the other.
#[test]
fn an_answer_waits_for_the_last_of_very_many_names() {
    let mut bench = Bench::up(ChannelsGatewaySettings {
        channels_max: NAMES,
        ..settings()
    });
    let key = bench.client();
    let names = names();
    bench.say(key, &json!({"action": "subscribe", "channels": names}));
    for name in &names {
        assert_eq!(bench.got(key), [json!(null); 0]);
        bench.confirm(name);
    }
    assert_eq!(bench.got(key)[0]["channels"], json!(names));
}

/// The bus is quick: it has confirmed the first names when the request comes to its last.
#[test]
fn an_answer_does_not_wait_for_names_that_were_confirmed_during_the_request() {
    let mut bench = bench(100);
    bench.bus(BusEvent::Up);
    let key = bench.client();
    let names = names();
    let request = json!({"action": "subscribe", "channels": names});
    let done = say_only(&mut bench, key, &request) as usize;
    assert!((50..800).contains(&done), "{done}");
    bench.world.held = true;
    bench.world.keep_outputs();
    for name in &names[..done] {
        bench.confirm(name);
    }
    bench.world.held = false;
    bench.world.settle();
    assert_eq!(bench.got(key), [json!(null); 0], "names are not confirmed");
    for name in &names[done..] {
        bench.confirm(name);
    }
    assert_eq!(bench.got(key)[0]["channels"], json!(names));
}

/// A client of a kept feed that resumes very many names while messages come: it gets the answer, then all messages in
/// the order of the feed, and none is missing or comes twice.
#[test]
fn a_resume_of_very_many_names_goes_on_in_later_turns() {
    for (share, status) in [(3, false), (100, true), (5_000, false)] {
        let mut kept = kept(share);
        let names = names();
        let name = |n: usize| format!("market:tick:{}", n * 37 % NAMES);
        let mut sent = 0;
        let mut publish = |kept: &mut resume::Kept, count: usize| {
            for _ in 0..count {
                sent += 1;
                kept.publish(&name(sent), sent.to_string());
            }
            sent
        };
        publish(&mut kept, 10);
        // A name that the client holds already: its messages are not out of order either.
        let key = kept.bench.client();
        kept.bench.subscribe(key, &[&name(5)]);
        kept.bench.got(key);
        publish(&mut kept, 300);
        kept.bench.got(key);
        let others: Vec<&String> = names.iter().filter(|one| **one != name(5)).collect();
        let since = resume::Kept::position(20).to_string();
        let request =
            json!({"action": "subscribe", "channels": others, "since": since, "status": status});
        say_only(&mut kept.bench, key, &request);
        let mut turns = 0;
        while kept.bench.world.hub.waiting_shares() > 0 {
            kept.bench.world.held = true;
            if turns < 500 {
                publish(&mut kept, 3);
            }
            shares(&mut kept.bench, 1);
            kept.bench.world.held = false;
            turns += 1;
            assert!(turns < 30_000);
        }
        assert!(share > 1_000 || turns > 10, "{turns} turns");
        kept.bench.world.settle();
        let last = publish(&mut kept, 5);
        let got = kept.bench.got(key);
        let at = got.iter().position(|one| one["type"] == "subscribed");
        let (before, after) = got.split_at(at.expect("an answer"));
        let recovered = after[0]["recovered"].as_object().expect("outcomes");
        assert_eq!(recovered.len(), NAMES - 1);
        assert!(recovered.values().all(|is_whole| *is_whole == json!(true)));
        assert_eq!(after[0].get("why"), None);
        let brings = after[0]["brings"].as_object().map(|brings| brings.len());
        assert_eq!(brings, status.then_some(NAMES - 1));
        let numbers = |got: &[Value]| -> Vec<u64> {
            let data = got.iter().filter(|one| one["type"] == "data");
            data.map(|one| one["data"].as_u64().expect("a number"))
                .collect()
        };
        // What it had before it asked: the name that it held. It got these messages before the answer, or after it.
        let is_of_held = |n: &usize| name(*n) == name(5);
        let missed = (21..=310).filter(|n| !is_of_held(n));
        let newer = 311..=last;
        let wanted: Vec<u64> = missed.chain(newer).map(|n| n as u64).collect();
        assert_eq!([numbers(before), numbers(&after[1..])].concat(), wanted);
    }
}

/// The same with one pattern that matches very many names; and with their newest messages.
#[test]
fn a_resume_of_a_pattern_of_very_many_names_goes_on_in_later_turns() {
    let count = NAMES as u64;
    for (more, first, recovered) in [
        (
            json!({"since": resume::Kept::position(20).to_string()}),
            21,
            true,
        ),
        (json!({"last": 1}), count + 1, false),
    ] {
        let mut kept = kept(1);
        let mut sent = 0;
        let mut publish = |kept: &mut resume::Kept, count: u64| {
            for _ in 0..count {
                sent += 1;
                let name = format!("market:tick:{}", sent % NAMES as u64);
                kept.publish(&name, sent.to_string());
            }
            sent
        };
        publish(&mut kept, 2 * count);
        let key = kept.bench.client();
        let mut request = json!({"action": "subscribe", "channels": ["market:tick:*"]});
        for (name, value) in more.as_object().expect("members") {
            request[name] = value.clone();
        }
        say_only(&mut kept.bench, key, &request);
        let mut turns = 0;
        while kept.bench.world.hub.waiting_shares() > 0 {
            kept.bench.world.held = true;
            publish(&mut kept, 3);
            shares(&mut kept.bench, 1);
            kept.bench.world.held = false;
            turns += 1;
            assert!(turns < 1_000);
        }
        assert!(turns as u64 > count / 1_000, "{turns} turns");
        kept.bench.world.settle();
        let last = publish(&mut kept, 5);
        let got = kept.bench.got(key);
        let is_whole = json!({"market:tick:*": true});
        assert_eq!(got[0]["recovered"] == is_whole, recovered);
        assert_eq!(got[0].get("why"), None);
        let numbers: Vec<u64> = got.iter().filter_map(|one| one["data"].as_u64()).collect();
        assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
    }
}

/// A gateway with a kept feed, in which a client has time for so many steps in a turn.
fn kept(steps: u64) -> resume::Kept {
    let settings = ChannelsGatewaySettings {
        channels_max: NAMES,
        ..settings()
    };
    resume::Kept::in_steps(settings, steps)
}

/// Begins a resume of all names, of which the client has joined some. Returns the client.
fn begin(kept: &mut resume::Kept, more: &Value) -> SessionKey {
    for n in 1..=50 {
        kept.publish(&format!("market:tick:{n}"), n.to_string());
    }
    let key = kept.bench.client();
    let mut request = json!({"action": "subscribe", "channels": names()});
    for (name, value) in more.as_object().expect("members") {
        request[name] = value.clone();
    }
    say_only(&mut kept.bench, key, &request);
    while kept.bench.world.hub.core().joined_count(key) < 500 {
        shares(&mut kept.bench, 1);
    }
    key
}

/// Loses messages in the middle of an answer. Returns the answer, and all that the client got.
fn after_loss(kept: &mut resume::Kept, key: SessionKey) -> (Value, Vec<Value>) {
    kept.bench.world.held = true;
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.bench.world.held = false;
    kept.bench.world.settle();
    let got = kept.bench.got(key);
    let answer = got.iter().find(|one| one["type"] == "subscribed");
    (answer.expect("an answer").clone(), got)
}

#[test]
fn a_loss_in_the_middle_of_a_resume_is_no_recovered_name() {
    let since = resume::Kept::position(1).to_string();
    // With `last` a client expects the newest messages after a `gap`, and none follow.
    for (last, reason) in [(json!(null), "gap"), (json!(3), "limit")] {
        let mut kept = kept(200);
        let key = begin(&mut kept, &json!({"since": since, "last": last}));
        let (answer, _) = after_loss(&mut kept, key);
        let recovered = answer["recovered"].as_object().expect("outcomes");
        assert!(recovered.values().all(|is_whole| *is_whole == json!(false)));
        assert_eq!(recovered.len(), NAMES);
        let why = answer["why"].as_object().expect("reasons");
        assert!(
            why.values().all(|why| why == reason),
            "{:?}",
            why.values().next()
        );
    }
}

/// What was found before the loss is not sent: the client asks again.
#[test]
fn a_loss_among_the_newest_messages_leaves_none_that_count_as_whole() {
    let mut kept = kept(200);
    let key = begin(&mut kept, &json!({"last": 1}));
    let (answer, got) = after_loss(&mut kept, key);
    let why = answer["why"].as_object();
    let why = why.expect("reasons");
    assert_eq!(why.len(), NAMES);
    assert!(why.values().all(|why| why == "limit"));
    assert!(got.iter().all(|one| one["type"] != "data"));
}

#[test]
fn a_client_may_leave_or_be_stopped_in_the_middle_of_a_resume() {
    let since = resume::Kept::position(1).to_string();
    for end in 0..3 {
        let mut kept = kept(100);
        let key = begin(&mut kept, &json!({"since": since}));
        let bench = &mut kept.bench;
        match end {
            0 => bench.world.end(key, true),
            1 => bench.world.end(key, false),
            _ => {
                let plan = weirgate_core::DrainPlan::default();
                bench.world.hub.drain(bench.world.now, plan);
                bench.world.settle();
                let got = bench.got(key);
                assert!(got.iter().all(|one| one.get("pos").is_none()), "{got:?}");
            }
        }
        for _ in 0..2_000 {
            bench.world.advance(1_000);
        }
        assert_eq!(bench.counts(), (0, 0, 0), "{end}");
        assert_eq!(bench.world.hub.core().received().held(), 0, "{end}");
    }
}

#[test]
fn what_comes_in_the_middle_of_a_resume_waits_within_a_limit() {
    let since = resume::Kept::position(1).to_string();
    let mut kept = kept(100);
    let key = begin(&mut kept, &json!({"since": since, "last": 2}));
    kept.bench.world.held = true;
    // Of names that the client has joined: they come first in the order of the answer.
    for n in 0..430 {
        kept.publish("market:tick:1", format!("\"{n:010000}\""));
    }
    kept.bench.world.held = false;
    kept.bench.world.settle();
    let got = kept.bench.got(key);
    let data: Vec<&Value> = got.iter().filter(|one| one["type"] == "data").collect();
    assert_eq!(data.len(), 430, "each once");
    assert!(data.is_sorted_by_key(|one| one["data"].as_str()));
    let answer = got.iter().find(|one| one["type"] == "subscribed");
    let why = answer.expect("an answer")["why"]
        .as_object()
        .expect("reasons");
    assert_eq!(why["market:tick:1"], "large");
    assert_eq!(why.len(), NAMES);
    assert_eq!(kept.bench.world.hub.core().joined_count(key), NAMES);
}
