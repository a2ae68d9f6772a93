//! A message to many clients outside all caches: the cost of a delivery in a process that does other work
//! between two messages, as the kernel does with each write.
//!
//! `in_order`: the clients came one after the other. `churned`: most of the first clients have left and
//! others came in random order, so that neither the members of the topic nor the blocks of the heap are in
//! the order of the slots. The reported time is for one delivery, publish and flush.

mod everybody;
mod open;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use everybody::{Everybody, TOPIC};
use open::{NOW, TakesAll, hub, open, settle};
use weirgate_core::{ConflationKey, Frame, Hub, PeerEnd, Publication, SessionKey};
use weirgate_wire::base::{Now, SplitMix64};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

/// Rounds in which clients leave, and others take their slots.
const CHURNS: usize = 16;
/// The fraction of clients that leave in each round: one in so many.
const CHURN_ONE_OF: usize = 8;

/// More than the size of a cache.
const EVICT_BYTES: usize = 64 << 20;

const BODY: [u8; 2048] = [b'x'; 2048];

/// All other content of a machine's caches.
struct Others {
    bytes: Vec<u8>,
}

impl Others {
    fn new() -> Self {
        Self {
            bytes: vec![1; EVICT_BYTES],
        }
    }

    /// Evicts the hub from the caches.
    fn evict(&mut self) {
        for byte in self.bytes.iter_mut().step_by(64) {
            *byte = byte.wrapping_add(1);
        }
        black_box(&self.bytes);
    }
}

/// A hub with open clients.
struct Room {
    hub: Hub<Everybody>,
    keys: Vec<SessionKey>,
    now: Now,
}

impl Room {
    fn new(clients: usize) -> Self {
        let mut hub = hub(Everybody);
        let keys = (0..clients).map(|_| open(&mut hub, None)).collect();
        Self {
            hub,
            keys,
            now: NOW,
        }
    }

    /// Lets clients leave in random order; as many new clients take their slots.
    fn churn(&mut self) {
        let mut random = SplitMix64::new(7);
        for _ in 0..CHURNS {
            let leaving = self.keys.len() / CHURN_ONE_OF;
            for _ in 0..leaving {
                let at = random.next_u64() as usize % self.keys.len();
                let key = self.keys.swap_remove(at);
                self.hub.handle_ended(self.now, key, PeerEnd::Closed);
                settle(&mut self.hub, self.now);
            }
            for _ in 0..leaving {
                self.keys.push(open(&mut self.hub, None));
            }
        }
    }

    fn publish(&mut self) {
        let alive = self.hub.core().frame_bytes();
        let publication = Publication::new(
            TOPIC,
            Frame::text(alive)
                .key(ConflationKey(1))
                .received(self.now)
                .body(&BODY)
                .finish(),
        );
        self.hub.handle_publication(self.now, &publication);
    }

    /// Sends a message to every client; returns the time of both parts.
    fn turn(&mut self) -> [Duration; 2] {
        self.now = self.now.plus_us(1_000);
        let begin = Instant::now();
        self.publish();
        let middle = Instant::now();
        while self.hub.flush(self.now, &mut TakesAll) {}
        [middle - begin, middle.elapsed()]
    }
}

/// The cost of a delivery if its client has to be fetched from memory.
fn cold(c: &mut Criterion) {
    let mut others = Others::new();
    let mut group = c.benchmark_group("cold");
    for clients in SIZES {
        for (name, churns) in [("in_order", false), ("churned", true)] {
            let mut room = Room::new(clients);
            if churns {
                room.churn();
            }
            assert_eq!(room.hub.core().member_count(&TOPIC), clients);
            let mut fastest = [Duration::MAX; 2];
            group.bench_function(BenchmarkId::new(name, clients), |b| {
                b.iter_custom(|deliveries| {
                    let (mut done, mut time) = (0, Duration::ZERO);
                    while done < deliveries {
                        others.evict();
                        let [publish, flush] = room.turn();
                        fastest[0] = fastest[0].min(publish);
                        fastest[1] = fastest[1].min(flush);
                        time += publish + flush;
                        done += clients as u64;
                    }
                    time.mul_f64(deliveries as f64 / done as f64)
                });
            });
            let [publish, flush] = fastest.map(|part| part.as_nanos() / clients as u128);
            println!("cold/{name}/{clients}: at best, publish {publish} ns, flush {flush} ns");
            assert_eq!(room.hub.stats().messages_waiting, 0);
            room.hub.check_invariants();
        }
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = cold);
criterion_main!(benches);
