//! What clients send: heads, frames behind them, floods, pauses.

use weirgate_core::{
    CloseReason, DrainPlan, Gateway, Limits, PeerEnd, SendQueueLimits, SessionKey, SocketEnd,
};

use super::{small_queue, symbols};
use crate::world::client::{frame, request};
use crate::world::toys::{Devices, In, Numbered};
use crate::world::{Output, PART_US, World};

#[test]
fn a_head_may_be_as_large_as_its_limit_and_no_larger() {
    let limit = Limits::default().head_bytes_max;
    for (over, status) in [(0, 101), (1, 431)] {
        let mut world = symbols(Limits::default());
        let good = request("/ws", None);
        let padding = "x".repeat(limit + over - good.len() - "X: \r\n".len());
        let head = String::from_utf8(good).expect("text");
        let head = head.replacen("\r\n\r\n", &format!("\r\nX: {padding}\r\n\r\n"), 1);
        let key = world.accept(usize::MAX);
        world.send(key, head.as_bytes());
        assert_eq!(world.client(key).status(), Some(status));
    }
}

#[test]
fn frames_in_the_packet_of_the_request_are_served_after_the_101() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.accept(usize::MAX);
    let both = [request("/ws", None), frame(0x81, b"join a")].concat();
    world.send(key, &both);
    assert!(world.client(key).is_open());
    assert_eq!(world.texts(key).len(), 2, "hello, joined");
}

#[test]
fn a_head_may_be_cut_anywhere() {
    let request = [request("/ws", None), frame(0x81, b"sub A")].concat();
    for at in 0..request.len() {
        let mut world = symbols(Limits::default());
        let key = world.accept(usize::MAX);
        world.send(key, &request[..at]);
        world.send(key, &request[at..]);
        assert_eq!(world.hub.core().joined_count(key), 1, "cut at {at}");
    }
}

#[test]
fn a_write_may_stop_anywhere() {
    for deflate in [None, Some(9), Some(15)] {
        let mut world = World::new(Limits::default(), Numbered::default(), 1);
        let key = world.connect("/ws", deflate);
        world.text(key, "join a");
        world.texts(key);
        world.net.sockets.get_mut(&key).expect("it").room = 0;
        for n in 0..4 {
            let body = format!("{n}").repeat(200);
            world
                .hub
                .handle_input(world.now, In::Publish("a".into(), body));
        }
        world.send(key, &frame(0x89, b"in between"));
        while world.client(key).texts.len() < 4 {
            world.open_window(key, 1);
        }
        assert_eq!(world.client(key).pongs, [b"in between"]);
        for (index, text) in world.texts(key).iter().enumerate() {
            let start = format!("{{\"seq\":{},", index + 3);
            assert!(text.starts_with(&start), "{text}");
        }
    }
}

#[test]
fn a_pong_overtakes_all_but_the_frame_that_was_begun() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, 0);
    world.publish(1_000);
    world.publish(1_000);
    world.send(key, &frame(0x89, b"a"));
    world.open_window(key, 3);
    assert_eq!(world.client(key).pongs, [b"a"], "no frame was begun");
    world.open_window(key, 1);
    world.send(key, &frame(0x89, b"b"));
    world.open_window(key, 999 + 3);
    assert_eq!(world.client(key).pongs, [b"a", b"b"]);
    assert_eq!(world.texts(key).len(), 1);
}

