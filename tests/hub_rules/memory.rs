//! Frame memory: what counts, who is dropped, and how much work that is in one turn.

use weirgate_core::{CloseReason, Frame, Limits, SendQueueLimits, SessionKey};

use crate::world::client::NO_TAKEOVER;
use crate::world::toys::{In, Symbols};
use crate::world::{PART_US, Random, World};
use crate::{SECOND, small_queue, symbols};

const LIMIT: u64 = 100_000;

/// 100,000 bytes of frames, queues of up to a MiB.
fn little_memory() -> Limits {
    Limits {
        frame_bytes_max: LIMIT,
        send_queue: SendQueueLimits::default(),
        ..small_queue()
    }
}

impl World<Symbols> {
    /// A member of this topic whose kernel takes nothing.
    fn stuck(&mut self, topic: &str) -> SessionKey {
        let key = self.connect("/ws", None);
        self.text(key, &format!("sub {topic}"));
        self.net.sockets.get_mut(&key).expect("a socket").room = 0;
        key
    }

    /// Publishes so many bytes, in the middle of a turn.
    fn queue(&mut self, topic: &str, bytes: usize) {
        let message = In::Publish(topic.to_owned(), "y".repeat(bytes));
        self.hub.handle_input(self.now, message);
    }

    fn dropped(&self, keys: &[SessionKey]) -> Vec<bool> {
        let reasons = keys.iter().map(|key| self.reason(*key));
        let dropped = reasons.map(|reason| {
            assert!([None, Some(CloseReason::FrameMemory)].contains(&reason));
            reason.is_some()
        });
        dropped.collect()
    }
}

#[test]
fn past_the_memory_limit_the_client_goes_whose_end_frees_most() {
    let mut world = symbols(little_memory());
    let small = world.stuck("A");
    let large = world.stuck("B");
    for (topic, bytes) in [("A", 60_000), ("B", 35_000)] {
        world.queue(topic, bytes);
        world.settle();
    }
    assert_eq!(world.dropped(&[small, large]), [false, false]);
    world.queue("B", 35_000);
    world.settle();
    assert_eq!(world.dropped(&[small, large]), [false, true]);
    assert!(world.frame_bytes.alive() <= LIMIT);
}

#[test]
fn frames_that_wait_in_no_queue_drop_nobody() {
    let mut world = symbols(little_memory());
    let reads = world.reader(None, usize::MAX);
    let slow = world.stuck("A");
    let outside = Frame::text(&world.frame_bytes).body(&[b'x'; 150_000]);
    let outside = outside.finish();
    for _ in 0..10 {
        world.publish(200);
        let due = world.hub.poll_timeout().expect("the next walk");
        assert!(due <= world.now.mono_us + SECOND / 4, "the loop wakes up");
        world.advance(SECOND / 10);
    }
    assert_eq!(world.dropped(&[reads, slow]), [false, false]);
    let walks = world.hub.core().frame_walks();
    assert!((1..=5).contains(&walks), "{walks} walks in a second");
    drop(outside);
    world.advance(SECOND);
    assert_eq!(world.hub.core().frame_walks(), walks);
}

/// A bus that brings the limit several times between two walks.
#[test]
fn frames_of_clients_that_do_not_read_stay_near_their_limit_however_fast_they_come() {
    const BYTES: usize = 2_000;
    let mut world = symbols(little_memory());
    let topics: Vec<String> = (0..200).map(|n| format!("T{n}")).collect();
    let stuck: Vec<_> = topics.iter().map(|topic| world.stuck(topic)).collect();
    let reads = world.reader(None, usize::MAX);
    let mut most = 0;
    for topic in topics.iter().cycle().take(2_000) {
        let mut flushes = 0;
        while !world.hub.takes_publications() {
            world.flush();
            flushes += 1;
            assert!(flushes < 100, "the bus waits for clients");
        }
        world.queue(topic, BYTES);
        most = most.max(world.frame_bytes.alive());
    }
    assert!(most <= LIMIT / 4 * 5, "{most} bytes");
    assert!(world.dropped(&stuck).contains(&true));
    assert_eq!(world.dropped(&[reads]), [false]);
}

#[test]
fn clients_that_read_all_are_not_judged_before_they_were_written_to() {
    let mut world = symbols(little_memory());
    let reads = world.reader(None, usize::MAX);
    for _ in 0..5 {
        world.queue("A", 45_000);
    }
    assert!(world.frame_bytes.alive() > LIMIT);
    world.settle();
    assert_eq!(world.dropped(&[reads]), [false]);
    assert_eq!(world.texts(reads).len(), 5);
    assert_eq!(world.frame_bytes.alive(), 0);
}

