//! The status of the bus, and limits, of a gateway with a kept feed.

use weirgate_core::{BusNotice, DrainPlan, FeedNotice};

use super::resume::{Kept, MARK, TICK, at, data, limits, positions};
use super::*;

/// The bus's answer for `market:*` of the kept feed.
fn settled(is_confirmed: bool) -> BusEvent {
    let (subscription, number) = (Subscription::pattern("market:*"), 0);
    match is_confirmed {
        true => BusEvent::Subscribed {
            subscription,
            number,
        },
        false => BusEvent::Refused {
            subscription,
            number,
            fault: "NOPERM".to_owned(),
            is_loss: false,
        },
    }
}

#[test]
fn what_was_kept_of_a_name_that_the_bus_refuses_is_not_sent() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    kept.bench.bus(settled(false));
    let last = |name: &str| json!({"action": "subscribe", "channels": [name], "last": 1});
    for name in [TICK, "market:t*"] {
        let (_, answer, got) = kept.asks(&last(name));
        assert_eq!(answer["type"], "subscribed");
        let errors: Vec<_> = got.iter().map(|message| &message["error"]).collect();
        assert_eq!(errors, [&json!(format!("Refused by the bus: {name}"))]);
    }
    let (_, answer, _) = kept.comes_back(&[TICK, "indicators:a"], &at(0));
    assert_eq!(
        answer["recovered"],
        json!({TICK: false, "indicators:a": true})
    );
    assert_eq!(answer["why"], json!({TICK: "off"}));
    kept.bench.bus(settled(true));
    let (_, _, got) = kept.asks(&last(TICK));
    assert_eq!(got[0]["data"], json!(1));
}

/// Each time that the bus begins to refuse a name of the list, and once for each name of the client within it.
#[test]
fn members_of_kept_names_that_the_bus_refuses_get_an_error() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&["market:*", TICK, "indicators:a"]);
    let (late, _) = kept.member(&["indicators:a"]);
    let errors = |kept: &mut Kept, key| {
        let mut got = kept.bench.got(key);
        got.retain(|message| message["type"] == "error");
        let errors = got.iter().map(|message| message["error"].to_string());
        let mut errors: Vec<String> = errors.collect();
        errors.sort();
        errors
    };
    let refused = ["market:*", TICK].map(|name| format!("\"Refused by the bus: {name}\""));
    for _ in 0..2 {
        kept.bench.bus(settled(false));
        assert_eq!(errors(&mut kept, key), refused);
        kept.bench.bus(settled(false));
        assert_eq!(errors(&mut kept, key), [] as [&str; 0], "they know");
        kept.bench.bus(settled(true));
        kept.publish(TICK, "1");
        let mut got = kept.bench.got(key);
        got.retain(|message| message["type"] == "data");
        assert_eq!(data(&got), [json!(1), json!(1)]);
    }
    assert_eq!(errors(&mut kept, late), [] as [&str; 0], "not its name");
    // All in one turn: the client joins before the members know.
    let now = kept.bench.world.now;
    kept.bench.world.held = true;
    let notice = kept.bench.feed.notice(&settled(false)).expect("a notice");
    kept.bench.world.hub.handle_notice(now, &notice);
    kept.bench.subscribe(late, &[TICK]);
    kept.bench.world.held = false;
    kept.bench.world.settle();
    assert_eq!(errors(&mut kept, late), refused[1..]);
    assert_eq!(errors(&mut kept, key), refused);
}

/// The error has told them of the loss so far; what they missed since is worth to be asked for only now.
#[test]
fn members_of_kept_names_that_the_bus_permits_again_get_the_status_of_a_loss() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&["market:*", TICK]);
    let (spared, _) = kept.member(&["indicators:a"]);
    kept.bench.bus(settled(false));
    kept.bench.world.advance(SECOND);
    for key in [key, spared] {
        kept.bench.got(key);
    }
    kept.bench.bus(settled(true));
    kept.bench.world.advance(SECOND);
    let got = kept.bench.got(key);
    let lost: Vec<_> = got.iter().map(|message| &message["lost"]).collect();
    assert_eq!(lost, [&json!(true)], "once for both: {got:?}");
    assert_eq!(kept.bench.got(spared), [] as [Value; 0]);
}

