//! A client's own rate: frames with a conflation key wait for the client's next slot.

use std::collections::BTreeSet;

use weirgate_core::{CloseReason, DrainPlan, Limits, SessionKey};

use super::{SECOND, small_queue, state};
use crate::world::state::State;
use crate::world::{Random, World};

/// A member of "levels" with two slots a second.
fn slotted(world: &mut World<State>) -> SessionKey {
    world.connect("/ws?max_hz=2", None)
}

fn balance(world: &World<State>) -> [u64; 4] {
    let s = world.hub.stats();
    [
        s.messages_queued,
        s.messages_sent,
        s.messages_conflated,
        s.messages_waiting,
    ]
}

#[test]
fn the_first_frame_leaves_at_once_and_the_newest_at_each_slot() {
    let mut world = state(small_queue());
    let (key, fast) = (slotted(&mut world), world.connect("/ws", None));
    for n in 0..21 {
        world.publish("levels/1", &n.to_string());
        world.advance(SECOND / 20);
    }
    assert_eq!(world.texts(key), ["0", "9", "19"]);
    assert_eq!(world.texts(fast).len(), 21);
    // What waits leaves though nothing more comes.
    world.advance(SECOND / 2);
    assert_eq!(world.texts(key), ["20"]);
    assert_eq!(balance(&world), [42, 25, 17, 0]);
    // Behind a pause the next frame leaves at once.
    world.advance(10 * SECOND);
    world.publish("levels/1", "late");
    assert_eq!(world.texts(key), ["late"]);
    world.hub.check_invariants();
}

#[test]
fn each_key_has_its_newest_frame_and_the_order_is_that_of_the_frames() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    world.publish("levels/1", "at once");
    for (topic, body) in [
        ("levels/1", "a"),
        ("levels/2", "b"),
        ("levels/3", "c"),
        ("levels/1", "d"),
    ] {
        world.publish(topic, body);
    }
    assert_eq!(world.texts(key), ["at once"]);
    assert_eq!(balance(&world), [5, 1, 1, 3]);
    assert_eq!(world.hub.stats().send_queue_bytes, 3 * 3);
    world.advance(SECOND / 2);
    assert_eq!(world.texts(key), ["b", "c", "d"]);
}

#[test]
fn an_answer_never_waits_and_what_waits_goes_before_it() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    world.publish("levels/1", "a");
    world.publish("levels/1", "b");
    world.text(key, "ask");
    assert_eq!(world.texts(key), ["a", "b", "ask"]);
}

#[test]
fn a_frame_without_a_key_never_waits_and_lets_others_wait() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    world.publish("levels/1", "a");
    world.publish("levels/1", "b");
    world.publish("levels/none", "c");
    assert_eq!(world.texts(key), ["a", "c"]);
    world.advance(SECOND / 2);
    assert_eq!(world.texts(key), ["b"]);
}

#[test]
fn what_waits_for_a_slot_leaves_before_a_close_and_a_stop() {
    let mut world = state(small_queue());
    let keys = [slotted(&mut world), slotted(&mut world)];
    world.publish("levels/1", "a");
    world.publish("levels/1", "b");
    world.text(keys[0], "bye now");
    assert_eq!(world.texts(keys[0]), ["a", "b"]);
    world.hub.drain(world.now, DrainPlan::default());
    world.settle();
    world.advance(SECOND);
    assert_eq!(world.texts(keys[1]), ["a", "b"]);
    let stats = world.hub.stats();
    assert_eq!((stats.messages_waiting, stats.messages_dropped), (0, 0));
}

#[test]
fn what_waits_for_a_slot_ends_with_the_client() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    world.publish("levels/1", "a");
    world.publish("levels/1", "b");
    world.publish("levels/2", "c");
    world.end(key, true);
    let stats = world.hub.stats();
    assert_eq!((stats.messages_waiting, stats.messages_dropped), (0, 2));
    assert_eq!(stats.send_queue_bytes, 0);
    world.advance(SECOND);
}