#[test]
fn clients_stay_whose_end_would_free_nothing() {
    let mut world = symbols(little_memory());
    let same: Vec<_> = (0..10).map(|_| world.stuck("A")).collect();
    let alone = world.stuck("B");
    world.queue("A", 60_000);
    world.settle();
    world.queue("B", 45_000);
    world.settle();
    assert_eq!(world.dropped(&same), [false; 10]);
    assert_eq!(world.dropped(&[alone]), [true]);
}

#[test]
fn clients_go_together_where_only_that_frees_enough() {
    let mut world = symbols(little_memory());
    let same: Vec<_> = (0..3).map(|_| world.stuck("A")).collect();
    let other = world.stuck("B");
    world.queue("B", 2_000);
    for _ in 0..3 {
        world.queue("A", 45_000);
    }
    world.settle();
    assert_eq!(world.dropped(&same), [true; 3]);
    assert_eq!(world.dropped(&[other]), [false]);
}

#[test]
fn the_places_of_very_many_small_frames_count_and_are_given_back() {
    let mut world = symbols(little_memory());
    let same: Vec<_> = (0..30).map(|_| world.stuck("A")).collect();
    let short = world.stuck("B");
    world.queue("B", 10);
    // The frames alone are far below the limit, whoever waits for them.
    for n in 0..200 {
        world.queue("A", 1);
        if n % 20 == 0 {
            world.settle();
        }
    }
    world.settle();
    world.advance(SECOND);
    let gone = world.dropped(&same).iter().filter(|gone| **gone).count();
    assert!((1..30).contains(&gone), "{gone} of 30");
    assert_eq!(world.dropped(&[short]), [false]);
    assert!(world.frame_bytes.alive() <= LIMIT);
    for key in [same, vec![short]].concat() {
        world.open_window(key, usize::MAX);
    }
    world.settle();
    assert_eq!(world.frame_bytes.alive(), 0);
}

/// Short messages come faster than a walk passes over them: what bounds the queues must not look at each of their frames.
#[test]
fn the_queues_of_very_many_small_frames_are_bounded_while_a_walk_has_no_time() {
    const CLIENTS: usize = 200;
    let mut world = symbols(Limits {
        work_us: 40,
        ..little_memory()
    });
    let same: Vec<_> = (0..CLIENTS).map(|_| world.stuck("A")).collect();
    let short = world.stuck("B");
    world.queue("B", 10);
    world.settle();
    let mut most = 0;
    for _ in 0..60 {
        (0..10).for_each(|_| world.queue("A", 1));
        world.flush();
        most = most.max(world.frame_bytes.alive());
    }
    assert!(most < 4 * LIMIT, "{most}");
    assert_eq!(world.dropped(&[short]), [false]);
    world.settle();
    world.advance(SECOND);
    assert!(world.frame_bytes.alive() <= LIMIT);
    assert!(world.dropped(&same).contains(&true));
    world.hub.check_invariants();
}

#[test]
fn a_walk_looks_at_so_much_in_a_flush() {
    let mut world = symbols(Limits {
        work_us: 4 * 10,
        ..little_memory()
    });
    let keys: Vec<_> = (0..40).map(|n| world.stuck(&n.to_string())).collect();
    for n in 0..40 {
        world.queue(&n.to_string(), 2_000);
    }
    world.settle();
    world.queue("39", 45_000);
    let mut flushes = 1;
    while world.flush() {
        assert_eq!(world.dropped(&keys), [false; 40], "after {flushes} flushes");
        flushes += 1;
    }
    // 40 sessions.
    assert!((3..8).contains(&flushes), "{flushes} flushes");
    let mut expected = [false; 40];
    expected[39] = true;
    assert_eq!(world.dropped(&keys), expected);
}

/// More clients share their frames than one choice takes: several choices drop them.
#[test]
fn what_very_many_clients_share_is_freed_in_steps() {
    let mut world = symbols(Limits {
        work_us: PART_US,
        ..little_memory()
    });
    let same: Vec<_> = (0..1_100).map(|_| world.stuck("A")).collect();
    for _ in 0..3 {
        world.queue("A", 45_000);
    }
    assert!(world.flush());
    let dropped = world.dropped(&same);
    assert_eq!(dropped.iter().filter(|dropped| **dropped).count(), 1_024);
    world.settle();
    assert_eq!(world.dropped(&same), [true; 1_100]);
    assert_eq!(world.frame_bytes.alive(), 0);
}

