//! Clients of all speeds, a publisher, outages and slow answers, in any order: no value is older than
//! what the client had, and in the end everybody has the newest of everything.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::world::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PATTERN: &str = "market:tick:*";

struct Reader {
    key: SessionKey,
    holds: BTreeSet<String>,
    /// The newest of each name and pattern.
    newest: BTreeMap<(String, Option<String>), u64>,
    /// Asks for the ends of last values.
    asks_ends: bool,
    /// The last values since `subscribed`, of each name whose end is to come.
    values: BTreeMap<String, u64>,
}

struct Run {
    bench: Bench,
    random: Random,
    readers: Vec<Reader>,
    /// What the stream holds.
    stream: BTreeMap<String, u64>,
    published: u64,
    is_up: bool,
    /// Questions that the bus has taken so far, and what it answers: the stream as it was then.
    taken: usize,
    asked: Vec<(String, u64, BTreeMap<String, u64>)>,
}

impl Reader {
    /// After each `subscribed` one end, which counts the values behind it.
    fn note_end(&mut self, message: &Value) {
        let name = |value: &Value| value.as_str().expect("a name").to_owned();
        if message["type"] == "retained" {
            let count = self.values.remove(&name(&message["channel"]));
            assert_eq!(count, message["count"].as_u64(), "{message}");
            return;
        }
        for channel in message["channels"].as_array().into_iter().flatten() {
            match message["type"] == "subscribed" && self.asks_ends {
                true => self.values.insert(name(channel), 0),
                false => self.values.remove(&name(channel)),
            };
        }
    }
}

fn subject(n: u64) -> String {
    format!("market:tick:{}", NAMES[n as usize % NAMES.len()])
}

