//! States while the loop is behind: each client has the newest after a round, and no round is endless.

use weirgate_core::{Limits, SendQueueLimits, SessionKey};

use super::{SECOND, small_queue, state};
use crate::world::state::State;
use crate::world::{Random, World};

/// Two batches of a flush.
const CLIENTS: usize = 256;

/// Members of "levels" that take everything, and a loop with time for one batch in a turn.
fn late_loop() -> (World<State>, Vec<SessionKey>) {
    late_loop_with(Limits::default().work_us)
}

fn late_loop_with(work_us: u64) -> (World<State>, Vec<SessionKey>) {
    let mut world = state(Limits {
        work_us,
        send_queue: SendQueueLimits {
            stall_us: 3_600 * SECOND,
            ..SendQueueLimits::default()
        },
        ping_interval_us: 0,
        ..Limits::default()
    });
    let keys = (0..CLIENTS).map(|_| world.connect("/ws", None)).collect();
    world.held = true;
    (world, keys)
}

/// A turn of a busy loop: so many messages, and the writes of one batch.
fn turn(world: &mut World<State>, messages: impl IntoIterator<Item = u64>) {
    for n in messages {
        world.publish("levels/1", &n.to_string());
    }
    world.flush_one_batch();
}

fn texts(world: &mut World<State>, keys: &[SessionKey]) -> Vec<Vec<String>> {
    keys.iter().map(|key| world.texts(*key)).collect()
}

fn is_behind(world: &World<State>) -> bool {
    world.hub.stats().overload.is_behind
}

#[test]
fn a_state_that_waits_for_the_loop_alone_is_held_when_it_is_replaced() {
    let (mut world, keys) = late_loop();
    // The second batch waits for over a second, and the next state replaces the first.
    turn(&mut world, [1]);
    turn(&mut world, []);
    turn(&mut world, [2]);
    assert!(!is_behind(&world), "every client has the first");
    world.now = world.now.plus_us(2 * SECOND);
    world.publish("levels/1", "3");
    assert!(is_behind(&world), "a batch has waited for 2 s");
    let queued = world.hub.stats().messages_queued;
    for n in 4..100 {
        world.publish("levels/1", &n.to_string());
    }
    let stats = world.hub.stats().clone();
    assert_eq!(stats.overload.states_replaced, 95);
    assert_eq!(stats.messages_queued, queued + 95 * CLIENTS as u64);
    world.catch_up();
    for texts in texts(&mut world, &keys) {
        assert_eq!(texts.last().map(String::as_str), Some("99"));
        assert!(texts.len() <= 4, "{texts:?}");
    }
    world.hub.check_invariants();
}

#[test]
fn every_client_gets_the_same_states_and_a_round_has_one_write_for_each() {
    let (mut world, keys) = late_loop();
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    turn(&mut world, [1, 2]);
    assert!(is_behind(&world));
    turn(&mut world, [3]);
    drop(texts(&mut world, &keys));
    let writes = world.net.writes;
    for n in 0..40 {
        turn(&mut world, [10 + 2 * n, 11 + 2 * n]);
    }
    assert!(is_behind(&world));
    let turns = 40 * CLIENTS as u64 / 2;
    assert!(
        world.net.writes - writes <= turns,
        "a write for each in two turns"
    );
    let got = texts(&mut world, &keys);
    let counts: Vec<usize> = got.iter().map(Vec::len).collect();
    let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
    // Every 10 s, states go into the send queues as a try.
    let is_fair = least.map(|n| n * 10) >= most.map(|n| n * 8);
    assert!(least >= Some(10) && is_fair, "{least:?} of {most:?}");
}

#[test]
fn the_time_behind_ends_by_itself_with_every_state_delivered() {
    let (mut world, keys) = late_loop();
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    turn(&mut world, [1, 2]);
    assert!(is_behind(&world));
    world.catch_up();
    for n in 3..13 {
        world.publish("levels/1", &n.to_string());
        world.advance(SECOND / 5);
    }
    assert!(!is_behind(&world), "2 s with time for everything");
    let behind_us = world.hub.stats().overload.behind_us;
    for texts in texts(&mut world, &keys) {
        let newest: Vec<String> = (3..13).map(|n| n.to_string()).collect();
        assert_eq!(texts[texts.len() - 10..], newest);
    }
    world.publish("levels/1", "later");
    world.advance(10 * SECOND);
    assert_eq!(world.hub.stats().overload.behind_us, behind_us);
}

#[test]
fn a_client_that_reads_slowly_puts_nobody_behind() {
    let mut world = state(small_queue());
    let (slow, fast) = (world.viewer(0), world.connect("/ws", None));
    for n in 0..40 {
        world.publish("levels/1", &n.to_string());
        world.advance(SECOND / 5);
        if n % 8 == 7 {
            // Writable again: for a moment only the loop has to come, and another state comes first.
            world.held = true;
            world.open_window(slow, 1);
            world.publish("levels/1", "meanwhile");
            world.held = false;
            world.settle();
        }
        assert!(!is_behind(&world), "{n}");
    }
    assert_eq!(world.texts(fast).len(), 45);
    assert!(world.hub.stats().messages_conflated > 20);
}

