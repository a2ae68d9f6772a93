//! The trades gateway in a hub with simulated clients: the rules that no transcript shows.

mod world;

mod trades_gateway {
    use super::*;

    mod candles;
    mod false_recoveries;
    mod losses;
    mod many_symbols;
    mod resume;
    mod resume_limits;
    mod users;
}

use std::sync::Arc;

use weirgate::auth::{Authenticator, KeyRing, KeySet};
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{TradesGateway, TradesGatewaySettings, TradesStats};
use weirgate_core::{
    BusEvent, BusMessage, Feed, FeedSettings, FrameBytes, Limits, Place, SessionKey,
};
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Secret;
use world::World;
use world::client::{frame, request};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn settings(required: bool) -> TradesGatewaySettings {
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new(SECRET))
        .expect("a good secret");
    TradesGatewaySettings {
        server_id: "ws-gateway-0a1b2c3d".to_owned(),
        origins: Origins::new([]),
        authenticator: Authenticator {
            required,
            keys: KeyRing::new(keys),
            ..Authenticator::default()
        },
        ..TradesGatewaySettings::default()
    }
}

fn gateway(required: bool) -> TradesGateway {
    TradesGateway::new(settings(required), Arc::default())
}

fn world(required: bool) -> World<TradesGateway> {
    World::new(Limits::default(), gateway(required), 1)
}

/// A world, and what its gateway counts.
fn counted(settings: TradesGatewaySettings) -> (World<TradesGateway>, Arc<TradesStats>) {
    let stats = Arc::new(TradesStats::default());
    let gateway = TradesGateway::new(settings, Arc::clone(&stats));
    (World::new(Limits::default(), gateway, 1), stats)
}

