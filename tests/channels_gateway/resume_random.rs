//! Random clients that come, go, come back and ask for more, over a bus that is lost now and then: what
//! each client is told about its messages is true.

use std::collections::BTreeMap;

use super::resume::limits;
use super::*;
use crate::world::Random;

const NAMES: [&str; 3] = ["market:tick", "indicators:a", "indicators:*"];
const SEEDS: u64 = 20;
const STEPS: usize = 400;

/// What a client knows of a name: where it is, and whether the next message must be the next offset.
type Positions = BTreeMap<String, (String, u64)>;

#[derive(Default)]
struct Seen {
    positions: Positions,
    /// What it has asked to resume, by request.
    asked: BTreeMap<u64, Positions>,
    /// Names with an answer.
    granted: Vec<String>,
    /// Messages that followed a recovery without a hole.
    recovered: usize,
}

struct Run {
    bench: Bench,
    random: Random,
    clients: BTreeMap<SessionKey, Seen>,
    gone: Vec<Positions>,
    /// The payload of each message that has ever come, by name, epoch and offset.
    payloads: BTreeMap<(String, String, u64), u64>,
    published: u64,
    requests: u64,
    recovered: usize,
    /// The bus is there.
    up: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let limits = HistoryLimits {
            messages: 4,
            keep_us: 5 * SECOND,
            names_max: 3,
            ..limits()
        };
        Self {
            bench: Bench::remembering(settings(), limits),
            random: Random::new(seed),
            clients: BTreeMap::new(),
            gone: Vec::new(),
            payloads: BTreeMap::new(),
            published: 0,
            requests: 0,
            recovered: 0,
            up: true,
        }
    }

    fn pick(&mut self) -> Option<SessionKey> {
        let at = self.random.below(self.clients.len() as u64) as usize;
        self.clients.keys().nth(at).copied()
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.publish(),
            45..60 => self.confirm(),
            60..72 => self.come(),
            72..80 => self.go(),
            80..90 => self.ask_again(),
            90..97 => {
                let us = self.random.below(SECOND);
                self.bench.world.advance(us);
            }
            97 => self.lose(),
            98 => {
                let name = self.random.below(2) as usize;
                let skipped = Subscription::channel(NAMES[name]);
                self.bench.bus(BusEvent::Skipped(skipped));
            }
            _ => {
                self.up = true;
                self.bench.bus(BusEvent::Up);
            }
        }
        let keys: Vec<_> = self.clients.keys().copied().collect();
        keys.into_iter().for_each(|key| self.look(key));
    }

    /// The bus sends what is subscribed there, and nothing else.
    fn publish(&mut self) {
        let name = NAMES[self.random.below(3) as usize];
        let is_wanted = self.bench.world.outputs.wanted.get(name) == Some(&true);
        if !self.up || !is_wanted {
            return;
        }
        self.published += 1;
        let pattern = name.contains('*').then(|| name.into());
        self.bench.bus(BusEvent::Message(BusMessage {
            subject: name.replace('*', "z").into(),
            pattern,
            payload: self.published.to_string().into_bytes(),
            position: None,
            received: self.bench.world.now,
            quiet: false,
        }));
    }

    fn confirm(&mut self) {
        let name = NAMES[self.random.below(3) as usize];
        if self.bench.world.outputs.wanted.get(name) == Some(&true) {
            self.bench.confirm(name);
        }
    }

    fn lose(&mut self) {
        self.up = false;
        self.bench.bus(BusEvent::Gap { lost: None });
        self.bench.down();
    }

    /// Somebody new, or somebody who was here.
    fn come(&mut self) {
        if self.clients.len() > 5 {
            return;
        }
        let key = self.bench.client();
        let mut seen = Seen::default();
        if !self.gone.is_empty() && self.random.chance(80) {
            let at = self.random.below(self.gone.len() as u64) as usize;
            seen.positions = self.gone.swap_remove(at);
        }
        self.clients.insert(key, seen);
        self.ask(key);
    }

    fn ask_again(&mut self) {
        if let Some(key) = self.pick() {
            self.ask(key);
        }
    }

    fn ask(&mut self, key: SessionKey) {
        self.requests += 1;
        let id = self.requests;
        let names: Vec<&str> = (0..=self.random.below(3))
            .map(|_| NAMES[self.random.below(3) as usize])
            .collect();
        let action = match self.random.chance(15) {
            true => "unsubscribe",
            false => "subscribe",
        };
        let seen = self.clients.get_mut(&key).expect("a client");
        let mut request = json!({"action": action, "channels": names, "requestId": id});
        // As the libraries do: on a new connection, for names that are not held.
        if action == "subscribe" && seen.granted.is_empty() && seen.asked.is_empty() {
            let since: serde_json::Map<String, Value> = seen
                .positions
                .iter()
                .map(|(name, (epoch, offset))| {
                    (name.clone(), json!({"epoch": epoch, "offset": offset}))
                })
                .collect();
            request["since"] = since.into();
            seen.asked.insert(id, seen.positions.clone());
        } else {
            seen.asked.insert(id, Positions::new());
        }
        if action == "unsubscribe" {
            // At once, whatever the client is told until the response.
            seen.granted.retain(|held| !names.contains(&held.as_str()));
        }
        seen.positions.retain(|name, _| seen.granted.contains(name));
        self.bench.say(key, &request);
    }

    fn go(&mut self) {
        let Some(key) = self.pick() else { return };
        self.look(key);
        self.bench.world.end(key, true);
        let seen = self.clients.remove(&key).expect("a client");
        self.recovered += seen.recovered;
        let mut positions = seen.positions;
        positions.retain(|name, _| seen.granted.contains(name));
        self.gone.push(positions);
    }

    /// Checks what a client has got.
    fn look(&mut self, key: SessionKey) {
        for message in self.bench.got(key) {
            let seen = self.clients.get_mut(&key).expect("a client");
            match message["type"].as_str() {
                Some("data") => data(seen, &mut self.payloads, &message),
                Some("subscribed") => subscribed(seen, &message),
                Some("unsubscribed") => {
                    let gone = message["channels"].as_array().expect("names");
                    for name in gone.iter().filter_map(Value::as_str) {
                        seen.granted.retain(|held| held != name);
                        seen.positions.remove(name);
                    }
                }
                other => panic!("{other:?}: {message}"),
            }
        }
    }
}

