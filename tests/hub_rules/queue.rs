//! Limits of the send queue, conflation, memory of frames.

use std::sync::atomic::{AtomicU64, Ordering};

use weirgate_core::{BusEvent, BusMessage, CloseReason, Feed, Limits, SessionKey, SocketEnd};

use super::{SECOND, small_queue, state, symbols};
use crate::world::state::StateFeed;
use crate::world::toys::{In, Symbols};
use crate::world::{Random, World};

#[test]
fn an_empty_queue_takes_a_frame_of_any_size() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 0);
    let body = world.publish(70_000);
    assert_eq!(world.reason(key), None);
    world.advance(20 * SECOND);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), [body]);
}

#[test]
fn the_hard_limit_counts_what_waits_behind_the_first_frame() {
    for (behind, dropped) in [(1_999, false), (2_000, false), (2_001, true)] {
        let mut world = symbols(small_queue());
        let key = world.reader(None, 0);
        world.publish(5_000);
        world.publish(behind);
        assert_eq!(world.reason(key), None, "{behind}: one frame over is taken");
        world.publish(10);
        let reason = dropped.then_some(CloseReason::SendQueueHard);
        assert_eq!(world.reason(key), reason, "{behind}");
        let stats = world.hub.stats();
        assert_eq!(stats.messages_dropped, if dropped { 3 } else { 0 });
        assert_eq!(
            stats.closes_for(CloseReason::SendQueueHard),
            u64::from(dropped)
        );
        if dropped {
            assert_eq!(
                world.net.sockets[&key].released,
                Some(SocketEnd::Reset),
                "reset"
            );
        }
    }
}

/// With a hundred thousand clients that read nothing, dropping all of them in the turn of the message would delay
/// everybody else.
#[test]
fn clients_that_meet_a_limit_together_are_dropped_over_several_turns() {
    let mut world = symbols(Limits {
        work_us: 10,
        ..small_queue()
    });
    let keys: Vec<_> = (0..150).map(|_| world.reader(None, 0)).collect();
    world.publish(5_000);
    world.publish(2_001);
    world.held = true;
    world.hub.begin_part(10);
    world.publish(10);
    let mut before = 0;
    for turn in 1..=4 {
        let dropped = world.hub.stats().closes_for(CloseReason::SendQueueHard);
        let new = dropped - before;
        assert!((1..=33).contains(&new), "{new} in turn {turn}");
        assert_eq!(world.hub.poll_timeout(), Some(world.now.mono_us));
        before = dropped;
        // Who is still to be dropped gets nothing behind the gap, however much room there is.
        for key in &keys {
            world.open_window(*key, usize::MAX);
        }
        world.hub.begin_part(10);
        world.hub.flush(world.now, &mut world.net);
        world.publish(10);
        world.advance(0);
    }
    world.held = false;
    world.settle();
    let stats = world.hub.stats();
    assert_eq!(stats.closes_for(CloseReason::SendQueueHard), 150);
    for key in keys {
        assert!(world.texts(key).len() <= 2, "behind the gap");
    }
}

#[test]
fn the_soft_limit_drops_after_its_time_and_not_before() {
    for (behind, dropped) in [(1_000, false), (1_001, true)] {
        let mut world = symbols(small_queue());
        let key = world.reader(None, 0);
        world.publish(10);
        world.publish(behind);
        // The limit is looked at before the next frame.
        world.publish(20);
        world.advance(10 * SECOND);
        assert_eq!(world.reason(key), None, "{behind}: just in time");
        world.advance(2);
        let reason = dropped.then_some(CloseReason::SendQueueSoft);
        assert_eq!(world.reason(key), reason, "{behind}");
    }
}

