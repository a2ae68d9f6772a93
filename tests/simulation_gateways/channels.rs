//! Channels: names and patterns that clients choose, a Redis that confirms late, and numbers
//! without a gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use weirgate::auth::{Acl, Authenticator};
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{
    AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings, ChannelsStats,
};
use weirgate_core::{BusEvent, BusMessage, FeedSettings, SessionKey, Subscription};
use weirgate_wire::auth::NameSyntax;

use super::bench::{Bench, Contract, SECOND, noise, take};
use crate::world::Random;

const CHANNELS: [&str; 5] = ["a", "ab", "abc", "b", "c:1"];
const PATTERNS: [&str; 4] = ["a*", "ab*", "*", "b*"];
/// All but `c:1` and `*`.
const GRANTED: &str = r#"{"user":["a*","b*"]}"#;
const NAMES_MAX: usize = 4;
const PATTERNS_MAX: usize = 2;
/// An answer waits this long for Redis.
const WAIT_US: u64 = SECOND;

#[derive(Debug)]
struct Want {
    id: u64,
    kind: &'static str,
    /// Granted or given up.
    names: Vec<String>,
    errors: usize,
    asked_at: u64,
    /// Names that Redis had not confirmed.
    waits_for: BTreeSet<String>,
}

/// What the model knows of one client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    held: Vec<String>,
    answers: VecDeque<Want>,
    data: VecDeque<(u64, Option<String>)>,
    /// Number of the last message that came.
    seq: u64,
    /// Errors about names that Redis refuses.
    refused: Vec<String>,
    /// Losses of the bus that were told to the client and have not shown yet: a number each.
    skipped: u64,
}

impl Client {
    fn subscribe(&mut self, names: &[&str]) -> (Vec<String>, usize) {
        let (mut granted, mut errors) = (Vec::new(), 0);
        for name in names {
            let is_pattern = |name: &str| name.contains('*');
            let patterns = self.held.iter().filter(|held| is_pattern(held)).count();
            if self.held.len() >= NAMES_MAX {
                return (granted, errors + 1);
            }
            let denied = !name.starts_with(['a', 'b']);
            if denied || is_pattern(name) && patterns >= PATTERNS_MAX {
                errors += 1;
                continue;
            }
            granted.push((*name).to_owned());
            if !self.held.iter().any(|held| held == name) {
                self.held.push((*name).to_owned());
            }
        }
        (granted, errors)
    }

    fn unsubscribe(&mut self, names: &[&str]) -> Vec<String> {
        let mut gone = Vec::new();
        for name in names {
            if let Some(at) = self.held.iter().position(|held| held == name) {
                gone.push(self.held.remove(at));
            }
        }
        gone
    }
}

/// A name that somebody holds.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Of the request.
    number: u64,
    /// Whether Redis has granted the name, once the gateway knows.
    stands: Option<bool>,
}

/// See [`Contract`].
pub(crate) struct Channels {
    feed: Option<ChannelsFeed>,
    stats: Arc<ChannelsStats>,
    up: bool,
    names: BTreeMap<String, Wanted>,
}

fn subscription(name: &str) -> Subscription {
    match name.contains('*') {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    }
}

impl Bench<Channels> {
    fn bus(&mut self, event: BusEvent) {
        let mut feed = self.contract.feed.take().expect("a feed");
        let publications = self.publish(&mut feed, event);
        self.contract.feed = Some(feed);
        self.deliver(&publications);
    }

    /// A name that is given up, or requested anew, is not confirmed any more.
    fn follow_interest(&mut self) {
        let asked = &self.world.outputs;
        let names = &mut self.contract.names;
        names.retain(|name, _| asked.wanted.get(name) == Some(&true));
        for (name, _) in asked.wanted.iter().filter(|(_, wanted)| **wanted) {
            let number = asked.numbers[name];
            let stands = names.get(name).filter(|known| known.number == number);
            let stands = stands.and_then(|known| known.stands);
            names.insert(name.clone(), Wanted { number, stands });
        }
    }

