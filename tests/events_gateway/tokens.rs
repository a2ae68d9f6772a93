//! Devices with tokens: who is which device, how long, and beside whom.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use weirgate::auth::{ApiKey, Authenticator, KeyRing, KeySet};
use weirgate_core::{Cut, CutRequest, HistoryLimits, Whom};
use weirgate_wire::base::Secret;

use super::*;

const SECOND: u64 = 1_000_000;
const FAILED: (u16, &str) = (1008, "Authentication failed");

fn keys(secret: &str) -> KeySet {
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new(secret)).expect("room");
    keys
}

fn tokens(required: bool) -> Authenticator {
    Authenticator {
        required,
        api_key: ApiKey::new(&Secret::new("s3cret")),
        keys: KeyRing::new(keys("secret")),
        ..Authenticator::default()
    }
}

fn world_of(authenticator: Authenticator) -> (Events, Arc<EventsStats>) {
    let stats = Arc::<EventsStats>::default();
    let settings = EventsGatewaySettings {
        authenticator,
        ..settings()
    };
    (world_with(settings, Arc::clone(&stats)), stats)
}

fn signed(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).expect("a token")
}

fn token(claims: &Value) -> String {
    signed("secret", claims)
}

/// A client with this token, and what else its address has.
fn connect(world: &mut Events, token: &str, more: &str) -> SessionKey {
    world.connect(&format!("/ws?token={token}{more}"), None)
}

fn close(world: &Events, key: SessionKey) -> Option<(u16, &str)> {
    let close = world.client(key).close.as_ref();
    close.map(|(code, text)| (*code, text.as_str()))
}

/// The device of the call that this event makes.
fn device(world: &mut Events, key: SessionKey) -> Value {
    ask(world, key, "lobby.who", 1);
    let call = world.outputs.pop().expect("a call");
    answer(world, &call, "1");
    assert_eq!(world.texts(key).len(), 1);
    let body: Value = serde_json::from_slice(&call.body).expect("JSON");
    body["client"]["device_id"].clone()
}