#[test]
fn a_queue_that_was_below_its_soft_limit_again_starts_over() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 0);
    world.publish(10);
    world.publish(1_200);
    world.publish(10);
    world.advance(8 * SECOND);
    // All but the last frame go out; then it fills again.
    world.open_window(key, 1_215);
    world.publish(1_200);
    world.publish(10);
    world.advance(8 * SECOND);
    assert_eq!(world.reason(key), None, "the clock began anew");
    world.advance(3 * SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::SendQueueSoft));
}

/// What came while the process stood still is queued before anybody is written to.
#[test]
fn a_client_that_read_while_the_process_stood_still_stays() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 0);
    (0..4).for_each(|_| drop(world.publish(600)));
    world.now = world.now.plus_us(15 * SECOND);
    world.held = true;
    world.open_window(key, usize::MAX / 2);
    world.publish(600);
    world.held = false;
    world.settle();
    world.advance(0);
    assert_eq!(world.reason(key), None);
    assert_eq!(world.texts(key).len(), 5);
}

#[test]
fn an_empty_queue_forgets_that_it_was_over_its_soft_limit() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 0);
    for bytes in [10, 1_200, 10] {
        world.publish(bytes);
    }
    world.open_window(key, 1_220);
    assert_eq!(world.texts(key).len(), 3);
    world.advance(5 * SECOND);
    for bytes in [10, 1_200, 10] {
        world.publish(bytes);
    }
    world.advance(9 * SECOND);
    assert_eq!(world.reason(key), None);
}

#[test]
fn only_the_newest_of_each_key_stays_and_goes_to_the_tail() {
    let mut world = state(small_queue());
    let key = world.viewer(0);
    world.publish("levels/1", &"a".repeat(600));
    world.publish("levels/2", &"b".repeat(600));
    assert_eq!(
        world.hub.stats().messages_conflated,
        0,
        "not past soft before"
    );
    world.publish("levels/1", "c");
    assert_eq!(world.hub.stats().messages_conflated, 1);
    world.publish("levels/2", "d");
    world.publish("levels/1", "e");
    world.text(key, "ask");
    assert_eq!(world.hub.stats().messages_conflated, 3);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), ["d", "e", "ask"]);
}

/// However fast the states change, and in whatever order: a client that reads one of them at a time gets all of them, and
/// those of a turn in their order.
#[test]
fn each_key_has_its_turn_however_fast_it_changes() {
    for keys in [3, 30, 150] {
        let mut limits = small_queue();
        limits.send_queue.hard_bytes = 100_000;
        let mut world = state(limits);
        let key = world.viewer(0);
        let (rounds, busy) = (6 * keys, keys - 1);
        for round in 0..rounds {
            for n in (0..keys).chain(std::iter::repeat_n(busy, 5)) {
                let body = format!("{n} {round:06}{}", "x".repeat(80));
                world.publish(&format!("levels/{n}"), &body);
            }
            world.advance(SECOND / 10);
            world.open_window(key, 92);
        }
        assert_eq!(world.reason(key), None);
        let texts = world.texts(key);
        let of_key = |text: &String| text.split(' ').next().and_then(|n| n.parse::<usize>().ok());
        for n in 0..keys {
            let came = texts.iter().filter(|text| of_key(text) == Some(n));
            let came: Vec<_> = came.collect();
            assert!(came.len() >= 4, "{n} of {keys}: {} of {rounds}", came.len());
            assert!(came.is_sorted(), "{n} of {keys}");
        }
    }
}

#[test]
fn a_frame_that_was_begun_is_finished_whatever_comes_after() {
    let mut world = state(small_queue());
    let key = world.viewer(100);
    let first = "a".repeat(2_000);
    world.publish("levels/1", &first);
    world.publish("levels/1", "b");
    world.publish("levels/1", "c");
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), [first, "c".to_owned()]);
}

#[test]
fn an_old_queue_conflates_though_it_is_small() {
    let mut world = state(small_queue());
    let key = world.viewer(0);
    world.publish("levels/1", "a");
    world.advance(SECOND);
    world.publish("levels/2", "b");
    world.publish("levels/1", "c");
    assert_eq!(world.hub.stats().messages_conflated, 0, "a second old");
    world.advance(1);
    world.publish("levels/2", "d");
    assert_eq!(world.hub.stats().messages_conflated, 2);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), ["c", "d"]);
}

