//! A bus that goes away, comes back with a backlog, repeats itself, and loses messages.

use weirgate::gateways::levels::feed::{LevelsFeed, LevelsFeedSettings};
use weirgate_core::{BusEvent, BusMessage, Feed, FrameBytes, Publication, StreamPosition};
use weirgate_wire::base::Now;

use crate::world::Random;
use crate::world::state::StateFeed;

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Up,
    Down,
    /// Back, and what was missed comes first.
    Backlog,
}

/// The bus and the feed behind it: the toy, or that of `levels`.
pub(crate) struct Broker {
    feed: Box<dyn Feed<Event = BusEvent>>,
    phase: Phase,
    created: i64,
    sequence: u64,
    /// What clients have to know once nothing is missing.
    newest: Option<String>,
    /// The feed has delivered it.
    settled: bool,
}

impl Broker {
    pub(crate) fn new(toy: bool, alive: FrameBytes) -> Self {
        let feed: Box<dyn Feed<Event = BusEvent>> = match toy {
            true => Box::new(StateFeed::new(alive)),
            false => Box::new(LevelsFeed::new(LevelsFeedSettings::default(), alive)),
        };
        Self {
            feed,
            phase: Phase::Down,
            created: 1,
            sequence: 0,
            newest: None,
            settled: true,
        }
    }

    /// The newest value, unless it came in a backlog that has not ended.
    pub(crate) fn newest(&self) -> Option<&str> {
        self.newest.as_deref().filter(|_| self.settled)
    }

    /// Something happens on the bus; what the feed makes of it. `text` is no JSON yet.
    pub(crate) fn step(&mut self, random: &mut Random, now: Now, text: &str) -> Vec<Publication> {
        let json = format!("\"{text}\"");
        let mut out = Vec::new();
        let events = match (&self.phase, random.below(20)) {
            (Phase::Down, 0..10) => {
                self.phase = Phase::Backlog;
                vec![BusEvent::Up]
            }
            (Phase::Down, _) => Vec::new(),
            (Phase::Backlog, 0..8) => {
                (self.phase, self.settled) = (Phase::Up, true);
                vec![BusEvent::CaughtUp]
            }
            (Phase::Up | Phase::Backlog, 8) => {
                self.phase = Phase::Down;
                vec![BusEvent::Down("gone".to_owned())]
            }
            (_, 9) => vec![BusEvent::Gap { lost: Some(3) }],
            (_, 10) if self.sequence > 0 => vec![self.message(now, "\"old\"", self.sequence)],
            (_, 11) => {
                (self.created, self.sequence) = (self.created + 1, 0);
                Vec::new()
            }
            _ => {
                self.sequence += random.between(1, 3);
                self.newest = Some(format!("{{\"flow\":{json}}}"));
                self.settled = self.phase == Phase::Up;
                vec![self.message(now, &json, self.sequence)]
            }
        };
        for event in events {
            self.feed.event(now, event, &mut out);
        }
        out
    }

    fn message(&self, received: Now, json: &str, sequence: u64) -> BusEvent {
        BusEvent::Message(BusMessage {
            position: Some(StreamPosition {
                epoch: self.created,
                sequence,
            }),
            quiet: self.phase == Phase::Backlog,
            ..BusMessage::new("market.flow", json.as_bytes().to_vec(), received)
        })
    }
}
