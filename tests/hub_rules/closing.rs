//! The two ends of a close.

use weirgate_core::{CloseReason, DrainPlan, Effect, Limits, PeerEnd, SocketEnd};
use weirgate_wire::admission::Transport;

use super::{SECOND, small_queue, symbols};
use crate::world::World;
use crate::world::client::{frame, request};
use crate::world::toys::{In, Numbered};

#[test]
fn a_close_frame_goes_at_the_next_frame_boundary_and_the_rest_is_discarded() {
    for deflate in [None, Some(15)] {
        let mut world = symbols(Limits::default());
        let key = world.reader(deflate, 7);
        let first = world.publish(1_000);
        world.publish(2_000);
        world.publish(3_000);
        world.send(key, &frame(0x83, b"no such opcode"));
        assert_eq!(world.reason(key), Some(CloseReason::ProtocolError));
        assert_eq!(world.hub.stats().messages_dropped, 2);
        world.open_window(key, usize::MAX);
        assert_eq!(world.texts(key), [first]);
        assert_eq!(world.client(key).close, Some((1002, String::new())));
    }
}

#[test]
fn a_violation_waits_for_what_its_turn_takes_and_no_longer() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, 1_500);
    // Queued in the same turn, before anything is flushed: the kernel takes one and a half.
    world.held = true;
    let first = world.publish(1_000);
    let second = world.publish(1_000);
    world.publish(1_000);
    world.send(key, &frame(0x83, b"no such opcode"));
    assert_eq!(world.reason(key), None);
    world.held = false;
    world.settle();
    assert_eq!(world.reason(key), Some(CloseReason::ProtocolError));
    assert_eq!(world.hub.stats().messages_dropped, 1);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), [first, second]);
    assert_eq!(world.client(key).close, Some((1002, String::new())));
}

#[test]
fn a_violation_behind_a_graceful_close_waits_no_longer_either() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    world.net.sockets.get_mut(&key).expect("it").room = 4;
    world.held = true;
    world.text(key, "bye now");
    world.send(key, &frame(0x83, b"no such opcode"));
    world.held = false;
    world.settle();
    assert_eq!(world.hub.gateway().closed, [(key, CloseReason::Policy)]);
    world.open_window(key, usize::MAX);
    assert_eq!(world.client(key).close, Some((1000, String::new())));
}

#[test]
fn nothing_is_sent_after_a_close() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, usize::MAX);
    world.send(key, &frame(0x88, b"\x03\xe8"));
    world.publish(100);
    world.text(key, "sub B");
    world.send(key, &frame(0x89, b"ping"));
    assert_eq!(world.client(key).close, Some((1000, String::new())));
    assert!(world.texts(key).is_empty() && world.client(key).pongs.is_empty());
    assert_eq!(world.hub.core().topic_count(), 0);
}

#[test]
fn after_our_close_comes_a_half_close_and_the_peers_end_releases() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, usize::MAX);
    world.send(key, &frame(0x88, b""));
    assert!(world.net.sockets[&key].half_closed);
    assert_eq!(world.net.sockets[&key].released, None);
    world.end(key, false);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

/// A client that sees the end of the connection before it has looked at the close frame would take
/// the end for a failure.
#[test]
fn our_side_stays_open_until_the_clients_close_frame_has_come() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    // Half of a frame stands before the close, the rest and more come behind it.
    let begun = frame(0x01, &[b'x'; 300]);
    world.text(key, "bye now");
    assert_eq!(world.client(key).close, Some((1000, String::new())));
    for bytes in [
        &begun[..5],
        &begun[5..],
        &frame(0x89, b"ping"),
        &frame(0x80, b"\xff"),
    ] {
        world.send(key, bytes);
        assert!(!world.net.sockets[&key].half_closed);
    }
    let answer = frame(0x88, b"\x03\xe8");
    world.send(key, &answer[..7]);
    assert!(!world.net.sockets[&key].half_closed);
    world.send(key, &answer[7..]);
    assert!(world.net.sockets[&key].half_closed);
    assert!(
        world.client(key).pongs.is_empty(),
        "nothing is sent after a close"
    );
    world.end(key, false);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

