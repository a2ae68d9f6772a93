//! One deflate window for all clients: every text that a client inflates is a text that was
//! published, whatever its window holds. Wrong bookkeeping shows as wrong numbers in good JSON, so
//! each client here has an inflater of its own for good, and is compared text by text.
//!
//! `WINDOW_SEEDS=n` runs the seeds from 0 up to n (by default 30), `WINDOW_SEED=n` one seed.

#![allow(
    clippy::disallowed_methods,
    reason = "the number of seeds comes from the environment"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::fmt::Write;
use std::sync::Arc;

use weirgate_core::{
    Accepted, Admission, ByClient, ConflationKey, Core, Entrance, Frame, Gateway, HubStats,
    Incoming, Limits, Publication, Retain, SendQueueLimits, SessionKey, TopicName,
};
use weirgate_wire::RequestHead;

use super::{small_queue, state};
use crate::world::client::{NO_TAKEOVER, frame};
use crate::world::state::State;
use crate::world::{Random, World};

const TOPICS: [TopicName; 2] = [TopicName::fixed("a"), TopicName::fixed("b")];

/// Members of the topics that their path names, and answers to what they say.
#[derive(Debug, Default)]
struct Feeds {
    quiet: [Option<Arc<Frame>>; 2],
}

enum In {
    Publish(usize, String),
    /// Kept for newcomers only, until it is delivered.
    Quiet(usize, String),
    Deliver(usize),
}

impl Feeds {
    fn publish(core: &mut Core, topic: usize, frame: Arc<Frame>, deliver: bool) {
        core.publish(&Publication {
            deliver,
            retain: Retain::Set,
            ..Publication::new(TOPICS[topic].clone(), frame)
        });
    }
}

impl Gateway for Feeds {
    type Client = Vec<usize>;
    type In = In;
    type Out = Infallible;

    fn entrance(&self, _: &str) -> Entrance<'_> {
        Entrance::Clients(weirgate_wire::auth::Origins::any())
    }

    fn admit(
        &mut self,
        _: &mut Core,
        _: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Vec<usize>> {
        let path = head.path();
        let named = (0..TOPICS.len()).filter(|&topic| path.contains(TOPICS[topic].as_str()));
        Admission::Accept(Accepted::default(), named.collect())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, topics: &mut Vec<usize>) {
        for &topic in topics.iter() {
            core.join(key, &TOPICS[topic]);
        }
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        _: &mut Vec<usize>,
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        let answer = Frame::text(core.frame_bytes()).answer();
        let answer = answer.body(text.as_bytes()).finish();
        core.send(key, &answer);
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<Vec<usize>>, input: In) {
        match input {
            In::Publish(topic, body) => {
                let frame = keyed(core, topic, &body);
                self.quiet[topic] = None;
                Self::publish(core, topic, frame, true);
            }
            In::Quiet(topic, body) => {
                let frame = keyed(core, topic, &body);
                self.quiet[topic] = Some(Arc::clone(&frame));
                Self::publish(core, topic, frame, false);
            }
            In::Deliver(topic) => {
                if let Some(frame) = self.quiet[topic].take() {
                    Self::publish(core, topic, frame, true);
                }
            }
        }
    }
}

fn keyed(core: &Core, topic: usize, body: &str) -> Arc<Frame> {
    Frame::text(core.frame_bytes())
        .key(ConflationKey(topic as u64))
        // Some messages are of one user alone.
        .common(!body.len().is_multiple_of(7))
        .received(core.now())
        .body(body.as_bytes())
        .finish()
}

/// A document that changes from message to message, and now and then its size.
struct Document {
    numbers: Vec<u64>,
}

impl Document {
    fn new(random: &mut Random) -> Self {
        let len = [5, 40, 300, 300, 1_000, 6_000][random.below(6) as usize];
        let numbers = (0..len).map(|_| random.next() >> 20).collect();
        Self { numbers }
    }

    fn next(&mut self, random: &mut Random, number: usize) -> String {
        if random.chance(10) {
            *self = Self::new(random);
        }
        let percent = [0, 2, 30, 100][random.below(4) as usize];
        for value in &mut self.numbers {
            if random.chance(percent) {
                *value = random.next() >> 20;
            }
        }
        let mut text = format!("{{\"n\":{number},\"of\":[");
        for value in &self.numbers {
            let _ = write!(text, "{value},");
        }
        text.pop();
        text + "]}"
    }
}

fn limits(random: &mut Random) -> Limits {
    let pick = |random: &mut Random, of: &[usize]| of[random.below(of.len() as u64) as usize];
    Limits {
        deflate_level: 1 + random.below(6) as u32,
        deflate_min_bytes: pick(random, &[0, 256]),
        deflate_max_bytes: pick(random, &[20_000, 1 << 20]),
        write_bytes_max: pick(random, &[200, 700, 3_000, 1 << 17]),
        frame_bytes_max: u64::MAX,
        ping_interval_us: 0,
        send_queue: SendQueueLimits {
            soft_bytes: pick(random, &[2_000, 20_000, 1 << 18]),
            hard_bytes: usize::MAX,
            soft_for_us: u64::MAX / 2,
            conflate_after_us: 100_000 << random.below(5),
            stall_us: u64::MAX / 2,
            control_bytes_max: 1 << 20,
        },
        ..Limits::default()
    }
}

