//! Names of one user, names in a token, and a new token on a living connection.

use serde_json::json;

use weirgate::auth::NewerKeys;

use super::admission::{OF_A_NEW_KEY, token, with_auth};
use super::*;

/// The first second of a bench, Unix time.
const START_S: i64 = 1_715_629_300;

const TABLE: &[u8] = br#"{"user": ["news", "orders:{sub}:*"], "desk": ["news", "desks:*"]}"#;

fn bench() -> Bench {
    Bench::new(ChannelsGatewaySettings {
        acl: Acl::from_json(TABLE).expect("a table"),
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
fn a_token_that_would_fill_in_more_than_a_word_is_refused() {
    let mut bench = bench();
    for claims in [
        json!({"sub": "*"}),
        json!({"sub": "a:b"}),
        json!({"sub": ""}),
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
    assert!(refusals.contains(&("claim_text", 3)) && refusals.contains(&("names", 4)));
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
        &token(&json!({"sub": ">*"})),
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
    ring.set_newer(NewerKeys::OnDemand);
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
