//! Joining, leaving, dropping and publishing to one member, against the total number of subscriptions. The
//! time per operation must not grow with the total, apart from the cost of cold memory; each case names its
//! size, so that growth is visible.

mod open;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use open::{NOW, TakesAll, hub, open, settle};
use weirgate_core::{
    Accepted, Admission, ByClient, Core, Frame, Gateway, Hub, Joined, Left, PeerEnd, Publication,
    SessionKey, TopicName,
};
use weirgate_wire::RequestHead;

/// Total subscriptions.
const SIZES: [usize; 3] = [100, 10_000, 100_000];
/// Operations between two looks at the clock.
const BATCH: usize = 10;

/// Joins and leaves on request, by the topic's number.
struct Joins {
    names: Vec<TopicName>,
}

/// A client's request.
enum Ask {
    Join(SessionKey, usize),
    Leave(SessionKey, usize),
}

impl Gateway for Joins {
    type Client = ();
    type In = Ask;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<()>, ask: Ask) {
        let done = match ask {
            Ask::Join(key, topic) => {
                let joined = core.join(key, &self.names[topic]);
                matches!(joined, Joined::First | Joined::Another)
            }
            Ask::Leave(key, topic) => core.leave(key, &self.names[topic]) != Left::NoMember,
        };
        assert!(done, "the case asks for what can be done");
    }
}

/// Sessions with `own` topics each: session `n` has the topics from `n * own` on, modulo the topics.
struct Population {
    hub: Hub<Joins>,
    keys: Vec<SessionKey>,
    own: usize,
    /// The start of the next batch.
    at: usize,
    /// The step of batches over the population. 0: always the same sessions, which the caches then hold, so
    /// that any growth left is the core's own.
    stride: usize,
}

impl Population {
    fn new(sessions: usize, own: usize, topics: usize) -> Self {
        let names = (0..topics).map(|n| TopicName::from(format!("trades.symbol.{n:06}")));
        let names = names.collect();
        let mut population = Self {
            hub: hub(Joins { names }),
            keys: Vec::new(),
            own,
            at: 0,
            stride: 7_919,
        };
        for session in 0..sessions {
            let key = population.enter(session);
            population.keys.push(key);
        }
        population.hub.check_invariants();
        population
    }

    /// Opens a client with the topics of session number `session`.
    fn enter(&mut self, session: usize) -> SessionKey {
        let key = open(&mut self.hub, None);
        for topic in session * self.own..(session + 1) * self.own {
            self.ask(Ask::Join(key, self.wrapped(topic)));
        }
        settle(&mut self.hub, NOW);
        key
    }

    fn wrapped(&self, topic: usize) -> usize {
        topic % self.hub.gateway().names.len()
    }

    fn ask(&mut self, ask: Ask) {
        self.hub.handle_input(NOW, ask);
    }

    /// Returns the sessions of the next batch, each once, far from each other.
    fn next_batch(&mut self) -> Vec<usize> {
        let sessions = self.keys.len();
        let step = (sessions / BATCH).max(1);
        self.at = (self.at + self.stride) % sessions;
        let batch = (0..BATCH.min(sessions)).map(|n| (self.at + n * step) % sessions);
        batch.collect()
    }

    /// Joins a topic that another session holds, then leaves the topic; returns the time of both parts.
    fn join_and_leave(&mut self, batch: &[usize]) -> [Duration; 2] {
        // The first topic of the next session but one, which this session does not hold.
        let asked: Vec<_> = batch
            .iter()
            .map(|&session| (self.keys[session], self.wrapped((session + 2) * self.own)))
            .collect();
        let begin = Instant::now();
        for &(key, topic) in &asked {
            self.ask(Ask::Join(key, topic));
        }
        let middle = Instant::now();
        for &(key, topic) in &asked {
            self.ask(Ask::Leave(key, topic));
        }
        let times = [middle - begin, middle.elapsed()];
        settle(&mut self.hub, NOW);
        times
    }

    /// Leaves the session's own topic and joins again; returns the time of both parts.
    fn leave_and_join(&mut self, batch: &[usize]) -> [Duration; 2] {
        let begin = Instant::now();
        for &session in batch {
            let topic = self.wrapped(session * self.own);
            self.ask(Ask::Leave(self.keys[session], topic));
        }
        let middle = Instant::now();
        for &session in batch {
            let topic = self.wrapped(session * self.own);
            self.ask(Ask::Join(self.keys[session], topic));
        }
        let times = [middle.elapsed(), middle - begin];
        settle(&mut self.hub, NOW);
        times
    }

