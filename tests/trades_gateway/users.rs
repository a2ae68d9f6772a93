//! A user whose connections share a symbol limit, one of them gone without a word.

use super::*;
use crate::world::client::Client;

const SECOND: u64 = 1_000_000;

/// A connection of the user ann, who may have three symbols.
fn ann(world: &mut World<TradesGateway>) -> SessionKey {
    let claims = serde_json::json!({"sub": "ann", "maxSymbols": 3});
    connect(world, &token(claims)).0
}

/// An old connection with two symbols, and a request for two more on a new connection: there is no answer yet.
fn waits(world: &mut World<TradesGateway>) -> (SessionKey, SessionKey) {
    let (old, new) = (ann(world), ann(world));
    assert!(subscribe(world, old, r#"["A","B"]"#).contains("success"));
    world.advance(3 * SECOND);
    let pings = world.client(old).pings;
    world.text(new, r#"{"action":"subscribe","symbols":["C","D"]}"#);
    assert_eq!(world.client(old).pings, pings + 1, "a ping at once");
    world.text(new, r#"{"action":"ping"}"#);
    assert!(world.texts(new).is_empty());
    (old, new)
}

/// The response to the request, then that to the ping behind.
fn answer(world: &mut World<TradesGateway>, key: SessionKey) -> String {
    let [answer, pong] = &world.texts(key)[..] else {
        panic!("two responses");
    };
    assert!(pong.starts_with(r#"{"type":"pong""#), "{pong}");
    answer.clone()
}

#[test]
fn a_connection_that_is_gone_gives_way_within_two_seconds() {
    let mut world = world(true);
    let (old, new) = waits(&mut world);
    world.advance(2 * SECOND - 1);
    assert!(world.texts(new).is_empty() && world.client(old).close.is_none());
    world.advance(1);
    assert!(answer(&mut world, new).contains(r#""subscribed":["C","D"]"#));
    let close = Some((1000, "Heartbeat timeout".to_owned()));
    assert_eq!(world.client(old).close, close);
    assert!(
        subscribe(&mut world, new, r#"["E","F"]"#).contains("Currently subscribed to 2 symbols.")
    );
    assert!(subscribe(&mut world, new, r#"["E"]"#).contains("success"));
}

/// Who changes networks leaves a connection behind that was heard until then.
#[test]
fn a_connection_that_was_heard_a_moment_ago_is_asked_too() {
    for answers in [true, false] {
        let mut world = world(true);
        let (old, new) = (ann(&mut world), ann(&mut world));
        assert!(subscribe(&mut world, old, r#"["A","B"]"#).contains("success"));
        world.advance(SECOND / 10);
        let pings = world.client(old).pings;
        world.text(new, r#"{"action":"subscribe","symbols":["C","D"]}"#);
        assert_eq!(world.client(old).pings, pings + 1, "a ping at once");
        assert!(world.texts(new).is_empty());
        if answers {
            world.send(old, &frame(0x8a, b""));
            world.advance(1);
            assert!(world.texts(new)[0].contains("would exceed"));
        }
        world.advance(2 * SECOND);
        assert_eq!(world.client(old).close.is_none(), answers);
        let got = world.texts(new);
        assert_eq!(got.iter().any(|text| text.contains("success")), !answers);
    }
}

#[test]
fn a_connection_that_lives_keeps_its_symbols_and_the_refusal_comes_with_its_pong() {
    let mut world = world(true);
    let (old, new) = waits(&mut world);
    world.advance(SECOND / 10);
    world.send(old, &frame(0x8a, b""));
    world.advance(1);
    assert!(answer(&mut world, new).contains("would exceed maximum of 3 symbols per user"));
    world.advance(5 * SECOND);
    assert!(world.client(old).close.is_none());
}

#[test]
fn room_that_comes_meanwhile_is_taken_at_once() {
    for ends in [true, false] {
        let mut world = world(true);
        let (old, new) = waits(&mut world);
        match ends {
            true => world.see_end(old, true),
            false => world.text(old, r#"{"action":"unsubscribe","symbols":["A"]}"#),
        }
        world.advance(1);
        assert!(answer(&mut world, new).contains("success"), "{ends}");
    }
}

/// Each request that was judged has the next one judged, also if a connection whose turn it was ends.
#[test]
fn all_requests_that_wait_are_judged_one_after_the_other() {
    let mut world = world(true);
    let (old, first) = waits(&mut world);
    let more: Vec<_> = (0..50).map(|_| ann(&mut world)).collect();
    for key in &more {
        world.text(*key, r#"{"action":"subscribe","symbols":["C","D"]}"#);
        assert!(world.texts(*key).is_empty());
    }
    world.hub.begin_part(0);
    world.hub.handle_bytes(
        world.now,
        old,
        &frame(0x81, br#"{"action":"unsubscribe","symbols":["B"]}"#),
    );
    world.see_end(more[0], true);
    world.advance(1);
    assert!(answer(&mut world, first).contains("success"), "it fits");
    world.send(old, &frame(0x8a, b""));
    world.advance(1);
    for key in &more[1..] {
        let texts = world.texts(*key);
        assert!(texts[0].contains("would exceed"), "{texts:?}");
    }
}

/// A user has more connections than can be pinged, or closed, in a turn.
#[test]
fn very_many_connections_of_a_user_are_pinged_and_closed_over_several_turns() {
    const MANY: usize = 300;
    let limits = Limits {
        share_us: 20,
        work_us: 60,
        ping_interval_us: 0,
        ..Limits::default()
    };
    let mut world = World::new(limits, gateway(true), 1);
    let claims = serde_json::json!({"sub": "ann", "maxSymbols": MANY});
    let token = token(claims);
    let old: Vec<SessionKey> = (0..MANY).map(|_| connect(&mut world, &token).0).collect();
    for key in &old {
        assert!(subscribe(&mut world, *key, r#"["A"]"#).contains("success"));
    }
    let new = connect(&mut world, &token).0;
    world.held = true;
    world.text(new, r#"{"action":"subscribe","symbols":["B"]}"#);
    // Takes turns until all connections have what is counted, a few in each.
    let spread = |world: &mut World<TradesGateway>, until: usize, has: &dyn Fn(&Client) -> bool| {
        let (mut count, mut turns) = (0, 0);
        while count < until {
            world.flush();
            let before = count;
            count = old.iter().filter(|key| has(world.client(**key))).count();
            assert!(count - before < 60, "{} in a turn", count - before);
            turns += 1;
            assert!(turns < 1_000, "{count} of {until}");
            world.hub.handle_timeout(world.now);
        }
        assert!(turns > 5, "{turns}");
    };
    spread(&mut world, MANY, &|client| client.pings > 0);
    world.catch_up();
    let (alive, dead) = old.split_at(MANY / 2);
    for key in alive {
        world.send(*key, &frame(0x8a, b""));
    }
    world.advance(2 * SECOND - 1);
    assert!(world.texts(new).is_empty());
    world.held = true;
    world.now = world.now.plus_us(1);
    world.hub.handle_timeout(world.now);
    spread(&mut world, dead.len(), &|client| client.close.is_some());
    world.catch_up();
    assert!(world.texts(new)[0].contains(r#""subscribed":["B"]"#));
    assert!(alive.iter().all(|key| world.client(*key).close.is_none()));
    for _ in 1..dead.len() {
        let key = connect(&mut world, &token).0;
        assert!(subscribe(&mut world, key, r#"["C"]"#).contains("success"));
    }
    world.text(new, r#"{"action":"subscribe","symbols":["D"]}"#);
    for key in alive {
        world.send(*key, &frame(0x8a, b""));
    }
    assert!(world.texts(new).is_empty(), "it waits for the others");
}

#[test]
fn nobody_gives_way_where_that_makes_no_room() {
    let mut world = world(true);
    let keys = [ann(&mut world), ann(&mut world), ann(&mut world)];
    for (key, symbols) in [(keys[0], r#"["A"]"#), (keys[1], r#"["B","C"]"#)] {
        assert!(subscribe(&mut world, key, symbols).contains("success"));
    }
    world.advance(3 * SECOND);
    world.text(keys[2], r#"{"action":"subscribe","symbols":["D","E"]}"#);
    world.send(keys[1], &frame(0x8a, b""));
    world.advance(2 * SECOND);
    assert!(world.texts(keys[2])[0].contains("Currently subscribed to 3 symbols."));
    assert!(world.client(keys[0]).close.is_none());
}

#[test]
fn who_leaves_while_a_request_waits_leaves_nothing() {
    let mut world = world(true);
    let (old, new) = waits(&mut world);
    world.see_end(new, true);
    world.advance(3 * SECOND);
    assert!(world.client(old).close.is_none());
    world.see_end(old, true);
    assert!(world.hub.gateway().is_idle());
}
