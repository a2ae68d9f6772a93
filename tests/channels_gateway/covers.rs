//! Patterns whose messages come from the bus by a pattern of the table that covers many of them.

use super::resume::Kept;
use super::*;

/// So many patterns are asked of the bus as they are.
const BESIDE: usize = 5;
const COVER: &str = "market:tick:*";
const ONE: [u8; 4] = [203, 0, 113, 9];
const OTHER: [u8; 4] = [203, 0, 113, 10];

/// Different patterns that all match `market:tick:A`.
fn overlapping(n: usize) -> String {
    format!("market:tick:[A{}]*", n + 1_000)
}

/// Clients of this address with these patterns, a few each.
fn holders(bench: &mut Bench, address: [u8; 4], patterns: &[String]) -> Vec<SessionKey> {
    let clients = patterns.chunks(5).map(|patterns| {
        let key = bench.client_from(address);
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        bench.subscribe(key, &patterns);
        key
    });
    clients.collect()
}

fn patterns(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(overlapping).collect()
}

/// What the bus is asked for.
fn asked(bench: &Bench) -> Vec<&str> {
    let wanted = bench.world.outputs.wanted.iter();
    let mut asked: Vec<&str> = wanted
        .filter(|(_, wanted)| **wanted)
        .map(|(name, _)| name.as_str())
        .collect();
    asked.sort_unstable();
    asked
}

/// A bench with the patterns that are asked of the bus as they are, all confirmed.
fn crowded() -> Bench {
    crowded_with("user")
}

fn crowded_with(role: &str) -> Bench {
    let mut bench = Bench::up(ChannelsGatewaySettings {
        default_role: role.to_owned(),
        ..settings()
    });
    let keys = holders(&mut bench, OTHER, &patterns(0, BESIDE));
    for pattern in patterns(0, BESIDE) {
        bench.confirm(&pattern);
    }
    for key in keys {
        bench.got(key);
    }
    assert_eq!(asked(&bench).len(), BESIDE);
    bench
}

/// Redis publishes on `market:tick:A`, and sends a copy for the cover.
fn by_cover(bench: &mut Bench, payload: &str) {
    bench.publish("market:tick:A", &[COVER], payload);
}

fn data(bench: &mut Bench, key: SessionKey) -> Vec<(Value, Value)> {
    let got = bench.got(key);
    let data = got.iter().filter(|message| message["type"] == "data");
    data.map(|message| (message["pattern"].clone(), message["data"].clone()))
        .collect()
}

#[test]
fn many_patterns_cost_the_bus_one_and_each_client_gets_its_own_copies() {
    let mut bench = crowded();
    let mine = ["market:tick:?", "market:tick:A*", "market:tick:B*"];
    let key = bench.client_from(ONE);
    bench.subscribe(key, &mine);
    assert_eq!(bench.kinds(key), [], "the cover is not confirmed");
    assert_eq!(asked(&bench).len(), BESIDE + 1);
    bench.confirm(COVER);
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    // Somebody holds the cover itself.
    let whole = bench.client_from(ONE);
    bench.subscribe(whole, &[COVER]);
    assert_eq!(bench.kinds(whole), kinds(&[("subscribed", 2)]), "it stands");
    by_cover(&mut bench, "1");
    let copy = |pattern: &str| (json!(pattern), json!(1));
    let mut got = data(&mut bench, key);
    got.sort_by_key(|(pattern, _)| pattern.to_string());
    assert_eq!(got, [copy("market:tick:?"), copy("market:tick:A*")]);
    assert_eq!(data(&mut bench, whole), [copy(COVER)]);
    // The copy of another pattern of the bus, which matches too.
    bench.publish("market:tick:A", &["market:*"], "1");
    assert_eq!(data(&mut bench, key), []);
    // Another cover.
    bench.subscribe(whole, &["indicators:a*"]);
    bench.confirm("indicators:*");
    bench.publish("market:tick:A", &["indicators:*"], "1");
    assert_eq!(data(&mut bench, key), []);
    assert_eq!(bench.counts().2 as usize, BESIDE + 5);
    // The cover goes with the last that needs it.
    bench.world.end(whole, true);
    assert_eq!(asked(&bench).len(), BESIDE + 1);
    bench.unsubscribe(key, &mine);
    assert_eq!(asked(&bench).len(), BESIDE);
}