#[test]
fn a_message_without_a_key_comes_after_the_states_that_were_held_before_it() {
    let (mut world, keys) = late_loop();
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    for (topic, body) in [("levels/1", "a"), ("levels/2", "b"), ("levels/1", "c")] {
        world.publish(topic, body);
    }
    assert!(is_behind(&world));
    world.publish("levels/1", "d");
    world.publish("levels/none", "e");
    world.catch_up();
    for texts in texts(&mut world, &keys) {
        assert_eq!(texts[texts.len() - 3..], ["b", "d", "e"]);
    }
}

/// In the middle of a lap, with clients that the flush has not reached: the bus need not wait for its end.
#[test]
fn a_message_without_a_key_does_not_stop_the_bus_while_there_is_time() {
    let (mut world, keys) = late_loop();
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    for body in ["a", "b"] {
        world.publish("levels/1", body);
    }
    assert!(is_behind(&world));
    for n in 0..10 {
        world.publish("levels/1", &format!("state {n}"));
        assert!(world.hub.core().holds_states());
        world.hub.begin_part(crate::world::PART_US);
        world.publish("levels/none", &format!("message {n}"));
        assert!(world.hub.takes_publications(), "{n}");
    }
    world.catch_up();
    world.hub.check_invariants();
    for texts in texts(&mut world, &keys) {
        let messages = texts.iter().filter(|text| text.starts_with("message"));
        assert!(
            messages
                .cloned()
                .eq((0..10).map(|n| format!("message {n}")))
        );
        // No state comes after a message that was newer.
        let newest = texts.iter().rev().take(2).collect::<Vec<_>>();
        assert_eq!(newest, ["message 9", "state 9"]);
    }
}

#[test]
fn a_new_client_gets_no_state_from_before_it_came() {
    let (mut world, _) = late_loop();
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    world.publish("levels/1", "a");
    world.publish("levels/1", "before");
    assert!(is_behind(&world));
    world.net.batches_max = None;
    world.held = false;
    let new = world.connect("/ws", None);
    assert_eq!(world.texts(new), Vec::<String>::new());
    world.publish("levels/1", "after");
    world.settle();
    assert_eq!(world.texts(new), ["after"]);
}

/// Whatever comes when, each client gets a part of what was published, in order, once, and the newest at last.
#[test]
fn at_random_the_newest_arrives_and_nothing_comes_twice() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (mut world, mut keys) = late_loop();
        let mut was_behind = false;
        for n in 0..400 {
            match random.below(20) {
                0..11 => {
                    let key = ["0", "1", "2", "none"][random.below(4) as usize];
                    world.publish(&format!("levels/{key}"), &format!("{key} {n}"));
                }
                11..17 => turn(&mut world, []),
                17 => {
                    let key = keys[random.below(keys.len() as u64) as usize];
                    world.net.sockets.get_mut(&key).expect("a socket").room = 0;
                }
                18 => {
                    let key = keys[random.below(keys.len() as u64) as usize];
                    world.open_window(key, usize::MAX);
                }
                _ if keys.len() < CLIENTS + 4 => {
                    world.catch_up();
                    keys.push(world.connect("/ws", None));
                    world.held = true;
                }
                _ => {}
            }
            was_behind |= is_behind(&world);
        }
        assert!(was_behind, "seed {seed}");
        keys.iter()
            .for_each(|key| world.open_window(*key, usize::MAX));
        world.catch_up();
        for key in ["0", "1", "2", "none"] {
            world.publish(&format!("levels/{key}"), &format!("{key} 400"));
        }
        world.advance(3 * SECOND);
        assert!(!is_behind(&world), "seed {seed}");
        world.hub.check_invariants();
        for texts in texts(&mut world, &keys) {
            for key in ["0", "1", "2", "none"] {
                let of_key = texts.iter().filter_map(|text| text.split_once(' '));
                let numbers = of_key.filter(|(k, _)| *k == key).map(|(_, n)| n);
                let numbers: Vec<u64> = numbers.map(|n| n.parse().expect("a number")).collect();
                assert!(
                    numbers.is_sorted_by(|a, b| a < b),
                    "seed {seed}: {numbers:?}"
                );
                assert_eq!(numbers.last(), Some(&400), "seed {seed}, key {key}");
            }
        }
    }
}