#[test]
fn a_conflating_queue_stays_so_until_it_is_empty() {
    let mut world = state(small_queue());
    let key = world.viewer(0);
    world.publish("levels/1", &"a".repeat(1_100));
    world.publish("levels/2", "b");
    world.publish("levels/2", "c");
    assert_eq!(
        world.hub.stats().messages_conflated,
        1,
        "far below soft now"
    );
    world.open_window(key, 1_104);
    world.publish("levels/2", "d");
    assert_eq!(
        world.hub.stats().messages_conflated,
        1,
        "the turn of `c` has come"
    );
    world.publish("levels/2", "e");
    assert_eq!(world.hub.stats().messages_conflated, 2, "still conflating");
    world.open_window(key, 6);
    assert_eq!(world.texts(key)[1..], ["c", "e"]);
    world.publish("levels/2", "f");
    world.publish("levels/2", "g");
    assert_eq!(world.hub.stats().messages_conflated, 2, "it was empty once");
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), ["f", "g"]);
}

#[test]
fn keyed_frames_alone_never_pass_a_limit() {
    let mut world = state(small_queue());
    let key = world.viewer(0);
    for n in 0..50 {
        world.publish("levels/1", &format!("{n}{}", "x".repeat(3_000)));
        world.advance(SECOND / 2);
    }
    assert_eq!(world.reason(key), None);
    assert_eq!(world.hub.stats().messages_waiting, 1);
    world.advance(10 * SECOND);
    assert_eq!(world.reason(key), Some(CloseReason::SendStalled));
}

/// With many keys a queue is not looked through for each frame; it is bounded all the same.
#[test]
fn of_many_keys_the_newest_stay_and_the_hard_limit_holds() {
    let mut limits = small_queue();
    limits.send_queue.hard_bytes = 20_000;
    let mut world = state(limits.clone());
    let key = world.viewer(0);
    let (rounds, keys) = (50, 100);
    for round in 0..rounds {
        for n in 0..keys {
            world.publish(&format!("levels/{n}"), &format!("{n} {round:06}"));
        }
        assert!(world.hub.stats().messages_waiting <= 4 * keys);
    }
    let stats = world.hub.stats();
    let [conflated, waiting] = [stats.messages_conflated, stats.messages_waiting];
    assert_eq!(conflated + waiting, rounds * keys);
    world.open_window(key, usize::MAX);
    let texts = world.texts(key);
    for n in 0..keys {
        let start = format!("{n} ");
        let of_key: Vec<_> = texts
            .iter()
            .filter(|text| text.starts_with(&start))
            .collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
        assert_eq!(of_key.last(), Some(&&format!("{n} {:06}", rounds - 1)));
    }
    let mut world = state(limits);
    let key = world.viewer(0);
    for n in 0..80 {
        world.publish(&format!("levels/{n}"), &"x".repeat(1_000));
    }
    assert_eq!(world.reason(key), Some(CloseReason::SendQueueHard));
}

/// The loop has no time to shorten long queues, and the states are larger than those before.
#[test]
fn many_large_states_of_few_keys_do_not_wait_for_the_loop() {
    let mut limits = small_queue();
    limits.send_queue.hard_bytes = 20_000;
    let mut world = state(limits);
    let key = world.viewer(0);
    for n in 0..70 {
        world.publish(&format!("levels/{n}"), "x");
    }
    let mut most = 0;
    for n in 0..500 {
        world.hub.begin_part(0);
        world.publish(&format!("levels/{}", n % 4), &"x".repeat(3_000));
        most = most.max(world.hub.core().unsent_bytes(key));
    }
    assert_eq!(world.reason(key), None);
    assert!(most < 5 * 20_000, "{most}");
}

