//! A message to many clients: the cost of a delivery in the core. The sockets take all bytes without a system
//! call, so the difference to a run with real sockets is the kernel's part.
//!
//! Before the times, each case prints the allocations of a turn with warm vectors.

mod everybody;
mod open;

use std::alloc::System;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everybody::{Everybody, TOPIC};
use open::{NOW, TakesAll, hub, open, settle};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use weirgate_core::{
    ConflationKey, Frame, FrameBytes, Hub, Prefix, Publication, SessionKey, Transmit, Write,
};
use weirgate_wire::base::Now;

/// Two atomic additions per allocation: little beside a turn of a thousand deliveries.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CLIENTS: u64 = 1_000;
const DEFLATE: &str = "permessage-deflate; client_max_window_bits";

/// The messages that a turn publishes.
#[derive(Clone)]
struct Messages {
    body: Vec<u8>,
    per_turn: u64,
    prefix: Prefix,
    key: Option<ConflationKey>,
}

impl Messages {
    /// A keyed message of JSON a turn, without a prefix.
    fn keyed(bytes: usize) -> Self {
        let bucket = |n: usize| {
            let premium = n.wrapping_mul(2_654_435_761) % 100_000;
            format!(
                r#"{{"strike":{},"premium":-{premium}.75,"side":"CALL"}},"#,
                4_000 + n
            )
        };
        let mut body: Vec<u8> = (0..=bytes / 40)
            .flat_map(|n| bucket(n).into_bytes())
            .collect();
        body.truncate(bytes);
        Self {
            body,
            per_turn: 1,
            prefix: Prefix::None,
            key: Some(ConflationKey(1)),
        }
    }

    fn publication(&self, now: Now, alive: &FrameBytes) -> Publication {
        let mut frame = Frame::text(alive)
            .with_capacity(self.body.len())
            .prefix(self.prefix)
            .received(now);
        if let Some(key) = self.key {
            frame = frame.key(key);
        }
        Publication::new(TOPIC, frame.body(&self.body).finish())
    }
}

/// A hub with open clients and the clock of its turns.
struct Room {
    hub: Hub<Everybody>,
    now: Now,
    messages: Messages,
}

impl Room {
    fn new(clients: u64, extensions: Option<&str>, messages: Messages) -> Self {
        let mut hub = hub(Everybody);
        for _ in 0..clients {
            open(&mut hub, extensions);
        }
        assert_eq!(hub.core().member_count(&TOPIC) as u64, clients);
        Self {
            hub,
            now: NOW,
            messages,
        }
    }

    fn publish(&mut self) {
        self.now = self.now.plus_us(1_000);
        for _ in 0..self.messages.per_turn {
            let alive = self.hub.core().frame_bytes();
            let publication = self.messages.publication(self.now, alive);
            self.hub.handle_publication(self.now, &publication);
        }
    }

    /// Runs a turn with messages of the bus.
    fn turn(&mut self) {
        self.publish();
        while self.hub.flush(self.now, &mut TakesAll) {}
    }

    /// Prints the allocations of a warm turn; each frame accounts for two.
    fn tell_allocations(&mut self, name: &str) {
        (0..20).for_each(|_| self.turn());
        let region = Region::new(ALLOCATOR);
        self.publish();
        let publish = region.change();
        let region = Region::new(ALLOCATOR);
        while self.hub.flush(self.now, &mut TakesAll) {}
        let flush = region.change();
        println!(
            "broadcast/{name}: allocations (and reallocations) of publish {} ({}), of flush {} ({})",
            publish.allocations, publish.reallocations, flush.allocations, flush.reallocations,
        );
    }
}

fn case(c: &mut Criterion, name: &str, clients: u64, extensions: Option<&str>, m: Messages) {
    let mut room = Room::new(clients, extensions, m);
    room.tell_allocations(name);
    let sent = room.hub.stats().messages_sent;
    room.turn();
    let deliveries = room.hub.stats().messages_sent - sent;
    assert_eq!(deliveries, clients * room.messages.per_turn);
    let mut group = c.benchmark_group("broadcast");
    group.throughput(Throughput::Elements(deliveries));
    group.bench_function(name, |b| b.iter(|| room.turn()));
    group.finish();
    settle(&mut room.hub, room.now);
    room.hub.check_invariants();
}

/// The cost of a delivery, from the payload to the write. Should depend neither on the size of the message
/// nor on the number of clients: nothing is copied per client.
fn plain(c: &mut Criterion) {
    case(c, "plain/2k", CLIENTS, None, Messages::keyed(2 * 1024));
    case(c, "plain/8k", CLIENTS, None, Messages::keyed(8 * 1024));
    case(
        c,
        "plain/8k_10000",
        10 * CLIENTS,
        None,
        Messages::keyed(8 * 1024),
    );
}

/// The cost per delivery of the number before each message. Header and prefix are rendered for each client, and
/// the write has another slice. Frames without a key in both cases.
fn numbered(c: &mut Criterion) {
    for (name, prefix) in [
        ("prefix/none_2k", Prefix::None),
        ("prefix/seq_2k", Prefix::Seq("{\"seq\":")),
    ] {
        let messages = Messages {
            prefix,
            key: None,
            ..Messages::keyed(2 * 1024)
        };
        case(c, name, CLIENTS, None, messages);
    }
}