/// A choice happens in one call, so its time is bounded too. A walk stops within a queue.
#[test]
fn very_many_frames_are_freed_in_steps() {
    let mut world = symbols(Limits {
        work_us: 2,
        // The queues themselves take less than half of it.
        frame_bytes_max: 60 * LIMIT,
        ..little_memory()
    });
    let topics = ["A", "B", "C"];
    let keys = topics.map(|topic| world.stuck(topic));
    for topic in topics {
        (0..33_000).for_each(|_| world.queue(topic, 1));
    }
    let dropped = |world: &World<Symbols>| {
        let dropped = world.dropped(&keys);
        dropped.into_iter().filter(|dropped| *dropped).count()
    };
    let mut flushes = 0;
    while dropped(&world) == 0 {
        assert!(world.flush(), "no walk");
        flushes += 1;
    }
    assert_eq!(dropped(&world), 2, "for as many there was time");
    assert!(flushes > 99_000 / 100, "{flushes} flushes");
    world.settle();
    assert_eq!(dropped(&world), 3);
    assert_eq!(world.frame_bytes.alive(), 0);
}

/// A walk looks at each queue once, a choice has time for some clients only.
#[test]
fn the_clients_that_a_walk_has_found_are_dropped_without_another_walk() {
    const CLIENTS: usize = 400;
    let mut world = symbols(Limits {
        work_us: 4 * 10,
        ..little_memory()
    });
    let keys: Vec<_> = (0..CLIENTS).map(|n| world.stuck(&n.to_string())).collect();
    for n in 0..CLIENTS {
        (0..10).for_each(|_| world.queue(&n.to_string(), 200));
    }
    let mut dropped_at_once = 0;
    let mut dropped = 0;
    while world.flush() {
        let before = dropped;
        dropped = world.dropped(&keys).iter().filter(|gone| **gone).count();
        dropped_at_once = dropped_at_once.max(dropped - before);
    }
    assert!(
        dropped > 300 && dropped_at_once < 50,
        "{dropped}, {dropped_at_once}"
    );
    let visits = world.hub.core().frame_walks() as usize * CLIENTS;
    assert!(
        visits < 2 * dropped,
        "{visits} queues for {dropped} clients"
    );
    assert!(world.frame_bytes.alive() <= LIMIT);
    world.settle();
    world.hub.check_invariants();
}

/// A client that reads again while those before it are dropped is no slow client any more.
#[test]
fn a_client_that_reads_before_its_turn_is_not_dropped() {
    let mut world = symbols(Limits {
        work_us: 4,
        ..little_memory()
    });
    let keys: Vec<_> = (0..40).map(|n| world.stuck(&n.to_string())).collect();
    for n in 0..40 {
        world.queue(&n.to_string(), 20_000 - n);
    }
    let gone = |world: &World<Symbols>| world.dropped(&keys).iter().filter(|gone| **gone).count();
    while gone(&world) == 0 {
        assert!(world.flush(), "no walk");
    }
    assert!(gone(&world) < 20);
    world.held = true;
    world.open_window(keys[20], usize::MAX);
    world.held = false;
    world.settle();
    assert!(gone(&world) > 20);
    assert_eq!(world.dropped(&keys[20..21]), [false]);
    assert!(world.frame_bytes.alive() <= LIMIT);
}

/// Where each flush runs out of time, some clients always wait for their write.
#[test]
fn flushes_that_never_end_put_a_walk_off_for_a_quarter_of_a_second() {
    let mut world = symbols(little_memory());
    let slow = world.stuck("B");
    let readers: Vec<_> = (0..400).map(|_| world.reader(None, usize::MAX)).collect();
    world.queue("B", 150_000);
    let mut walks_after = |us| {
        world.now = world.now.plus_us(us);
        world.queue("A", 10);
        world.net.batches_max = Some(world.net.batches + 1);
        assert!(world.flush());
        assert!(world.hub.is_flushing());
        world.hub.core().frame_walks()
    };
    assert_eq!(walks_after(0), 0);
    assert_eq!(walks_after(SECOND / 4 - 1), 0);
    assert_eq!(walks_after(1), 1);
    world.net.batches_max = None;
    world.settle();
    world.advance(SECOND);
    assert_eq!(world.dropped(&[slow]), [true]);
    assert_eq!(world.dropped(&readers), vec![false; readers.len()]);
}

#[test]
fn a_shared_frame_is_counted_once() {
    let mut world = symbols(small_queue());
    // For clients that keep a window the frame would be kept longer.
    let reader = |_| world.reader(Some(NO_TAKEOVER), 0);
    let keys: Vec<_> = (0..10).map(reader).collect();
    world.publish(10_000);
    assert!(
        world.frame_bytes.alive() < 12_000,
        "one plain, one deflated"
    );
    assert_eq!(world.hub.stats().frames_deflated, 1);
    assert_eq!(world.hub.stats().send_queue_bytes, 100_000);
    keys.iter().for_each(|key| world.end(*key, true));
    assert_eq!(world.frame_bytes.alive(), 0);
}

#[test]
fn frames_kept_for_later_ones_to_refer_to_are_let_go_past_the_limit() {
    let mut world = symbols(little_memory());
    let reader = world.reader(Some(15), usize::MAX);
    let slow = world.stuck("B");
    world.queue("B", 1_000);
    world.settle();
    for _ in 0..40 {
        world.publish(20_000);
        assert!(world.frame_bytes.alive() <= LIMIT, "after the flush");
    }
    assert_eq!(world.dropped(&[reader, slow]), [false, false]);
    assert!(world.hub.stats().encodings_chained > 20, "most are chained");
}

