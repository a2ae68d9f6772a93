//! The core under three toy gateways: if one of them needed a special case in the core, the core
//! would be wrong.

mod world;

use weirgate_core::{CloseReason, DrainPlan, Limits};
use world::World;
use world::client::frame;
use world::toys::{Devices, In, Numbered, Symbols};

#[test]
fn each_connection_counts_its_own_messages_over_one_shared_body() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let plain = world.connect("/ws", None);
    let deflated = world.connect("/ws", Some(15));
    let late = world.connect("/ws", Some(9));
    world.text(plain, "join a");
    world.text(deflated, "join a");
    world.text(deflated, "join a*");
    let body = "tick ".repeat(200);
    for _ in 0..12 {
        world
            .hub
            .handle_input(world.now, In::Publish("a".into(), body.clone()));
        world.settle();
    }
    world.text(late, "join a*");
    world
        .hub
        .handle_input(world.now, In::Publish("abc".into(), body.clone()));
    world.settle();

    let texts = world.texts(plain);
    assert_eq!(texts.len(), 2 + 12);
    for (index, text) in texts.iter().enumerate() {
        assert!(
            text.starts_with(&format!("{{\"seq\":{},", index + 1)),
            "{text}"
        );
    }
    let texts = world.texts(deflated);
    assert_eq!(texts.len(), 3 + 24 + 1);
    for (index, text) in texts.iter().enumerate() {
        assert!(
            text.starts_with(&format!("{{\"seq\":{},", index + 1)),
            "{text}"
        );
    }
    assert_eq!(world.client(deflated).deflated, 25);
    assert_eq!(world.texts(late).len(), 3);
    assert_eq!(
        world.client(late).deflated,
        0,
        "the body is larger than its window"
    );
}

#[test]
fn a_shed_message_keeps_its_number_and_answers_are_never_shed() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/slow", None);
    world.text(key, "join a");
    for _ in 0..9 {
        world
            .hub
            .handle_input(world.now, In::Publish("a".into(), "x".into()));
    }
    world.text(key, "nonsense");
    let numbers: Vec<u32> = world.texts(key).iter().map(|t| seq(t)).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 12]);
    assert_eq!(world.hub.stats().messages_shed, 4);
}

fn seq(text: &str) -> u32 {
    let digits = text.trim_start_matches("{\"seq\":");
    digits
        .split(',')
        .next()
        .and_then(|d| d.parse().ok())
        .expect("a number")
}

#[test]
fn ten_thousand_topics_each_reach_their_members_only() {
    let mut world = World::new(Limits::default(), Symbols::default(), 1);
    let clients: Vec<_> = (0..100).map(|_| world.connect("/ws", None)).collect();
    for (index, key) in clients.iter().enumerate() {
        let mine: Vec<String> = (0..100).map(|n| format!("S{}", n * 100 + index)).collect();
        world.text(*key, &format!("sub {}", mine.join(",")));
    }
    assert_eq!(world.hub.core().topic_count(), 10_000);
    for n in 0..10_000 {
        world
            .hub
            .handle_input(world.now, In::Publish(format!("S{n}"), n.to_string()));
    }
    world.settle();
    for (index, key) in clients.iter().enumerate() {
        let want: Vec<String> = (0..100).map(|n| (n * 100 + index).to_string()).collect();
        assert_eq!(world.texts(*key), want);
    }
    for key in clients {
        world.end(key, true);
    }
    assert_eq!(world.hub.core().topic_count(), 0);
    assert!(world.outputs.interest.values().all(|wanted| !wanted));
    assert_eq!(world.frame_bytes.alive(), 0);
}

#[test]
fn a_message_published_before_its_reader_leaves_is_sent() {
    let mut world = World::new(Limits::default(), Symbols::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "sub A");
    world
        .hub
        .handle_input(world.now, In::Publish("A".into(), "goodbye".into()));
    world
        .hub
        .handle_bytes(world.now, key, &frame(0x81, b"unsub A"));
    world
        .hub
        .handle_input(world.now, In::Publish("A".into(), "too late".into()));
    world.settle();
    assert_eq!(world.texts(key), ["goodbye"]);
}