#[test]
fn keyed_frames_of_a_topic_that_was_left_are_removed() {
    let mut world = state(small_queue());
    let key = world.connect("/ws", None);
    world.text(key, "join other");
    world.net.sockets.get_mut(&key).expect("it").room = 0;
    world.publish("other/11", "gone");
    world.publish("levels/1", "kept");
    world.text(key, "leave other");
    assert_eq!(world.hub.stats().messages_waiting, 1);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), ["kept"]);
}

/// A pattern may have any number of keys, and each is looked for at every message.
#[test]
fn keys_of_a_topic_are_remembered_up_to_a_limit() {
    let mut world = state(small_queue());
    let key = world.connect("/ws", None);
    world.text(key, "join other");
    world.net.sockets.get_mut(&key).expect("it").room = 0;
    for n in 0..70 {
        world.publish(&format!("other/{n}"), "x");
    }
    world.text(key, "leave other");
    assert_eq!(world.hub.stats().messages_waiting, 70 - 64);
}

#[test]
fn the_retained_state_comes_first_and_never_twice() {
    let mut world = state(Limits::default());
    let flow = |value: &str| format!("{{\"flow\":{value}}}");
    let mut feed = StateFeed::new(world.frame_bytes.clone());
    let before = world.connect("/ws", None);
    let message = |sequence, quiet, payload: &str| {
        let position = weirgate_core::StreamPosition { epoch: 1, sequence };
        BusEvent::Message(BusMessage {
            position: Some(position),
            quiet,
            ..BusMessage::new(
                "market.flow",
                payload.as_bytes().to_vec(),
                weirgate_wire::base::Now::default(),
            )
        })
    };
    let mut publish = |world: &mut crate::world::World<_>, event| {
        let mut out = Vec::new();
        feed.event(world.now, event, &mut out);
        for publication in out {
            world.hub.handle_publication(world.now, &publication);
        }
        world.settle();
    };
    publish(&mut world, message(1, true, "one"));
    let between = world.connect("/ws", None);
    assert_eq!(world.texts(between), [flow("one")]);
    publish(&mut world, BusEvent::CaughtUp);
    let after = world.connect("/ws", None);
    publish(&mut world, message(2, false, "two"));
    publish(&mut world, message(2, false, "a replay"));
    assert_eq!(world.texts(before), [flow("one"), flow("two")]);
    assert_eq!(world.texts(between), [flow("two")]);
    assert_eq!(world.texts(after), [flow("one"), flow("two")]);
}

#[test]
fn payloads_outside_the_bounds_of_compression_go_in_stored_blocks() {
    let mut world = symbols(Limits {
        deflate_min_bytes: 200,
        deflate_max_bytes: 1_000,
        ..Limits::default()
    });
    let key = world.reader(Some(15), usize::MAX);
    let before = world.client(key).deflated;
    for (payload, deflated) in [(199, 0), (200, 1), (1_000, 2), (1_001, 2)] {
        let body = world.publish(4 + payload);
        assert_eq!(world.texts(key).pop(), Some(body));
        assert_eq!(world.client(key).deflated - before, deflated, "{payload}");
    }
    assert_eq!(world.hub.stats().frames_deflated, 2);
}

/// The compression of a large message costs milliseconds, so a message for one client alone goes in stored blocks.
#[test]
fn a_large_message_of_one_client_is_not_compressed() {
    let mut world = state(Limits::default());
    let key = world.connect("/ws", Some(15));
    let before = world.client(key).deflated;
    for (bytes, deflated) in [(64 * 1024, 1), (64 * 1024 + 1, 1)] {
        let text = "a".repeat(bytes);
        world.text(key, &text);
        assert_eq!(world.texts(key), [text]);
        assert_eq!(world.client(key).deflated - before, deflated, "{bytes}");
    }
}

