//! What clients ask, and what they are told.

use serde_json::json;

use super::*;

#[test]
fn every_message_has_its_members_in_the_contracts_order() {
    let mut bench = Bench::new(settings());
    let key = bench.world.connect("/ws", None);
    for request in [
        r#"{"action":"subscribe","channels":["market:tick:A","x"],"requestId":{"k":[1.50,null]}}"#,
        r#"{"action":"unsubscribe","channels":["market:tick:A","never"],"requestId":7}"#,
        r#"{"action":"ping"}"#,
        r#"{"action":"publish","requestId":"r"}"#,
        "hello",
    ] {
        bench.world.text(key, request);
    }
    let texts = bench.world.texts(key);
    let now = "\"timestamp\":\"2024-05-13T19:41:40.000Z\"}";
    assert!(texts[0].starts_with("{\"type\":\"connected\",\"seq\":1,\"clientId\":\""));
    assert!(
        texts[0].ends_with(&format!("\",\"role\":\"user\",{now}")),
        "{}",
        texts[0]
    );
    let want = [
        r#"{"type":"subscribed","seq":2,"channels":["market:tick:A"],"errors":["Access denied to channel: x"],"requestId":{"k":[1.50,null]},"#,
        r#"{"type":"unsubscribed","seq":3,"channels":["market:tick:A"],"requestId":7,"#,
        r#"{"type":"pong","seq":4,"requestId":null,"#,
        r#"{"type":"error","seq":5,"error":"Unknown action: publish","requestId":"r","#,
        r#"{"type":"error","seq":6,"error":"Invalid JSON","requestId":null,"#,
    ];
    for (text, want) in texts[1..].iter().zip(want) {
        assert_eq!(*text, format!("{want}{now}"));
    }
    assert_eq!(texts.len(), 6);
}

