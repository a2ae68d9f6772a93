//! The status of the bus, and limits, of a gateway with a kept feed.

use weirgate::hub::DrainPlan;

use super::resume::{Kept, MARK, TICK, at, data, limits, positions};
use super::*;

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
    let (_, answer) = kept.member(&["market:x"]);
    assert_eq!(answer["channels"], json!(["market:x"]));
}

#[test]
fn a_pattern_with_last_is_a_picture_of_all_its_names() {
    let mut kept = Kept::new();
    for round in 0..3 {
        for name in ["market:a", "market:b", TICK] {
            kept.publish(name, &format!("{round}"));
        }
    }
    kept.publish("market:b", "9");
    let (_, answer, got) =
        kept.asks(&json!({"action": "subscribe", "channels": ["market:*", TICK], "last": 1}));
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