#[test]
fn an_entry_of_the_table_and_a_pattern_without_a_cover_are_asked_as_they_are() {
    let mut bench = crowded_with("internal");
    let key = bench.client_from(ONE);
    bench.subscribe(key, &[COVER, "indicators:*", "indicators:[é-ü]*"]);
    assert_eq!(
        asked(&bench).len(),
        BESIDE + 3,
        "only Redis knows the range"
    );
    bench.subscribe(key, &["indicators:a*"]);
    assert_eq!(asked(&bench).len(), BESIDE + 3, "covered by the second");
}

#[test]
fn a_cover_that_the_bus_refuses_is_asked_in_parts() {
    let mut bench = crowded();
    let key = bench.client_from(ONE);
    bench.subscribe(key, &["market:tick:A*", "market:tick:B*"]);
    let refused = |bench: &Bench| BusEvent::Refused {
        subscription: Subscription::pattern(COVER),
        number: bench.world.outputs.numbers[COVER],
        fault: "NOPERM".to_owned(),
        is_loss: false,
    };
    let refusal = refused(&bench);
    bench.bus(refusal);
    assert_eq!(bench.kinds(key), [], "now each pattern itself");
    assert_eq!(asked(&bench).len(), BESIDE + 2);
    bench.confirm("market:tick:A*");
    bench.confirm("market:tick:B*");
    assert_eq!(bench.kinds(key), kinds(&[("subscribed", 2)]));
    bench.subscribe(key, &["market:tick:C*"]);
    assert_eq!(asked(&bench).len(), BESIDE + 3, "it is not asked again");
    bench.publish("market:tick:A", &["market:tick:A*"], "1");
    assert_eq!(data(&mut bench, key), [(json!("market:tick:A*"), json!(1))]);
    // The next connection may have other rights, and a cover that stood may be refused later.
    bench.bus(BusEvent::Gap { lost: None });
    bench.down();
    bench.bus(BusEvent::Up);
    let other = bench.client_from(ONE);
    bench.say(
        other,
        &json!({"action": "subscribe", "channels": ["market:tick:D*"], "status": true}),
    );
    bench.confirm(COVER);
    bench.got(other);
    let refusal = refused(&bench);
    bench.bus(refusal);
    assert!(asked(&bench).contains(&"market:tick:D*") && !asked(&bench).contains(&COVER));
    bench.confirm("market:tick:D*");
    bench.publish("market:tick:D", &["market:tick:D*"], "1");
    let got = bench.got(other);
    let told: Vec<_> = got.iter().map(|m| (&m["lost"], &m["seq"])).collect();
    assert_eq!(
        told,
        [(&json!(true), &json!(3)), (&json!(null), &json!(5))],
        "a number is missing"
    );
}

#[test]
fn a_loss_is_a_gap_for_those_whose_messages_are_lost() {
    let mut bench = crowded();
    let (hit, spared) = (bench.client_from(ONE), bench.client_from(ONE));
    bench.subscribe(hit, &["market:tick:A*"]);
    bench.subscribe(spared, &["market:tick:B*"]);
    bench.confirm(COVER);
    // A message that is too large.
    by_cover(&mut bench, &"1".repeat((1 << 20) + 1));
    bench.bus(BusEvent::Gap { lost: None });
    bench.confirm(COVER);
    by_cover(&mut bench, "1");
    bench.publish("market:tick:B", &[COVER], "1");
    assert_eq!(bench.kinds(hit), kinds(&[("subscribed", 2), ("data", 5)]));
    assert_eq!(
        bench.kinds(spared),
        kinds(&[("subscribed", 2), ("data", 4)])
    );
}

