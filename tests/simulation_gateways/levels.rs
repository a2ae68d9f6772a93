//! Levels: every client gets the state of its path, and each newer one; a slow client skips.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use weirgate::gateways::levels::client::{LevelsGateway, LevelsPath};
use weirgate::gateways::levels::feed::{Endpoint, LevelsFeed, LevelsFeedSettings, Relay};
use weirgate_core::{
    BusEvent, BusMessage, FeedSettings, Frame, FrameBytes, Publication, Retain, SessionKey,
    StreamPosition, TopicName,
};
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

use super::bench::{Bench, Contract, noise};
use crate::world::Random;

const PATHS: [(&str, &[&str]); 2] = [("/ws/flow", &["flow"]), ("/ws/more", &["levels", "more"])];
const SUBJECTS: [&str; 4] = ["market.flow", "levels.signals", "more.stuff", "unknown"];
const LEVELS: &str = r#"{"ts":"2026-05-13T14:31:00Z","symbol":"ES","spot":5001.25,
    "levels":[{"price":5000,"level_kind":"PM_HIGH","strength":0.5,"direction":"UP"}],
    "predictions":[{"k":1,"p":0.25}],"viewport":{"low":1,"high":2}}"#;

/// What the model knows of one client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    topic: String,
    due: VecDeque<String>,
    /// What was retained when it came: never sent again.
    came_with: Option<Arc<Frame>>,
}

/// See [`Contract`].
pub(crate) struct Levels {
    feed: Option<LevelsFeed>,
    retained: BTreeMap<String, Publication>,
    sequence: u64,
    epoch: i64,
    quiet: bool,
    next: String,
}