#[test]
fn client_ids_are_uuids_and_differ() {
    let mut bench = Bench::new(settings());
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let key = bench.world.connect("/ws", None);
        let id = bench.got(key)[0]["clientId"]
            .as_str()
            .expect("text")
            .to_owned();
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        assert!(
            id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'),
            "{id}"
        );
        assert_eq!(&id[14..15], "4", "{id}");
        assert!("89ab".contains(&id[19..20]), "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 50);
}

/// The refusal does not repeat the name, and Redis is asked for nothing of the kind.
#[test]
fn a_name_that_is_too_long_is_refused_without_a_copy() {
    let mut bench = Bench::new(settings());
    let key = bench.client();
    let name = |bytes: usize| format!("market:tick:{}", "x".repeat(bytes - 12));
    let pattern = format!("{}*", name(512));
    let (fits, long) = (name(512), name(1_000_000));
    bench.subscribe(key, &[&long, &pattern, &fits, &name(513)]);
    let [answer] = &bench.got(key)[..] else {
        panic!("one answer");
    };
    let error = "Channel name too long (max 512 bytes)";
    assert_eq!(answer["channels"], json!([fits]));
    assert_eq!(answer["errors"], json!([error, error, error]));
    let asked: Vec<&String> = bench.world.outputs.wanted.keys().collect();
    assert_eq!(asked, [&fits]);
}

const ONE: [u8; 4] = [203, 0, 113, 9];
const OTHER: [u8; 4] = [203, 0, 113, 10];
const THIRD: [u8; 4] = [203, 0, 113, 11];

/// Asks for these names, and returns how many are granted, and the errors.
fn ask(bench: &mut Bench, key: SessionKey, names: &[&str]) -> (usize, Value) {
    bench.subscribe(key, names);
    let [answer] = &bench.got(key)[..] else {
        panic!("one answer");
    };
    let granted = answer["channels"].as_array().expect("a list");
    (granted.len(), answer["errors"].clone())
}

/// What all clients together hold is bounded, in names, patterns and bytes. An address gets more only while it holds
/// less than is left free.
#[test]
fn names_of_all_clients_together_are_bounded_and_an_address_leaves_room_for_others() {
    let all = settings().all_clients;
    let long = |n: usize| format!("market:tick:{n}{}", "x".repeat(87));
    let of_eight = 8
        * ((AllClientsLimits::NAME_BYTES + AllClientsLimits::NAME_OF_CLIENT_BYTES) as usize
            + long(10).len());
    let bytes_error = format!("channel name bytes exceeded ({of_eight})");
    for (all_clients, name, error) in [
        (
            AllClientsLimits {
                names_max: 8,
                ..all
            },
            (&|n| format!("market:tick:{n}")) as &dyn Fn(usize) -> String,
            "channels exceeded (8)",
        ),
        (
            AllClientsLimits {
                patterns_max: 8,
                ..all
            },
            &|n| format!("indicators:{n}*"),
            "wildcard subscriptions exceeded (8)",
        ),
        (
            AllClientsLimits {
                name_bytes_max: of_eight,
                ..all
            },
            &long,
            &bytes_error,
        ),
    ] {
        let mut bench = Bench::new(ChannelsGatewaySettings {
            all_clients,
            ..settings()
        });
        let [first, second] = [ONE; 2].map(|address| bench.client_from(address));
        let names: Vec<String> = (10..40).map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let full = json!(format!("Server limit of {error}"));
        let none = || (0, json!([full]));
        assert_eq!(ask(&mut bench, first, &names[..3]), (3, json!([])));
        let got = ask(&mut bench, second, &[names[0], names[3], names[4], "x"]);
        let denied = "Access denied to channel: x";
        assert_eq!(got, (2, json!([full, denied])), "half, and no more");
        // An address with little, also of what others hold.
        let other = bench.client_from(OTHER);
        assert_eq!(ask(&mut bench, other, &names[5..7]), (2, json!([])));
        assert_eq!(ask(&mut bench, other, &names[7..8]), none());
        assert_eq!(ask(&mut bench, other, &names[..2]), (2, json!([])));
        let third = bench.client_from(THIRD);
        assert_eq!(ask(&mut bench, third, &names[8..9]), (1, json!([])));
        let (subscriptions, channels, patterns) = bench.counts();
        assert_eq!((subscriptions, channels + patterns), (3 + 2 + 2 + 2 + 1, 7));
        let limited: Vec<u64> = bench.stats.limited().map(|(_, count)| count).collect();
        assert_eq!(limited.iter().sum::<u64>(), 2);
        // The names that nobody else holds make room.
        bench.world.end(first, true);
        bench.world.end(second, true);
        let left: usize = names[..2].iter().chain(&names[5..7]).map(|n| n.len()).sum();
        assert_eq!(bench.stats.name_bytes.get() as usize, left + names[8].len());
        assert_eq!(ask(&mut bench, third, &names[20..21]), (1, json!([])));
        for key in [other, third] {
            bench.world.end(key, true);
        }
        assert_eq!(
            (bench.counts(), bench.stats.name_bytes.get()),
            ((0, 0, 0), 0)
        );
    }
}

/// Two addresses take turns: one asks, the other joins, the first leaves, and asks anew.
#[test]
fn two_addresses_that_take_over_names_of_each_other_leave_room_for_a_third() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        all_clients: AllClientsLimits {
            patterns_max: 40,
            ..settings().all_clients
        },
        ..settings()
    });
    let name = |n: usize| format!("indicators:{n}*");
    let mut held: Vec<(SessionKey, Vec<String>)> = Vec::new();
    for round in 0..30 {
        let (address, next) = [(ONE, OTHER), (OTHER, ONE)][round % 2];
        let take = |bench: &mut Bench, address, names: &[String]| {
            let key = bench.client_from(address);
            let texts: Vec<&str> = names.iter().map(String::as_str).collect();
            bench.subscribe(key, &texts);
            let granted = bench.got(key)[0]["channels"].clone();
            let granted = serde_json::from_value(granted).expect("names");
            (key, granted)
        };
        for n in 0..10 {
            let names: Vec<String> = (0..5).map(|m| name(100 * round + 5 * n + m)).collect();
            held.push(take(&mut bench, address, &names));
        }
        let taken: Vec<_> = held
            .iter()
            .map(|(_, names)| take(&mut bench, next, names))
            .collect();
        for (key, _) in std::mem::replace(&mut held, taken) {
            bench.world.end(key, true);
        }
    }
    let third = bench.client_from(THIRD);
    let mine = ["indicators:mine*", "market:tick:*"];
    assert_eq!(ask(&mut bench, third, &mine), (2, json!([])));
}

