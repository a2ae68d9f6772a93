//! Channels: names and patterns, resumes, last values, with and without a kept feed.

use std::mem::take;
use std::sync::Arc;

use serde_json::json;
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{
    AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings, ChannelsOutput,
};
use weirgate_core::{
    BusEvent, BusMessage, Fault, Feed as _, FeedNotice, FeedSettings, FrameBytes, HistoryLimits,
    Hub, Limits, Mark, Now, Place, Position, Publication, Subscription,
};
use weirgate_wire::auth::{Acl, Authenticator, NamePatterns, NameSyntax};

use super::acts::{Outside, Request};
use super::turns::Contract;

const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};
/// Names of a client.
const NAMES: usize = 100_000;
/// Names of a resume. It is one step, about a microsecond for each of its names: with 100,000 it would be the longest.
const RESUMED_NAMES: usize = 2_000;

pub(crate) struct Channels {
    feed: ChannelsFeed,
    is_kept: bool,
    count: u64,
    publications: Vec<Publication>,
}

fn name(shape: u8, n: u32) -> String {
    match shape {
        0..6 => format!("m:{n}"),
        6 => format!("m:{n}*"),
        7 => format!("m:*{n}*"),
        8 => format!("m:?{n}?*"),
        9 => format!("*a*a*a*a*{n}"),
        10 => format!("m:[ab]{n}[^c]*"),
        11 => format!("secret:{n}"),
        12 => format!("c:{n}"),
        13 => format!("é\\\"{n}"),
        14 => "*".to_owned(),
        _ => format!("{n}"),
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

fn subscription(name: &str) -> Subscription {
    match is_pattern(name) {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    }
}

impl Channels {
    fn message(&mut self, subject: &str, bytes: u32, now: Now) -> BusMessage {
        let is_kept = self.is_kept && subject.starts_with("m:");
        self.count += u64::from(is_kept);
        BusMessage {
            subject: subject.into(),
            pattern: is_kept.then(|| "m:*".into()),
            payload: format!("\"{}\"", "y".repeat(bytes as usize)).into_bytes(),
            position: None,
            place: match is_kept {
                true => Place::Kept(Some(Position::counted(5, MARK, self.count))),
                false => Place::Outside,
            },
            received: now,
            quiet: false,
        }
    }

    fn answers(&mut self, output: ChannelsOutput, is_full: bool, now: Now) -> Vec<BusEvent> {
        match output {
            ChannelsOutput::Interest(asked) if asked.wanted => {
                let subscription = subscription(asked.name.as_str());
                let number = asked.number;
                vec![BusEvent::Subscribed {
                    subscription,
                    number,
                }]
            }
            ChannelsOutput::Retained(asked) if asked.wanted => {
                let (subscription, number) = (subscription(asked.name.as_str()), asked.number);
                let mut events = Vec::new();
                for n in 0..if is_full { 200 } else { 1 } {
                    let message = self.message(&format!("v:{n}"), 20, now);
                    events.push(BusEvent::LastValue { message, number });
                }
                events.push(BusEvent::RetainedEnd {
                    subscription,
                    number,
                    cut: None,
                });
                events
            }
            _ => Vec::new(),
        }
    }
}

impl Contract for Channels {
    type Gateway = ChannelsGateway;
    type Event = BusEvent;

    /// The bits: a kept feed, conflated names, last values, more patterns.
    fn new(kind: u64, frame_bytes: &FrameBytes) -> (Self, ChannelsGateway, Limits) {
        let settings = ChannelsGatewaySettings {
            channels_max: NAMES,
            patterns_max: if kind & 8 == 0 { 5 } else { 1_000 },
            all_clients: AllClientsLimits {
                names_max: 10 * NAMES,
                patterns_max: 1_000,
                name_bytes_max: 1 << 30,
            },
            inbound_per_second: 1_000_000,
            authenticator: Authenticator::default(),
            acl: Acl::from_json(br#"{"user": ["m:*", "c:*", "*a*", "v:*", "1*"]}"#)
                .expect("a table"),
            ..ChannelsGatewaySettings::default()
        };
        let is_kept = kind & 1 == 1;
        let mut gateway = ChannelsGateway::new(settings, Arc::default());
        if is_kept {
            gateway = gateway
                .with_kept(vec!["m:*".to_owned()], false)
                .expect("names");
        }
        if kind & 2 == 2 {
            let names = ["m:*".to_owned(), "c:*".to_owned()];
            gateway = gateway
                .with_conflated(NamePatterns::new(NameSyntax::Redis, &names).expect("names"));
        }
        if kind & 4 == 4 {
            gateway = gateway.with_retained(1 << 26);
        }
        let keep_us = if is_kept { 60_000_000 } else { 0 };
        let limits = Limits {
            ping_interval_us: 0,
            event_stream: true,
            history: HistoryLimits {
                keep_us,
                bytes_max: 1 << 26,
            },
            ..Limits::default()
        };
        let feed = ChannelsFeed::new(FeedSettings::default(), frame_bytes.clone());
        let channels = Self {
            feed,
            is_kept,
            count: 0,
            publications: Vec::new(),
        };
        (channels, gateway, limits)
    }

    fn target(flavour: u8) -> String {
        match flavour & 24 == 24 {
            true => "/ws?subscribe=m:1,m:2&last=10".to_owned(),
            false => ChannelsGateway::PATH.to_owned(),
        }
    }

    fn text(request: &Request) -> String {
        let names: Vec<String> = request
            .names
            .iter()
            .flat_map(|names| names.texts(name))
            .collect();
        let mut text = match request.verb {
            0..8 => json!({"action": "subscribe", "channels": names}),
            8..13 => json!({"action": "unsubscribe", "channels": names}),
            13 => json!({"action": "rate", "max_hz": request.number % 50}),
            14 => json!({"action": "authenticate", "token": names.concat()}),
            _ => json!({"action": "ping", "channels": names, "requestId": names.first()}),
        };
        let resumes = names.len() <= RESUMED_NAMES;
        if resumes && request.extra & 1 == 1 {
            text["last"] = json!(request.number % 100 + 1);
        }
        if resumes && request.extra & 2 == 2 {
            let since = Position::counted(5, MARK, u64::from(request.number));
            text["since"] = json!(since.to_string());
        }
        if request.extra & 4 == 4 {
            text["status"] = json!(true);
        }
        text.to_string()
    }

    fn outside(
        &mut self,
        outside: &Outside,
        outputs: &mut Vec<ChannelsOutput>,
        now: Now,
    ) -> Vec<BusEvent> {
        match outside {
            Outside::Publish(names, messages, bytes) => {
                let names = names.texts(name);
                let some = names.iter().take(30_000);
                let subjects = some.flat_map(|name| (0..*messages).map(move |_| name));
                subjects
                    .take(30_000)
                    .map(|name| BusEvent::Message(self.message(name, *bytes, now)))
                    .collect()
            }
            Outside::Answers(how) => {
                let outputs = take(outputs).into_iter();
                outputs
                    .flat_map(|output| self.answers(output, *how == 3, now))
                    .collect()
            }
            Outside::Away => vec![BusEvent::Down(Fault("gone".to_owned()))],
            Outside::Back if self.is_kept => {
                let count = take(&mut self.count);
                let mark = FeedNotice::Mark {
                    names: 5,
                    mark: MARK,
                    count,
                };
                vec![BusEvent::Feed(mark), BusEvent::Up]
            }
            Outside::Back => vec![BusEvent::Up],
            Outside::Gap => vec![BusEvent::Gap { lost: None }],
        }
    }

    fn take(&mut self, hub: &mut Hub<ChannelsGateway>, now: Now, event: BusEvent) {
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