fn subscribe(world: &mut World<TradesGateway>, key: SessionKey, symbols: &str) -> String {
    world.text(
        key,
        &format!(r#"{{"action":"subscribe","symbols":{symbols}}}"#),
    );
    world.texts(key).pop().expect("an answer")
}

fn token(claims: serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
}

/// A client that came with a token, and its welcome.
fn connect(world: &mut World<TradesGateway>, token: &str) -> (SessionKey, String) {
    let key = world.connect(&format!("/?token={token}"), None);
    let welcome = world.texts(key).pop().unwrap_or_default();
    (key, welcome)
}

#[test]
fn the_first_protocol_that_a_client_offers_is_echoed() {
    let mut world = world(false);
    let request = String::from_utf8(request("/", None)).expect("text");
    let offer = "\r\nSec-WebSocket-Protocol: v1, v2\r\n\r\n";
    let key = world.accept(usize::MAX);
    world.send(key, request.replacen("\r\n\r\n", offer, 1).as_bytes());
    let head = world.client(key).head().expect("a head");
    let head = head.to_ascii_lowercase();
    let echoed = "\r\nsec-websocket-protocol: v1\r\n";
    assert!(head.contains(echoed), "{head}");
}

fn publish(world: &mut World<TradesGateway>, feed: &mut TradesFeed, channel: &str, payload: &str) {
    let message = BusMessage::new(channel, payload.as_bytes().to_vec(), world.now);
    let mut out = Vec::new();
    feed.event(world.now, BusEvent::Message(message), &mut out);
    for publication in &out {
        world.hub.handle_publication(world.now, publication);
    }
    world.settle();
}

fn feed(world: &World<TradesGateway>) -> TradesFeed {
    let settings = FeedSettings {
        bus_message_bytes_max: 1 << 20,
        ..FeedSettings::default()
    };
    TradesFeed::new(settings, world.frame_bytes.clone())
}

#[test]
fn a_trade_reaches_who_holds_its_symbol_and_nobody_else() {
    let mut world = world(false);
    let mut feed = feed(&world);
    let a = world.connect("/any/path?x=1", None);
    let b = world.connect("/", Some(15));
    let welcome = world.texts(a).pop().expect("a welcome");
    assert!(
        welcome.starts_with(
            r#"{"type":"success","message":"Connected to WebSocket Gateway","data":{"connectionId":""#
        ),
        "{welcome}"
    );
    assert!(
        welcome.ends_with(
            r#""serverId":"ws-gateway-0a1b2c3d","maxSymbolsPerConnection":5},"timestamp":1715629300000}"#
        ),
        "{welcome}"
    );
    world.texts(b);
    subscribe(&mut world, a, r#"["A"]"#);
    subscribe(&mut world, b, r#"["B","A"]"#);
    publish(
        &mut world,
        &mut feed,
        "channel:trade:A",
        r#"{"price":1.50}"#,
    );
    publish(&mut world, &mut feed, "channel:trade:B", r#"{"price":2}"#);
    let trade = |price: &str| {
        format!(r#"{{"type":"trade","data":{{"price":{price}}},"timestamp":1715629300000}}"#)
    };
    assert_eq!(world.texts(a), [trade("1.50")]);
    assert_eq!(world.texts(b), [trade("1.50"), trade("2")]);
    world.end(b, false);
    world.text(a, r#"{"action":"unsubscribe","symbols":["a","A","Z"]}"#);
    assert_eq!(
        world.texts(a),
        [
            r#"{"type":"success","message":"Successfully unsubscribed from 1 symbol(s)","data":{"unsubscribed":["A"],"currentSubscriptions":[]},"timestamp":1715629300000}"#
        ]
    );
    assert_eq!(world.hub.core().topic_count(), 0, "nobody holds anything");
}

#[test]
fn a_symbol_may_have_colons() {
    let mut world = world(false);
    let mut feed = feed(&world);
    let client = world.connect("/", None);
    subscribe(&mut world, client, r#"["nse:tcs"]"#);
    for channel in [
        "channel:trade:NSE:TCS",
        "channel:trade:NSE",
        "channel:trade:TCS",
    ] {
        publish(&mut world, &mut feed, channel, r#"{"price":1}"#);
    }
    let trades = world.texts(client);
    assert_eq!(trades.len(), 1, "{trades:?}");
}

#[test]
fn a_request_is_taken_whole_or_not_at_all() {
    let mut world = world(false);
    let key = world.connect("/", None);
    subscribe(&mut world, key, r#"["A","B","C"]"#);
    let refused = subscribe(&mut world, key, r#"["C","D","E","F"]"#);
    assert!(
        refused.contains(
            "Cannot subscribe: would exceed maximum of 5 symbols per connection. Currently \
             subscribed to 3 symbols."
        ),
        "{refused}"
    );
    assert_eq!(world.hub.core().joined_count(key), 3, "nothing was added");
    // Held ones and repeated ones count once.
    let taken = subscribe(&mut world, key, r#"["a","b","c","d","E"]"#);
    assert!(
        taken.contains(r#""subscribed":["D","E"],"currentSubscriptions":["A","B","C","D","E"]"#)
    );
    let again = subscribe(&mut world, key, r#"["E","E"]"#);
    assert!(again.contains("Already subscribed to all requested symbols"));
}

#[test]
fn binary_is_read_as_text_and_never_ends_a_connection() {
    let mut world = world(false);
    let key = world.connect("/", None);
    world.texts(key);
    world.send(key, &frame(0x82, br#"{"action":"ping"}"#));
    world.send(key, &frame(0x82, b"{\"action\":\"p\xffng\"}"));
    world.send(key, &frame(0x82, b"\xff\xfe"));
    let answers = world.texts(key);
    assert_eq!(answers[0], r#"{"type":"pong","timestamp":1715629300000}"#);
    assert!(
        answers[1].contains("Unknown action: p\u{fffd}ng"),
        "{}",
        answers[1]
    );
    assert!(answers[2].contains("not JSON at byte 0"), "{}", answers[2]);
    assert!(world.client(key).close.is_none());
}

#[test]
fn without_require_auth_no_token_refuses_anybody() {
    let mut world = world(false);
    let (_, welcome) = connect(&mut world, "nonsense");
    assert!(welcome.contains(r#""maxSymbolsPerConnection":5"#));
    let good = token(serde_json::json!({"sub": "ann", "maxSymbols": 7}));
    let (_, welcome) = connect(&mut world, &good);
    assert!(
        welcome.contains(r#""maxSymbolsPerConnection":7"#),
        "{welcome}"
    );
}

#[test]
fn with_require_auth_a_bad_token_is_accepted_then_closed() {
    let mut world = world(true);
    let expired = token(serde_json::json!({"exp": 1_715_629_299}));
    for bad in ["", "nonsense", &expired] {
        let (key, welcome) = connect(&mut world, bad);
        assert_eq!(welcome, "", "{bad}");
        let close = Some((1008, "Authentication failed".to_owned()));
        assert_eq!(world.client(key).close, close, "{bad}");
    }
    let (key, _) = connect(
        &mut world,
        &token(serde_json::json!({"exp": 1_715_629_310})),
    );
    world.advance(9_000_000);
    assert!(world.client(key).close.is_none());
    world.advance(1_100_000);
    let close = Some((1008, "Authentication failed".to_owned()));
    assert_eq!(world.client(key).close, close, "it ends with its token");
}

#[test]
fn the_end_of_a_token_closes_only_where_tokens_are_asked_for() {
    let mut world = world(false);
    let claims = serde_json::json!({"sub": "ann", "maxSymbols": 7, "exp": 1_715_629_310});
    let (key, welcome) = connect(&mut world, &token(claims));
    assert!(welcome.contains(r#""maxSymbolsPerConnection":7"#));
    world.advance(11_000_000);
    assert_eq!(world.client(key).close, None);
}

#[test]
fn a_token_that_ends_in_hours_ends_then() {
    let limits = Limits {
        ping_interval_us: 0,
        ..Limits::default()
    };
    let mut world = World::new(limits, gateway(true), 1);
    let claims = serde_json::json!({"sub": "ann", "exp": 1_715_629_300 + 7_200});
    let (key, _) = connect(&mut world, &token(claims));
    for _ in 0..7_199 {
        world.advance(1_000_000);
    }
    assert_eq!(world.client(key).close, None);
    world.advance(1_100_000);
    let close = Some((1008, "Authentication failed".to_owned()));
    assert_eq!(world.client(key).close, close);
}

#[test]
fn refusals_and_subscriptions_are_counted() {
    let (mut world, stats) = counted(settings(true));
    connect(&mut world, "nonsense");
    connect(&mut world, "");
    let refusals: Vec<_> = stats.access.refusals().filter(|r| r.1 > 0).collect();
    assert_eq!(refusals, [("missing", 1), ("not_a_token", 1)]);
    let good = token(serde_json::json!({"sub": "ann"}));
    let (a, _) = connect(&mut world, &good);
    let (b, _) = connect(&mut world, &good);
    subscribe(&mut world, a, r#"["A","B","C"]"#);
    subscribe(&mut world, b, r#"["A"]"#);
    assert_eq!(stats.subscriptions.get(), 4);
    world.text(a, r#"{"action":"unsubscribe","symbols":["A","Z"]}"#);
    assert_eq!(stats.subscriptions.get(), 3);
    world.end(a, true);
    world.end(b, false);
    assert_eq!(stats.subscriptions.get(), 0);
}

#[test]
fn who_sends_too_much_is_told_once_a_second() {
    let (mut world, stats) = counted(TradesGatewaySettings {
        inbound_per_second: Some(3),
        ..settings(false)
    });
    let key = world.connect("/", None);
    world.texts(key);
    for _ in 0..10 {
        world.text(key, r#"{"action":"ping"}"#);
    }
    let answers = world.texts(key);
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert!(answers[3].contains(r#""message":"Rate limit exceeded""#));
    assert_eq!(stats.access.requests_limited.get(), 7);
    world.advance(1_000_000);
    world.text(key, r#"{"action":"ping"}"#);
    assert!(world.texts(key)[0].contains("pong"));
    // Without a rate nobody is limited.
    let mut world = self::world(false);
    let key = world.connect("/", None);
    world.texts(key);
    for _ in 0..5_000 {
        world.text(key, r#"{"action":"ping"}"#);
    }
    assert_eq!(world.texts(key).len(), 5_000);
}

#[test]
fn a_users_limit_counts_over_all_of_its_connections() {
    let mut world = world(true);
    let mint = |user: &str| token(serde_json::json!({"sub": user, "maxSymbols": 3}));
    let (a, _) = connect(&mut world, &mint("ann"));
    let (b, _) = connect(&mut world, &mint("ann"));
    let (other, _) = connect(&mut world, &mint("bob"));
    subscribe(&mut world, a, r#"["A","B"]"#);
    subscribe(&mut world, b, r#"["A"]"#);
    world.text(b, r#"{"action":"subscribe","symbols":["C"]}"#);
    world.send(a, &frame(0x8a, b""));
    world.advance(1);
    let refused = world.texts(b).pop().expect("an answer");
    assert!(
        refused.contains("maximum of 3 symbols per user. Currently subscribed to 3 symbols."),
        "{refused}"
    );
    assert!(subscribe(&mut world, other, r#"["A","B","C"]"#).contains("Successfully"));
    world.text(a, r#"{"action":"unsubscribe","symbols":["A"]}"#);
    assert!(subscribe(&mut world, b, r#"["C"]"#).contains("Successfully"));
    // What a connection held is the user's again when it ends.
    world.end(b, true);
    world.texts(a);
    assert!(subscribe(&mut world, a, r#"["X","Y"]"#).contains("Successfully"));
}

#[test]
fn the_heartbeat_and_the_stop_close_as_the_replaced_gateway_does() {
    let limits = Limits {
        ping_interval_us: 30_000_000,
        pong_timeout_us: 30_000_000,
        ..Limits::default()
    };
    let mut world = World::new(limits, gateway(false), 1);
    let silent = world.connect("/", None);
    for _ in 0..70 {
        world.advance(1_000_000);
        // An application ping does not stand for the pong.
        world.text(silent, r#"{"action":"ping"}"#);
    }
    let close = Some((1000, "Heartbeat timeout".to_owned()));
    assert_eq!(world.client(silent).close, close);
    let key = world.connect("/", None);
    world
        .hub
        .drain(world.now, weirgate_core::DrainPlan::default());
    world.settle();
    let close = Some((1001, "Server shutting down".to_owned()));
    assert_eq!(world.client(key).close, close);
}

#[test]
fn nothing_of_a_client_is_kept_when_it_has_gone() {
    let mut world = world(true);
    let frame_bytes: FrameBytes = world.frame_bytes.clone();
    for n in 0..50 {
        let claims = serde_json::json!({"sub": format!("user{n}"), "maxSymbols": 5});
        let (key, _) = connect(&mut world, &token(claims));
        subscribe(&mut world, key, r#"["A","B"]"#);
        world.end(key, n % 2 == 0);
    }
    // A request that opens nothing leaves nothing behind either.
    let half = world.accept(usize::MAX);
    let good = token(serde_json::json!({"sub": "x", "maxSymbols": 9}));
    let request = format!(
        "GET /?token={good} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    );
    world.send(half, request.as_bytes());
    assert_eq!(world.client(half).status(), Some(400));
    assert!(world.hub.clients().is_empty() && world.hub.gateway().is_idle());
    assert_eq!(world.hub.core().topic_count(), 0);
    assert_eq!(frame_bytes.alive(), 0);
}