/// Many names are refused at once: the errors go out over several turns.
#[test]
fn the_errors_of_many_kept_names_wait_for_the_budget_of_a_turn() {
    let mut kept = Kept::in_steps(settings(), 40);
    let names: Vec<String> = (0..50).map(|n| format!("market:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let keys: Vec<SessionKey> = (0..20).map(|_| kept.member(&names).0).collect();
    kept.bench.bus(settled(false));
    for key in keys {
        let got = kept.bench.got(key);
        let errors = got.iter().filter(|message| message["type"] == "error");
        assert_eq!(errors.count(), names.len());
    }
}

#[test]
fn clients_get_the_status_of_the_bus_with_a_young_position() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&[TICK]);
    let idle = kept.bench.client();
    kept.publish("market:quiet", "1");
    kept.bench.world.advance(10 * SECOND);
    let [status] = &kept.bench.got(key)[..] else {
        panic!("one status");
    };
    assert_eq!(
        (&status["type"], &status["bus"], &status["pos"]),
        (&json!("status"), &json!("up"), &json!(at(1)))
    );
    assert_eq!(
        (status["seq"].clone(), status.get("lost")),
        (json!(3), None)
    );
    let [status] = &kept.bench.got(idle)[..] else {
        panic!("one status");
    };
    assert_eq!(status.get("pos"), None, "it holds nothing");
    kept.bench.bus(BusEvent::Gap { lost: None });
    kept.bench.down();
    kept.bench.world.advance(1);
    let got = kept.bench.got(key);
    assert_eq!(
        (
            got.len(),
            &got[0]["bus"],
            &got[0]["lost"],
            got[0].get("pos")
        ),
        (1, &json!("away"), &json!(true), None)
    );
    kept.begin(Mark { counter: 9, ..MARK });
    let got = kept.bench.got(key);
    assert_eq!(
        (got.len(), &got[0]["bus"], got[0].get("lost")),
        (1, &json!("up"), None)
    );
    let pos = Position::counted(5, Mark { counter: 9, ..MARK }, 0);
    assert_eq!(got[0]["pos"], pos.to_string());
    // Before the close of a stop.
    let now = kept.bench.world.now;
    kept.bench.world.hub.drain(now, DrainPlan::default());
    kept.bench.world.settle();
    let got = kept.bench.got(key);
    assert_eq!((got.len(), &got[0]["pos"]), (1, &json!(pos.to_string())));
    let close = kept.bench.world.client(key).close.as_ref();
    assert_eq!(close.map(|(code, _)| *code), Some(1012));
}

#[test]
fn a_loss_is_told_before_an_answer_with_a_position_from_behind() {
    // The second request joins no name, so nothing but the answer is sent.
    for request in [&["market:quiet"][..], &[]] {
        let mut kept = Kept::new();
        let (key, _) = kept.member(&[TICK]);
        // All in one turn of the loop, before its deadlines.
        let now = kept.bench.world.now;
        let mark = BusNotice::Feed(FeedNotice::Mark {
            feed_hash: 5,
            mark: Mark { counter: 9, ..MARK },
            count: 0,
        });
        for notice in [BusNotice::Gap, BusNotice::Down, mark] {
            kept.bench.world.hub.handle_notice(now, &notice);
        }
        kept.bench.subscribe(key, request);
        let got = kept.bench.got(key);
        let lost: Vec<_> = got.iter().map(|message| message.get("lost")).collect();
        assert_eq!(lost, [Some(&json!(true)), None, None], "{got:?}");
        assert_eq!(got[0].get("pos"), None);
        assert_eq!(got[1]["type"], "subscribed");
        assert!(got[1].get("pos").is_some());
        assert_eq!(got[2]["bus"], "away", "the round of the change");
    }
}

#[test]
fn nobody_gets_the_marks() {
    let settings = ChannelsGatewaySettings {
        marks_channel: Some("market:mark".to_owned()),
        ..settings()
    };
    let mut kept = Kept::with(settings, limits());
    let (_, answer) = kept.member(&["market:mark"]);
    assert_eq!(
        answer["errors"],
        json!(["Access denied to channel: market:mark"])
    );
}

