//! With `gather_us`, messages that come shortly after each other share a write.

use super::order::{noted, publish};
use super::{SECOND, symbols};
use crate::world::World;
use crate::world::client::frame;
use crate::world::toys::Symbols;
use weirgate_core::{Limits, SessionKey};

const GATHER_US: u64 = 10_000;

fn gathering(clients: usize) -> (World<Symbols>, Vec<SessionKey>) {
    let mut world = symbols(Limits {
        gather_us: GATHER_US,
        ..Limits::default()
    });
    let keys: Vec<_> = (0..clients).map(|_| world.connect("/ws", None)).collect();
    for key in &keys {
        world.text(*key, "sub A");
    }
    world.advance(SECOND);
    (world, keys)
}

/// Clients that are written to now.
fn writes(world: &mut World<Symbols>) -> usize {
    noted(world, usize::MAX).keys.len()
}

/// The same after some time.
fn writes_after(world: &mut World<Symbols>, us: u64) -> usize {
    world.now.mono_us += us;
    world.hub.handle_timeout(world.now);
    writes(world)
}

#[test]
fn the_first_message_goes_at_once_and_the_next_ones_in_one_write() {
    let (mut world, _) = gathering(3);
    publish(&mut world, "A", 10);
    assert_eq!(writes(&mut world), 3, "the first message of each");
    for _ in 0..4 {
        publish(&mut world, "A", 10);
        assert_eq!(writes_after(&mut world, 1_000), 0);
    }
    assert_eq!(world.hub.poll_timeout(), Some(world.now.mono_us + 6_000));
    assert_eq!(
        writes_after(&mut world, 6_000),
        3,
        "four messages in a write"
    );
    assert_eq!(world.hub.stats().messages_waiting, 0);
    publish(&mut world, "A", 10);
    assert_eq!(writes_after(&mut world, GATHER_US - 1), 0, "the next wait");
    assert_eq!(writes_after(&mut world, 1), 3);
    assert_eq!(writes_after(&mut world, GATHER_US), 0);
    publish(&mut world, "A", 10);
    assert_eq!(writes(&mut world), 3, "nothing was sent for a wait");
    world.hub.check_invariants();
}

#[test]
fn the_oldest_message_waits_its_whole_time_whenever_it_came() {
    let (mut world, _) = gathering(3);
    publish(&mut world, "A", 10);
    assert_eq!(writes(&mut world), 3);
    world.now.mono_us += GATHER_US - 1;
    publish(&mut world, "A", 10);
    assert_eq!(writes_after(&mut world, 5_000), 0);
    publish(&mut world, "A", 10);
    assert_eq!(writes_after(&mut world, GATHER_US - 5_001), 0);
    assert_eq!(writes_after(&mut world, 1), 3, "both messages");
    assert_eq!(world.hub.stats().messages_waiting, 0);
    world.hub.check_invariants();
}

#[test]
fn answers_and_pongs_wait_for_nothing_and_take_what_waits_along() {
    let (mut world, keys) = gathering(2);
    publish(&mut world, "A", 10);
    writes(&mut world);
    publish(&mut world, "A", 10);
    assert_eq!(writes(&mut world), 0);
    let before = world.hub.stats().messages_sent;
    world.send(keys[0], &frame(0x89, b"ping"));
    assert_eq!(
        world.hub.stats().messages_sent,
        before + 1,
        "before the pong"
    );
    assert_eq!(writes_after(&mut world, GATHER_US), 1, "the other client");
    world.hub.check_invariants();
}

#[test]
fn much_goes_before_its_time() {
    let (mut world, _) = gathering(1);
    let soft_bytes = world.hub.core().limits().send_queue.soft_bytes;
    publish(&mut world, "A", 10);
    writes(&mut world);
    publish(&mut world, "A", soft_bytes / 5);
    assert_eq!(writes(&mut world), 0);
    publish(&mut world, "A", soft_bytes / 5);
    assert_eq!(writes(&mut world), 1);
    assert!(world.hub.takes_publications());
}

#[test]
fn the_next_client_in_a_slot_does_not_wait() {
    let (mut world, keys) = gathering(1);
    for _ in 0..2 {
        publish(&mut world, "A", 10);
        world.catch_up();
    }
    assert_eq!(world.texts(keys[0]).len(), 1);
    world.end(keys[0], true);
    let next = world.connect("/ws", None);
    assert_eq!(next.slot, keys[0].slot);
    world.text(next, "sub A");
    publish(&mut world, "A", 10);
    world.catch_up();
    assert_eq!(world.texts(next).len(), 1);
    world.hub.check_invariants();
}
