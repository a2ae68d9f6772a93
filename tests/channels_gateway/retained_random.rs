//! Clients of all speeds, a publisher that puts and deletes, outages and slow answers in pages, in any order: no value is
//! older than what the client had, no deleted one comes back, and in the end everybody has the newest of everything.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::world::{Random, seeds};

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
    /// What the stream holds: the number of each subject's last message.
    stream: BTreeMap<String, u64>,
    subject_of: BTreeMap<u64, String>,
    /// The numbers that are deletions.
    deletions: BTreeSet<u64>,
    published: u64,
    is_up: bool,
    /// Questions that the bus has taken so far, and requests for another page.
    taken: (usize, usize),
    /// What the bus brings: pages of these questions, from which number on.
    asked: Vec<(String, u64, u64)>,
    /// Questions whose clients take a page.
    paused: BTreeMap<u64, (String, u64)>,
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
            subject_of: BTreeMap::new(),
            deletions: BTreeSet::new(),
            published: 0,
            is_up: true,
            taken: (0, 0),
            asked: Vec::new(),
            paused: BTreeMap::new(),
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
        self.subject_of.insert(self.published, subject.to_owned());
        let is_deletion = self.random.below(4) == 0;
        if is_deletion {
            self.deletions.insert(self.published);
        }
        if !self.is_up {
            return;
        }
        for (name, pattern) in [(subject, None), (PATTERN, Some(PATTERN))] {
            if self.bench.world.outputs.wanted.get(name) != Some(&true) {
                continue;
            }
            let payload = match is_deletion {
                true => Vec::new(),
                false => payload(self.published, 1_000).into_bytes(),
            };
            let message = BusMessage {
                pattern: pattern.map(Into::into),
                ..BusMessage::new(subject, payload, self.bench.world.now)
            };
            self.bench.bus(BusEvent::of(message, is_deletion));
        }
    }

    /// A reader with very many unread answers has to take them first.
    fn be_heard(&mut self, reader: usize) {
        if !self.bench.world.hub.wants_read(self.readers[reader].key) {
            self.read(reader, usize::MAX);
        }
    }

    fn subscribe(&mut self, reader: usize, name: &str) {
        self.be_heard(reader);
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
        self.be_heard(reader);
        self.readers[reader].holds.remove(&name);
        let key = self.readers[reader].key;
        self.bench.unsubscribe(key, &[&name]);
    }

    fn take_questions(&mut self) {
        let outputs = &self.bench.world.outputs;
        for (name, number) in &outputs.retained[self.taken.0..] {
            assert!(self.is_up, "asked while the bus is away");
            let read = self.bench.read_before(*number);
            self.asked.push((name.clone(), *number, read));
        }
        for (_, number) in &outputs.more[self.taken.1..] {
            // The connection may have ended before.
            if let Some((name, read)) = self.paused.remove(number) {
                self.asked.push((name, *number, read));
            }
        }
        self.taken = (outputs.retained.len(), outputs.more.len());
    }

    /// Answers some question with a page of what the stream holds behind what it has brought.
    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let at = self.random.below(self.asked.len() as u64) as usize;
        let (name, number, mut read) = self.asked.remove(at);
        let pattern = (name == PATTERN).then_some(PATTERN);
        let held = self.stream.iter();
        let held =
            held.filter(|(subject, n)| **n > read && (pattern.is_some() || **subject == name));
        let mut held: Vec<(u64, String)> = held.map(|(subject, n)| (*n, subject.clone())).collect();
        held.sort_unstable();
        let page = self.random.below(4) as usize;
        let has_more = pattern.is_some() && page < held.len();
        for (n, subject) in held
            .into_iter()
            .take(if has_more { page } else { usize::MAX })
        {
            let payload = match self.deletions.contains(&n) {
                true => String::new(),
                false => payload(n, 60_000),
            };
            self.bench
                .numbered_value(&subject, pattern, &payload, number);
            read = n;
        }
        match has_more {
            true => {
                self.paused.insert(number, (name, read));
                self.bench.page_of(number, read, true);
            }
            false => self.bench.end_of(&name, number),
        }
    }

    fn down(&mut self) {
        self.is_up = false;
        let paused = std::mem::take(&mut self.paused).into_iter();
        let asked = std::mem::take(&mut self.asked).into_iter();
        let open = paused.map(|(number, (_, read))| (number, read));
        let open: Vec<_> = open
            .chain(asked.map(|(_, number, read)| (number, read)))
            .collect();
        if self.random.below(2) == 0 {
            for (number, read) in open {
                self.bench.page_of(number, read, false);
            }
        }
        self.bench.bus(BusEvent::Gap { lost: None });
        self.bench.down();
        let outputs = &self.bench.world.outputs;
        self.taken = (outputs.retained.len(), outputs.more.len());
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
        let subject_of = &self.subject_of;
        for message in self.bench.got(reader.key) {
            let text = |field: &str| message[field].as_str().map(str::to_owned);
            if message["type"] != "data" {
                reader.note_end(&message);
                continue;
            }
            let name = (text("channel").expect("a channel"), text("pattern"));
            let before = reader.newest.get(&name).copied().unwrap_or(0);
            let of_subject = |n: &&u64| subject_of[n] == name.0;
            let n = match message["deleted"] == true {
                // A deletion does not say which it is.
                true => {
                    let first = before + u64::from(message["retained"] != true);
                    let mut deletions = self.deletions.range(first..).filter(of_subject);
                    *deletions.next().expect("a deletion that is no older")
                }
                false => message["data"][0].as_u64().expect("a number"),
            };
            let is_value = message["retained"] == true;
            let of = name.1.as_ref().unwrap_or(&name.0);
            if let Some(values) = reader.values.get_mut(of).filter(|_| is_value) {
                *values += 1;
            }
            reader.newest.insert(name, n);
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
                    if !reader.holds.contains(name) {
                        continue;
                    }
                    let got = reader.newest.get(&key).copied();
                    let is_same = match self.deletions.contains(n) {
                        true => got.is_some_and(|got| self.deletions.contains(&got)),
                        false => got == Some(*n),
                    };
                    assert!(is_same, "{key:?}: {got:?}, not {n}");
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
    let run = |seed| {
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.step();
        }
        run.end();
    };
    seeds::run_all("channels_gateway", 40, run, |()| {});
}