#[test]
fn without_a_history_a_position_is_answered_all_the_same() {
    let mut bench = Bench::up(settings());
    let key = bench.client();
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": [TICK], "since": at(0)}),
    );
    bench.confirm(TICK);
    let got = bench.got(key);
    assert_eq!(got[0]["recovered"], json!({ TICK: false }));
    assert_eq!(
        (got[0]["why"].clone(), got[0].get("pos")),
        (json!({ TICK: "off" }), None)
    );
    bench.world.advance(60 * SECOND);
    assert!(bench.got(key).is_empty(), "no status");
}

#[test]
fn the_limits_over_all_clients_hold_for_names_of_the_feed() {
    let settings = ChannelsGatewaySettings {
        all_clients: AllClientsLimits {
            names_max: 1,
            ..settings().all_clients
        },
        ..settings()
    };
    let mut kept = Kept::with(settings, limits());
    let (key, _) = kept.member(&[TICK]);
    let (_, answer) = kept.member(&["market:x"]);
    assert_eq!(
        answer["errors"],
        json!(["Server limit of channels exceeded (1)"])
    );
    kept.bench.world.end(key, true);
    let (key, answer) = kept.member(&["market:x"]);
    assert_eq!(answer["channels"], json!(["market:x"]));
    kept.bench.world.end(key, true);
    // Names that are joined with the answer.
    for more in [json!({"last": 1}), json!({"since": "x"})] {
        let mut request = json!({"action": "subscribe", "channels": ["market:x", "market:y"]});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (key, answer, _) = kept.asks(&request);
        assert_eq!(answer["channels"], json!(["market:x"]), "{request}");
        kept.bench.world.end(key, true);
    }
}

/// A name counts while the answer with which the client joins waits for the bus, and no longer.
#[test]
fn a_name_that_is_joined_with_a_late_answer_counts_from_its_request() {
    let settings = ChannelsGatewaySettings {
        all_clients: AllClientsLimits {
            names_max: 3,
            ..settings().all_clients
        },
        ..settings()
    };
    let mut kept = Kept::with(settings, limits());
    let late = json!({"action": "subscribe", "channels": [TICK, "asked"], "since": at(0)});
    let counts = |kept: &Kept| kept.bench.stats.channels.get();
    let key = kept.bench.client();
    kept.bench.say(key, &late);
    assert_eq!(counts(&kept), 2);
    let (_, answer) = kept.member(&["market:x"]);
    assert_eq!(answer["channels"], json!([]), "no room");
    kept.bench.unsubscribe(key, &[TICK]);
    assert_eq!(counts(&kept), 1, "given up before the answer");
    let (other, _) = kept.member(&["market:x"]);
    kept.bench.world.end(other, true);
    kept.bench.say(
        key,
        &json!({"action": "subscribe", "channels": [TICK], "since": at(0)}),
    );
    assert_eq!(counts(&kept), 2);
    kept.bench.world.end(key, true);
    assert_eq!(counts(&kept), 0, "gone before the answer");
    // Another client holds the name.
    let (member, _) = kept.member(&[TICK]);
    let key = kept.bench.client();
    kept.bench.say(key, &late);
    kept.bench.world.end(key, true);
    assert_eq!(counts(&kept), 1);
    kept.bench.world.end(member, true);
    assert_eq!(counts(&kept), 0);
}