/// What one client has had, and answers that it waits for.
#[derive(Default)]
struct Member {
    paths: &'static str,
    newest: BTreeMap<usize, usize>,
    asked: Vec<String>,
}

struct Run {
    random: Random,
    world: World<Feeds>,
    documents: [Document; 2],
    /// All texts by number, and the topic of each.
    published: Vec<(usize, String)>,
    members: BTreeMap<SessionKey, Member>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let limits = limits(&mut random);
        Self {
            world: World::new(limits, Feeds::default(), seed),
            documents: [(); 2].map(|()| Document::new(&mut random)),
            published: Vec::new(),
            members: BTreeMap::new(),
            random,
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len() as u64) as usize]
    }

    fn connect(&mut self) {
        let paths = self.pick(&["/a", "/a", "/a", "/ab", "/b"]);
        let bits = self.pick(&[
            None,
            Some(15),
            Some(15),
            Some(15),
            Some(15),
            Some(12),
            Some(9),
            Some(NO_TAKEOVER),
        ]);
        self.world.held = false;
        let key = self.world.connect(paths, bits);
        if self.random.chance(50) {
            let socket = self.world.net.sockets.get_mut(&key).expect("a socket");
            socket.room = self.random.below(30_000) as usize;
        }
        let member = Member {
            paths,
            ..Member::default()
        };
        self.members.insert(key, member);
    }

    fn publish(&mut self) {
        let topic = usize::from(self.random.chance(30));
        let number = self.published.len();
        let text = self.documents[topic].next(&mut self.random, number);
        self.published.push((topic, text.clone()));
        let input = match self.random.chance(10) {
            true => In::Quiet(topic, text),
            false => In::Publish(topic, text),
        };
        self.world.hub.handle_input(self.world.now, input);
        if self.random.chance(15) {
            let deliver = In::Deliver(topic);
            self.world.hub.handle_input(self.world.now, deliver);
        }
    }

    fn step(&mut self, step: usize) {
        // Several things may happen before a flush.
        self.world.held = self.random.chance(30);
        match self.random.below(100) {
            0..62 => self.publish(),
            62..70 => self.connect(),
            70..88 => {
                if let Some(key) = self.someone() {
                    let room = self.pick(&[1, 40, 900, 5_000, 40_000, 1 << 20]);
                    let room = self.random.below(room) as usize;
                    self.world.open_window(key, room);
                }
            }
            88..92 => {
                if let Some(key) = self.someone() {
                    let text = format!("answer {step}");
                    self.world.text(key, &text);
                    self.members.get_mut(&key).expect("one").asked.push(text);
                }
            }
            92..94 => {
                if let Some(key) = self.someone() {
                    self.world.send(key, &frame(0x89, b"?"));
                }
            }
            _ => self.world.advance(50_000 + self.random.below(2_000_000)),
        }
        if !self.world.held {
            self.world.settle();
        }
        self.compare();
    }

    fn someone(&mut self) -> Option<SessionKey> {
        let count = self.members.len().max(1) as u64;
        let at = self.random.below(count) as usize;
        self.members.keys().nth(at).copied()
    }

    /// What came since the last call is what was published, in its order.
    fn compare(&mut self) {
        for (key, member) in &mut self.members {
            for text in self.world.texts(*key) {
                if let Some(at) = member.asked.iter().position(|asked| *asked == text) {
                    assert_eq!(at, 0, "answers in their order");
                    member.asked.remove(0);
                    continue;
                }
                let number = text.strip_prefix("{\"n\":").and_then(|t| t.split_once(','));
                let number = number.and_then(|(number, _)| number.parse::<usize>().ok());
                let number = number.unwrap_or_else(|| panic!("never published: {text}"));
                let (topic, published) = &self.published[number];
                assert!(*published == text, "other text under {number}: {text}");
                let before = member.newest.insert(*topic, number);
                assert!(before.is_none_or(|before| before < number), "in order");
            }
        }
    }

    /// Everybody reads all that waits; whoever is a member has the newest.
    fn finish(mut self) -> HubStats {
        self.world.held = false;
        for topic in 0..TOPICS.len() {
            self.world
                .hub
                .handle_input(self.world.now, In::Deliver(topic));
        }
        self.world.settle();
        let keys: Vec<_> = self.members.keys().copied().collect();
        for key in keys {
            self.world.open_window(key, 1 << 40);
        }
        self.compare();
        for (key, member) in &self.members {
            assert!(member.asked.is_empty(), "{key:?}: all answers");
            for (topic, name) in TOPICS.iter().enumerate() {
                let newest = self.published.iter().rposition(|(of, _)| *of == topic);
                let got = member.newest.get(&topic).copied();
                if member.paths.contains(name.as_str()) {
                    assert!(got == newest, "{key:?}: {got:?} of {newest:?}");
                } else {
                    assert_eq!(got, None, "{key:?}: no member");
                }
            }
        }
        self.world.hub.check_invariants();
        self.world.hub.stats().clone()
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|v| !v.is_empty())?;
    Some(value.parse().expect("a number"))
}