/// Their kernels take everything, but each flush ends before the turn of most of them: so it is with encodings of which the
/// loop cannot make as many as clients need.
#[test]
fn frames_that_wait_for_the_loop_alone_for_a_second_are_freed() {
    let mut world = symbols(little_memory());
    let keys: Vec<_> = (0..80).map(|n| world.stuck(&n.to_string())).collect();
    for key in &keys {
        let socket = world.net.sockets.get_mut(key).expect("a socket");
        socket.room = usize::MAX;
    }
    for n in 0..keys.len() {
        world.queue(&n.to_string(), 150_000);
    }
    let dropped_after = |world: &mut World<Symbols>, us| {
        world.now = world.now.plus_us(us);
        world.net.batches_max = Some(world.net.batches + 1);
        world.flush();
        world.net.batches_max = None;
        world.dropped(&keys).iter().filter(|gone| **gone).count()
    };
    assert_eq!(dropped_after(&mut world, 0), 0);
    let got = |world: &World<Symbols>| -> Vec<u64> {
        keys.iter()
            .map(|key| world.net.sockets[key].bytes)
            .collect()
    };
    let before = got(&world);
    assert_eq!(dropped_after(&mut world, SECOND - 1), 0);
    assert_eq!(world.hub.core().frame_walks(), 1);
    dropped_after(&mut world, SECOND / 4);
    // The others got a part of their message less than a second ago, and get the rest in the next flush.
    let after = got(&world);
    let got_nothing = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before == after);
    assert_eq!(world.dropped(&keys), got_nothing.collect::<Vec<_>>());
    assert!(world.frame_bytes.alive() > LIMIT);
    world.settle();
    assert!(world.frame_bytes.alive() <= LIMIT);
    world.hub.check_invariants();
}

/// While a flush goes on, clients that read share the frames of those that do not: a walk finds little to free.
#[test]
fn a_walk_amid_a_flush_is_made_again_once_the_flush_has_reached_every_client() {
    let mut world = symbols(little_memory());
    let stuck: Vec<_> = (0..5).map(|_| world.stuck("A")).collect();
    let readers: Vec<_> = (0..400).map(|_| world.reader(None, usize::MAX)).collect();
    for _ in 0..5 {
        world.queue("A", 45_000);
    }
    for us in [0, SECOND / 4] {
        world.now = world.now.plus_us(us);
        world.net.batches_max = Some(world.net.batches + 1);
        assert!(world.flush());
    }
    assert_eq!(world.hub.core().frame_walks(), 1);
    world.net.batches_max = None;
    world.settle();
    assert!(world.frame_bytes.alive() <= LIMIT);
    assert_eq!(world.dropped(&stuck), [true; 5]);
    assert_eq!(world.dropped(&readers), [false; 400]);
}

/// Whatever the order of messages, writes and walks.
#[test]
fn clients_that_do_not_read_hold_no_more_than_the_limit_once_the_loop_has_reached_the_others() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let work_us = [2, 40, 1_000, PART_US][random.below(4) as usize];
        let mut world = symbols(Limits {
            work_us,
            ..little_memory()
        });
        let topic = |random: &mut Random| format!("T{}", random.below(4));
        let mut clients = |count: usize, room: usize| -> Vec<SessionKey> {
            let client = |_| {
                let key = world.stuck(&topic(&mut random));
                world.net.sockets.get_mut(&key).expect("a socket").room = room;
                key
            };
            (0..count).map(client).collect()
        };
        // More readers than a batch of writes has.
        let (stuck, readers) = (clients(20, 0), clients(200, usize::MAX));
        for _ in 0..20 {
            for _ in 0..random.below(4) {
                if world.hub.takes_publications() {
                    let bytes = random.below(100_000) as usize + 1;
                    world.queue(&topic(&mut random), bytes);
                }
            }
            for _ in 0..random.below(4) {
                world.net.batches_max = Some(world.net.batches + 1);
                world.flush();
                world.net.batches_max = None;
                world.now = world.now.plus_us(random.below(SECOND / 3));
            }
            let opens = random.below(5 * stuck.len() as u64) as usize;
            if let Some(key) = stuck.get(opens) {
                world.held = true;
                world.open_window(*key, random.below(40_000) as usize);
                world.held = false;
            }
            world.settle();
            let alive = world.frame_bytes.alive();
            // Between two walks, it may grow by an eighth.
            assert!(alive <= LIMIT / 8 * 9, "seed {seed}: {alive}");
        }
        assert_eq!(world.dropped(&readers), [false; 200], "seed {seed}");
    }
}