#[test]
fn pongs_that_wait_are_bounded_and_none_is_lost() {
    let send_queue = SendQueueLimits {
        control_bytes_max: 1_000,
        ..SendQueueLimits::default()
    };
    let mut world = symbols(Limits {
        send_queue,
        ..small_queue()
    });
    let key = world.reader(None, 0);
    let pings: Vec<u8> = (0..2_000_u32)
        .flat_map(|n| frame(0x89, &n.to_be_bytes()))
        .collect();
    world.send(key, &pings);
    assert!(!world.hub.wants_read(key));
    world.text(key, "sub B");
    assert_eq!(world.hub.core().joined_count(key), 1, "it is not heard");
    world.open_window(key, usize::MAX);
    assert!(
        world.net.largest_write <= 1_000 + 127,
        "{}",
        world.net.largest_write
    );
    let want: Vec<Vec<u8>> = (0..2_000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(world.client(key).pongs, want);
    assert_eq!(world.hub.core().joined_count(key), 2, "read on, in order");
}

/// A short answer takes ten times its bytes.
#[test]
fn a_client_that_takes_no_answers_is_not_read_and_gets_all_once_it_does() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let [stuck, reads] = [0, usize::MAX].map(|room| {
        let key = world.connect("/ws", None);
        world.net.sockets.get_mut(&key).expect("a socket").room = room;
        key
    });
    let asks: Vec<u8> = (0..100).flat_map(|_| frame(0x81, b"ask")).collect();
    for _ in 0..30 {
        world.send(stuck, &asks);
        world.send(reads, &asks);
        world.settle();
    }
    assert!(!world.hub.wants_read(stuck));
    assert!(world.hub.wants_read(reads), "it reads");
    let alive = world.frame_bytes.alive();
    assert!(alive < 32 * 1024, "{alive}");
    world.open_window(stuck, usize::MAX);
    world.settle();
    for key in [stuck, reads] {
        assert_eq!(world.texts(key).len(), 1 + 3_000);
        assert!(world.hub.wants_read(key));
    }
    world.hub.check_invariants();
}

#[test]
fn a_read_pause_keeps_the_order() {
    let mut world = World::new(Limits::default(), Devices::default(), 1);
    let key = world.connect("/ws", None);
    world.text(key, "device d");
    let together: Vec<u8> = (0..30)
        .flat_map(|n| frame(0x81, format!("q{n}").as_bytes()))
        .collect();
    world.send(key, &together);
    assert!(!world.hub.wants_read(key));
    for n in 30..40 {
        world.text(key, &format!("q{n}"));
    }
    for n in 0..40 {
        let call = world.outputs.calls.pop().expect("one call");
        assert_eq!(call.body, format!("q{n}"));
        assert!(world.outputs.calls.is_empty());
        world.hub.handle_input(world.now, call.echo());
        world.settle();
    }
    assert!(world.outputs.calls.is_empty() && world.hub.wants_read(key));
    assert_eq!(world.texts(key).len(), 40);
}

#[test]
fn large_messages_and_fragments_are_heard_one_after_the_other() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", Some(15));
    for _ in 0..3 {
        world.send(key, &frame(0x82, &vec![0; 1024 * 1024]));
        let name = "n".repeat(20_000);
        world.send(key, &frame(0x01, b"jo"));
        world.send(key, &frame(0x89, b"within"));
        world.send(key, &frame(0x80, format!("in {name}").as_bytes()));
        world.text(key, &format!("leave {name}"));
    }
    assert_eq!(world.client(key).pongs.len(), 3);
    assert_eq!(world.texts(key).len(), 1 + 6);
    assert_eq!(world.hub.stats().received_messages, 9);
}

/// The share of a client in a turn is one message.
fn a_message_each() -> Limits {
    Limits {
        share_us: 0,
        ..Limits::default()
    }
}

#[test]
fn addresses_take_turns_in_what_is_left_of_a_turn() {
    let mut world = World::new(a_message_each(), Numbered::default(), 1);
    let ips = [[192, 0, 2, 2]].into_iter().chain([[192, 0, 2, 1]; 50]);
    let keys: Vec<_> = ips
        .map(|ip| {
            let key = world.accept_from(ip.into(), usize::MAX);
            world.send(key, &request("/ws", None));
            key
        })
        .collect();
    let [last, others @ ..] = &keys[..] else {
        unreachable!("51 clients")
    };
    let message = frame(0x81, &[b'x'; 20_000]);
    for key in others {
        world.hub.handle_bytes(world.now, *key, &message.repeat(3));
    }
    world.hub.handle_bytes(world.now, *last, &message.repeat(2));
    assert_eq!(world.hub.waiting_shares(), 51);
    for others in 0..2 {
        assert!(!world.hub.wants_read(*last), "{others} others had a share");
        world.hub.handle_next_share(world.now);
    }
    assert!(world.hub.wants_read(*last), "it had its share");
    world.settle();
    assert!(keys.iter().all(|key| world.hub.wants_read(*key)));
}

