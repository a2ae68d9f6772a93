//! Another table of roles while clients are connected.

use serde_json::json;

use super::admission::{target, with_auth};
use super::*;

impl Bench {
    fn table(&mut self, table: &Value) {
        let acl = Acl::from_json(NameSyntax::Redis, table.to_string().as_bytes()).expect("a table");
        let now = self.world.now;
        self.world.hub.handle_input(now, acl);
        self.world.settle();
    }

    /// What was granted and what was not, of one request to subscribe.
    fn asked(&mut self, key: SessionKey, names: &[&str]) -> (Value, Value) {
        self.subscribe(key, names);
        let mut got = self.got(key);
        let answer = got.pop().expect("an answer");
        assert!(got.is_empty() && answer["type"] == "subscribed", "{got:?}");
        (answer["channels"].clone(), answer["errors"].clone())
    }
}

#[test]
fn names_that_are_held_stay_until_the_client_asks_for_them_again() {
    let mut bench = Bench::new(settings());
    let [key, other] = [(); 2].map(|()| bench.client());
    let held = ["market:tick:A", "market:tick:B*", "market:tick:B"];
    for key in [key, other] {
        assert_eq!(bench.asked(key, &held), (json!(held), json!([])));
    }
    assert_eq!(bench.counts(), (6, 2, 1));
    bench.table(&json!({"user": ["market:tick:B", "new"]}));
    assert_eq!(bench.world.outputs.old_tables, [settings().acl.to_json()]);
    assert!(bench.world.client(key).close.is_none());
    assert_eq!(bench.counts(), (6, 2, 1));
    bench.publish("market:tick:A", &[], "1");
    assert_eq!(bench.kinds(key), kinds(&[("data", 3)]));

    // Entries are judged by the new table, each for itself.
    let denied = |name: &str| format!("Access denied to channel: {name}");
    let asked = [
        "new",
        "market:tick:A",
        "market:tick:B*",
        "market:tick:B",
        "x",
    ];
    let errors = [
        denied("market:tick:A"),
        denied("market:tick:B*"),
        denied("x"),
    ];
    let granted = json!(["new", "market:tick:B"]);
    assert_eq!(bench.asked(key, &asked), (granted, json!(errors)));
    assert_eq!(bench.counts(), (5, 3, 1), "the other still holds all three");
    bench.publish("market:tick:A", &[], "2");
    assert!(bench.got(key).is_empty());
    assert_eq!(bench.got(other).len(), 2);
    // Redis is told with the last of them.
    assert_eq!(bench.world.outputs.wanted.get("market:tick:A"), Some(&true));
    bench.asked(other, &["market:tick:A"]);
    assert_eq!(
        bench.world.outputs.wanted.get("market:tick:A"),
        Some(&false)
    );
}

#[test]
fn patterns_that_were_refused_free_their_places() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        patterns_max: 2,
        ..settings()
    });
    let key = bench.client();
    let held = ["market:tick:A*", "indicators:*"];
    assert_eq!(bench.asked(key, &held).0, json!(held));
    bench.table(&json!({"user": ["indicators:*", "n:*"]}));
    // At its limit nothing is judged, and nothing is lost.
    let (granted, errors) = bench.asked(key, &["market:tick:A*"]);
    let full = "Max wildcard subscriptions exceeded (2)";
    assert_eq!((granted, errors), (json!([]), json!([full])));
    bench.unsubscribe(key, &["market:tick:A*"]);
    bench.got(key);
    assert_eq!(bench.asked(key, &["n:*"]).0, json!(["n:*"]));
    assert_eq!(bench.counts(), (2, 0, 2));
}

#[test]
fn a_role_that_has_gone_may_nothing_and_newcomers_with_it_are_refused() {
    let mut bench = Bench::new(with_auth());
    let far = 4_000_000_000;
    let key = bench.world.connect(&target(far), None);
    assert_eq!(bench.got(key)[0]["role"], "user");
    assert_eq!(
        bench.asked(key, &["market:tick:A"]).0,
        json!(["market:tick:A"])
    );
    bench.table(&json!({"desk": ["*"]}));
    let refused = bench.world.connect(&target(far), None);
    let close = bench.world.client(refused).close.clone();
    assert_eq!(close, Some((1008, "Authentication failed".to_owned())));
    assert!(bench.world.client(key).close.is_none(), "its token is good");
    assert_eq!(bench.asked(key, &["market:tick:B"]).0, json!([]));
    bench.table(&json!({"user": ["market:tick:B"]}));
    assert_eq!(
        bench.asked(key, &["market:tick:B"]).0,
        json!(["market:tick:B"])
    );
}