fn refusals(stats: &EventsStats) -> Vec<(&'static str, u64)> {
    let all = stats.access.refusals();
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn the_user_of_a_token_is_the_device() {
    for required in [true, false] {
        let (mut world, stats) = world_of(tokens(required));
        let ann = token(&json!({"sub": "ann é"}));
        for more in ["", "&device_id=ann+%C3%A9", "&device_id="] {
            let key = connect(&mut world, &ann, more);
            assert_eq!(world.texts(key), [""; 0], "{more}");
            assert_eq!(device(&mut world, key), "ann é", "{more}");
            world.text(key, r#"{"event":"identify","data":{"device_id":"other"}}"#);
            assert!(
                world.texts(key)[0].contains("unknown_event"),
                "the binding stays"
            );
        }
        assert_eq!(push(&mut world, &["ann é", "other"], "{}"), 3);
        assert_eq!(refusals(&stats), []);
    }
}

#[test]
fn without_a_token_for_the_device_nobody_is_there_if_tokens_are_required() {
    let (mut world, stats) = world_of(tokens(true));
    let long = "x".repeat(201);
    for (token, more, label) in [
        (String::new(), "&device_id=ann", "missing"),
        ("no".to_owned(), "&device_id=ann", "not_a_token"),
        (signed("other", &json!({"sub": "ann"})), "", "signature"),
        (token(&json!({"sub": "ann"})), "&device_id=bob", "device"),
        (token(&json!({"role": "admin"})), "&device_id=ann", "device"),
        (token(&json!({"sub": ""})), "", "device"),
        (token(&json!({"sub": long})), "", "device"),
        (token(&json!({"sub": "ann", "exp": 1})), "", "expired"),
    ] {
        let before = stats.access.refusals().find(|(name, _)| *name == label);
        let key = connect(&mut world, &token, more);
        assert_eq!(close(&world, key), Some(FAILED), "{label}");
        assert_eq!(world.texts(key), [""; 0], "{label}");
        let after = stats.access.refusals().find(|(name, _)| *name == label);
        assert_eq!(after.map(|(_, n)| n), before.map(|(_, n)| n + 1), "{label}");
    }
    assert_eq!(push(&mut world, &["ann", "bob"], "{}"), 0);
    assert!(world.hub.gateway().is_idle());
}

#[test]
fn clients_with_and_without_tokens_are_there_at_once_unless_tokens_are_required() {
    let (mut world, stats) = world_of(tokens(false));
    let with = connect(&mut world, &token(&json!({"sub": "ann"})), "");
    let without = world.connect("/ws?device_id=bob", None);
    let later = world.connect("/ws", None);
    assert!(world.texts(later)[0].contains("identify_required"));
    world.text(later, r#"{"event":"identify","data":{"device_id":"cid"}}"#);
    assert!(world.texts(later)[0].contains("cid"));
    // A bad token is as good as none.
    let bad = connect(&mut world, "no", "&device_id=dan");
    let other = connect(&mut world, &token(&json!({"sub": "ann"})), "&device_id=eve");
    for (key, name) in [
        (with, "ann"),
        (without, "bob"),
        (later, "cid"),
        (bad, "dan"),
        (other, "eve"),
    ] {
        assert_eq!(device(&mut world, key), name);
    }
    assert_eq!(
        push(&mut world, &["ann", "bob", "cid", "dan", "eve"], "{}"),
        5
    );
    assert_eq!(refusals(&stats), []);
}

#[test]
fn the_api_key_says_itself_which_device_it_is() {
    let (mut world, _) = world_of(tokens(true));
    let named = connect(&mut world, "s3cret", "&device_id=ann");
    assert_eq!(device(&mut world, named), "ann");
    let later = connect(&mut world, "s3cret", "");
    assert!(world.texts(later)[0].contains("identify_required"));
    world.text(later, r#"{"event":"identify","data":{"device_id":"bob"}}"#);
    assert!(world.texts(later)[0].contains("bob"));
}

#[test]
fn without_keys_a_token_is_part_of_an_address_as_ever() {
    let (mut world, _) = world_of(Authenticator::default());
    let key = world.accept(usize::MAX);
    let request = world::client::request("/ws?device_id=d&token=x", None);
    let (start, _) = request.split_at(request.len() - "\r\n".len());
    let offer = b"Sec-WebSocket-Protocol: bearer, x\r\n\r\n";
    world.send(key, &[start, offer].concat());
    assert_eq!(device(&mut world, key), "d");
    let head = world.client(key).head().expect("a head").to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && !head.contains("sec-websocket-protocol"),
        "{head}"
    );
}

#[test]
fn a_connection_ends_with_its_token_and_so_do_the_messages_that_wait() {
    let (mut world, stats) = world_of(tokens(true));
    let exp = world.now.unix_ms() / 1000 + 130;
    let key = connect(&mut world, &token(&json!({"sub": "ann", "exp": exp})), "");
    let endless = connect(&mut world, &token(&json!({"sub": "bob"})), "");
    world.advance(129 * SECOND);
    assert_eq!(device(&mut world, key), "ann");
    for id in 0..3 {
        ask(&mut world, key, "lobby.x", id);
    }
    world.advance(SECOND);
    assert_eq!(close(&world, key), Some(FAILED));
    assert_eq!(stats.messages_forgotten.get(), 2, "not only at their turn");
    let call = world.outputs.pop().expect("the call in flight");
    answer(&mut world, &call, "1");
    assert!(world.outputs.is_empty() && world.hub.gateway().is_idle());
    assert_eq!(close(&world, endless), None);
}

/// What a device leaves is forwarded after its end until its token ends, in a line for a slot too.
#[test]
fn what_a_device_has_left_ends_with_its_token() {
    for calls_max in [100, 1] {
        let stats = Arc::<EventsStats>::default();
        let settings = EventsGatewaySettings {
            authenticator: tokens(true),
            calls_max,
            ..settings()
        };
        let mut world = world_with(settings, Arc::clone(&stats));
        let exp = world.now.unix_ms() / 1000 + 10;
        let bob = connect(&mut world, &token(&json!({"sub": "bob"})), "");
        ask(&mut world, bob, "lobby.bob", 0);
        let ann = connect(&mut world, &token(&json!({"sub": "ann", "exp": exp})), "");
        (0..4).for_each(|id| ask(&mut world, ann, "lobby.ann", id));
        world.see_end(ann, false);
        let forwarded = if calls_max == 1 { 0 } else { 2 };
        for _ in 1..forwarded {
            let call = world.outputs.pop().expect("the token is good");
            answer(&mut world, &call, "1");
        }
        world.advance(10 * SECOND);
        while let Some(call) = world.outputs.pop() {
            answer(&mut world, &call, "1");
        }
        let forgotten = stats.messages_forgotten.get();
        assert_eq!(forgotten, 4 - forwarded, "{calls_max}");
        assert!(world.hub.gateway().is_idle());
        assert_eq!(world.hub.gateway().waiting_bytes().held(), 0);
    }
}

/// The end of a token is looked at before each message, not only each minute.
#[test]
fn a_message_after_the_end_of_its_token_is_not_forwarded_though_the_clock_was_set() {
    let (mut world, stats) = world_of(tokens(true));
    let exp = world.now.unix_ms() / 1000 + 3_600;
    let key = connect(&mut world, &token(&json!({"sub": "ann", "exp": exp})), "");
    world.now.unix_us += 3_600 * 1_000_000;
    ask(&mut world, key, "lobby.late", 1);
    assert!(world.outputs.is_empty());
    assert_eq!(close(&world, key), Some(FAILED));
    assert_eq!(stats.messages_forgotten.get(), 1);
}

/// Each minute the clock is looked at again.
#[test]
fn a_clock_that_is_set_ends_a_token_within_a_minute() {
    let (mut world, _) = world_of(tokens(true));
    let exp = world.now.unix_ms() / 1000 + 3_600;
    let key = connect(&mut world, &token(&json!({"sub": "ann", "exp": exp})), "");
    world.now.unix_us += 3_600 * 1_000_000;
    world.advance(59 * SECOND);
    assert_eq!(close(&world, key), None);
    world.advance(SECOND);
    assert_eq!(close(&world, key), Some(FAILED));
}

#[test]
fn a_device_that_reads_slowly_ends_with_its_token() {
    let (mut world, _) = world_of(tokens(true));
    let exp = world.now.unix_ms() / 1000 + 30;
    let key = connect(&mut world, &token(&json!({"sub": "ann", "exp": exp})), "");
    world.net.sockets.get_mut(&key).expect("it exists").room = 0;
    ask(&mut world, key, "lobby.x", 1);
    ask(&mut world, key, "lobby.x", 2);
    let call = world.outputs.pop().expect("a call");
    answer(&mut world, &call, &format!("\"{}\"", "x".repeat(100_000)));
    assert!(world.outputs.is_empty(), "it must read first");
    world.advance(SECOND);
    world.open_window(key, usize::MAX);
    world.advance(SECOND);
    let call = world.outputs.pop().expect("it has read");
    answer(&mut world, &call, "1");
    assert_eq!(world.texts(key).len(), 2);
    world.advance(28 * SECOND);
    assert_eq!(close(&world, key), Some(FAILED));
}

/// The answer to a device of a token has a position, from which it goes on.
#[test]
fn a_device_of_a_token_resumes() {
    let limits = Limits {
        history: HistoryLimits {
            keep_us: 60 * SECOND,
            bytes_max: 1 << 24,
        },
        ..Limits::default()
    };
    let settings = EventsGatewaySettings {
        authenticator: tokens(true),
        ..settings()
    };
    let gateway = EventsGateway::new(settings, Origins::new([]), Arc::default());
    let mut world: Events = World::new(limits, gateway, 1);
    let ann = token(&json!({"sub": "ann"}));
    let key = connect(&mut world, &ann, "");
    let texts = world.texts(key);
    let first: Value = serde_json::from_str(&texts[0]).expect("JSON");
    assert_eq!(first["data"], json!({"device_id": "ann"}));
    world.end(key, false);
    assert_eq!(push(&mut world, &["ann"], "{}"), 0);
    let since = first["pos"].as_str().expect("a position");
    let back = connect(&mut world, &ann, &format!("&since={since}"));
    let texts = world.texts(back);
    assert!(texts[0].contains(r#""recovered":true"#), "{texts:?}");
    assert!(texts[1].contains("lobby.updated"), "{texts:?}");
}

#[test]
fn a_new_key_counts_for_new_connections_and_old_ones_stay() {
    let tokens = tokens(true);
    let ring = tokens.keys.clone();
    let (mut world, _) = world_of(tokens);
    let (old, new) = (
        token(&json!({"sub": "ann"})),
        signed("next", &json!({"sub": "bob"})),
    );
    let ann = connect(&mut world, &old, "");
    let early = connect(&mut world, &new, "");
    assert_eq!(close(&world, early), Some(FAILED));
    ring.replace(keys("next"));
    let bob = connect(&mut world, &new, "");
    let late = connect(&mut world, &old, "");
    assert_eq!(close(&world, late), Some(FAILED));
    assert_eq!(
        (device(&mut world, ann), device(&mut world, bob)),
        (json!("ann"), json!("bob"))
    );
}

#[test]
fn who_is_cut_off_by_user_or_token_comes_back_by_no_token_of_the_same() {
    for (cut, also) in [(json!({"user": "ann"}), true), (json!({"jti": "7"}), false)] {
        let (mut world, stats) = world_of(tokens(true));
        let ann = token(&json!({"sub": "ann", "jti": "7"}));
        let key = connect(&mut world, &ann, "");
        let other = connect(&mut world, &token(&json!({"sub": "bob", "jti": "8"})), "");
        ask(&mut world, key, "lobby.1", 1);
        ask(&mut world, key, "lobby.2", 2);
        let whom = Cut::read(cut.to_string().as_bytes()).expect("a cut");
        let refused = whom.refused().expect("a refusal");
        let revoked = world.hub.core().limits().revoked.clone();
        revoked.add(&refused, world.now.unix_ms()).expect("room");
        world.hub.cut(
            world.now,
            CutRequest {
                whom: Whom::Chosen(whom),
                tell: Box::new(|_| {}),
            },
        );
        world.settle();
        assert_eq!(close(&world, key), Some((1008, "revoked")), "{cut}");
        assert_eq!(stats.messages_forgotten.get(), 1, "{cut}");
        let back = connect(&mut world, &ann, "");
        assert_eq!(close(&world, back), Some((1008, "revoked")), "{cut}");
        let next = connect(&mut world, &token(&json!({"sub": "ann", "jti": "9"})), "");
        assert_eq!(close(&world, next).is_some(), also, "{cut}");
        assert_eq!(close(&world, other), None);
    }
}