    /// Redis answers for a name, granted or not.
    fn settle(&mut self, name: &str) {
        let stands = self.random.chance(90);
        let late = self.random.chance(20);
        let wanted = self.contract.names.get_mut(name).expect("a wanted name");
        let mut number = wanted.number;
        if late {
            // The answer to an earlier request settles nothing.
            number -= 1;
        } else {
            wanted.stands = Some(stands);
            for known in self.clients.values_mut() {
                let holds = known.model.held.iter().any(|held| held == name);
                for want in known.model.answers.iter_mut().filter(|_| holds) {
                    want.waits_for.remove(name);
                }
                known
                    .model
                    .refused
                    .extend((holds && !stands).then(|| name.to_owned()));
            }
        }
        let subscription = subscription(name);
        self.bus(match stands {
            true => BusEvent::Subscribed {
                subscription,
                number,
            },
            false => BusEvent::Refused {
                subscription,
                number,
                fault: "no".to_owned(),
                is_loss: false,
            },
        });
    }

    /// A connection to Redis is gone: who holds a name that stood there misses a number.
    fn lose(&mut self) {
        let names = &mut self.contract.names;
        for known in self.clients.values_mut() {
            let stands = |name: &String| names.get(name).is_some_and(|w| w.stands == Some(true));
            known.model.skipped += u64::from(known.model.held.iter().any(stands));
        }
        let stood = names.values_mut().filter(|w| w.stands == Some(true));
        stood.for_each(|wanted| wanted.stands = None);
        self.bus(BusEvent::Gap { lost: None });
    }

    fn down(&mut self) {
        self.contract.up = false;
        for known in self.clients.values_mut() {
            let answers = known.model.answers.iter_mut();
            answers.for_each(|want| want.waits_for.clear());
        }
        self.bus(BusEvent::Down("gone".to_owned()));
    }

    /// One copy for the channel, then one for each pattern that somebody holds.
    fn message(&mut self) {
        self.number += 1;
        let n = self.number;
        let channel = self.random.pick(&CHANNELS);
        let matching = PATTERNS
            .iter()
            .filter(|pattern| channel.starts_with(pattern.trim_end_matches('*')));
        let copies = [None]
            .into_iter()
            .chain(matching.map(|pattern| Some(*pattern)));
        let payload = match self.random.below(10) {
            0 => format!("{n} is no JSON: \u{7f}\"").into_bytes(),
            _ => format!("[{n}]").into_bytes(),
        };
        for pattern in copies {
            let name = pattern.unwrap_or(channel);
            for known in self.clients.values_mut() {
                if known.model.held.iter().any(|held| held == name) {
                    known.model.data.push_back((n, pattern.map(str::to_owned)));
                }
            }
            self.bus(BusEvent::Message(BusMessage {
                pattern: pattern.map(Into::into),
                ..BusMessage::new(channel, payload.clone(), self.world.now)
            }));
        }
    }
}

impl Contract for Channels {
    type Gateway = ChannelsGateway;
    type Client = Client;

    fn new(_: &mut Random) -> Self {
        Self {
            feed: None,
            stats: Arc::default(),
            up: false,
            names: BTreeMap::new(),
        }
    }

    fn gateway(&mut self) -> ChannelsGateway {
        let settings = ChannelsGatewaySettings {
            channels_max: NAMES_MAX,
            name_bytes_max: 100,
            patterns_max: PATTERNS_MAX,
            all_clients: AllClientsLimits {
                names_max: 100_000,
                patterns_max: 1_000,
                name_bytes_max: 1 << 28,
            },
            inbound_per_second: 1_000_000,
            renewals_per_second: 1_000,
            default_role: "user".to_owned(),
            authenticator: Authenticator::default(),
            acl: Acl::from_json(NameSyntax::Redis, GRANTED.as_bytes()).expect("a table"),
            ..ChannelsGatewaySettings::default()
        };
        ChannelsGateway::new(settings, Arc::clone(&self.stats))
    }

