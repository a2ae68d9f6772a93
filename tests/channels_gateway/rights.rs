//! Names of one user, names in a token, and a new token on a living connection.

use serde_json::json;

use super::admission::{OF_A_NEW_KEY, token, with_auth};
use super::*;

/// The first second of a bench, Unix time.
const START_S: i64 = 1_715_629_300;

const TABLE: &[u8] = br#"{"user": ["news", "orders:{sub}:*"], "desk": ["news", "desks:*"]}"#;

fn bench() -> Bench {
    Bench::new(ChannelsGatewaySettings {
        acl: Acl::from_json(NameSyntax::Redis, TABLE).expect("a table"),
        ..with_auth()
    })
}

impl Bench {
    fn client_with(&mut self, claims: &Value) -> SessionKey {
        let target = format!("/ws?token={}", token(claims));
        let key = self.world.connect(&target, None);
        assert_eq!(self.got(key)[0]["type"], "connected");
        key
    }

    fn asked_for(&mut self, key: SessionKey, names: &[&str]) -> Value {
        self.subscribe(key, names);
        self.got(key)[0]["channels"].clone()
    }

    /// The answer to a new token.
    fn renewed(&mut self, key: SessionKey, token: &str) -> Value {
        let request = json!({"action": "authenticate", "token": token, "requestId": 7});
        self.say(key, &request);
        let answers = self.got(key);
        let [answer] = &answers[..] else {
            panic!("one answer, not {answers:?}");
        };
        assert_eq!(answer["requestId"], 7);
        answer.clone()
    }

    fn renewals(&self) -> Vec<(&'static str, u64)> {
        self.stats.renewals().collect()
    }
}

#[test]
fn each_user_has_names_of_the_own_and_of_the_token() {
    let mut bench = bench();
    let ann = bench.client_with(&json!({"sub": "ann", "channels": ["lobby:*"]}));
    let asked = [
        "news",
        "orders:ann:7",
        "orders:ann:*",
        "lobby:1",
        "orders:bob:7",
        "orders:*",
        "*",
    ];
    assert_eq!(bench.asked_for(ann, &asked), json!(asked[..4]));
    let bob = bench.client_with(&json!({"sub": "bob"}));
    assert_eq!(
        bench.asked_for(bob, &asked),
        json!(["news", "orders:bob:7"])
    );
}

#[test]
fn names_of_a_token_that_are_no_names_are_refused() {
    let mut bench = bench();
    for claims in [
        json!({"sub": "ann", "channels": "news"}),
        json!({"sub": "ann", "channels": [1]}),
        json!({"sub": "ann", "channels": vec!["x"; 51]}),
        json!({"sub": "ann", "channels": ["x".repeat(513)]}),
    ] {
        let target = format!("/ws?token={}", token(&claims));
        let key = bench.world.connect(&target, None);
        let close = bench.world.client(key).close.clone();
        assert_eq!(close.map(|(code, _)| code), Some(1008), "{claims}");
    }
    let refusals: Vec<_> = bench.stats.access.refusals().collect();
    assert!(refusals.contains(&("names", 4)));
}

#[test]
fn a_new_token_replaces_the_old_one_and_judges_every_name_again() {
    let mut bench = bench();
    let until = |claims: Value, exp: i64| {
        let mut claims = claims;
        claims["exp"] = json!(START_S + exp);
        claims
    };
    let key = bench.client_with(&until(json!({"sub": "ann"}), 60));
    let held = ["news", "orders:ann:7", "orders:ann:*"];
    assert_eq!(bench.asked_for(key, &held), json!(held));
    let desk = token(&until(json!({"sub": "ann", "role": "desk"}), 600));
    let answer = bench.renewed(key, &desk);
    assert_eq!(answer["type"], "authenticated");
    assert_eq!(answer["role"], "desk");
    assert_eq!(answer["revoked"], json!(["orders:ann:*", "orders:ann:7"]));
    assert_eq!(bench.counts(), (1, 1, 0));
    assert_eq!(
        bench.asked_for(key, &["desks:fx", "orders:ann:7"]),
        json!(["desks:fx"])
    );
    // The old end passes, and the new one counts.
    bench.world.advance(120 * SECOND);
    assert!(bench.world.client(key).close.is_none());
    bench.world.advance(600 * SECOND);
    let close = bench.world.client(key).close.clone();
    assert_eq!(close.map(|(code, _)| code), Some(1008));
    assert_eq!(
        bench.renewals(),
        [("accepted", 1), ("refused", 0), ("limited", 0)]
    );
}