#[test]
fn what_was_held_of_a_paused_client_comes_before_its_answer() {
    let mut limits = Limits::default();
    limits.send_queue.control_bytes_max = 100;
    let mut world = symbols(limits);
    let key = world.reader(None, 0);
    let begun = frame(0x81, b"half of it");
    let pings = frame(0x89, &[b'p'; 100]).repeat(2);
    world.held = true;
    world.send(key, &[&pings, &begun[..9]].concat());
    assert!(!world.hub.wants_read(key), "too many pongs wait");
    world.hub.drain(world.now, DrainPlan::default());
    world.held = false;
    world.settle();
    world.open_window(key, usize::MAX);
    assert!(world.client(key).close.is_some());
    world.send(key, &begun[9..]);
    assert!(!world.net.sockets[&key].half_closed);
    world.send(key, &frame(0x88, b""));
    assert!(world.net.sockets[&key].half_closed);
}

#[test]
fn after_a_violation_no_answer_can_be_told_and_none_is_awaited() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, usize::MAX);
    world.send(key, &frame(0x83, b"no such opcode"));
    assert!(world.net.sockets[&key].half_closed);
}

#[test]
fn a_peer_that_ends_in_place_of_an_answer_is_let_go_at_once() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "bye now");
    world.end(key, false);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

#[test]
fn a_peer_that_never_answers_is_let_go_at_the_deadline() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "bye now");
    world.advance(5 * SECOND - 1);
    assert_eq!(world.net.sockets[&key].released, None);
    world.advance(1);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

#[test]
fn a_peer_that_never_ends_is_let_go_at_the_deadline() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, usize::MAX);
    world.send(key, &frame(0x88, b""));
    world.advance(5 * SECOND - 1);
    assert_eq!(world.net.sockets[&key].released, None);
    world.advance(1);
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

#[test]
fn a_peer_that_ends_its_side_first_still_gets_our_close() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, 1);
    world.publish(100);
    world.send(key, &frame(0x88, b"\x03\xe8"));
    world.end(key, false);
    assert_eq!(world.net.sockets[&key].released, None);
    world.open_window(key, usize::MAX);
    assert_eq!(world.client(key).close, Some((1000, String::new())));
    assert_eq!(world.net.sockets[&key].released, Some(SocketEnd::Close));
}

#[test]
fn a_graceful_close_waits_for_the_data_and_takes_nothing_new() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "join a");
    world.texts(key);
    world.net.sockets.get_mut(&key).expect("it").room = 0;
    world
        .hub
        .handle_input(world.now, In::Publish("a".into(), "one".into()));
    world.text(key, "bye now");
    world
        .hub
        .handle_input(world.now, In::Publish("a".into(), "two".into()));
    world.advance(4 * SECOND);
    assert_eq!(world.hub.gateway().closed, [], "it waits");
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key).len(), 2, "one, and the answer");
    assert_eq!(world.client(key).close, Some((1000, String::new())));
    assert_eq!(world.hub.gateway().closed, [(key, CloseReason::Policy)]);
}

#[test]
fn a_graceful_close_waits_until_its_deadline_only() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    world.net.sockets.get_mut(&key).expect("it").room = 0;
    world.text(key, "bye now");
    world.advance(5 * SECOND - 1);
    assert_eq!(world.hub.gateway().closed, []);
    world.advance(1);
    assert_eq!(world.hub.gateway().closed, [(key, CloseReason::Policy)]);
    world.open_window(key, usize::MAX);
    assert!(
        world.texts(key).iter().all(|t| !t.contains("bye")),
        "discarded"
    );
    assert_eq!(world.client(key).close, Some((1000, String::new())));
}