#[test]
fn every_inflated_text_is_one_that_was_published() {
    let only = number_from_env("WINDOW_SEED");
    let seeds = number_from_env("WINDOW_SEEDS").unwrap_or(30);
    let (mut chained, mut alone, mut stored, mut conflated) = (0, 0, 0, 0);
    for seed in only.map_or(0..seeds, |seed| seed..seed + 1) {
        let outcome = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            (0..90).for_each(|step| run.step(step));
            run.finish()
        });
        let stats = outcome.unwrap_or_else(|_| panic!("seed {seed}: WINDOW_SEED={seed}"));
        chained += stats.encodings_chained;
        alone += stats.encodings_alone;
        stored += stats.encodings_stored;
        conflated += stats.messages_conflated;
    }
    println!("chained {chained} alone {alone} stored {stored} conflated {conflated}");
    if only.is_none() {
        let rare = [chained, alone, stored, conflated].into_iter().min();
        assert!(rare > Some(seeds), "chained {chained} alone {alone}");
    }
}

#[test]
fn a_large_message_refers_to_none() {
    for (times, chained) in [(50, 3), (70, 0)] {
        let mut world = state(small_queue());
        let key = world.connect("/ws", Some(15));
        for number in 0..4 {
            let body = document(number).repeat(times);
            assert_eq!(body.len() > 128 * 1024, chained == 0);
            world.publish("levels/1", &body);
            assert_eq!(world.texts(key), [body]);
        }
        let stats = world.hub.stats();
        assert_eq!(stats.encodings_chained, chained);
        assert_eq!(stats.encodings_alone, 4 - chained);
    }
}

#[test]
fn a_message_of_few_bytes_refers_to_none() {
    for (bytes, chained) in [(63, 0), (64, 2)] {
        let mut world = state(small_queue());
        let key = world.connect("/ws", Some(15));
        for number in 0..3 {
            let body = format!("{number}{:.>rest$}", "level", rest = bytes - 1);
            world.publish("levels/1", &body);
            assert_eq!(world.texts(key), [body]);
        }
        assert_eq!(world.hub.stats().encodings_chained, chained);
    }
}

#[test]
fn windows_of_few_clients_cost_so_many_bytes_a_second() {
    let mut world = state(Limits {
        ping_interval_us: 0,
        ..Limits::default()
    });
    let key = world.connect("/ws", Some(15));
    let body = |number| document(number).repeat(20);
    let per_message = body(0).len() + (32 << 10);
    let messages = 2 * (16 << 20) / per_message;
    let mut publish = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            world.publish("levels/1", &body(number));
            assert_eq!(world.texts(key), [body(number)]);
        }
        let chained = world.hub.stats().encodings_chained as usize;
        world.advance(1_000_000);
        chained
    };
    let first = publish(0..messages);
    assert!(
        (messages / 3..messages * 2 / 3).contains(&first),
        "{first} of {messages}"
    );
    let second = publish(0..10) - first;
    assert_eq!(second, 10);
}

/// Text that shares much with the same of another number.
fn document(number: usize) -> String {
    let lines = (0..400).map(|line| match line % 40 {
        0 => format!("{number},"),
        _ => format!("{},", line * line * 7_919 % 100_003),
    });
    lines.collect()
}

/// Clients of "levels" whose window stays, each having got one document more than the last, and
/// then the newest all together.
#[test]
fn clients_that_skip_cost_so_many_compressions_together() {
    let mut world = state(Limits {
        ping_interval_us: 0,
        ..small_queue()
    });
    let keys: Vec<_> = (0..10).map(|_| world.connect("/ws", Some(15))).collect();
    world.publish("levels/1", &document(0));
    let alone = world.net.sockets[&keys[0]].bytes;
    for (number, key) in (1..).zip(&keys) {
        world.net.sockets.get_mut(key).expect("a socket").room = 0;
        // Begun frames would have to be finished first, so its kernel is full without one.
        world.hub.handle_writable(world.now, *key);
        world.publish("levels/1", &document(number));
    }
    let before = world.hub.stats().clone();
    let bytes = |world: &World<State>| keys.iter().map(|k| world.net.sockets[k].bytes).sum::<u64>();
    let sent = bytes(&world);
    for key in &keys {
        world.open_window(*key, usize::MAX);
        assert_eq!(world.texts(*key).pop(), Some(document(10)));
    }
    let after = world.hub.stats();
    // After four documents in all: the encoding after the document before was made already, for the
    // last client. The others get the newest alone.
    assert_eq!(after.encodings_chained - before.encodings_chained, 3);
    assert_eq!(after.encodings_alone - before.encodings_alone, 1);
    let each = (bytes(&world) - sent) / 10;
    assert!(each < alone * 2 / 3, "{each} instead of {alone}");
}
