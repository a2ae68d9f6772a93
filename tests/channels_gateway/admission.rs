//! Who may connect, as what, and for how long.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use weirgate::auth::{ApiKey, KeyRing, KeySet};
use weirgate_wire::base::Secret;

use super::*;

pub(crate) fn with_auth() -> ChannelsGatewaySettings {
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new("secret")).expect("room");
    ChannelsGatewaySettings {
        authenticator: Authenticator {
            required: true,
            api_key: ApiKey::new(&Secret::new("s3cret")),
            keys: KeyRing::new(keys),
            ..Authenticator::default()
        },
        ..settings()
    }
}

pub(crate) fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(b"secret");
    jsonwebtoken::encode(&Header::default(), claims, &key).expect("a token")
}

/// Where to connect as a user until then, Unix seconds.
pub(crate) fn target(exp: i64) -> String {
    format!("/ws?token={}", token(&json!({"role": "user", "exp": exp})))
}

const FAILED: (u16, &str) = (1008, "Authentication failed");

/// The role that a request is admitted with, or the close of one that is not.
fn outcome(bench: &mut Bench, request: &[u8]) -> Result<String, (u16, String)> {
    let key = bench.world.accept(usize::MAX);
    bench.world.send(key, request);
    let got = bench.got(key);
    match &bench.world.client(key).close {
        Some(close) => {
            assert!(got.is_empty());
            Err(close.clone())
        }
        None => Ok(got[0]["role"].as_str().expect("text").to_owned()),
    }
}

fn to(target: &str) -> Vec<u8> {
    world::client::request(target, None)
}

/// {"alg":"RS256","kid":"new"} and {}: of a key that is not here.
pub(crate) const OF_A_NEW_KEY: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im5ldyJ9.e30.AA";

/// The same with the key id "next".
const OF_ANOTHER_KEY: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im5leHQifQ.e30.AA";

#[test]
fn a_token_that_begins_soon_may_come_again_then() {
    let mut bench = Bench::new(with_auth());
    let nbf = bench.world.now.unix_ms() / 1000 + 7;
    let soon = token(&json!({"role": "user", "nbf": nbf}));
    let target = to(&format!("/ws?token={soon}"));
    let later = "Token is not valid yet retry_after_ms=7000".to_owned();
    assert_eq!(outcome(&mut bench, &target), Err((1013, later)));
    bench.world.advance(7 * SECOND);
    assert_eq!(outcome(&mut bench, &target), Ok("user".to_owned()));
}

#[test]
fn a_token_of_a_new_key_may_come_again_while_newer_keys_are_due() {
    let settings = with_auth();
    let ring = settings.authenticator.keys.clone();
    let mut bench = Bench::new(settings);
    let target_of = |token| to(&format!("/ws?token={token}"));
    let target = target_of(OF_A_NEW_KEY);
    let failed = Err((FAILED.0, FAILED.1.to_owned()));
    assert_eq!(outcome(&mut bench, &target), failed);
    ring.expect_newer();
    let later = Err((1013, "Keys of tokens are due".to_owned()));
    assert_eq!(outcome(&mut bench, &target), later);
    assert!(ring.wants_fetch());
    assert_eq!(outcome(&mut bench, &target), later);
    let other = format!("/ws?token={}", token(&json!({"role": "user"})));
    assert_eq!(outcome(&mut bench, &to(&other)), Ok("user".to_owned()));
    let now_us = bench.world.now.mono_us;
    ring.note_good_fetch(now_us + 1, now_us + 7_000_000);
    assert_eq!(outcome(&mut bench, &target), failed);
    let of_another = target_of(OF_ANOTHER_KEY);
    let in_time = "Keys of tokens are due retry_after_ms=7000".to_owned();
    assert_eq!(outcome(&mut bench, &of_another), Err((1013, in_time)));
    let refusals: Vec<_> = bench.stats.access.refusals().filter(|r| r.1 > 0).collect();
    assert_eq!(refusals, [("unknown_key", 2), ("keys_due", 3)]);
}

#[test]
fn of_several_roles_one_counts_and_a_missing_claim_is_counted() {
    let mut settings = with_auth();
    settings.authenticator.rules.role = "realm_access.roles".to_owned();
    settings.authenticator.rules.role_is_named = true;
    let mut bench = Bench::new(settings);
    let roles = |roles: Value| token(&json!({"realm_access": {"roles": roles}}));
    let failed = || Err((FAILED.0, FAILED.1.to_owned()));
    let admits = |role: &str| Ok(role.to_owned());
    for (token, want, without_role) in [
        (roles(json!(["user", "admin", "other"])), admits("admin"), 0),
        (roles(json!("user")), admits("user"), 0),
        (roles(json!([])), admits("user"), 0),
        (roles(json!(["other"])), failed(), 0),
        (roles(json!([7])), failed(), 0),
        (token(&json!({"role": "admin"})), admits("user"), 1),
        (token(&json!({})), admits("user"), 2),
        ("s3cret".to_owned(), admits("admin"), 2),
    ] {
        let got = outcome(&mut bench, &to(&format!("/ws?token={token}")));
        assert_eq!(got, want, "{token}");
        assert_eq!(
            bench.stats.access.without_role.get(),
            without_role,
            "{token}"
        );
    }
}