#[test]
fn messages_over_the_share_of_a_client_follow_in_later_turns_and_none_is_lost() {
    let mut world = World::new(a_message_each(), Numbered::default(), 1);
    let keys: Vec<_> = (0..20).map(|_| world.connect("/ws", Some(15))).collect();
    let message = frame(0x81, "x".repeat(20_000).as_bytes());
    let before = world.hub.stats().received_messages;
    for key in &keys {
        world.hub.begin_part(PART_US);
        world.hub.handle_bytes(world.now, *key, &message.repeat(3));
        assert!(!world.hub.has_share());
        assert!(world.hub.has_time(), "for others");
    }
    assert_eq!(world.hub.stats().received_messages - before, 20);
    assert_eq!(world.hub.waiting_shares(), 20);
    for share in 1..=3 {
        world.hub.begin_part(PART_US);
        world.hub.handle_next_share(world.now);
        assert_eq!(world.hub.stats().received_messages - before, 20 + share);
    }
    world.settle();
    assert_eq!(world.hub.stats().received_messages - before, 60);
    assert!(keys.iter().all(|key| world.hub.wants_read(*key)));
}

/// A client that has time for more messages gets no more than the part of the turn has.
#[test]
fn a_share_ends_with_the_part_of_the_turn() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let key = world.connect("/ws", None);
    let before = world.hub.stats().received_messages;
    world.hub.begin_part(10);
    world
        .hub
        .handle_bytes(world.now, key, &frame(0x81, b"x").repeat(100));
    let got = world.hub.stats().received_messages - before;
    assert!((5..20).contains(&got), "{got}");
    assert_eq!(world.hub.waiting_shares(), 1);
    world.settle();
    assert_eq!(world.hub.stats().received_messages - before, 100);
}

/// The client's end is seen behind bytes that are not read because of `why`.
fn goes_unread<G>(world: &mut World<G>, key: SessionKey, why: &str)
where
    G: Gateway<Out: Output>,
{
    let paused = |world: &World<G>| -> Vec<_> {
        let paused = world.hub.stats().paused_clients();
        paused.filter(|(_, clients)| *clients > 0).collect()
    };
    assert_eq!(paused(world), [(why, 1)]);
    world.hub.handle_end_seen(world.now, key, PeerEnd::Closed);
    world.settle();
    assert_eq!(
        world.net.sockets[&key].released,
        Some(SocketEnd::Close),
        "{why}"
    );
    let stats = world.hub.stats();
    assert_eq!(stats.closes_for(CloseReason::PeerGone), 1);
    assert_eq!((stats.open, stats.ended_unread), (0, 1));
    assert_eq!(paused(world), []);
}

#[test]
fn who_goes_while_it_is_not_read_is_let_go() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 0);
    world.send(key, &frame(0x89, &[0; 125]).repeat(1_000));
    goes_unread(&mut world, key, "pongs");

    let mut world = symbols(a_message_each());
    let key = world.connect("/ws", None);
    world.held = true;
    world.send(key, &frame(0x81, b"sub A").repeat(2));
    world.held = false;
    goes_unread(&mut world, key, "turn");

    for stops in [false, true] {
        let mut world = World::new(Limits::default(), Devices::default(), 1);
        let key = world.connect("/ws", None);
        world.text(key, "device d");
        let messages = if stops { 1 } else { 20 };
        (0..messages).for_each(|n| world.text(key, &format!("q{n}")));
        if stops {
            let plan = DrainPlan {
                busy_us: 4_000_000,
                ..DrainPlan::default()
            };
            world.hub.drain(world.now, plan);
            world.settle();
        }
        goes_unread(&mut world, key, if stops { "stop" } else { "unanswered" });
    }
}

#[test]
fn who_is_read_is_read_to_its_end() {
    let mut world = symbols(Limits::default());
    let key = world.connect("/ws", None);
    world.hub.handle_end_seen(world.now, key, PeerEnd::Closed);
    world.text(key, "sub A");
    assert_eq!(world.hub.core().joined_count(key), 1, "it is heard");
    world.end(key, false);
    assert_eq!(world.hub.stats().ended_unread, 0);
}
