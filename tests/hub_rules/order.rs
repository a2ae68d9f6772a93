//! In which order clients are written to: that of their slots, from a start that moves on.

use super::{small_queue, state, symbols};
use crate::world::time::Steps;
use crate::world::toys::{In, Symbols};
use crate::world::{Output, PART_US, World};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use weirgate_core::{Effect, Gateway, Limits, SessionKey, TopicName, Transmit, Write};

/// More than two batches of a flush, and members enough for their order to matter.
const CLIENTS: usize = 300;

/// Takes everything, and notes for whom. Ends the time of the flush after so many batches.
#[derive(Default)]
struct Notes {
    keys: Vec<SessionKey>,
    batches: usize,
    time: Steps,
}

impl Transmit for Notes {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        self.batches -= 1;
        if self.batches == 0 {
            self.time.end_part();
        }
        for write in batch {
            self.keys.push(write.key);
            wrote.push(Ok(write.slices.iter().map(|slice| slice.len()).sum()));
        }
    }
}

/// Members of `A`. Most of the first have gone, others have their slots.
fn churned(clients: usize) -> (World<Symbols>, BTreeSet<SessionKey>) {
    let mut world = symbols(Limits::default());
    let mut keys: Vec<_> = (0..clients).map(|_| member(&mut world)).collect();
    for round in 0..4 {
        for n in 0..clients / 5 {
            let gone = keys.swap_remove((n * 7919 + round) % keys.len());
            world.end(gone, false);
        }
        keys.resize_with(clients, || member(&mut world));
    }
    (world, keys.into_iter().collect())
}

fn member(world: &mut World<Symbols>) -> SessionKey {
    let key = world.connect("/ws", None);
    world.text(key, "sub A");
    key
}

/// Publishes to all members, and flushes so many batches; who was written to, in this order.
fn written(world: &mut World<Symbols>, publish: bool, batches: usize) -> Vec<SessionKey> {
    if publish {
        let message = In::Publish("A".to_owned(), "x".to_owned());
        world.hub.handle_input(world.now, message);
    }
    flushed(world, batches)
}

fn flushed<G>(world: &mut World<G>, batches: usize) -> Vec<SessionKey>
where
    G: Gateway<Out: Output>,
{
    let mut notes = Notes {
        batches,
        time: world.time.clone(),
        ..Notes::default()
    };
    loop {
        let part_us = if notes.batches > 0 { PART_US } else { 0 };
        world.hub.begin_part(part_us);
        if !world.hub.flush(world.now, &mut notes) || notes.batches == 0 {
            return notes.keys;
        }
    }
}

fn topic() -> TopicName {
    TopicName::from("A".to_owned())
}

/// How often a slot follows a larger one.
fn descents(keys: &[SessionKey]) -> usize {
    let pairs = keys.windows(2);
    pairs.filter(|pair| pair[0].slot > pair[1].slot).count()
}

#[test]
fn clients_are_written_to_in_the_order_of_their_slots() {
    for clients in [40, CLIENTS] {
        let (mut world, all) = churned(clients);
        let members: Vec<_> = world.hub.core().members(&topic()).collect();
        assert!(descents(&members) > 3, "out of order");
        for _ in 0..5 {
            let keys = written(&mut world, true, usize::MAX);
            assert_eq!(keys.len(), clients, "one write each");
            assert_eq!(BTreeSet::from_iter(keys.iter().copied()), all);
            assert!(descents(&keys) <= 1, "once around");
        }
    }
}

/// Many slots between those of the members have nothing to send.
#[test]
fn nobody_is_always_last() {
    const TURNS: usize = 200;
    let mut world = symbols(Limits::default());
    for n in 0..CLIENTS {
        match n % 29 {
            0 => member(&mut world),
            _ => world.connect("/ws", None),
        };
    }
    let members = world.hub.core().member_count(&topic());
    let mut last: BTreeMap<SessionKey, usize> = BTreeMap::new();
    for _ in 0..TURNS {
        let keys = written(&mut world, true, usize::MAX);
        assert_eq!(keys.len(), members);
        *last.entry(keys[members - 1]).or_default() += 1;
    }
    assert_eq!(last.len(), members, "each is the last one now and then");
    let most = last.values().max().expect("some");
    assert!(*most <= 2 * TURNS / members, "{last:?}");
}

/// A client that has had its write in a flush waits until the flush has reached everybody.
#[test]
fn a_flush_goes_on_with_those_that_it_has_not_reached() {
    let (mut world, all) = churned(CLIENTS);
    let first = written(&mut world, true, 1);
    assert!(first.len() < CLIENTS && world.hub.is_flushing());
    let rest = written(&mut world, true, 2);
    let reached: BTreeSet<_> = first.iter().chain(&rest).copied().collect();
    assert_eq!(reached, all, "everybody, before anybody has a second write");
    assert_eq!(first.len() + rest.len(), CLIENTS);
    assert!(world.hub.has_to_flush(), "the first have another message");
    let again = written(&mut world, false, usize::MAX);
    let again: BTreeSet<_> = again.into_iter().collect();
    assert_eq!(again, first.into_iter().collect());
    world.hub.check_invariants();
}

/// Frames of 300 bytes count until everybody had a write for them; with 750, three quarters of the
/// soft limit, no more are taken.
#[test]
fn what_waits_for_the_rest_of_a_flush_is_bounded() {
    let mut world = symbols(small_queue());
    let _: Vec<_> = (0..CLIENTS).map(|_| member(&mut world)).collect();
    let mut takes = |publish, batches| {
        if publish {
            let message = In::Publish("A".to_owned(), "x".repeat(296));
            world.hub.handle_input(world.now, message);
        }
        written(&mut world, false, batches);
        world.hub.takes_publications()
    };
    assert!(takes(true, 1) && takes(true, 0), "600 bytes");
    assert!(!takes(true, 1), "900, and one batch waits for the first");
    assert!(
        takes(false, 1),
        "600: all had that, and those behind had all"
    );
    assert!(!takes(true, 0), "900");
    assert!(takes(false, usize::MAX), "nothing waits");
}

#[test]
fn frames_that_newer_ones_replace_are_always_taken() {
    let mut world = state(small_queue());
    for _ in 0..CLIENTS {
        world.connect("/ws", None);
    }
    for n in 0..9 {
        let message = In::Publish("levels/1".to_owned(), format!("{n:0300}"));
        world.hub.handle_input(world.now, message);
        assert_eq!(flushed(&mut world, 0), []);
        assert!(world.hub.takes_publications(), "{n}");
    }
    assert!(world.hub.core().stats().messages_conflated > 0);
}

/// The slot of a client that a flush has not reached is taken by another client.
#[test]
fn a_flush_writes_nothing_to_the_next_client_in_a_slot() {
    let (mut world, all) = churned(CLIENTS);
    let first = written(&mut world, true, 1);
    let mut waiting = all.iter().filter(|key| !first.contains(key));
    let gone = *waiting.next().expect("one that was not reached");
    world.held = true;
    world.hub.handle_ended(world.now, gone, false);
    while let Some(effect) = world.hub.poll_effect() {
        let Effect::Release { key, .. } = effect else {
            panic!("{effect:?}");
        };
        world.hub.handle_released(key);
    }
    world.hub.check_invariants();
    let next = world.accept(usize::MAX);
    assert_eq!(next.slot, gone.slot);
    let rest = written(&mut world, false, usize::MAX);
    assert_eq!(rest.len(), CLIENTS - first.len() - 1);
    assert!(rest.iter().all(|key| key.slot != gone.slot));
    world.hub.check_invariants();
}