/// An address with very many overlapping patterns has a share of the copies, and others lose nothing.
#[test]
fn the_newest_patterns_over_the_copies_of_a_message_are_given_up_with_an_error() {
    let mut bench = crowded();
    let honest = bench.client_from(OTHER);
    let hostile = holders(&mut bench, ONE, &patterns(100, 40));
    bench.subscribe(honest, &["market:tick:?"]);
    bench.confirm(COVER);
    for key in &hostile {
        bench.got(*key);
    }
    bench.kinds(honest);
    by_cover(&mut bench, "1");
    bench.world.advance(1);
    let counted = bench.stats.limited().nth(3);
    assert_eq!(counted, Some(("copies", 24)), "16 of 40");
    let mut copies = 0;
    for (n, key) in hostile.iter().enumerate() {
        let got = bench.got(*key);
        let errors = got
            .iter()
            .filter(|message| message["type"] == "error")
            .count();
        copies += got.len() - errors;
        assert_eq!(errors, [0, 4, 5][n.saturating_sub(2).min(2)], "{got:?}");
        if let Some(error) = got.iter().find(|message| message["type"] == "error") {
            let text = error["error"].as_str().expect("a text");
            let told = "Server limit of copies of a message exceeded (32), no longer subscribed: market:tick:[A11";
            assert!(
                text.starts_with(told) && error["requestId"] == json!(null),
                "{text}"
            );
        }
    }
    assert_eq!((copies, data(&mut bench, honest).len()), (16, 1));
    by_cover(&mut bench, "2");
    assert_eq!(bench.got(hostile[7]), [] as [Value; 0], "it holds nothing");
    // The patterns are free again, and are given up again.
    let patterns = patterns(135, 5);
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    bench.subscribe(hostile[7], &patterns);
    by_cover(&mut bench, "3");
    assert_eq!(bench.got(hostile[7]).len(), 1 + 5);
    assert_eq!(data(&mut bench, honest).len(), 2);
}

/// A pattern that clients of other addresses hold stays with them.
#[test]
fn a_pattern_is_given_up_by_the_clients_of_the_address_that_brought_it() {
    let mut bench = crowded();
    let hostile = holders(&mut bench, ONE, &patterns(100, 17));
    let honest = bench.client_from(OTHER);
    bench.subscribe(honest, &[&overlapping(116)]);
    bench.confirm(COVER);
    bench.got(honest);
    by_cover(&mut bench, "1");
    let got = bench.got(hostile[3]);
    assert_eq!(got.last().expect("an error")["type"], "error");
    by_cover(&mut bench, "2");
    let got = bench.got(honest);
    assert_eq!(
        (got.len(), &got[0]["data"], &got[0]["seq"]),
        (1, &json!(2), &json!(4))
    );
}

/// A last value does not come behind a newer message that came by the cover.
#[test]
fn last_values_of_covered_patterns_come_in_their_order() {
    let mut bench = Bench::made(settings(), |gateway| gateway.with_retained(1 << 26));
    bench.bus(BusEvent::Up);
    holders(&mut bench, OTHER, &patterns(0, BESIDE));
    patterns(0, BESIDE)
        .iter()
        .for_each(|pattern| bench.confirm(pattern));
    let key = bench.client_from(ONE);
    bench.subscribe(key, &["market:tick:A*"]);
    bench.confirm(COVER);
    by_cover(&mut bench, "2");
    let (name, number) = bench
        .world
        .outputs
        .retained
        .last()
        .expect("a question")
        .clone();
    assert_eq!(name, "market:tick:A*");
    // The source compares the answer with the messages that the cover has brought.
    assert!(bench.world.outputs.retained.len() > 1, "also of others");
    let covers = bench.world.outputs.covers.iter();
    let covers: Vec<_> = covers.map(|(n, cover)| (*n, cover.as_str())).collect();
    assert_eq!(covers, [(number, COVER)]);
    bench.numbered_value("market:tick:A", Some(&name), "1", number);
    bench.numbered_value("market:tick:AB", Some(&name), "3", number);
    let got: Vec<Value> = data(&mut bench, key)
        .into_iter()
        .map(|(_, data)| data)
        .collect();
    assert_eq!(got, [json!(2), json!(3)]);
}

/// The names of the kept feed have the same limit.
#[test]
fn the_copies_of_a_kept_message_are_bounded_too() {
    let mut kept = Kept::new();
    let hostile = holders(&mut kept.bench, ONE, &patterns(0, 100));
    let (honest, _) = kept.member(&["market:tick:?"]);
    assert!(asked(&kept.bench).is_empty());
    kept.publish("market:tick:A", "1");
    kept.bench.world.advance(1);
    kept.publish("market:tick:A", "2");
    let copies: usize = hostile
        .iter()
        .map(|key| data(&mut kept.bench, *key).len())
        .sum();
    assert_eq!((copies, data(&mut kept.bench, honest).len()), (32, 2));
}