#[test]
fn a_long_queue_goes_out_in_writes_of_so_many_frames() {
    let mut world = symbols(Limits::default());
    let key = world.reader(None, 0);
    let bodies: Vec<_> = (0..600).map(|_| world.publish(20)).collect();
    let writes = world.net.writes;
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), bodies);
    assert_eq!(world.net.writes - writes, 3, "256, 256 and 88 frames");
}

#[test]
fn a_write_that_fails_ends_its_client_and_no_other() {
    let mut world = symbols(Limits::default());
    let [broken, other] = [(); 2].map(|()| world.reader(None, usize::MAX));
    world.net.sockets.get_mut(&broken).expect("it").broken = true;
    let body = world.publish(100);
    assert_eq!(world.reason(broken), Some(CloseReason::SocketError));
    assert_eq!(
        world.net.sockets[&broken].released,
        Some(SocketEnd::Reset),
        "reset"
    );
    assert_eq!(world.texts(other), [body]);
    let failed = world.hub.stats().send_errors().map(|(_, count)| count);
    assert_eq!(failed.sum::<u64>(), 1);
}

#[test]
fn a_write_has_so_many_bytes_and_the_rest_follows() {
    let mut world = symbols(Limits {
        write_bytes_max: 1_000,
        ..Limits::default()
    });
    let key = world.reader(None, 0);
    let bodies: Vec<_> = (0..50).map(|_| world.publish(100)).collect();
    let (writes, before) = (world.net.writes, world.net.largest_write);
    world.open_window(key, usize::MAX);
    assert_eq!(world.texts(key), bodies);
    assert_eq!(world.net.writes - writes, 5);
    let largest = world.net.largest_write;
    assert!(
        largest == before || largest <= 1_000 + 100,
        "{largest} bytes"
    );
}

#[test]
fn a_flush_without_time_goes_on_where_it_stopped() {
    let mut world = symbols(Limits {
        ping_interval_us: 0,
        ..Limits::default()
    });
    let keys: Vec<_> = (0..300)
        .map(|n| world.reader((n % 3 == 0).then_some(15), usize::MAX))
        .collect();
    let slices = |world: &mut World<Symbols>, body: &str| {
        let message = In::Publish("A".to_owned(), body.to_owned());
        world.hub.handle_input(world.now, message);
        world.net.batches_max = Some(world.net.batches + 1);
        world.flush()
    };
    assert!(slices(&mut world, "first"));
    assert!(world.hub.is_flushing());
    let got = |world: &World<Symbols>, n: usize| {
        let has = |key: &&SessionKey| world.client(**key).texts.len() >= n;
        keys.iter().filter(has).count()
    };
    assert_eq!(got(&world, 1), 128);
    // Those that had the first message do not have the second before the others have both.
    assert!(slices(&mut world, "second"));
    assert_eq!((got(&world, 1), got(&world, 2)), (200, 72));
    assert!(slices(&mut world, "third"));
    assert_eq!((got(&world, 1), got(&world, 3)), (300, 100));
    world.net.batches_max = None;
    world.settle();
    assert!(!world.hub.is_flushing() && !world.hub.has_to_flush());
    for key in keys {
        assert_eq!(world.texts(key), ["first", "second", "third"]);
    }
}

/// A repeat 8,000 bytes back is within a window of 32 KiB, and not within one of 4 KiB.
#[test]
fn a_client_with_the_whole_window_gets_repeats_that_lie_far_back() {
    let mut world = symbols(Limits::default());
    let [whole, small] = [15, 12].map(|bits| world.reader(Some(bits), usize::MAX));
    let mut random = Random::new(1);
    let mut letter = || char::from(b'0' + random.below(64) as u8);
    let half: String = (0..8_000).map(|_| letter()).collect();
    let before = [whole, small].map(|key| world.net.sockets[&key].bytes);
    let message = In::Publish("A".to_owned(), half.repeat(2));
    world.hub.handle_input(world.now, message);
    world.settle();
    let bytes = [whole, small].map(|key| world.net.sockets[&key].bytes);
    assert!(
        (5_900..7_000).contains(&(bytes[0] - before[0])),
        "{bytes:?}"
    );
    assert!(
        (11_800..14_000).contains(&(bytes[1] - before[1])),
        "{bytes:?}"
    );
    for key in [whole, small] {
        assert_eq!(world.texts(key), [half.repeat(2)]);
    }
}