    fn begin(bench: &mut Bench<Self>) {
        let settings = FeedSettings {
            bus_message_bytes_max: 5_000,
            ..FeedSettings::default()
        };
        bench.contract.feed = Some(ChannelsFeed::new(settings, bench.world.frame_bytes.clone()));
    }

    fn target(&mut self, _: &mut Random, _: bool) -> String {
        ChannelsGateway::PATH.to_owned()
    }

    fn opened(bench: &mut Bench<Self>, key: SessionKey) {
        let asked_at = bench.world.now.mono_us;
        bench.client(key).answers.push_back(Want {
            id: 0,
            kind: "connected",
            names: Vec::new(),
            errors: 0,
            asked_at,
            waits_for: BTreeSet::new(),
        });
    }

    fn say(bench: &mut Bench<Self>, key: SessionKey) {
        // More answers that wait stop the reading, which the model does not know.
        if bench.client(key).answers.len() > 50 {
            return;
        }
        bench.follow_interest();
        bench.number += 1;
        let id = bench.number;
        let long = "x".repeat(101);
        let all = [&CHANNELS[..], &PATTERNS[..], &[&long]].concat();
        let count = bench.random.below(4);
        let names: Vec<&str> = (0..count).map(|_| bench.random.pick(&all)).collect();
        let kind = bench.random.below(10);
        let asked_at = bench.world.now.mono_us;
        let up = bench.contract.up;
        let confirmed = bench.contract.names.clone();
        let client = bench.client(key);
        let mut want = Want {
            id,
            kind: "error",
            names: Vec::new(),
            errors: 0,
            asked_at,
            waits_for: BTreeSet::new(),
        };
        let action = match kind {
            0 => {
                want.kind = "pong";
                "ping"
            }
            1 => "jump",
            2 => {
                want.id = 0;
                client.answers.push_back(want);
                let words = noise(&mut bench.random, r#"{"action":1,"channels":[]}"#);
                return bench.send(key, &words);
            }
            3..7 => {
                want.kind = "subscribed";
                (want.names, want.errors) = client.subscribe(&names);
                let settled =
                    |name: &String| confirmed.get(name).is_some_and(|w| w.stands.is_some());
                let open = |name: &&String| up && !settled(name);
                want.waits_for = want.names.iter().filter(open).cloned().collect();
                let refused = |name: &&String| {
                    confirmed
                        .get(*name)
                        .is_some_and(|w| w.stands == Some(false))
                };
                client
                    .refused
                    .extend(want.names.iter().filter(refused).cloned());
                "subscribe"
            }
            _ => {
                want.kind = "unsubscribed";
                want.names = client.unsubscribe(&names);
                for waiting in &mut client.answers {
                    waiting.waits_for.retain(|name| !want.names.contains(name));
                }
                "unsubscribe"
            }
        };
        client.answers.push_back(want);
        let request = serde_json::json!({"action": action, "channels": names, "requestId": id});
        bench.send(key, request.to_string().as_bytes());
    }

    fn outside(bench: &mut Bench<Self>) {
        bench.follow_interest();
        match bench.random.below(20) {
            0 => bench.down(),
            1..4 => {
                bench.contract.up = true;
                bench.bus(BusEvent::Up);
            }
            4 => bench.lose(),
            5..10 => {
                let open = bench.contract.names.iter();
                let open = open.filter(|(_, wanted)| wanted.stands.is_none());
                let open: Vec<String> = open.map(|(name, _)| name.clone()).collect();
                if !open.is_empty() {
                    let at = bench.random.below(open.len() as u64) as usize;
                    bench.settle(&open[at]);
                }
            }
            _ => bench.message(),
        }
    }

    fn got(bench: &mut Bench<Self>, key: SessionKey, text: &str) -> bool {
        let now = bench.world.now.mono_us;
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let slow = bench.clients[&key].slow;
        let client = bench.client(key);
        let seq = json["seq"].as_u64().unwrap_or_default();
        let skipped = seq.wrapping_sub(client.seq + 1);
        let is_reported = match slow {
            // What was queued before the loss comes first.
            true => skipped <= client.skipped,
            // Losses that a client hears of together are one.
            false => skipped.min(1) == client.skipped.min(1) && skipped <= client.skipped,
        };
        assert!(
            is_reported,
            "{skipped} of {} skipped: {text}",
            client.skipped
        );
        client.skipped = if slow { client.skipped - skipped } else { 0 };
        client.seq = seq;
        if json["type"] == "data" {
            let (n, pattern) = take(&mut client.data, text);
            let data = &json["data"];
            let is_it = data[0] == n
                || data["raw"]
                    .as_str()
                    .is_some_and(|raw| raw.starts_with(&format!("{n} ")));
            assert!(
                is_it && json["pattern"] == Value::from(pattern),
                "{n}: {text}"
            );
            return true;
        }
        let error = json["error"].as_str().unwrap_or_default();
        if let Some(name) = error.strip_prefix("Refused by the bus: ") {
            let at = client.refused.iter().position(|refused| refused == name);
            client.refused.swap_remove(at.expect("a refused name"));
            return false;
        }
        let want = take(&mut client.answers, text);
        let list = |key: &str| json[key].as_array().map_or(0, Vec::len);
        let id = if want.id == 0 {
            Value::Null
        } else {
            want.id.into()
        };
        let fits = json["type"] == want.kind
            && json["requestId"] == id
            && list("errors") == want.errors
            && (list("channels") == 0 || json["channels"] == Value::from(want.names.clone()))
            && list("channels") == want.names.len();
        assert!(fits, "{want:?}, but there came {text}");
        let in_time = want.waits_for.is_empty() || now >= want.asked_at + WAIT_US;
        assert!(in_time || slow, "before Redis has confirmed: {want:?}");
        false
    }

    fn due(bench: &Bench<Self>, key: SessionKey) -> Option<String> {
        let now = bench.world.now.mono_us;
        let client = &bench.clients[&key].model;
        if let Some(data) = client.data.front() {
            return Some(format!("{data:?}"));
        }
        // Behind an answer that waits all others wait.
        let first = client.answers.front()?;
        let ready = first.waits_for.is_empty() || now >= first.asked_at + WAIT_US;
        ready.then(|| format!("{first:?}"))
    }

    fn check(bench: &Bench<Self>) {
        let held: usize = bench
            .clients
            .values()
            .map(|known| known.model.held.len())
            .sum();
        let names: BTreeSet<&String> = bench
            .clients
            .values()
            .flat_map(|known| &known.model.held)
            .collect();
        let wanted = bench
            .world
            .outputs
            .wanted
            .iter()
            .filter(|(_, wanted)| **wanted);
        assert!(
            names.iter().copied().eq(wanted.map(|(name, _)| name)),
            "interest"
        );
        let stats = &bench.contract.stats;
        let patterns = names.iter().filter(|name| name.contains('*')).count();
        let counts = (
            stats.subscriptions.get(),
            stats.channels.get(),
            stats.patterns.get(),
        );
        let exact = names.len() - patterns;
        assert_eq!(counts, (held as u64, exact as u64, patterns as u64));
    }

    fn come_to_rest(bench: &mut Bench<Self>) {
        bench.world.advance(WAIT_US);
        bench.check();
        for (key, known) in &bench.clients {
            let is_empty = known.model.answers.is_empty() && known.model.refused.is_empty();
            assert!(is_empty, "{key:?}: {:?}", known.model);
        }
    }

    fn check_empty(bench: &Bench<Self>) {
        assert!(
            bench.world.outputs.wanted.values().all(|wanted| !wanted),
            "interest is left"
        );
        let stats = &bench.contract.stats;
        assert_eq!(
            (
                stats.subscriptions.get(),
                stats.channels.get(),
                stats.patterns.get()
            ),
            (0, 0, 0)
        );
    }
}