/// A message that says which it is, of some size.
fn payload(n: u64, bytes: usize) -> String {
    format!("[{n},\"{}\"]", "x".repeat((n % 7) as usize * bytes))
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::made(settings(), |gateway| gateway.with_retained(1 << 20));
        bench.bus(BusEvent::Up);
        let readers = (0..4).map(|n| (n, bench.client())).map(|(n, key)| Reader {
            key,
            holds: BTreeSet::new(),
            newest: BTreeMap::new(),
            asks_ends: n % 2 == 0,
            values: BTreeMap::new(),
        });
        Self {
            readers: readers.collect(),
            bench,
            random: Random::new(seed),
            stream: BTreeMap::new(),
            published: 0,
            is_up: true,
            taken: 0,
            asked: Vec::new(),
        }
    }

    fn step(&mut self) {
        let (reader, n) = (self.random.below(4) as usize, self.random.below(8));
        match self.random.below(100) {
            0..15 => self.publish(&subject(n)),
            15..35 => self.subscribe(reader, &subject(n)),
            35..40 => self.subscribe(reader, PATTERN),
            40..48 => self.unsubscribe(reader, n),
            48..75 => self.answer(),
            75..90 => {
                let room = 1 + self.random.below(100_000) as usize;
                self.read(reader, room);
            }
            90..97 => self.bench.world.advance(n * 100_000),
            97..98 if self.is_up => self.down(),
            _ => self.up(),
        }
        self.take_questions();
    }

    fn publish(&mut self, subject: &str) {
        self.published += 1;
        self.stream.insert(subject.to_owned(), self.published);
        if !self.is_up {
            return;
        }
        for (name, pattern) in [(subject, None), (PATTERN, Some(PATTERN))] {
            if self.bench.world.outputs.wanted.get(name) != Some(&true) {
                continue;
            }
            self.bench.bus(BusEvent::Message(BusMessage {
                subject: subject.into(),
                pattern: pattern.map(Into::into),
                payload: payload(self.published, 1_000).into_bytes(),
                position: None,
                place: Place::Outside,
                received: self.bench.world.now,
                quiet: false,
            }));
        }
    }

    fn subscribe(&mut self, reader: usize, name: &str) {
        let key = self.readers[reader].key;
        self.readers[reader].holds.insert(name.to_owned());
        let status = self.readers[reader].asks_ends;
        let request = json!({"action": "subscribe", "channels": [name], "status": status});
        self.bench.say(key, &request);
        if self.is_up {
            self.bench.confirm(name);
        }
    }

    fn unsubscribe(&mut self, reader: usize, n: u64) {
        let holds = self.readers[reader].holds.iter();
        let Some(name) = holds.cycle().nth(n as usize).cloned() else {
            return;
        };
        self.readers[reader].holds.remove(&name);
        let key = self.readers[reader].key;
        self.bench.unsubscribe(key, &[&name]);
    }

    fn take_questions(&mut self) {
        let questions = &self.bench.world.outputs.retained[self.taken..];
        for (name, number) in questions {
            assert!(self.is_up, "asked while the bus is away");
            let answer = (name.clone(), *number, self.stream.clone());
            self.asked.push(answer);
        }
        self.taken = self.bench.world.outputs.retained.len();
    }

    /// Answers some question with what the stream held when the bus was asked.
    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let at = self.random.below(self.asked.len() as u64) as usize;
        let (name, number, stream) = self.asked.remove(at);
        let pattern = (name == PATTERN).then_some(PATTERN);
        let held = stream
            .iter()
            .filter(|(subject, _)| pattern.is_some() || **subject == name);
        for (subject, n) in held {
            self.bench
                .numbered_value(subject, pattern, &payload(*n, 60_000), number);
        }
        self.bench.end_of(&name, number);
    }

    fn down(&mut self) {
        self.is_up = false;
        self.asked.clear();
        self.bench.bus(BusEvent::Gap { lost: None });
        self.bench.down();
        self.taken = self.bench.world.outputs.retained.len();
    }

    /// The bus is back: all names stand, and clients that saw the gap ask again.
    fn up(&mut self) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        let wanted = self.bench.world.outputs.wanted.clone();
        for name in wanted.iter().filter(|(_, wanted)| **wanted) {
            self.bench.confirm(name.0);
        }
        self.bench.bus(BusEvent::Up);
        self.take_questions();
        for reader in 0..self.readers.len() {
            for name in self.readers[reader].holds.clone() {
                self.subscribe(reader, &name);
            }
        }
    }

    fn read(&mut self, reader: usize, room: usize) {
        let reader = &mut self.readers[reader];
        let socket = self.bench.world.net.sockets.get_mut(&reader.key);
        socket.expect("a socket").room = 0;
        self.bench.world.open_window(reader.key, room);
        for message in self.bench.got(reader.key) {
            let text = |field: &str| message[field].as_str().map(str::to_owned);
            if message["type"] != "data" {
                reader.note_end(&message);
                continue;
            }
            let name = (text("channel").expect("a channel"), text("pattern"));
            let n = message["data"][0].as_u64().expect("a number");
            let is_value = message["retained"] == true;
            let of = name.1.as_ref().unwrap_or(&name.0);
            if let Some(values) = reader.values.get_mut(of).filter(|_| is_value) {
                *values += 1;
            }
            let before = reader.newest.insert(name, n).unwrap_or(0);
            // A value may come twice.
            assert!(before < n || is_value && before == n, "{before}, then {n}");
        }
    }

    fn end(mut self) {
        self.up();
        loop {
            self.take_questions();
            for reader in 0..self.readers.len() {
                self.read(reader, usize::MAX);
            }
            self.take_questions();
            if self.asked.is_empty() {
                break;
            }
            self.answer();
        }
        for reader in &self.readers {
            assert!(self.bench.world.hub.core().is_open(reader.key));
            assert_eq!(reader.values, BTreeMap::new(), "ends to come");
            for (subject, n) in &self.stream {
                for (name, pattern) in [(subject.as_str(), None), (PATTERN, Some(PATTERN))] {
                    let key = (subject.clone(), pattern.map(str::to_owned));
                    if reader.holds.contains(name) {
                        assert_eq!(reader.newest.get(&key), Some(n), "{key:?}");
                    }
                }
            }
        }
        let stats = &self.bench.stats;
        let left = (stats.retained_waiting.get(), stats.retained_bytes.get());
        assert_eq!(left, (0, 0));
    }
}

#[test]
fn nobody_gets_an_older_value_and_in_the_end_everybody_has_the_newest() {
    for seed in 0..30 {
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.step();
        }
        run.end();
    }
}