/// Held states of one topic are as many steps as states: a turn without time sends a few, and a client that joins, or a
/// message that has to wait, sends no more. Nothing comes out of order, twice, or to a client from before its join.
#[test]
fn held_states_of_one_topic_go_out_in_steps() {
    const STATES: u64 = 200;
    let (mut world, mut keys) = late_loop_with(2);
    let new = keys.pop().expect("a client");
    for key in &keys {
        world.text(*key, "join other");
    }
    let n = CLIENTS as u64;
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    world.publish("levels/1", "1");
    world.publish("levels/1", "2");
    assert!(is_behind(&world));
    let first_queued = world.hub.stats().messages_queued;
    for state in 1..=STATES {
        world.publish(&format!("other/{state}"), &format!("{state} a"));
    }
    assert_eq!(world.hub.stats().messages_queued, first_queued, "held");
    // Turns without time, until some are out.
    world.net.batches_max = None;
    let short = |world: &mut World<State>| {
        let before = world.hub.stats().messages_queued;
        world.hub.begin_part(3);
        world.hub.flush(world.now, &mut world.net);
        let queued = world.hub.stats().messages_queued - before;
        assert!(queued <= 4 * n, "{} states in a step", queued / n);
        queued
    };
    let mut queued = 0;
    while queued < 20 * n {
        queued += short(&mut world);
    }
    let before = world.hub.stats().messages_queued;
    // Neither the join nor the states and the message that follow send what is held.
    world.text(new, "join other");
    world.publish("other/1", "1 b");
    world.publish(&format!("other/{STATES}"), &format!("{STATES} b"));
    assert!(world.hub.takes_publications());
    world.hub.begin_part(3);
    world.publish("other/none", "last");
    assert!(!world.hub.takes_publications(), "the bus waits with it");
    let replaced_and_more = world.hub.stats().messages_queued - before;
    assert!(replaced_and_more <= 4 * n, "{}", replaced_and_more / n);
    while world.hub.core().holds_states() {
        short(&mut world);
    }
    assert!(world.hub.takes_publications());
    world.catch_up();
    world.hub.check_invariants();
    // The texts of "levels" have one digit.
    let of_other = |texts: Vec<String>| -> Vec<String> {
        texts.into_iter().filter(|text| text.len() > 1).collect()
    };
    for key in keys {
        let got = of_other(world.texts(key));
        let mut all: Vec<String> = (1..=STATES).map(|n| format!("{n} a")).collect();
        // Its turn had come, so it was not replaced.
        all.extend(["1 b".to_owned(), format!("{STATES} b"), "last".to_owned()]);
        assert_eq!(got, all);
    }
    let got = of_other(world.texts(new));
    assert_eq!(
        got,
        ["1 b".to_owned(), format!("{STATES} b"), "last".to_owned()]
    );
}

/// A state that changes in every turn of a long round goes out in each round all the same.
#[test]
fn a_state_that_changes_often_has_its_turn_too() {
    let (mut world, keys) = late_loop_with(2);
    turn(&mut world, [0]);
    world.now = world.now.plus_us(2 * SECOND);
    world.publish("levels/1", "1");
    world.publish("levels/1", "2");
    assert!(is_behind(&world));
    world.net.batches_max = None;
    for n in 0..600 {
        for state in 2..20 {
            world.publish(&format!("levels/{state}"), &format!("{state} {n}"));
        }
        world.hub.begin_part(2);
        world.hub.flush(world.now, &mut world.net);
        world.now = world.now.plus_us(10_000);
    }
    for texts in texts(&mut world, &keys[..4]) {
        for state in 2..20 {
            let prefix = format!("{state} ");
            let of_state = texts.iter().filter(|text| text.starts_with(&prefix));
            assert!(of_state.count() >= 10, "state {state}");
        }
    }
}

/// After a second in which the network took nothing of anybody: the next message makes every queue conflate.
#[test]
fn long_queues_that_one_message_makes_conflate_are_shortened_in_steps() {
    const STATES: u64 = 100;
    let (mut world, keys) = late_loop_with(12);
    world.net.batches_max = None;
    for key in &keys {
        world.net.sockets.get_mut(key).expect("a socket").room = 0;
    }
    for n in 0..STATES {
        world.publish("levels/1", &n.to_string());
        world.flush();
    }
    world.now = world.now.plus_us(2 * SECOND);
    let conflated = |world: &World<State>| world.hub.stats().messages_conflated;
    assert_eq!(
        conflated(&world),
        0,
        "a queue that is small and young keeps all"
    );
    world.hub.begin_part(5);
    world.publish("levels/1", "new");
    let mut before = 0;
    let mut steps = 0;
    while conflated(&world) < (STATES - 1) * CLIENTS as u64 {
        let more = conflated(&world) - before;
        assert!(more <= 10 * STATES, "{more} in a step");
        before += more;
        assert!(
            world
                .hub
                .poll_timeout()
                .is_some_and(|at| at <= world.now.mono_us)
        );
        world.hub.begin_part(5);
        world.hub.handle_timeout(world.now);
        steps += 1;
        assert!(steps < 1_000, "{before}");
        // Also those that wait for the longest time: the others do not come before them.
        let unsent = [keys[0], keys[CLIENTS - 1]].map(|key| world.hub.core().unsent_bytes(key));
        assert!(unsent[0] <= unsent[1], "{steps}: {unsent:?}");
    }
    assert!(steps > 20, "{steps} steps");
    world.hub.check_invariants();
    keys.iter()
        .for_each(|key| world.open_window(*key, usize::MAX));
    world.catch_up();
    for texts in texts(&mut world, &keys) {
        assert_eq!(texts.last().map(String::as_str), Some("new"));
        assert!(texts.len() <= 3, "{texts:?}");
    }
}