/// The cost of clients with compression. `8k` deflates a new frame each turn for all of them; `small` is
/// below the size from which frames are deflated, and shows the cost of the check.
fn deflated(c: &mut Criterion) {
    case(
        c,
        "deflated/8k",
        CLIENTS,
        Some(DEFLATE),
        Messages::keyed(8 * 1024),
    );
    case(
        c,
        "deflated/small",
        CLIENTS,
        Some(DEFLATE),
        Messages::keyed(200),
    );
    shared_deflated(c);
}

/// The cost of a delivery of a frame that is deflated already.
fn shared_deflated(c: &mut Criterion) {
    let mut room = Room::new(CLIENTS, Some(DEFLATE), Messages::keyed(8 * 1024));
    let publication = room
        .messages
        .publication(NOW, room.hub.core().frame_bytes());
    let mut group = c.benchmark_group("broadcast");
    group.throughput(Throughput::Elements(CLIENTS));
    group.bench_function("deflated/8k_made_before", |b| {
        b.iter(|| {
            room.hub.handle_publication(NOW, &publication);
            while room.hub.flush(NOW, &mut TakesAll) {}
        });
    });
    group.finish();
    let frame = publication.frame().expect("a frame");
    assert!(frame.deflated().is_some());
}

/// The cost of a delivery in a turn with sixteen small messages for each client. The messages go out in one
/// write; but a queue of more than two entries allocates memory, and frees the memory when empty.
fn burst(c: &mut Criterion) {
    let messages = Messages {
        per_turn: 16,
        key: None,
        ..Messages::keyed(200)
    };
    case(c, "burst/16x200", CLIENTS, None, messages.clone());
    let numbered = Messages {
        prefix: Prefix::Seq("{\"seq\":"),
        ..messages
    };
    case(c, "burst/16x200_seq", CLIENTS, None, numbered);
}

/// The cost of both halves of a delivery: queueing and writing.
fn halves(c: &mut Criterion) {
    let mut room = Room::new(CLIENTS, None, Messages::keyed(8 * 1024));
    let mut group = c.benchmark_group("broadcast");
    group.throughput(Throughput::Elements(CLIENTS));
    for (name, want_publish) in [("halves/publish", true), ("halves/flush", false)] {
        group.bench_function(name, |b| {
            b.iter_custom(|turns| {
                let (mut publish, mut flush) = (Duration::ZERO, Duration::ZERO);
                for _ in 0..turns {
                    let begin = Instant::now();
                    room.publish();
                    let middle = Instant::now();
                    while room.hub.flush(room.now, &mut TakesAll) {}
                    publish += middle - begin;
                    flush += middle.elapsed();
                }
                if want_publish { publish } else { flush }
            });
        });
    }
    group.finish();
}

/// Takes a few bytes from slow clients, and all bytes from the others.
struct TakesLittle<'a> {
    from: &'a [SessionKey],
}

impl Transmit for TakesLittle<'_> {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        let bytes = |write: &Write<'_>| write.slices.iter().map(|slice| slice.len()).sum();
        wrote.extend(
            batch
                .iter()
                .map(|write| match self.from.contains(&write.key) {
                    true => Ok(100),
                    false => Ok(bytes(write)),
                }),
        );
    }
}

/// The delay of 990 clients by ten clients that do not read. Each of their queues holds the frame already
/// begun and the newest frame, which every turn replaces.
fn blocked(c: &mut Criterion) {
    let mut room = Room::new(CLIENTS - 10, None, Messages::keyed(2 * 1024));
    let slow: Vec<SessionKey> = (0..10).map(|_| open(&mut room.hub, None)).collect();
    room.publish();
    room.hub.flush(room.now, &mut TakesLittle { from: &slow });
    // Until the oldest waiting frame is over a second old, or the queues are over the soft limit.
    (0..2_000).for_each(|_| room.turn());
    room.tell_allocations("blocked/10_of_1000_2k");
    let before = room.hub.stats().clone();
    room.turn();
    let after = room.hub.stats();
    assert_eq!(after.messages_conflated - before.messages_conflated, 10);
    assert_eq!(after.messages_waiting, 20);
    let mut group = c.benchmark_group("broadcast");
    group.throughput(Throughput::Elements(CLIENTS));
    group.bench_function("blocked/10_of_1000_2k", |b| b.iter(|| room.turn()));
    group.finish();
    room.hub.check_invariants();
}

/// Header and body share an allocation; the frame around them is another.
fn frame_allocations(_: &mut Criterion) {
    let alive = FrameBytes::default();
    for bytes in [200, 2 * 1024, 8 * 1024] {
        let messages = Messages::keyed(bytes);
        let region = Region::new(ALLOCATOR);
        let publication = messages.publication(NOW, &alive);
        let change = region.change();
        println!(
            "broadcast/frame of {bytes}: {} allocations",
            change.allocations
        );
        assert_eq!((change.allocations, change.reallocations), (2, 0));
        let frame = publication.frame().expect("a frame");
        assert_eq!(Arc::strong_count(frame), 1);
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(
    name = benches;
    config = short();
    targets = frame_allocations, plain, halves, numbered, deflated, burst, blocked
);
criterion_main!(benches);
