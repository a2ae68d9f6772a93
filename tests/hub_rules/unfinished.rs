//! What is kept of the input of all clients together: what counts, and who is dropped.

use weirgate_core::{CloseReason, Limits, SessionKey};

use crate::world::World;
use crate::world::client::frame;
use crate::world::toys::{Devices, Symbols};
use crate::{SECOND, symbols};

const LIMIT: u64 = 100_000;

fn little_memory() -> World<Symbols> {
    symbols(Limits {
        unfinished_bytes_max: LIMIT,
        message_bytes_max: LIMIT as usize,
        ping_interval_us: 0,
        ..Limits::default()
    })
}

impl World<Symbols> {
    /// A client that has sent so many bytes of a message in fragments.
    fn holder(&mut self, bytes: usize) -> SessionKey {
        let key = self.connect("/ws", None);
        self.send(key, &frame(0x01, &vec![b'x'; bytes]));
        key
    }

    fn unfinished(&self) -> u64 {
        self.hub.core().received().held()
    }

    fn dropped_for_messages(&self, keys: &[SessionKey]) -> usize {
        let reasons = keys.iter().filter_map(|key| self.reason(*key));
        let each = reasons.inspect(|reason| assert_eq!(*reason, CloseReason::MessageMemory));
        each.count()
    }
}

#[test]
fn what_is_unfinished_counts_until_the_message_or_the_client_ends() {
    let mut world = little_memory();
    let whole = frame(0x81, &[b'x'; 10_000]);
    let key = world.connect("/ws", None);
    world.send(key, &whole);
    assert_eq!(world.unfinished(), 0, "a whole message");
    world.send(key, &whole[..5_000]);
    assert!((4_900..6_000).contains(&world.unfinished()));
    world.send(key, &whole[5_000..]);
    assert_eq!(world.unfinished(), 0, "the rest of a frame");
    world.send(key, &frame(0x01, &[b'x'; 5_000]));
    world.send(key, &frame(0x89, b"ping"));
    assert!((4_900..6_000).contains(&world.unfinished()));
    world.send(key, &frame(0x80, b"end"));
    assert_eq!(world.unfinished(), 0, "the last fragment");
    let ends: [fn(&mut World<Symbols>, SessionKey); 3] = [
        |world, key| world.end(key, true),
        |world, key| world.send(key, &frame(0x88, b"\x03\xe8")),
        |world, key| world.send(key, &frame(0x83, b"no opcode")),
    ];
    for end in ends {
        let key = world.holder(5_000);
        assert!(world.unfinished() > 0);
        end(&mut world, key);
        assert_eq!(world.unfinished(), 0);
    }
}

#[test]
fn past_the_limit_of_all_clients_those_go_that_hold_most_for_longest() {
    let mut world = little_memory();
    let large: Vec<_> = (0..3).map(|_| world.holder(20_000)).collect();
    let small = world.holder(1_000);
    world.advance(SECOND);
    let honest = world.connect("/ws", None);
    let message = frame(0x81, &[b'x'; 60_000]);
    for part in message.chunks(10_000) {
        world.send(honest, part);
        assert!(world.unfinished() <= LIMIT);
        world.advance(SECOND / 100);
    }
    assert_eq!(world.hub.stats().received_messages, 1);
    assert_eq!(world.dropped_for_messages(&large), 2, "no more than needed");
    assert_eq!(world.dropped_for_messages(&[small, honest]), 0);
}

/// The largest message is not simply the first to go.
#[test]
fn very_many_clients_with_little_each_do_not_end_one_that_sends_a_large_message() {
    let mut world = little_memory();
    let many: Vec<_> = (0..600).map(|_| world.holder(140)).collect();
    assert_eq!(world.dropped_for_messages(&many), 0);
    for _ in 0..10 {
        world.advance(10 * SECOND);
        // Single bytes are no progress.
        let send = |key: &SessionKey| world.send(*key, &frame(0x00, b"x"));
        many.iter().for_each(send);
    }
    let honest = world.connect("/ws", None);
    for part in frame(0x81, &[b'x'; 30_000]).chunks(3_000) {
        world.send(honest, part);
        world.advance(SECOND / 10);
    }
    assert_eq!(world.hub.stats().received_messages, 1);
    assert_eq!(world.dropped_for_messages(&[honest]), 0);
    assert!(world.dropped_for_messages(&many) > 50);
    assert!(world.unfinished() <= LIMIT);
}