#[test]
fn a_slot_is_used_again_only_after_its_socket_is_released() {
    let mut world = symbols(small_queue());
    let first = world.reader(None, usize::MAX);
    world.hub.handle_ended(world.now, first, PeerEnd::Failed);
    // The effect that releases it was not carried out yet.
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let second = world.hub.handle_accepted(world.now, peer, Transport::Plain);
    assert_ne!(second.slot, first.slot);
    world.settle();
    let third = world.accept(usize::MAX);
    assert_eq!(third.slot, first.slot);
    world
        .hub
        .handle_bytes(world.now, first, &request("/ws", None));
    world.hub.handle_ended(world.now, first, PeerEnd::Failed);
    world.hub.handle_released(first);
    world.settle();
    world.send(third, &request("/ws", None));
    assert!(
        world.client(third).is_open(),
        "its predecessor's events are not its own"
    );
}

#[test]
fn refused_connections_give_their_places_back() {
    let limits = Limits {
        connections_max: 2,
        ..Limits::default()
    };
    let mut world = symbols(limits);
    let first = world.connect("/ws", None);
    let http = world.accept(usize::MAX);
    world.send(http, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    world.connect("/ws", None);
    let refused = world.accept(usize::MAX);
    world.send(refused, &request("/ws", None));
    assert_eq!(world.client(refused).status(), Some(503));
    world.end(refused, false);
    world.end(first, false);
    world.connect("/ws", None);
    assert_eq!(world.hub.core().connections(), 2);
}

#[test]
fn a_connection_that_comes_back_from_http_has_its_place_and_a_new_deadline() {
    let limits = Limits {
        connections_max: 1,
        ..Limits::default()
    };
    let handshake_us = limits.handshake_us;
    let mut world = symbols(limits);
    world.handed_over = Some(Vec::new());
    let http = world.accept(usize::MAX);
    world.send(http, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let refused = world.accept(usize::MAX);
    world.send(refused, &request("/ws", None));
    assert_eq!(world.client(refused).status(), Some(503));
    world.end(refused, false);
    world.advance(2 * handshake_us);
    let permit = world.handed_over.as_mut().unwrap().pop().unwrap();
    let back = world.come_back(permit, usize::MAX);
    world.advance(handshake_us - 1);
    world.send(back, &request("/ws", None));
    assert!(world.client(back).is_open());
    let stats = world.hub.stats();
    assert_eq!((stats.accepted, stats.returned, stats.to_http), (2, 1, 1));
    assert_eq!((stats.heads, stats.open), (0, 1));
    world.end(back, false);
    assert_eq!(world.hub.core().connections(), 0);
}

#[test]
fn a_stop_waits_for_clients_that_were_open_and_not_for_new_ones() {
    let mut world = symbols(Limits::default());
    let key = world.connect("/ws", None);
    let stuck = world.connect("/ws", None);
    assert!(!world.hub.is_draining());
    world.hub.drain(world.now, DrainPlan::default());
    world.settle();
    assert!(world.hub.is_draining());
    assert!(world.hub.takes_no_more(), "both are closed");
    let refused = world.accept(usize::MAX);
    world.send(refused, &request("/ws", None));
    assert_eq!(world.client(refused).status(), Some(503));
    assert_eq!(world.hub.stats().refused, 1);
    world.end(key, false);
    assert!(!world.hub.is_drained(), "one has not ended its side");
    world.end(stuck, false);
    assert_eq!(world.hub.stats().closing, 1, "the one that was refused");
    assert!(world.hub.is_drained());
}

#[test]
fn a_stop_of_many_clients_goes_on_over_several_turns() {
    let mut world = symbols(Limits {
        work_us: 10,
        ..Limits::default()
    });
    let keys: Vec<_> = (0..40).map(|_| world.connect("/ws", None)).collect();
    world.held = true;
    world.hub.begin_part(10);
    world.hub.drain(world.now, DrainPlan::default());
    let mut open = world.hub.stats().open;
    assert!((25..40).contains(&open), "{open} in the first turn");
    assert!(world.hub.is_draining() && !world.hub.takes_no_more());
    for _ in 0..2 {
        assert_eq!(world.hub.poll_timeout(), Some(world.now.mono_us));
        world.advance(0);
        let left = world.hub.stats().open;
        assert!(left < open && left > 0, "{left} of {open}");
        open = left;
    }
    world.held = false;
    world.settle();
    assert!(world.hub.takes_no_more());
    for key in keys {
        assert_eq!(world.client(key).close, Some((1012, String::new())));
    }
}

#[test]
fn beyond_the_room_for_refusals_a_connection_is_not_answered() {
    let mut world = symbols(Limits {
        connections_max: 1,
        sockets_max: 2,
        ..Limits::default()
    });
    assert!(!world.hub.refuse_over_sockets_max());
    let open = world.connect("/ws", None);
    assert!(!world.hub.refuse_over_sockets_max());
    let refused = world.accept(usize::MAX);
    world.send(refused, &request("/ws", None));
    assert_eq!(world.client(refused).status(), Some(503));
    assert!(
        world.hub.refuse_over_sockets_max(),
        "the refused one has not ended"
    );
    let closes = [CloseReason::ConnectionLimit, CloseReason::OpenFiles]
        .map(|reason| world.hub.stats().closes_for(reason));
    assert_eq!(closes, [1, 1]);
    world.end(refused, false);
    assert!(!world.hub.refuse_over_sockets_max());
    world.end(open, false);
}

/// The shell closes so many sockets in a turn, so a client that ended can wait for many turns.
#[test]
fn a_client_that_ended_and_was_not_released_does_nothing() {
    let mut world = symbols(Limits::default());
    let key = world.connect("/ws", None);
    world.text(key, "sub A");
    world.held = true;
    world.hub.handle_ended(world.now, key, PeerEnd::Closed);
    assert!(world.hub.has_effects());
    world.hub.handle_ended(world.now, key, PeerEnd::Failed);
    world
        .hub
        .handle_bytes(world.now, key, &frame(0x81, b"sub B"));
    world.hub.handle_writable(world.now, key);
    let message = In::Publish("A".to_owned(), "x".to_owned());
    world.hub.handle_input(world.now, message);
    world.now.mono_us += 3_600_000_000;
    world.hub.handle_timeout(world.now);
    assert!(!world.hub.wants_read(key) && !world.hub.has_to_flush());
    assert_eq!(world.hub.core().memberships(), 0);
    assert!(
        matches!(world.hub.poll_effect(), Some(Effect::Release { key: gone, .. }) if gone == key)
    );
    assert!(!world.hub.has_effects());
    world.hub.handle_released(key);
    world.hub.check_invariants();
}

#[test]
fn a_stop_asks_clients_to_wait_if_so_set_and_other_closes_do_not() {
    let limits = Limits {
        close_retry_after_ms: 2_500,
        ..Limits::default()
    };
    let mut world = symbols(limits);
    let broken = world.reader(None, usize::MAX);
    let key = world.reader(None, usize::MAX);
    world.send(broken, &frame(0x83, b"no such opcode"));
    world.hub.drain(world.now, DrainPlan::default());
    world.settle();
    assert_eq!(world.client(broken).close, Some((1002, String::new())));
    let close = world.client(key).close.clone();
    assert_eq!(close, Some((1012, "retry_after_ms=2500".to_owned())));
}

#[test]
fn the_code_of_a_stop_is_that_of_the_settings() {
    for (stop_code, close_retry_after_ms, text) in [
        (1001, 0, ""),
        (1001, 50, "retry_after_ms=50"),
        (1012, 0, ""),
    ] {
        let limits = Limits {
            stop_code,
            close_retry_after_ms,
            ..Limits::default()
        };
        let mut world = symbols(limits);
        let keys = [
            world.reader(None, usize::MAX),
            world.reader(None, usize::MAX),
        ];
        let plan = DrainPlan {
            spread_us: 1_000_000,
            ..DrainPlan::default()
        };
        world.hub.drain(world.now, plan);
        world.advance(1_100_000);
        for key in keys {
            let close = world.client(key).close.clone();
            assert_eq!(close, Some((stop_code, text.to_owned())));
            world.end(key, false);
        }
        let stats = world.hub.stats();
        assert_eq!(stats.closes_for(CloseReason::ShuttingDown), 2);
    }
}