#[test]
fn frames_of_a_topic_that_was_left_do_not_come_later() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    world.text(key, "join other");
    world.publish("levels/1", "a");
    world.publish("other/2", "b");
    world.text(key, "leave other");
    world.advance(SECOND);
    assert_eq!(world.texts(key), ["a"]);
    // Of a topic with more keys than are remembered the frames leave before the topic is left.
    world.text(key, "join other");
    for n in 0..70 {
        world.publish(&format!("other/{n}"), &n.to_string());
    }
    world.text(key, "leave other");
    assert_eq!(world.hub.stats().messages_waiting, 0);
    world.advance(SECOND);
    assert_eq!(world.texts(key).len(), 70 - 63);
    // With nothing held, leaving such a topic uses up no slot.
    let stays = world.connect("/ws", None);
    for key in [stays, key] {
        world.text(key, "join other");
    }
    for n in 0..70 {
        world.publish(&format!("other/{n}"), &n.to_string());
    }
    world.advance(SECOND);
    assert_eq!(world.texts(key).len(), 70);
    world.advance(SECOND);
    world.text(key, "leave other");
    world.publish("levels/1", "c");
    assert_eq!(world.texts(key), ["c"]);
}

/// Clients that came together hold the same states, so one message is too much for all of them.
#[test]
fn slots_that_are_full_with_the_same_message_open_in_turns() {
    let mut world = state(Limits {
        work_us: 30,
        ..small_queue()
    });
    let keys: Vec<_> = (0..400).map(|_| slotted(&mut world)).collect();
    let body = |n: u32| format!("{n:98}");
    for n in 0..21 {
        world.publish(&format!("levels/{n}"), &body(n));
    }
    world.held = true;
    world.hub.begin_part(10);
    world.publish("levels/21", &body(21));
    let mut turns = 0;
    let mut got = [0; 400];
    while got.contains(&0) {
        world.hub.begin_part(10);
        world.hub.handle_timeout(world.now);
        world.hub.flush(world.now, &mut world.net);
        for (key, got) in keys.iter().zip(&mut got) {
            let texts = world.texts(*key).len();
            *got += texts.saturating_sub(1);
        }
        turns += 1;
        assert!(turns < 1_000, "{got:?}");
    }
    assert!(turns > 10, "{turns} turns");
    world.held = false;
    world.settle();
    world.hub.check_invariants();
}

/// What a client waits for is a frame that all share; the table of what it waits for is its own.
#[test]
fn the_slots_of_very_many_keys_open_early_while_there_is_too_little_memory() {
    const LIMIT: u64 = 200_000;
    let mut world = state(Limits {
        frame_bytes_max: LIMIT,
        ..Limits::default()
    });
    let keys: Vec<_> = (0..60).map(|_| slotted(&mut world)).collect();
    let mut most = 0;
    for n in 0..600 {
        world.publish(&format!("levels/{n}"), "x");
        most = most.max(world.frame_bytes.alive());
    }
    assert!(most < 2 * LIMIT, "{most}");
    world.advance(SECOND);
    for key in keys {
        assert_eq!(world.reason(key), None);
        assert_eq!(world.texts(key).len(), 600);
    }
    world.hub.check_invariants();
}

/// A client that reads would otherwise be dropped for its rate, each time that it comes back.
#[test]
fn a_slot_opens_early_where_the_newest_of_all_keys_are_too_many_bytes() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    let body = |n: u32| format!("{n:98}");
    world.publish("levels/0", &body(0));
    for n in 1..22 {
        world.publish(&format!("levels/{n}"), &body(n));
    }
    let full = world.texts(key).len();
    assert_eq!(
        full, 22,
        "one at once, and with 21 of 100 bytes too many wait"
    );
    for n in 22..100 {
        world.publish(&format!("levels/{n}"), &body(n));
    }
    assert_eq!(world.reason(key), None);
    world.advance(SECOND / 2);
    let rest = world.texts(key);
    assert_eq!((full + rest.len(), rest.last()), (100, Some(&body(99))));
    assert_eq!(balance(&world), [100, 100, 0, 0]);
    // The slot after an early one is an interval later.
    world.publish("levels/1", "a");
    world.publish("levels/1", "b");
    assert_eq!(world.texts(key), [""; 0]);
    world.advance(SECOND / 2);
    assert_eq!(world.texts(key), ["b"]);
}