#[test]
fn a_client_that_sends_message_after_message_makes_progress() {
    let mut world = little_memory();
    let steady = world.connect("/ws", None);
    let message = frame(0x81, &[b'x'; 40_000]);
    let (start, rest) = message.split_at(30_000);
    world.send(steady, start);
    world.advance(SECOND);
    let stuck = world.holder(30_000);
    for _ in 0..3 {
        world.advance(SECOND);
        // Each read ends as much into the next message.
        world.send(steady, &[rest, start].concat());
    }
    world.holder(50_000);
    assert_eq!(world.dropped_for_messages(&[stuck]), 1);
    assert_eq!(world.dropped_for_messages(&[steady]), 0);
}

/// A message has its own limit, and over that limit its own reason.
#[test]
fn a_client_alone_may_finish_its_message() {
    let mut world = symbols(Limits {
        unfinished_bytes_max: 10_000,
        ping_interval_us: 0,
        ..Limits::default()
    });
    let alone = world.holder(90_000);
    world.send(alone, &frame(0x80, b"end"));
    assert_eq!(world.dropped_for_messages(&[alone]), 0);
    assert_eq!(world.hub.stats().received_messages, 1);
}

/// What is read of a client that is then paused is kept by the hub. Together such clients keep no more than the limit,
/// and a read brings little, so that the rest stays in the socket.
#[test]
fn input_of_paused_clients_counts_and_gives_way() {
    let limits = Limits {
        unfinished_bytes_max: LIMIT,
        ping_interval_us: 0,
        ..Limits::default()
    };
    let mut world = World::new(limits, Devices::default(), 1);
    // The first is answered late, and so many more may wait.
    let paused: Vec<u8> = (0..20).flat_map(|_| frame(0x81, b"ask")).collect();
    let mut holders = Vec::new();
    for _ in 0..30 {
        let key = world.connect("/ws", None);
        world.send(key, &[&paused[..], &[b'x'; 4_000]].concat());
        world.advance(SECOND / 10);
        assert!(!world.hub.wants_read(key));
        assert!(world.hub.core().received().held() <= LIMIT);
        holders.push(key);
    }
    let is_here = |key: &SessionKey| world.hub.core().is_open(*key);
    assert!(
        !is_here(&holders[0]),
        "the first one stood still for the longest"
    );
    assert!(is_here(&holders[29]), "the last one has just moved");
    let gone = holders.iter().filter(|key| !is_here(key)).count() as u64;
    assert_eq!(
        world.hub.stats().closes[CloseReason::MessageMemory as usize],
        gone
    );
    let left = world.hub.core().received().held();
    for key in holders {
        world.end(key, true);
    }
    assert!(left > LIMIT / 2 && world.hub.core().received().held() == 0);
}

#[test]
fn a_read_brings_little_until_a_message_is_large() {
    let mut world = little_memory();
    let key = world.connect("/ws", None);
    let first = world.hub.read_bytes_max(key);
    assert!(first <= 4_096, "{first}");
    let mut message = frame(0x81, &[b'x'; 90_000]);
    let mut reads = 0;
    while !message.is_empty() {
        let bytes = world.hub.read_bytes_max(key).min(message.len());
        let rest = message.split_off(bytes);
        world.send(key, &message);
        message = rest;
        reads += 1;
    }
    assert_eq!(world.hub.stats().received_messages, 1);
    assert!(reads <= 8, "{reads} reads");
    assert_eq!(world.hub.read_bytes_max(key), first);
}