/// At the limits, a client gets the names that others hold, as many as one client may hold.
#[test]
fn with_nothing_free_names_that_others_hold_are_granted_all_the_same() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        channels_max: 3,
        all_clients: AllClientsLimits {
            names_max: 4,
            ..settings().all_clients
        },
        ..settings()
    });
    let names = [
        "market:tick:A",
        "market:tick:B",
        "market:tick:C",
        "market:tick:D",
    ];
    for (host, name) in names.iter().enumerate() {
        let key = bench.client_from([203, 0, 114, host as u8]);
        assert_eq!(ask(&mut bench, key, &[name]), (1, json!([])));
    }
    let full = json!(["Server limit of channels exceeded (4)"]);
    let keys = [ONE, ONE, OTHER].map(|address| bench.client_from(address));
    assert_eq!(
        ask(&mut bench, keys[0], &["market:tick:E"]),
        (0, full.clone())
    );
    assert_eq!(ask(&mut bench, keys[0], &names[..3]), (3, json!([])));
    assert_eq!(ask(&mut bench, keys[1], &names[..3]), (3, json!([])));
    bench.unsubscribe(keys[1], &names[..1]);
    bench.got(keys[1]);
    assert_eq!(ask(&mut bench, keys[1], &names[3..]), (0, full));
    assert_eq!(ask(&mut bench, keys[2], &names[1..]), (3, json!([])));
}

#[test]
fn limits_are_looked_at_in_the_contracts_order() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        channels_max: 3,
        patterns_max: 1,
        ..settings()
    });
    let key = bench.client();
    let mut ask = |names: &[&str], granted: &[&str], errors: &[&str]| {
        bench.subscribe(key, names);
        let [answer] = &bench.got(key)[..] else {
            panic!("one answer");
        };
        assert_eq!(answer["channels"], json!(granted), "{names:?}");
        assert_eq!(answer["errors"], json!(errors), "{names:?}");
    };
    let wildcards = "Max wildcard subscriptions exceeded (1)";
    let full = "Max channels exceeded (3)";
    ask(
        &[
            "indicators:a*",
            "indicators:b*",
            "indicators:a*",
            "x*",
            "x",
            "indicators:c",
        ],
        &["indicators:a*", "indicators:c"],
        &[
            wildcards,
            wildcards,
            wildcards,
            "Access denied to channel: x",
        ],
    );
    ask(
        &["indicators:c", "indicators:c"],
        &["indicators:c", "indicators:c"],
        &[],
    );
    ask(
        &["indicators:d", "indicators:e", "x"],
        &["indicators:d"],
        &[full],
    );
    ask(&["indicators:c"], &[], &[full]);
    assert_eq!(bench.counts(), (3, 2, 1));
    bench.unsubscribe(key, &["indicators:a*", "indicators:a*", "y"]);
    assert_eq!(bench.got(key)[0]["channels"], json!(["indicators:a*"]));
    bench.subscribe(key, &["indicators:z?"]);
    assert_eq!(bench.got(key)[0]["channels"], json!(["indicators:z?"]));

    let mut none = Bench::new(ChannelsGatewaySettings {
        channels_max: 0,
        ..settings()
    });
    let key = none.client();
    none.subscribe(key, &["market:tick", "market:tick"]);
    assert_eq!(
        none.got(key)[0]["errors"],
        json!(["Max channels exceeded (0)"])
    );
}

#[test]
fn a_wrong_request_subscribes_to_nothing() {
    let mut bench = Bench::new(settings());
    let key = bench.client();
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": ["market:tick", 5]}),
    );
    bench
        .world
        .send(key, &world::client::frame(0x82, b"{\"action\":\"ping\"}"));
    bench.say(
        key,
        &json!({"action": "subscribe", "channels": "market:tick"}),
    );
    bench.ping(key);
    let want = [("error", 2), ("error", 3), ("error", 4), ("pong", 5)];
    assert_eq!(bench.kinds(key), kinds(&want));
    assert_eq!(bench.counts(), (0, 0, 0));
    assert!(bench.world.outputs.wanted.is_empty());
}