#[test]
fn after_a_refused_token_the_old_one_stays() {
    let mut bench = bench();
    let key = bench.client_with(&json!({"sub": "ann"}));
    assert_eq!(
        bench.asked_for(key, &["orders:ann:7"]),
        json!(["orders:ann:7"])
    );
    for wrong in [
        "wrong",
        &token(&json!({"role": "nobody"})),
        &token(&json!({"sub": "ann", "channels": 5})),
    ] {
        bench.world.advance(SECOND);
        let answer = bench.renewed(key, wrong);
        let told = (&answer["type"], &answer["error"]);
        assert_eq!(told, (&json!("error"), &json!("Authentication failed")));
    }
    assert_eq!(
        bench.asked_for(key, &["orders:ann:8"]),
        json!(["orders:ann:8"])
    );
    assert_eq!(bench.counts(), (2, 2, 0));
    for no_token in [json!(null), json!(5), json!("")] {
        let request = json!({"action": "authenticate", "token": no_token});
        bench.say(key, &request);
        assert_eq!(bench.got(key)[0]["error"], "token must be a string");
    }
    let mut open = Bench::new(settings());
    let anybody = open.client();
    let answer = open.renewed(anybody, "x");
    assert_eq!(answer["error"], "Authentication is not required");
}

#[test]
fn a_new_token_of_a_new_key_is_told_apart_while_newer_keys_are_due() {
    let settings = with_auth();
    let ring = settings.authenticator.keys.clone();
    let mut bench = Bench::new(settings);
    let key = bench.client_with(&json!({"sub": "ann"}));
    ring.expect_newer();
    assert_eq!(
        bench.renewed(key, OF_A_NEW_KEY)["error"],
        "Keys of tokens are due"
    );
    bench.world.advance(SECOND);
    let good = token(&json!({"sub": "ann"}));
    assert_eq!(bench.renewed(key, &good)["type"], "authenticated");
}

#[test]
fn new_tokens_are_bounded_for_one_client_and_for_all() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        renewals_per_second: 2,
        ..with_auth()
    });
    let good = token(&json!({"sub": "ann"}));
    let clients: Vec<_> = (0..4)
        .map(|_| bench.client_with(&json!({"sub": "ann"})))
        .collect();
    let renew = |bench: &mut Bench, key| bench.renewed(key, &good)["type"].clone();
    assert_eq!(renew(&mut bench, clients[0]), "authenticated");
    assert_eq!(renew(&mut bench, clients[0]), "error", "twice in a second");
    assert_eq!(renew(&mut bench, clients[1]), "authenticated");
    assert_eq!(
        renew(&mut bench, clients[2]),
        "error",
        "two a second for all"
    );
    bench.world.advance(SECOND);
    assert_eq!(renew(&mut bench, clients[2]), "authenticated");
    assert_eq!(renew(&mut bench, clients[0]), "authenticated");
    assert_eq!(
        bench.renewals(),
        [("accepted", 4), ("refused", 0), ("limited", 2)]
    );
}

#[test]
fn new_tokens_of_one_address_leave_some_for_the_clients_of_others() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        renewals_per_second: 20,
        ..with_auth()
    });
    let good = token(&json!({"sub": "ann"}));
    let ann = bench.client_with(&json!({"sub": "ann"}));
    let target = format!("/ws?token={}", token(&json!({"sub": "mallory"})));
    let crowd: Vec<_> = (0..100_u32)
        .map(|_| {
            let key = bench
                .world
                .connect_from([192, 0, 2, 1].into(), &target, None);
            bench.got(key);
            key
        })
        .collect();
    let mut of_crowd = 0;
    for n in 0..60 {
        for key in &crowd {
            let answer = bench.renewed(*key, if n % 2 == 0 { "x" } else { &good });
            of_crowd += usize::from(answer["error"] != "Too many new tokens");
        }
        let answer = bench.renewed(ann, &good);
        assert_eq!(answer["type"], "authenticated", "{n}");
        bench.world.advance(SECOND + n * 1_003);
    }
    assert!(of_crowd >= 60 * 10, "{of_crowd}");
}