#[test]
fn a_pattern_with_last_is_a_picture_of_all_its_names() {
    let mut kept = Kept::new();
    for round in 0..3 {
        for name in ["market:a", "market:b", TICK] {
            kept.publish(name, format!("{round}"));
        }
    }
    kept.publish("market:b", "9");
    let (key, answer, mut got) =
        kept.asks(&json!({"action": "subscribe", "channels": ["market:*", TICK], "last": 1}));
    let status = got.pop().expect("a status");
    assert_eq!(
        (&status["type"], &status["pos"]),
        (&json!("status"), &json!(at(10))),
        "behind the newest messages"
    );
    assert_eq!(
        (
            answer.get("pos"),
            answer.get("recovered"),
            answer.get("why")
        ),
        (None, None, None)
    );
    let short: Vec<_> = got
        .iter()
        .map(|m| {
            (
                m["channel"].clone(),
                m["pattern"].clone(),
                m["data"].clone(),
            )
        })
        .collect();
    let every = json!("market:*");
    assert_eq!(
        short,
        [
            (json!("market:a"), every.clone(), json!(2)),
            (json!(TICK), every.clone(), json!(2)),
            (json!(TICK), json!(null), json!(2)),
            (json!("market:b"), every, json!(9)),
        ],
        "as live: for the pattern, then for the name"
    );
    assert!(positions(&got)[3].starts_with(&format!("{}.", at(10))));
    // A quiet name that the client takes in addition has older messages, and the position is told again.
    kept.bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["market:a"], "last": 1}),
    );
    let got = kept.bench.got(key);
    assert_eq!(got[0].get("pos"), None);
    assert_eq!(positions(&got[1..]), [at(7), at(10)]);
    // Where a name is not resumed, its newest message follows among the missed ones of the others.
    let names = ["market:a", TICK];
    let request = json!({"action": "subscribe", "channels": names, "since": at(8), "last": 1});
    let (_, answer, got) = kept.asks(&request);
    assert_eq!(answer["recovered"], json!({"market:a": true, TICK: true}));
    assert_eq!(
        data(&got),
        [json!(2)],
        "missed, and nothing of a name without a miss"
    );
    let (_, answer, _) =
        kept.asks(&json!({"action": "subscribe", "channels": [TICK], "last": 101}));
    assert_eq!(answer["error"], "last must be a whole number from 1 to 100");
    // Nothing yet: the answer says where the feed is.
    let (_, answer, got) =
        kept.asks(&json!({"action": "subscribe", "channels": ["market:new"], "last": 5}));
    assert_eq!((answer["pos"].clone(), got.len()), (json!(at(10)), 0));
    // Outside of the feed `last` means nothing.
    let key = kept.bench.client();
    kept.bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["indicators:b"], "last": 1}),
    );
    kept.bench.confirm("indicators:b");
    assert_eq!(kept.bench.got(key)[0].get("why"), None);
}

#[test]
fn a_name_that_the_bus_refuses_keeps_no_other_from_its_newest_messages() {
    let mut kept = Kept::new();
    kept.publish(TICK, "1");
    kept.publish("indicators:a", "2");
    let both = json!({"action": "subscribe", "channels": [TICK, "indicators:a"], "last": 1});
    let key = kept.bench.client();
    let numbers = |got: Vec<Value>| {
        let numbers = got.iter().filter_map(|message| message["data"].as_u64());
        numbers.collect::<Vec<u64>>()
    };
    kept.bench.say(key, &both);
    assert_eq!(numbers(kept.bench.got(key)), [1, 2]);
    let (subscription, number) = (Subscription::pattern("market:*"), 0);
    kept.bench.bus(BusEvent::Refused {
        subscription,
        number,
        fault: "NOPERM".to_owned(),
        is_loss: false,
    });
    kept.bench.got(key);
    kept.bench.say(key, &both);
    assert_eq!(numbers(kept.bench.got(key)), [2]);
}

/// Otherwise a client could take many turns of the others with requests that are refused.
#[test]
fn a_search_in_vain_counts_in_the_messages_of_the_turn() {
    let limits = HistoryLimits {
        bytes_max: 1 << 26,
        ..limits()
    };
    let mut kept = Kept::with(settings(), limits);
    for n in 0..24_000 {
        kept.publish(
            &format!("market:tick:NFO:BANKNIFTY-WEEKLY-CALL-24DEC2026-{n:06}CE"),
            "1",
        );
    }
    let hard = format!("market:*{}z", "?".repeat(23));
    for (pattern, request, why) in [
        ("market:tick:x*", json!({"last": 1}), json!(null)),
        (&*hard, json!({"last": 1}), json!("limit")),
        (&*hard, json!({"since": at(0)}), json!("large")),
    ] {
        let mut request = request;
        request["action"] = json!("subscribe");
        // Five spellings of a pattern.
        let spellings = (0..5).map(|n| format!("{pattern}{}", "*".repeat(n)));
        request["channels"] = json!(spellings.collect::<Vec<_>>());
        let key = kept.bench.client();
        kept.bench.world.text(key, &request.to_string());
        let got = kept.bench.got(key);
        assert_eq!((got[0]["why"][pattern].clone(), got.len()), (why, 1));
        kept.bench.world.end(key, true);
    }
    // The client is a member all the same.
    let (key, _) = kept.member(&[&hard]);
    let name = format!("market:tick:{}z", "y".repeat(20));
    kept.publish(&name, "7");
    assert_eq!(data(&kept.bench.got(key)), [json!(7)]);
}

