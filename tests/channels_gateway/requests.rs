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

/// What Redis holds for all clients together is bounded; a name that somebody holds costs nothing
/// more.
#[test]
fn names_of_all_clients_together_are_bounded() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        all_clients: AllClientsLimits {
            names_max: 4,
            patterns_max: 2,
            address_patterns_max: None,
            name_bytes_max: 70,
        },
        ..settings()
    });
    let (first, second) = (bench.client(), bench.client());
    let ask = |bench: &mut Bench, key, names: &[&str]| {
        bench.subscribe(key, names);
        let [answer] = &bench.got(key)[..] else {
            panic!("one answer");
        };
        (answer["channels"].clone(), answer["errors"].clone())
    };
    let wildcards = "Server limit of wildcard subscriptions exceeded (2)";
    let channels = "Server limit of channels exceeded (4)";
    let bytes = "Server limit of channel name bytes exceeded (70)";
    let granted = ["indicators:a*", "indicators:b*", "market:tick:A"];
    let got = ask(&mut bench, first, &granted);
    assert_eq!(got, (json!(granted), json!([])));
    // 39 bytes so far.
    let long = format!("indicators:{}", "x".repeat(22));
    let got = ask(
        &mut bench,
        second,
        &[
            "indicators:c*",
            "indicators:b*",
            &long,
            "market:tick",
            "indicators:y",
            "x",
        ],
    );
    let errors = [wildcards, bytes, channels, "Access denied to channel: x"];
    assert_eq!(
        got,
        (json!(["indicators:b*", "market:tick"]), json!(errors))
    );
    assert_eq!(bench.world.outputs.wanted.len(), 4);
    assert_eq!(
        (bench.stats.name_bytes.get(), bench.counts()),
        (50, (5, 2, 2))
    );
    let limited: Vec<_> = bench.stats.limited().collect();
    assert_eq!(
        limited,
        [
            ("channels", 1),
            ("wildcards", 1),
            ("name_bytes", 1),
            ("address_wildcards", 0)
        ]
    );
    // What nobody holds any more makes room.
    bench.world.end(first, true);
    assert_eq!(bench.stats.name_bytes.get(), 24);
    let got = ask(&mut bench, second, &[&long, "indicators:c*"]);
    assert_eq!(got, (json!([long, "indicators:c*"]), json!([])));
}

/// An address that takes as many patterns as it can, with many clients, leaves room for others.
#[test]
fn an_address_holds_its_share_of_the_patterns_and_no_more() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        all_clients: AllClientsLimits {
            patterns_max: 20,
            address_patterns_max: Some(10),
            ..settings().all_clients
        },
        ..settings()
    });
    let ask = |bench: &mut Bench, key, names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        bench.subscribe(key, &names);
        let [answer] = &bench.got(key)[..] else {
            panic!("one answer");
        };
        let count = answer["channels"].as_array().expect("a list").len();
        (count, answer["errors"].clone())
    };
    let pattern = |n: usize| format!("indicators:{n}*");
    let mut granted = 0;
    let hostile: Vec<_> = (0..5)
        .map(|n| {
            let key = bench.client_from([203, 0, 113, 9]);
            let names: Vec<String> = (0..5).map(|m| pattern(5 * n + m)).collect();
            granted += ask(&mut bench, key, &names).0;
            key
        })
        .collect();
    assert_eq!(granted, 10);
    let full = "Server limit of wildcard subscriptions of an address exceeded (10)";
    let last = hostile[4];
    let held = [pattern(0), "market:tick".to_owned(), pattern(30)];
    // What the address holds already costs nothing more, and names are no patterns.
    assert_eq!(ask(&mut bench, last, &held), (2, json!([full])));
    let bystander = bench.client_from([203, 0, 113, 10]);
    let wanted = [pattern(0), pattern(31)];
    assert_eq!(ask(&mut bench, bystander, &wanted), (2, json!([])));
    // Others hold it, and might let it go: the address would have one more.
    assert_eq!(ask(&mut bench, last, &wanted[1..]), (0, json!([full])));
    let limited: Vec<_> = bench.stats.limited().collect();
    assert_eq!(limited[3], ("address_wildcards", 17));
    // Two clients hold the first pattern. With the first of them four others make room.
    bench.world.end(hostile[0], true);
    let more: Vec<String> = (40..44).map(pattern).collect();
    assert_eq!(ask(&mut bench, last, &more), (4, json!([])));
    assert_eq!(ask(&mut bench, hostile[2], &more[..1]), (1, json!([])));
    assert_eq!(
        ask(&mut bench, hostile[2], &[pattern(50)]),
        (0, json!([full]))
    );
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
        acl: Acl::from_json(acl).expect("a table"),
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
    let first = format!("Access denied to channel: {}", names[granted]);
    assert_eq!(got[0]["errors"][0], first);
    bench.subscribe(key, &[names[granted], "x:1"]);
    let again = json!([names[granted], "x:1"]);
    assert_eq!(
        bench.got(key)[0]["channels"],
        again,
        "the next has a budget of its own"
    );
}