#[test]
fn who_sends_too_much_is_told_once_a_second() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        inbound_per_second: 5,
        ..settings()
    });
    let key = bench.client();
    (0..20).for_each(|_| bench.ping(key));
    let got = bench.got(key);
    assert_eq!(got.len(), 6);
    assert_eq!(got[5]["error"], "Rate limit exceeded");
    bench.world.advance(SECOND - 1);
    // Four tokens, and the second has not passed since it was told.
    (0..8).for_each(|_| bench.ping(key));
    assert_eq!(bench.got(key).len(), 4);
    bench.world.advance(1);
    (0..8).for_each(|_| bench.ping(key));
    assert_eq!(
        bench.got(key).pop().expect("told")["error"],
        "Rate limit exceeded"
    );
    let other = bench.client();
    bench.ping(other);
    assert_eq!(bench.kinds(other), kinds(&[("pong", 2)]));
    assert!(bench.stats.access.requests_limited.get() > 20);
}

#[test]
fn a_request_with_very_many_entries_is_refused_whole() {
    let mut bench = Bench::new(settings());
    let key = bench.client();
    bench.subscribe(key, &["market:tick"; 1_001]);
    let got = bench.got(key);
    assert_eq!(got[0]["error"], "channels must have at most 1000 entries");
    assert_eq!(bench.counts(), (0, 0, 0));
    bench.subscribe(key, &["market:tick"; 1_000]);
    assert_eq!(bench.got(key)[0]["type"], "subscribed");
    let mut generous = Bench::new(ChannelsGatewaySettings {
        channels_max: 3_000,
        ..settings()
    });
    let key = generous.client();
    generous.subscribe(key, &["market:tick"; 6_000]);
    assert_eq!(generous.got(key)[0]["type"], "subscribed");
}

#[test]
fn a_request_has_one_budget_of_matching_steps() {
    let acl = br#"{"user": ["*a*b*c*d*e*f*g*h", "x:*"]}"#;
    let mut bench = Bench::new(ChannelsGatewaySettings {
        channels_max: 1_000,
        patterns_max: 1_000,
        acl: Acl::from_json(NameSyntax::Redis, acl).expect("a table"),
        ..settings()
    });
    let key = bench.client();
    let names: Vec<String> = (0..400).map(|n| format!("{n}*a*b*c*d?*e*f?*g*h")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.subscribe(key, &names);
    let got = bench.got(key);
    let count = |member: &str| got[0][member].as_array().map_or(0, Vec::len);
    let (granted, refused) = (count("channels"), count("errors"));
    assert_eq!(granted + refused, names.len(), "each has its answer");
    assert!(
        granted > 2 && refused > names.len() / 2,
        "{granted} granted"
    );
    let first = format!(
        "Server limit of steps of matching exceeded (200000), ask again in another request: {}",
        names[granted]
    );
    assert_eq!(got[0]["errors"][0], first);
    bench.subscribe(key, &[names[granted], "x:1"]);
    let again = json!([names[granted], "x:1"]);
    assert_eq!(
        bench.got(key)[0]["channels"],
        again,
        "the next has a budget of its own"
    );
}

/// No request has enough steps for it, and the role may well permit it.
#[test]
fn a_pattern_that_no_request_can_check_is_not_called_denied() {
    let acl = format!(r#"{{"user": ["*{}"]}}"#, "[ab]?".repeat(60));
    let mut bench = Bench::new(ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, acl.as_bytes()).expect("a table"),
        ..settings()
    });
    let key = bench.client();
    let pattern = format!("{}b", "*a".repeat(120));
    let error = format!("Channel name takes too many steps to match (max 50000): {pattern}");
    for _ in 0..2 {
        bench.subscribe(key, &[&pattern, "x"]);
        let denied = "Access denied to channel: x";
        assert_eq!(bench.got(key)[0]["errors"], json!([error, denied]));
    }
}