#[test]
fn one_connection_is_a_sequence_and_pushes_go_in_between() {
    let mut world = World::new(Limits::default(), Devices::default(), 1);
    let key = world.connect("/ws", None);
    let other = world.connect("/ws", None);
    world.text(key, "device d1");
    world.text(other, "device d1");
    for n in 0..20 {
        world.text(key, &format!("q{n}"));
    }
    assert!(!world.hub.wants_read(key), "too many wait: not read");
    world.text(other, "quick");
    assert_eq!(world.outputs.calls.len(), 2, "one call per connection");
    world
        .hub
        .handle_input(world.now, In::Publish("d1".into(), "push".into()));
    world.settle();
    assert_eq!(world.texts(other), ["push"]);
    let mut answered = 0;
    while let Some(call) = world.outputs.calls.iter().position(|c| c.body != "quick") {
        let call = world.outputs.calls.remove(call);
        assert_eq!(call.body, format!("q{answered}"));
        answered += 1;
        world.hub.handle_input(world.now, call.echo());
        world.settle();
    }
    let want: Vec<String> = (0..20).map(|n| format!("q{n}")).collect();
    assert_eq!(world.texts(key)[0], "push");
    assert_eq!(answered, want.len());
    assert!(world.hub.wants_read(key));
}

#[test]
fn a_gateways_deadline_fires_once_and_closes() {
    let mut world = World::new(Limits::default(), Devices::default(), 1);
    let named = world.connect("/ws", None);
    let silent = world.connect("/ws", None);
    world.text(named, "device d");
    world.advance(10_100_000);
    assert_eq!(
        world.client(silent).close,
        Some((1008, "identify first".into()))
    );
    assert_eq!(world.client(named).close, None);
    assert_eq!(world.hub.gateway().closed, [(silent, CloseReason::Policy)]);
}

#[test]
fn a_drain_closes_everyone_after_what_is_queued() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let keys: Vec<_> = (0..50).map(|_| world.connect("/ws", None)).collect();
    for key in &keys {
        world.text(*key, "join a");
        world.texts(*key);
    }
    let slow = keys[7];
    world.net.sockets.get_mut(&slow).expect("it").room = 10;
    world
        .hub
        .handle_input(world.now, In::Publish("a".into(), "last".repeat(50)));
    world.settle();
    let plan = DrainPlan {
        delay_us: 1_000_000,
        spread_us: 2_000_000,
        ..DrainPlan::default()
    };
    world.hub.drain(world.now, plan);
    world.settle();
    assert!(world.client(keys[0]).close.is_none(), "the delay");
    let late = world.connect("/ws", None);
    world.advance(1_000_000);
    assert!(world.client(late).close.is_none(), "the spread has begun");
    let newcomer = world.accept(usize::MAX);
    world.send(newcomer, &world::client::request("/ws", None));
    assert_eq!(world.client(newcomer).status(), Some(503));
    world.advance(1_000_000);
    let closed = keys
        .iter()
        .filter(|k| world.client(**k).close.is_some())
        .count();
    assert!((5..45).contains(&closed), "{closed} of 50 half-way");
    world.advance(1_100_000);
    assert!(
        world.client(slow).close.is_none(),
        "its data is not out yet"
    );
    world.open_window(slow, 10_000);
    for key in &keys {
        assert_eq!(world.client(*key).close, Some((1012, String::new())));
        assert_eq!(world.texts(*key).len(), 1);
        world.end(*key, false);
    }
    assert!(!world.hub.is_drained(), "the late one is still there");
    world.end(late, false);
    assert!(world.hub.is_drained(), "the refused one does not count");
}

#[test]
fn a_refused_token_is_accepted_then_closed_and_plain_http_is_handed_over() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/secret", None);
    assert_eq!(
        world.client(key).close,
        Some((1008, "Authentication failed".into()))
    );
    assert!(world.hub.gateway().closed.is_empty() || world.hub.stats().open == 0);
    let get = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\n";
    let http = world.accept(usize::MAX);
    world.send(http, get);
    assert_eq!(world.to_http, [get.to_vec()]);
}

#[test]
fn a_websocket_request_that_lost_its_upgrade_is_refused_and_not_taken_for_a_page() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.accept(usize::MAX);
    let with_key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let head = format!("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{with_key}");
    world.send(key, head.as_bytes());
    assert_eq!(world.client(key).status(), Some(426));
    assert!(world.to_http.is_empty());
}