#[test]
fn a_good_token_brings_its_role_and_any_other_is_refused() {
    let mut bench = Bench::new(with_auth());
    let good = |claims| format!("/ws?token={}", token(&claims));
    let failed = || Err((FAILED.0, FAILED.1.to_owned()));
    let admits = |role: &str| Ok(role.to_owned());
    for (target, want) in [
        ("/ws?token=s3cret".to_owned(), admits("admin")),
        (good(json!({"role": "internal"})), admits("internal")),
        (good(json!({"sub": "ann"})), admits("user")),
        ("/ws".to_owned(), failed()),
        ("/ws?token=".to_owned(), failed()),
        ("/ws?token=s3cre".to_owned(), failed()),
        (
            "/ws?token=eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYWRtaW4ifQ.".to_owned(),
            failed(),
        ),
        (good(json!({"role": "nobody"})), failed()),
        (good(json!({"role": "user", "exp": 5})), failed()),
    ] {
        assert_eq!(outcome(&mut bench, &to(&target)), want, "{target}");
    }
    let refusals: Vec<_> = bench
        .stats
        .access
        .refusals()
        .filter(|(_, count)| *count > 0)
        .collect();
    let want = [
        ("missing", 2),
        ("not_a_token", 1),
        ("algorithm", 1),
        ("expired", 1),
        ("role", 1),
    ];
    assert_eq!(refusals, want);
    assert_eq!(bench.world.hub.stats().open, 3);
    // Whoever is refused may leave at any time, and nobody counts him.
    assert_eq!(bench.counts(), (0, 0, 0));
}

#[test]
fn a_token_may_come_in_a_header_and_only_bearer_is_echoed() {
    let mut bench = Bench::new(with_auth());
    let with = |line: &str| {
        let request = String::from_utf8(to("/ws")).expect("text");
        request
            .replacen("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"), 1)
            .into_bytes()
    };
    let admin = token(&json!({"role": "admin"}));
    for line in [
        format!("Authorization: Bearer {admin}"),
        format!("Sec-WebSocket-Protocol: bearer, {admin}"),
    ] {
        assert_eq!(outcome(&mut bench, &with(&line)), Ok("admin".to_owned()));
    }
    for line in [
        format!("Sec-WebSocket-Protocol: bearer, {admin}"),
        "Sec-WebSocket-Protocol: bearer, wrong".to_owned(),
    ] {
        let key = bench.world.accept(usize::MAX);
        bench.world.send(key, &with(&line));
        let head = bench
            .world
            .client(key)
            .head()
            .expect("a head")
            .to_ascii_lowercase();
        assert!(
            head.contains("\r\nsec-websocket-protocol: bearer\r\n"),
            "{head}"
        );
        assert!(!head.contains(&admin.to_ascii_lowercase()), "{head}");
    }
}

#[test]
fn without_required_tokens_nobody_is_refused_for_one() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        default_role: "guest".to_owned(),
        ..settings()
    });
    for target in ["/ws", "/ws?token=wrong", "/ws?token=s3cret"] {
        assert_eq!(
            outcome(&mut bench, &to(target)),
            Ok("guest".to_owned()),
            "{target}"
        );
    }
    let key = bench.client();
    bench.subscribe(key, &["market:tick"]);
    let errors = &bench.got(key)[0]["errors"];
    assert_eq!(*errors, json!(["Access denied to channel: market:tick"]));
}

#[test]
fn a_connection_ends_when_its_token_does() {
    let mut bench = Bench::new(with_auth());
    let exp = bench.world.now.unix_ms() / 1000 + 90;
    let key = bench.world.connect(&target(exp), None);
    bench.subscribe(key, &["market:tick"]);
    assert_eq!(
        bench.kinds(key),
        kinds(&[("connected", 1), ("subscribed", 2)])
    );
    for _ in 0..89 {
        bench.world.advance(SECOND);
        assert_eq!(bench.world.client(key).close, None);
    }
    bench.publish("market:tick", &[], "1");
    bench.world.advance(SECOND);
    assert_eq!(
        bench.world.client(key).close,
        Some((FAILED.0, FAILED.1.to_owned()))
    );
    assert_eq!(bench.kinds(key), kinds(&[("data", 3)]));
    assert_eq!(bench.counts(), (0, 0, 0));
}

/// The wall clock may be set while somebody is connected: what it says counts.
#[test]
fn a_clock_that_was_set_is_believed_within_a_minute() {
    let mut bench = Bench::new(with_auth());
    let exp = bench.world.now.unix_ms() / 1000 + 7_200;
    let key = bench.world.connect(&target(exp), None);
    bench.world.now.unix_us += 7_200_000_000;
    bench.world.advance(60 * SECOND);
    assert!(bench.world.client(key).close.is_some());
}

#[test]
fn the_path_the_origin_and_plain_requests() {
    let mut bench = Bench::new(ChannelsGatewaySettings {
        origins: Origins::new(["https://a".to_owned()]),
        ..settings()
    });
    for target in ["/", "/ws/", "/socket", "/WS"] {
        let key = bench.world.accept(usize::MAX);
        bench.world.send(key, &to(target));
        assert_eq!(bench.world.client(key).status(), Some(403), "{target}");
    }
    for (origin, status) in [("https://b", 403), ("https://a", 101)] {
        let request = String::from_utf8(to("/ws")).expect("text");
        let with = format!("\r\nOrigin: {origin}\r\n\r\n");
        let key = bench.world.accept(usize::MAX);
        bench
            .world
            .send(key, request.replacen("\r\n\r\n", &with, 1).as_bytes());
        assert_eq!(bench.world.client(key).status(), Some(status), "{origin}");
    }
    let key = bench.world.accept(usize::MAX);
    bench
        .world
        .send(key, b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(bench.world.to_http.len(), 1);
    // An upgrade that is wrong in itself is refused for that, and opens nothing.
    let bad = String::from_utf8(to("/ws")).expect("text");
    let key = bench.world.accept(usize::MAX);
    bench
        .world
        .send(key, bad.replacen("Version: 13", "Version: 8", 1).as_bytes());
    assert_eq!(bench.world.client(key).status(), Some(426));
}