fn settings() -> LevelsFeedSettings {
    let endpoint = |(path, keys): &(&str, &[&str])| Endpoint {
        topic: TopicName::from((*path).to_owned()),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    LevelsFeedSettings {
        messages: FeedSettings {
            bus_message_bytes_max: 5_000,
            ..FeedSettings::default()
        },
        relays: vec![Relay {
            subject: "more.stuff".to_owned(),
            key: "more".to_owned(),
        }],
        endpoints: PATHS.iter().map(endpoint).collect(),
        ..LevelsFeedSettings::default()
    }
}

fn body(publication: &Publication) -> String {
    let frame = publication.frame().expect("a frame");
    String::from_utf8(frame.body().to_vec()).expect("text")
}

impl Levels {
    fn event(&mut self, now: Now, random: &mut Random, n: u64) -> BusEvent {
        match random.below(30) {
            0 => BusEvent::Gap { lost: None },
            1 => {
                self.quiet = true;
                BusEvent::Up
            }
            2 => BusEvent::Down("gone".to_owned()),
            3..6 => {
                self.quiet = false;
                BusEvent::CaughtUp
            }
            6 => {
                (self.epoch, self.sequence) = (self.epoch + 1, 0);
                BusEvent::Gap { lost: Some(2) }
            }
            kind => {
                let subject = random.pick(&SUBJECTS);
                let good = match subject {
                    "levels.signals" => LEVELS.replace("5000,", &format!("{},", 5_000 + n % 50)),
                    _ => format!(
                        "{{\"n\":{n},\"text\":\"{}\"}}",
                        "x".repeat(n as usize % 400)
                    ),
                };
                let payload = match kind {
                    7..11 => noise(random, &good),
                    11 => vec![b'1'; 6_000],
                    _ => good.into_bytes(),
                };
                // Some come again.
                self.sequence += random.pick(&[0, 1, 1, 1, 3]);
                BusEvent::Message(BusMessage {
                    position: Some(StreamPosition {
                        epoch: self.epoch,
                        sequence: self.sequence,
                    }),
                    place: weirgate_core::Place::Outside,
                    quiet: self.quiet,
                    ..BusMessage::new(subject, payload, now)
                })
            }
        }
    }
}

impl Contract for Levels {
    type Gateway = LevelsGateway;
    type Client = Client;

    fn new(_: &mut Random) -> Self {
        Self {
            feed: None,
            retained: BTreeMap::new(),
            sequence: 0,
            epoch: 1,
            quiet: false,
            next: String::new(),
        }
    }

    fn gateway(&mut self) -> LevelsGateway {
        let path = |path: &str, topic: TopicName| LevelsPath {
            path: path.to_owned(),
            topic,
            subjects: None,
        };
        let mut paths = vec![path(LevelsGateway::PATH, LevelsFeed::TOPIC)];
        let others = PATHS.iter();
        paths.extend(others.map(|(name, _)| path(name, TopicName::from((*name).to_owned()))));
        LevelsGateway::new(paths, Origins::default())
    }

    fn begin(bench: &mut Bench<Self>) {
        let alive: FrameBytes = bench.world.frame_bytes.clone();
        bench.contract.feed = Some(LevelsFeed::new(settings(), alive));
    }

    fn target(&mut self, random: &mut Random, _: bool) -> String {
        let path = random.pick(&[LevelsGateway::PATH, PATHS[0].0, PATHS[1].0]);
        self.next = match path {
            LevelsGateway::PATH => LevelsFeed::TOPIC.as_str().to_owned(),
            path => path.to_owned(),
        };
        path.to_owned()
    }

    fn opened(bench: &mut Bench<Self>, key: SessionKey) {
        let topic = bench.contract.next.clone();
        let retained = bench.contract.retained.get(&topic).cloned();
        let client = bench.client(key);
        client.topic = topic;
        client.came_with = retained.as_ref().and_then(|p| p.frame().cloned());
        client.due.extend(retained.as_ref().map(body));
    }

    /// Whatever it says, nobody listens.
    fn say(bench: &mut Bench<Self>, key: SessionKey) {
        let words = noise(&mut bench.random, LEVELS);
        bench.send(key, &words);
    }

    fn outside(bench: &mut Bench<Self>) {
        bench.number += 1;
        let (now, n) = (bench.world.now, bench.number);
        let event = bench.contract.event(now, &mut bench.random, n);
        let mut feed = bench.contract.feed.take().expect("a feed");
        let publications = bench.publish(&mut feed, event);
        bench.contract.feed = Some(feed);
        for publication in &publications {
            let (topic, body) = (publication.topic.as_str(), body(publication));
            let json: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&body).expect("an object");
            let keys = PATHS.iter().find(|(path, _)| *path == topic);
            let known = |key: &String| keys.is_none_or(|(_, keys)| keys.contains(&key.as_str()));
            assert!(json.keys().all(known), "{topic} shows {body}");
            for known in bench.clients.values_mut() {
                let client = &mut known.model;
                let is_for = publication.deliver && client.topic == topic;
                let same = |frame: &Arc<Frame>| {
                    publication
                        .frame()
                        .is_some_and(|sent| Arc::ptr_eq(frame, sent))
                };
                if is_for && !client.came_with.as_ref().is_some_and(same) {
                    client.due.push_back(body.clone());
                }
            }
            let retained = &mut bench.contract.retained;
            match publication.retain {
                Retain::Set => drop(retained.insert(topic.to_owned(), publication.clone())),
                Retain::Clear => drop(retained.remove(topic)),
                Retain::Keep => {}
            }
        }
        bench.deliver(&publications);
    }

    fn got(bench: &mut Bench<Self>, key: SessionKey, text: &str) -> bool {
        let slow = bench.clients[&key].slow;
        let due = &mut bench.client(key).due;
        let at = due.iter().position(|due| due == text);
        let at = at.unwrap_or_else(|| panic!("came twice, or never was: {text:.90}"));
        assert!(at == 0 || slow, "{at} were skipped for a client that reads");
        due.drain(..=at);
        true
    }

    fn due(bench: &Bench<Self>, key: SessionKey) -> Option<String> {
        bench.clients[&key].model.due.front().cloned()
    }

    fn check(bench: &Bench<Self>) {
        let members = bench.world.hub.core().memberships();
        assert_eq!(members, bench.clients.len(), "one topic each");
    }

    fn come_to_rest(_: &mut Bench<Self>) {}

    fn check_empty(_: &Bench<Self>) {}
}