#[test]
fn the_hard_limit_holds_for_a_client_that_does_not_read() {
    let mut world = state(small_queue());
    let key = slotted(&mut world);
    world.net.sockets.get_mut(&key).expect("a socket").room = 0;
    let mut waiting_max = 0;
    for n in 0..300 {
        world.publish(&format!("levels/{n}"), &"x".repeat(98));
        waiting_max = waiting_max.max(world.hub.stats().send_queue_bytes);
    }
    assert_eq!(world.reason(key), Some(CloseReason::SendQueueHard));
    // Frames of 100 bytes: 64 are not searched for frames of the same key, and 20 wait for the slot.
    assert!(waiting_max <= 100 * (64 + 2 * 20), "{waiting_max}");
    let stats = world.hub.stats();
    assert_eq!((stats.messages_waiting, stats.send_queue_bytes), (0, 0));
}

#[test]
fn a_value_out_of_range_is_refused_with_its_reason() {
    let mut world = state(Limits::default());
    let key = world.accept(usize::MAX);
    world.send(key, &crate::world::client::request("/ws?max_hz=0", None));
    assert_eq!(world.net.sockets[&key].client.status(), Some(400));
    let closes = world.hub.stats().closes_for(CloseReason::BadRequest);
    assert_eq!((closes, world.hub.stats().opened), (1, 0));
}

#[test]
fn binary_messages_are_refused_where_there_are_none() {
    let mut world = state(Limits::default());
    for (path, status) in [
        ("/ws?payload=binary", 400),
        ("/ws?payload=binary&payload=json", 400),
        ("/ws?payload=raw", 400),
        ("/ws?payload=json", 101),
        ("/ws?payload=", 101),
    ] {
        let key = world.accept(usize::MAX);
        world.send(key, &crate::world::client::request(path, None));
        let got = world.net.sockets[&key].client.status();
        assert_eq!(got, Some(status), "{path}");
        if status == 400 {
            let body = world.sent(key);
            let only = match path.contains("raw") {
                true => "payload=raw is for event streams of weirgate channels only",
                false => "payload=binary is for weirgate channels only",
            };
            assert!(
                body.ends_with(&format!(r#"{{"detail":"{only}"}}"#)),
                "{body}"
            );
        }
    }
}

/// Whatever happens: the newest of each key arrives. If the kernel takes everything: at two moments a second.
#[test]
fn at_random_the_newest_arrives_and_no_slot_comes_early() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut world = state(Limits {
            ping_interval_us: 0,
            ..Limits::default()
        });
        let key = slotted(&mut world);
        let mut newest = [None; 4];
        let mut received: Vec<(u64, String)> = Vec::new();
        for n in 0..300_u64 {
            match random.below(10) {
                0..6 => {
                    let topic = random.below(4);
                    world.publish(&format!("levels/{topic}"), &format!("{topic} {n}"));
                    newest[topic as usize] = Some(n);
                }
                6..9 => world.advance(random.below(SECOND / 4)),
                _ if seed % 2 == 0 => {
                    let socket = world.net.sockets.get_mut(&key).expect("a socket");
                    socket.room = random.below(200) as usize;
                    world.open_window(key, 0);
                }
                _ => {}
            }
            world.hub.check_invariants();
            let at = world.now.mono_us;
            received.extend(world.texts(key).into_iter().map(|text| (at, text)));
        }
        world.open_window(key, usize::MAX);
        world.advance(SECOND);
        let rest = world.texts(key).into_iter();
        received.extend(rest.map(|text| (world.now.mono_us, text)));
        let moments: BTreeSet<u64> = received.iter().map(|(at, _)| *at).collect();
        let spent = world.now.mono_us - 1_000_000;
        if seed % 2 == 1 {
            assert!(
                moments.len() as u64 <= 2 + 2 * spent / SECOND,
                "seed {seed}"
            );
        }
        for (topic, newest) in newest.iter().enumerate() {
            let prefix = format!("{topic} ");
            let of_topic = received.iter().filter_map(|(_, t)| t.strip_prefix(&prefix));
            let numbers: Vec<u64> = of_topic.map(|n| n.parse().expect("a number")).collect();
            assert!(numbers.is_sorted(), "seed {seed}: {numbers:?}");
            assert_eq!(numbers.last(), newest.as_ref(), "seed {seed}, key {topic}");
        }
    }
}
