//! In which order clients are written to: that of their slots, from a start that moves on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{small_queue, state, symbols};
use crate::world::time::Steps;
use crate::world::toys::{In, Symbols};
use crate::world::{Output, PART_US, World};
use weirgate_core::{Effect, Gateway, Limits, PeerEnd, SessionKey, TopicName, Transmit, Write};

/// More than two batches of a flush, and members enough for their order to matter.
const CLIENTS: usize = 300;

/// Takes everything, and notes for whom. Ends the time of the flush after so many batches.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) keys: Vec<SessionKey>,
    /// The bytes of each write.
    bytes: Vec<usize>,
    largest_batch: usize,
    batches: usize,
    time: Steps,
}

impl Transmit for Notes {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        self.batches = self.batches.saturating_sub(1);
        if self.batches == 0 {
            self.time.end_part();
        }
        let bytes_of = |write: &Write<'_>| write.slices.iter().map(|slice| slice.len()).sum();
        let bytes: Vec<usize> = batch.iter().map(bytes_of).collect();
        self.largest_batch = self.largest_batch.max(bytes.iter().sum());
        self.keys.extend(batch.iter().map(|write| write.key));
        wrote.extend(bytes.iter().map(|bytes| Ok(*bytes)));
        self.bytes.extend(bytes);
    }
}

impl Notes {
    /// The bytes of all writes to each client.
    fn sums(&self) -> BTreeMap<SessionKey, usize> {
        let mut sums = BTreeMap::new();
        for (key, bytes) in self.keys.iter().zip(&self.bytes) {
            *sums.entry(*key).or_default() += bytes;
        }
        sums
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
    noted(world, batches).keys
}

pub(super) fn noted<G>(world: &mut World<G>, batches: usize) -> Notes
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
            return notes;
        }
    }
}

pub(super) fn publish(world: &mut World<Symbols>, topic: &str, bytes: usize) {
    let message = In::Publish(topic.to_owned(), "x".repeat(bytes));
    world.hub.handle_input(world.now, message);
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

/// A message of 1 MiB to all leaves in writes and batches that end soon, whole for each client.
#[test]
fn a_large_frame_leaves_in_several_writes_and_batches() {
    const BYTES: usize = 1 << 20;
    let (mut world, all) = churned(CLIENTS);
    publish(&mut world, "A", BYTES);
    let notes = noted(&mut world, usize::MAX);
    let write_max = world.hub.core().limits().write_bytes_max;
    let largest = notes.bytes.iter().max();
    assert!(largest.is_some_and(|bytes| *bytes <= write_max + 16));
    assert!(
        notes.largest_batch <= (2 << 20) + write_max + 16,
        "{}",
        notes.largest_batch
    );
    let sums = notes.sums();
    assert_eq!(sums.keys().copied().collect::<BTreeSet<_>>(), all);
    let sums: BTreeSet<_> = sums.into_values().collect();
    assert!(sums.len() == 1 && sums.first() > Some(&BYTES), "{sums:?}");
    world.hub.check_invariants();
}

/// What a write leaves of a long queue may be little: it goes out in the same lap.
#[test]
fn a_lap_ends_with_what_the_writes_of_long_queues_have_left() {
    let (mut world, all) = churned(CLIENTS);
    let most = world.hub.core().limits().write_bytes_max;
    for bytes in [most - 5_000, 10_000] {
        publish(&mut world, "A", bytes);
    }
    flushed(&mut world, 1);
    assert!(world.hub.is_flushing());
    let keys: BTreeSet<_> = flushed(&mut world, usize::MAX).into_iter().collect();
    assert_eq!(keys, all, "those of the first batch had a rest");
    assert!(!world.hub.has_to_flush());
    assert_eq!(world.hub.core().stats().messages_sent, 2 * CLIENTS as u64);
    world.hub.check_invariants();
}

#[test]
fn a_client_with_little_to_send_goes_before_those_with_much() {
    let (mut world, all) = churned(CLIENTS);
    let other = world.connect("/ws", None);
    world.text(other, "sub B");
    publish(&mut world, "A", 100_000);
    let first = flushed(&mut world, 1);
    assert!(first.len() < CLIENTS && world.hub.is_flushing());
    publish(&mut world, "B", 10);
    let next = flushed(&mut world, 2);
    assert_eq!(next[0], other, "in the middle of a long flush");
    assert!(
        next.len() > 1,
        "in the same flush some of the others get theirs"
    );
    assert!(world.hub.is_flushing());
    // Little that comes again and again keeps nobody waiting.
    let mut reached: BTreeSet<_> = first.into_iter().chain(next).collect();
    while world.hub.is_flushing() {
        publish(&mut world, "B", 10);
        let keys = flushed(&mut world, 1);
        assert_eq!(keys[0], other);
        reached.extend(keys);
    }
    assert!(reached.is_superset(&all));
    world.hub.check_invariants();
}

/// The bus has more for the clients in each turn than the loop has time to write.
#[test]
fn no_client_that_reads_becomes_slow_because_of_a_fast_bus() {
    for bytes in [100, 5_000, 15_000, 40_000, 150_000] {
        let (mut world, _) = churned(CLIENTS);
        let soft_bytes = world.hub.core().limits().send_queue.soft_bytes;
        let mut published = 0;
        for _ in 0..600 {
            for _ in 0..10 {
                if world.hub.takes_publications() {
                    publish(&mut world, "A", bytes);
                    published += 1;
                }
            }
            flushed(&mut world, 1);
            world.now = world.now.plus_us(10_000);
        }
        flushed(&mut world, usize::MAX);
        let stats = world.hub.core().stats();
        assert_eq!(stats.messages_sent, published * CLIENTS as u64, "{bytes}");
        assert!(published > 20, "{bytes}: {published}");
        let peak = stats.send_queue_peak_bytes as usize;
        assert!(peak < soft_bytes + bytes, "{bytes}: {peak}");
        world.hub.check_invariants();
    }
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
    world.hub.handle_ended(world.now, gone, PeerEnd::Closed);
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