/// A role whose last name costs so many steps that few names fit in the steps of one request.
fn costly_role() -> Acl {
    let names: Vec<String> = (0..400)
        .map(|n| format!("tenant*:region-{n:03}:*"))
        .collect();
    let table = json!({"user": &names, "desk": &names[1..], "other": &names[..399]});
    Acl::from_json(NameSyntax::Redis, table.to_string().as_bytes()).expect("a table")
}

#[test]
fn a_new_token_revokes_no_name_that_is_granted() {
    let settings = ChannelsGatewaySettings {
        acl: costly_role(),
        ..with_auth()
    };
    let mut bench = Bench::in_steps(settings, 10);
    let claims = |role: &str| json!({"sub": "ann", "role": role});
    let key = bench.client_with(&claims("user"));
    let other = bench.client_with(&claims("user"));
    let name = |n: usize| format!("tenant:market:quotes:region-399:instrument-{n:02}");
    let held: Vec<String> = (0..50).map(name).collect();
    for names in held.chunks(4) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(bench.asked_for(key, &names), json!(names));
    }
    // The same rights, other rights, the same rights of another table, and rights without these names.
    for (role, is_new_table) in [("user", false), ("desk", false), ("desk", true)] {
        bench.world.advance(SECOND);
        if is_new_table {
            bench.world.hub.handle_input(bench.world.now, costly_role());
        }
        let answer = bench.renewed(key, &token(&claims(role)));
        assert_eq!(answer["revoked"], json!([]), "{role} {is_new_table}");
        assert_eq!(bench.counts().0, 50);
    }
    bench.world.advance(SECOND);
    let request =
        json!({"action": "authenticate", "token": token(&claims("other")), "requestId": 7});
    bench.world.held = true;
    bench.say(key, &request);
    // The names of the client are judged in several turns, and others have their answers meanwhile.
    bench.say(other, &json!({"action": "ping", "requestId": 8}));
    bench.say(key, &json!({"action": "ping", "requestId": 9}));
    let left = bench.counts().0;
    assert!(0 < left && left < 50, "{left}");
    bench.world.held = false;
    bench.world.settle();
    assert_eq!(bench.got(other)[0]["type"], "pong");
    let answers = bench.got(key);
    assert_eq!(answers[0]["revoked"], json!(held));
    assert_eq!(answers[1]["requestId"], 9, "in order");
    assert_eq!(bench.counts().0, 0);
}

/// A new token with the same rights does not shield names from a new table.
#[test]
fn a_new_token_is_judged_by_the_new_table() {
    let mut bench = bench();
    let key = bench.client_with(&json!({"sub": "ann"}));
    assert_eq!(bench.asked_for(key, &["news"]), json!(["news"]));
    let without_news =
        Acl::from_json(NameSyntax::Redis, br#"{"user": ["orders:{sub}:*"]}"#).expect("a table");
    bench.world.hub.handle_input(bench.world.now, without_news);
    let answer = bench.renewed(key, &token(&json!({"sub": "ann"})));
    assert_eq!(answer["revoked"], json!(["news"]));
}

/// A client that leaves while its names are judged.
#[test]
fn a_client_may_leave_while_its_names_are_judged() {
    let settings = ChannelsGatewaySettings {
        acl: costly_role(),
        ..with_auth()
    };
    let mut bench = Bench::in_steps(settings, 10);
    let key = bench.client_with(&json!({"sub": "ann"}));
    let name = |n: usize| format!("tenant:market:quotes:region-399:instrument-{n:02}");
    for n in 0..50 {
        assert_eq!(bench.asked_for(key, &[&name(n)]), json!([name(n)]));
    }
    bench.world.held = true;
    let desk = token(&json!({"sub": "ann", "role": "desk"}));
    bench.say(key, &json!({"action": "authenticate", "token": desk}));
    bench.world.end(key, true);
    bench.world.held = false;
    bench.world.settle();
    assert_eq!(bench.counts().0, 0);
}
