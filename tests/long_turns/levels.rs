//! Levels, and with it demo: a client may ask for a rate of its own, and nothing else.

use std::convert::Infallible;

use serde_json::json;
use weirgate::gateways::levels::client::{LevelsGateway, LevelsPath};
use weirgate::gateways::levels::feed::{LevelsFeed, LevelsFeedSettings};
use weirgate_core::{
    BusEvent, BusMessage, Feed as _, FrameBytes, Hub, Limits, Publication, StreamPosition,
};
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

use super::acts::{Outside, Request};
use super::cases::{Case, says};
use super::turns::Contract;

/// Bytes of a request, as many as the gateway allows unless set.
const MESSAGE_BYTES: usize = 1 << 20;

pub(crate) struct Levels {
    feed: LevelsFeed,
    sequence: u64,
    publications: Vec<Publication>,
}

impl Contract for Levels {
    type Gateway = LevelsGateway;
    type Event = BusEvent;

    fn new(_: u64, frame_bytes: &FrameBytes) -> (Self, LevelsGateway, Limits) {
        let paths = vec![LevelsPath {
            path: LevelsGateway::PATH.to_owned(),
            topic: LevelsFeed::TOPIC,
            subjects: None,
        }];
        let limits = Limits {
            ping_interval_us: 0,
            event_stream: true,
            ..Limits::default()
        };
        let levels = Self {
            feed: LevelsFeed::new(LevelsFeedSettings::default(), frame_bytes.clone()),
            sequence: 0,
            publications: Vec::new(),
        };
        (
            levels,
            LevelsGateway::new(paths, Origins::default()),
            limits,
        )
    }

    fn target(_: u8) -> String {
        LevelsGateway::PATH.to_owned()
    }

    fn text(request: &Request) -> String {
        let words = |_: u8, n: u32| n.to_string();
        let more: Vec<String> = request.texts(words, MESSAGE_BYTES);
        match request.verb {
            0..8 => json!({"action": "rate", "max_hz": request.number % 50}).to_string(),
            8..12 => json!({"action": "rate", "max_hz": request.number, "more": more}).to_string(),
            12..14 => "[".repeat(request.number as usize),
            _ => json!(more).to_string(),
        }
    }

    fn outside(&mut self, outside: &Outside, _: &mut Vec<Infallible>, now: Now) -> Vec<BusEvent> {
        match outside {
            Outside::Publish(names, messages, bytes) => {
                let message = |n| {
                    self.sequence += 1;
                    let more = "y".repeat(*bytes as usize);
                    BusEvent::Message(BusMessage {
                        position: Some(StreamPosition {
                            epoch: 1,
                            sequence: self.sequence,
                        }),
                        quiet: names.order == 0,
                        ..BusMessage::new(
                            "market.flow",
                            format!(r#"{{"n":{n},"more":"{more}"}}"#).into_bytes(),
                            now,
                        )
                    })
                };
                (0..*messages % 2_000).map(message).collect()
            }
            Outside::Answers(_) => vec![BusEvent::CaughtUp],
            Outside::Away => vec![BusEvent::Down("gone".to_owned())],
            Outside::Back => vec![BusEvent::Up],
            Outside::Gap => vec![BusEvent::Gap { lost: Some(2) }],
        }
    }

    fn read(&self, event: BusEvent) -> BusEvent {
        self.feed.read(event)
    }

    fn take(&mut self, hub: &mut Hub<LevelsGateway>, now: Now, event: BusEvent) {
        if let Some(notice) = self.feed.notice(&event) {
            hub.handle_notice(now, &notice);
        }
        self.feed.event(now, event, &mut self.publications);
        while self.feed.next_line().is_some() {}
        for publication in self.publications.drain(..) {
            hub.handle_publication(now, &publication);
        }
    }
}

/// Levels have no names: a request with very many members is an unknown one.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, verb| Case {
        name,
        kind: 0,
        flavour: 0,
        acts: vec![says(verb, 0, 1)],
    };
    vec![
        case("a rate with members of no meaning", 8),
        case("a list", 14),
    ]
}