/// Only the machine of Redis knows what such a range means.
#[test]
fn a_range_outside_of_ascii_is_asked_of_the_bus() {
    const RANGE: &str = "market:[é-ü]*";
    let mut kept = Kept::new();
    let key = kept.bench.client();
    let request = json!({"action": "subscribe", "channels": [RANGE], "since": at(0)});
    kept.bench.say(key, &request);
    assert!(kept.bench.got(key).is_empty(), "not yet confirmed");
    kept.bench.confirm(RANGE);
    let got = kept.bench.got(key);
    assert_eq!(got[0]["why"], json!({ RANGE: "off" }));
    // A name outside of ASCII, and a range within: the feed has both.
    let (_, answer) = kept.member(&["market:é", "market:é[a-z]*"]);
    assert_eq!(answer["pos"], at(0));
    // A stream is read whole, and nothing can be asked.
    let mut kept = Kept::of(settings(), limits(), (vec!["*".to_owned()], true));
    let (_, answer) = kept.member(&["market:*", RANGE, "market:é-ü"]);
    assert_eq!(answer["channels"], json!(["market:*", "market:é-ü"]));
    let error = format!("Range outside of ASCII in pattern: {RANGE}");
    assert_eq!(answer["errors"], json!([error]));
}

#[test]
fn a_name_that_is_to_the_letter_a_held_pattern_comes_once() {
    let mut kept = Kept::new();
    let (key, _) = kept.member(&["market:*"]);
    kept.publish("market:*", "1");
    let got = kept.bench.got(key);
    assert_eq!(
        (data(&got), &got[0]["pattern"]),
        (vec![json!(1)], &json!("market:*"))
    );
    let (_, answer, missed) = kept.comes_back(&["market:*"], &at(0));
    assert_eq!(answer["recovered"], json!({"market:*": true}));
    assert_eq!(positions(&missed), positions(&got));
    // A message that is skipped is one lost number.
    kept.publish("market:*", "1".repeat((1 << 20) + 1));
    kept.publish("market:x", "2");
    let next = kept.bench.got(key);
    let number = |messages: &[Value]| messages[0]["seq"].as_u64().expect("a number");
    assert_eq!(number(&next), number(&got) + 2);
}

/// A search in vain costs as much as many requests, of the client's own rate.
#[test]
fn a_client_that_asks_again_and_again_for_too_much_uses_up_its_rate() {
    let settings = ChannelsGatewaySettings {
        inbound_per_second: 128,
        ..settings()
    };
    let limits = HistoryLimits {
        bytes_max: 1 << 24,
        ..limits()
    };
    let mut kept = Kept::with(settings, limits);
    for _ in 0..5 {
        kept.publish(TICK, format!("\"{}\"", "x".repeat(1_000_000)));
    }
    let key = kept.bench.client();
    for _ in 0..50 {
        let request = json!({"action": "subscribe", "channels": ["market:*"], "since": at(0)});
        kept.bench.say(key, &request);
        kept.bench.unsubscribe(key, &["market:*"]);
    }
    let got = kept.bench.got(key);
    let refused = got
        .iter()
        .filter(|message| message["why"] == json!({"market:*": "large"}));
    let refused = refused.count();
    assert!((20..40).contains(&refused), "{refused}");
    assert!(
        got.iter()
            .any(|message| message["error"] == "Rate limit exceeded")
    );
}