/// A clock that each look finds 100 us later.
fn slow_clock() -> impl Fn() -> u64 + Send {
    let clock = AtomicU64::new(0);
    move || clock.fetch_add(100, Ordering::Relaxed)
}

/// Also the messages of one client: each is compressed for that client alone, and takes its time however short it is.
#[test]
fn a_batch_compresses_for_so_long() {
    for clients in [1, 8] {
        let mut world = symbols(Limits {
            ping_interval_us: 0,
            ..Limits::default()
        });
        let keys: Vec<_> = (0..clients)
            .map(|_| world.reader(Some(15), usize::MAX))
            .collect();
        for n in 0..8 {
            world.text(keys[n % clients], &format!("sub B{n}"));
        }
        world.hub.set_turn_clock(slow_clock());
        for n in 0..8 {
            let message = In::Publish(format!("B{n}"), format!("{n}").repeat(1_000));
            world.hub.handle_input(world.now, message);
        }
        let before = world.net.batches;
        world.settle();
        assert_eq!(world.net.batches - before, 2, "four in a batch");
        let texts = keys.iter().flat_map(|key| &world.client(*key).texts);
        assert_eq!(texts.count(), 8);
    }
}

/// The encoding of many megabytes would be one long step of a turn, for which every client waits.
#[test]
fn a_large_encoding_is_made_in_steps_while_others_get_their_messages() {
    let mut world = symbols(Limits {
        ping_interval_us: 0,
        ..Limits::default()
    });
    let deflating = [(); 2].map(|()| world.reader(Some(15), usize::MAX));
    let plain = world.reader(None, usize::MAX);
    world.text(plain, "sub B");
    world.hub.set_turn_clock(slow_clock());
    let large = "a".repeat(8 << 20);
    let publish = |world: &mut World<Symbols>, topic: &str, body: &str| {
        let message = In::Publish(topic.to_owned(), body.to_owned());
        world.hub.handle_input(world.now, message);
    };
    publish(&mut world, "A", &large);
    let mut flushes = 0;
    while world.client(deflating[0]).texts.is_empty() {
        let small = flushes.to_string();
        publish(&mut world, "B", &small);
        world.net.batches_max = Some(world.net.batches + 3);
        world.flush();
        flushes += 1;
        assert!(flushes < 1_000, "an encoding without an end");
    }
    assert!(flushes > 2, "in {flushes} flushes");
    world.net.batches_max = None;
    world.settle();
    assert_eq!(world.hub.stats().encodings_stored, 1, "shared");
    for key in deflating {
        assert_eq!(world.texts(key), [large.as_str()]);
    }
    let smalls: Vec<_> = (0..flushes).map(|n| n.to_string()).collect();
    let mut texts = world.texts(plain);
    texts.retain(|text| *text != large);
    assert_eq!(texts, smalls);
}

/// What is under way comes to its end, also if nobody needs it any longer.
#[test]
fn a_large_encoding_whose_client_leaves_holds_nothing() {
    let mut world = symbols(Limits {
        ping_interval_us: 0,
        ..Limits::default()
    });
    let key = world.reader(Some(15), usize::MAX);
    world.hub.set_turn_clock(slow_clock());
    let message = In::Publish("A".to_owned(), "a".repeat(8 << 20));
    world.hub.handle_input(world.now, message);
    world.flush();
    assert!(world.client(key).texts.is_empty(), "a part is made");
    world.end(key, true);
    for _ in 0..100 {
        world.flush();
    }
    assert_eq!(world.frame_bytes.alive(), 0);
}
