//! Another table of roles while clients are connected.

use serde_json::json;
use weirgate_core::Cut;

use super::admission::{target, token, with_auth};
use super::*;

impl Bench {
    fn table(&mut self, table: &Value) {
        self.table_of(&table.to_string());
    }

    /// A table whose roles are in this order.
    fn table_of(&mut self, table: &str) {
        let now = self.world.now;
        self.world.hub.handle_input(now, of(table).acl);
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

fn of(table: &str) -> ChannelsGatewaySettings {
    let acl = Acl::from_json(NameSyntax::Redis, table.as_bytes());
    ChannelsGatewaySettings {
        acl: acl.expect("a table"),
        ..with_auth()
    }
}

impl Bench {
    fn connect_with(&mut self, claims: &Value) -> SessionKey {
        let target = format!("/ws?token={}", token(claims));
        self.world.connect(&target, None)
    }

    /// The errors about these names, each in a request of its own. The client holds none of them afterwards.
    fn errors(&mut self, key: SessionKey, names: &[&str]) -> Vec<Value> {
        self.world.advance(SECOND);
        let errors = names.iter().map(|name| self.asked(key, &[name]).1);
        let errors = errors.collect();
        self.unsubscribe(key, names);
        self.got(key);
        errors
    }
}

/// Whatever the tables and the tokens: several roles, none, claims of all kinds, names in the token.
#[test]
fn connected_clients_get_from_a_new_table_what_new_clients_with_their_tokens_get() {
    let first = r#"{"admin": ["secret:*"], "desk": ["desk"], "user": ["news"]}"#;
    let tables = [
        r#"{"user": ["news", "orders:{sub}:*", "teams:{claim:team}"], "admin": ["secret:*"]}"#,
        r#"{"user": ["teams:{claim:org.team}"], "desk": ["desk", "teams:{claim:team}"]}"#,
        r#"{"other": ["*"]}"#,
        r#"{"desk": ["orders:{sub}:*", "teams:{claim:role}"], "user": ["*"]}"#,
        first,
    ];
    let names = [
        "news",
        "desk",
        "secret:x",
        "orders:ann:1",
        "orders:ann:*",
        "orders:bob:1",
        "teams:fx",
        "teams:gx",
        "teams:desk",
        "own:1",
    ];
    let long = "x".repeat(200);
    let clients = [
        json!({"sub": "ann", "role": ["admin", "user"], "team": "fx"}),
        json!({"sub": "ann", "role": "user", "team": "fx", "org": {"team": "gx"}}),
        json!({"sub": "ann", "role": ["desk", "user"], "org.team": "gx"}),
        json!({"sub": "ann", "role": ["new", "admin"], "channels": ["own:*"]}),
        json!({"sub": "ann", "role": "desk", "team": 7, "org": {"team": ["gx"]}}),
        json!({"role": ["user", "desk"], "team": "", "org": {"team": long}, "channels": ["own:1"]}),
        json!({"team": "fx"}),
    ];
    let mut bench = Bench::new(of(first));
    let connected = clients.each_ref().map(|claims| {
        // The second asks nothing before the fourth table.
        let keys = [(); 2].map(|()| bench.connect_with(claims));
        keys.map(|key| (bench.got(key), key).1)
    });
    let denied = names.map(|name| json!([format!("Access denied to channel: {name}")]));
    for (n, table) in tables.iter().enumerate() {
        bench.table_of(table);
        for (claims, [key, late]) in clients.iter().zip(connected) {
            let new = bench.connect_with(claims);
            let wanted = match bench.world.client(new).close {
                Some(_) => denied.to_vec(),
                None => (bench.got(new), bench.errors(new, &names)).1,
            };
            assert_eq!(bench.errors(key, &names), wanted, "{claims} {table}");
            if n >= 3 {
                assert_eq!(bench.errors(late, &names), wanted, "late: {claims} {table}");
            }
        }
    }
}

/// A request of very many names takes several turns.
#[test]
fn a_new_table_decides_the_rest_of_a_request_too() {
    let before = r#"{"admin": ["secret:*"], "user": ["news"]}"#;
    let after = r#"{"user": ["news", "secret:{claim:team}"], "admin": ["secret:*"]}"#;
    let settings = of(before);
    let mut bench = Bench::in_steps(settings, 10);
    let key = bench.connect_with(&json!({"sub": "ann", "role": ["admin", "user"], "team": "fx"}));
    bench.got(key);
    let mut names: Vec<String> = (0..45).map(|n| format!("secret:{n}")).collect();
    names.extend(["secret:fx".to_owned(), "news".to_owned()]);
    bench.world.held = true;
    bench.say(key, &json!({"action": "subscribe", "channels": names}));
    bench.table_of(after);
    bench.world.held = false;
    bench.world.settle();
    let answer = bench.got(key).pop().expect("an answer");
    let granted = answer["channels"].as_array().expect("a list");
    let n = granted.len();
    assert!((5..45).contains(&n), "{answer}");
    assert_eq!(granted[n - 2..], ["secret:fx", "news"]);
}

/// A request after the new table does not shield the names from before it.
#[test]
fn a_new_token_judges_all_names_though_the_client_has_asked_since_the_new_table() {
    let mut bench = Bench::new(of(r#"{"user": ["news", "more"]}"#));
    let claims = json!({"sub": "ann", "role": "user"});
    let key = bench.connect_with(&claims);
    bench.got(key);
    assert_eq!(bench.asked(key, &["news"]).0, json!(["news"]));
    bench.table_of(r#"{"user": ["more"]}"#);
    assert_eq!(bench.asked(key, &["more"]).0, json!(["more"]));
    bench.say(
        key,
        &json!({"action": "authenticate", "token": token(&claims)}),
    );
    assert_eq!(bench.got(key)[0]["revoked"], json!(["news"]));
}

/// An operator finds and cuts the client by the role that counts.
#[test]
fn a_role_that_counts_by_a_new_table_is_the_one_of_operators() {
    let mut bench = Bench::new(of(r#"{"admin": ["secret"], "user": ["news"]}"#));
    let key = bench.connect_with(&json!({"sub": "ann", "role": ["admin", "user"]}));
    bench.got(key);
    bench.table_of(r#"{"user": ["news"], "admin": ["secret"]}"#);
    assert_eq!(bench.asked(key, &["news"]).0, json!(["news"]));
    let cut = Cut::read(br#"{"role":"admin","user":"ann"}"#).expect("a cut");
    let revoked = bench.world.hub.core().limits().revoked.clone();
    let refused = cut.refused().expect("a refusal");
    revoked
        .add(&refused, bench.world.now.unix_ms())
        .expect("room");
    let admitted = bench.world.hub.core().check_not_cut_off(key, None, None);
    assert_eq!(admitted, Ok(()), "it is no admin any more");
    bench.table_of(r#"{"admin": ["secret"], "user": ["news"]}"#);
    bench.subscribe(key, &["secret"]);
    let close = bench.world.client(key).close.clone();
    assert_eq!(close, Some((1008, "revoked".to_owned())));
    assert!(bench.got(key).is_empty());
}