fn subscribed(seen: &mut Seen, message: &Value) {
    let id = message["requestId"].as_u64().expect("an id");
    let asked = seen.asked.remove(&id).expect("a request");
    let names = message["channels"].as_array().expect("names");
    for name in names.iter().filter_map(Value::as_str) {
        if let Some((epoch, offset)) = asked.get(name) {
            let recovered = message["recovered"][name].as_bool().expect("it says so");
            if recovered {
                // The next message has to be the next one.
                seen.positions
                    .insert(name.to_owned(), (epoch.clone(), *offset));
                seen.granted.push(name.to_owned());
                continue;
            }
        }
        let now = &message["positions"][name];
        if let (Some(epoch), Some(offset)) = (now["epoch"].as_str(), now["offset"].as_u64()) {
            let is_held = seen.granted.iter().any(|held| held == name);
            if let Some((before, last)) = seen.positions.get(name)
                && is_held
                && before == epoch
            {
                assert_eq!(*last, offset, "a hole: {message}");
            }
            seen.positions
                .insert(name.to_owned(), (epoch.to_owned(), offset));
        }
        seen.granted.push(name.to_owned());
    }
}

fn data(seen: &mut Seen, payloads: &mut BTreeMap<(String, String, u64), u64>, message: &Value) {
    let name = message["pattern"]
        .as_str()
        .or_else(|| message["channel"].as_str());
    let name = name.expect("a name").to_owned();
    let Some(offset) = message["offset"].as_u64() else {
        // Before the bus has confirmed, for the first time or after a loss.
        seen.positions.remove(&name);
        return;
    };
    let known = seen.positions.get(&name).cloned();
    let epoch = match message["epoch"].as_str() {
        Some(epoch) => epoch.to_owned(),
        None => match &known {
            Some((epoch, _)) => epoch.clone(),
            // Of a client that joined before its answer, which says where the name is.
            None => return,
        },
    };
    if let Some((before, last)) = known
        && before == epoch
    {
        assert_eq!(offset, last + 1, "a hole or a repetition: {message}");
        seen.recovered += 1;
    }
    let payload = message["data"].as_u64().expect("a number");
    let first = *payloads
        .entry((name.clone(), epoch.clone(), offset))
        .or_insert(payload);
    assert_eq!(first, payload, "one offset for two messages: {message}");
    seen.positions.insert(name, (epoch, offset));
}

#[test]
fn what_clients_are_told_is_true() {
    let (mut recovered, mut outcomes) = (0, BTreeMap::new());
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        (0..STEPS).for_each(|_| run.step());
        while run.pick().is_some() {
            run.go();
        }
        run.bench.world.advance(20 * SECOND);
        assert_eq!(run.bench.counts(), (0, 0, 0), "seed {seed}");
        assert_eq!(run.bench.stats.history_names(), 0, "seed {seed}");
        assert_eq!(run.bench.stats.history_messages(), 0, "seed {seed}");
        recovered += run.recovered;
        for (outcome, count) in run.bench.stats.resumes() {
            *outcomes.entry(outcome).or_insert(0) += count;
        }
    }
    println!("{recovered} {outcomes:?}");
    assert!(recovered > 1_000 && outcomes["recovered"] > 50 && outcomes["epoch"] > 50);
    assert!(outcomes["window"] > 10);
}