    /// Ends sessions with all their topics; then new clients take their slots, which is not timed.
    fn drop_and_enter(&mut self, batch: &[usize]) -> Duration {
        let begin = Instant::now();
        for &session in batch {
            self.hub
                .handle_ended(NOW, self.keys[session], PeerEnd::Closed);
        }
        settle(&mut self.hub, NOW);
        let time = begin.elapsed();
        for &session in batch {
            self.keys[session] = self.enter(session);
        }
        time
    }

    /// Publishes a message to each session's first topic, with a write for each.
    fn publish(&mut self, batch: &[usize]) -> Duration {
        let publication = |&session: &usize| {
            Publication::new(
                self.hub.gateway().names[self.wrapped(session * self.own)].clone(),
                Frame::text(self.hub.core().frame_bytes())
                    .body(b"{\"symbol\":\"ES\",\"price\":5281.25}")
                    .finish(),
            )
        };
        let publications: Vec<_> = batch.iter().map(publication).collect();
        let sent = self.hub.stats().messages_sent;
        let begin = Instant::now();
        for publication in &publications {
            self.hub.handle_publication(NOW, publication);
        }
        self.hub.flush(NOW, &mut TakesAll);
        let time = begin.elapsed();
        let sent = self.hub.stats().messages_sent - sent;
        assert_eq!(sent, batch.len() as u64, "one member each");
        time
    }
}

/// Measures the mean time of `operation`, which does a single action for each session of a batch.
fn timed(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    population: &mut Population,
    mut operation: impl FnMut(&mut Population, &[usize]) -> Duration,
) {
    group.bench_function(id, |b| {
        b.iter_custom(|operations| {
            let (mut done, mut time) = (0, Duration::ZERO);
            while done < operations {
                let batch = population.next_batch();
                time += operation(population, &batch);
                done += batch.len() as u64;
            }
            time.mul_f64(operations as f64 / done as f64)
        });
    });
    population.hub.check_invariants();
}

/// Many topics with one member each, ten to a session: no operation should depend on the others. `topics`
/// walks over all sessions and pays for cold memory, `topics_warm` always takes the same ten.
fn many_topics(c: &mut Criterion) {
    for (name, stride) in [("topics", 7_919), ("topics_warm", 0)] {
        let mut group = c.benchmark_group(name);
        for size in SIZES {
            let p = &mut Population::new(size / 10, 10, size);
            p.stride = stride;
            assert_eq!(p.hub.core().topic_count(), size);
            let id = |name| BenchmarkId::new(name, size);
            timed(&mut group, id("join"), p, |p, b| p.join_and_leave(b)[0]);
            timed(&mut group, id("leave"), p, |p, b| p.join_and_leave(b)[1]);
            timed(
                &mut group,
                id("drop_with_10"),
                p,
                Population::drop_and_enter,
            );
            timed(&mut group, id("publish_to_one"), p, Population::publish);
        }
        group.finish();
    }
}

/// A single topic with all members: leaving must not search the members.
fn one_topic(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_topic");
    for size in SIZES {
        let p = &mut Population::new(size, 1, 1);
        assert_eq!(p.hub.core().member_count(&p.hub.gateway().names[0]), size);
        let id = |name| BenchmarkId::new(name, size);
        timed(&mut group, id("join"), p, |p, batch| {
            p.leave_and_join(batch)[0]
        });
        timed(&mut group, id("leave"), p, |p, batch| {
            p.leave_and_join(batch)[1]
        });
        timed(&mut group, id("drop"), p, Population::drop_and_enter);
    }
    group.finish();
}

/// A session with many topics: join and leave search its list, so here the time may grow. Shows how many
/// topics of a session are too many.
fn own_topics(c: &mut Criterion) {
    let mut group = c.benchmark_group("own_topics");
    for own in [10, 100, 1_000, 10_000] {
        let p = &mut Population::new(4, own, 4 * own);
        let id = |name| BenchmarkId::new(name, own);
        timed(&mut group, id("join"), p, |p, batch| {
            p.join_and_leave(batch)[0]
        });
        timed(&mut group, id("leave"), p, |p, batch| {
            p.leave_and_join(batch)[1]
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = many_topics, one_topic, own_topics);
criterion_main!(benches);
