//! Channels: names and patterns, resumes, last values, with and without a kept feed.

use std::mem::take;
use std::sync::Arc;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use weirgate::auth::{Acl, Authenticator, KeyRing, KeySet};
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{
    AllClientsLimits, ChannelsGateway, ChannelsGatewaySettings, ChannelsOutput, RetainedRequest,
};
use weirgate_core::{
    BusEvent, BusMessage, Feed as _, FeedNotice, FeedSettings, FrameBytes, HistoryLimits, Hub,
    Limits, Mark, Place, Position, Publication, Subscription,
};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::base::{Now, Secret};

use super::acts::{Act, Outside, Request};
use super::cases::{Case, messages, messages_of_one, says, says_of, turns};
use super::turns::Contract;

const MARK: Mark = Mark {
    nonce: 0x7f3a_09c2_b11e,
    counter: 1,
};
const SECRET: &str = "secret";
/// Names of a client.
const NAMES: usize = 100_000;
/// Bytes of a request, as many as the gateway allows unless set.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;

pub(crate) struct Channels {
    feed: ChannelsFeed,
    is_kept: bool,
    count: u64,
    tables: u64,
    publications: Vec<Publication>,
}

fn authenticator(required: bool) -> Authenticator {
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new(SECRET)).expect("room");
    Authenticator {
        required,
        keys: KeyRing::new(keys),
        ..Authenticator::default()
    }
}

fn token(role: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &json!({"role": role}), &key).expect("a token")
}

/// Each other table grants nearly nothing.
fn table(number: u64) -> Acl {
    let table = match number % 2 {
        0 => r#"{"user": ["m:*", "c:*", "*a*", "v:*", "1*"], "guest": ["c:*"]}"#,
        _ => r#"{"user": ["c:*"], "guest": ["m:*"]}"#,
    };
    Acl::from_json(NameSyntax::Redis, table.as_bytes()).expect("a table")
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
            pattern: is_kept.then(|| "m:*".into()),
            place: match is_kept {
                true => Place::Kept(Some(Position::counted(5, MARK, self.count))),
                false => Place::Outside,
            },
            ..BusMessage::new(
                subject,
                format!("\"{}\"", "y".repeat(bytes as usize)).into_bytes(),
                now,
            )
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
            ChannelsOutput::Retained(RetainedRequest::Ask { name, number, .. }) => {
                let subscription = subscription(name.as_str());
                let mut events = Vec::new();
                for n in 0..if is_full { 200 } else { 1 } {
                    let message = self.message(&format!("v:{n}"), 20, now);
                    events.push(BusEvent::LastValue {
                        is_deletion: message.payload.is_empty(),
                        message,
                        number,
                    });
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

    /// The bits: a kept feed, conflated names, last values, more patterns, tokens.
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
            authenticator: authenticator(kind & 16 == 16),
            acl: table(0),
            ..ChannelsGatewaySettings::default()
        };
        let is_kept = kind & 1 == 1;
        let mut gateway = ChannelsGateway::new(settings, Arc::default());
        if is_kept {
            gateway = gateway.with_kept(vec!["m:*".to_owned()]).expect("names");
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
            message_bytes_max: MESSAGE_BYTES,
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
            tables: 0,
            publications: Vec::new(),
        };
        (channels, gateway, limits)
    }

    fn target(flavour: u8) -> String {
        match flavour & 24 == 24 {
            // As many names as fit in a head.
            true if flavour & 1 == 1 => {
                let names: Vec<String> = (0..1_500).map(|n| format!("m:{n}")).collect();
                format!("/ws?subscribe={}&last=10", names.join(","))
            }
            true => "/ws?subscribe=m:1,m:2&last=10".to_owned(),
            false => format!("{}?token={}", ChannelsGateway::PATH, token("user")),
        }
    }

    fn text(request: &Request) -> String {
        let names: Vec<String> = request.texts(name, MESSAGE_BYTES);
        let mut text = match request.verb {
            0..8 => json!({"action": "subscribe", "channels": names}),
            8..13 => json!({"action": "unsubscribe", "channels": names}),
            13 => json!({"action": "rate", "max_hz": request.number % 50}),
            14 if request.extra & 8 == 8 => {
                json!({"action": "authenticate", "token": token("guest")})
            }
            14 => json!({"action": "authenticate", "token": names.concat()}),
            _ => json!({"action": "ping", "channels": names, "requestId": names.first()}),
        };
        if request.extra & 16 == 16 {
            match as_much_as_fits(request.number) {
                Some(text) => return text,
                // Three bytes each, with the comma.
                None => text["channels"] = json!(vec![""; MESSAGE_BYTES / 3 - 1_000]),
            }
        }
        if request.extra & 1 == 1 {
            text["last"] = json!(request.number % 100 + 1);
        }
        if request.extra & 2 == 2 {
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
            Outside::Away => vec![BusEvent::Down("gone".to_owned())],
            Outside::Back if self.is_kept => {
                let count = take(&mut self.count);
                let mark = FeedNotice::Mark {
                    feed_hash: 5,
                    mark: MARK,
                    count,
                };
                vec![BusEvent::Feed(mark), BusEvent::Up]
            }
            Outside::Back => vec![BusEvent::Up],
            Outside::Gap => vec![BusEvent::Gap { lost: None }],
        }
    }

    fn change_table(&mut self, hub: &mut Hub<ChannelsGateway>, now: Now) {
        self.tables += 1;
        hub.handle_input(now, table(self.tables));
    }

    fn read(&self, event: BusEvent) -> BusEvent {
        self.feed.read(event)
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

/// A request of the largest size that is costly to read for what it is made of; `None`: of texts.
fn as_much_as_fits(kind: u32) -> Option<String> {
    let filled = |piece: &str| piece.repeat(MESSAGE_BYTES / piece.len() - 100);
    let rest = match kind % 5 {
        0 => return None,
        1 => format!(r#""channels":["{}"]"#, filled(r"\u0041")),
        2 => format!(r#""channels":["{}"]"#, filled(r"\n")),
        3 => format!(r#""channels":["a"],"x":[{}[]]"#, filled("[],")),
        _ => format!(r#"{}"channels":["a"]"#, filled(r#""":1,"#)),
    };
    Some(format!(r#"{{"action":"subscribe",{rest}}}"#))
}

/// Requests, ends and events of all names that a client may hold.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, kind, acts: Vec<Act>| Case {
        name,
        kind,
        flavour: 0,
        acts,
    };
    let of_kept = |name, kind: u64, extra, number, first: &dyn Fn() -> Vec<Act>| {
        let mut acts = vec![Act::Outside(Outside::Back), Act::Turns(5)];
        acts.extend(first());
        acts.push(says(0, extra, number));
        case(name, kind | 1, acts)
    };
    let nothing = Vec::new;
    let all = || messages().collect();
    // Of 20,000 names.
    let some = || messages().take(2).collect();
    let holds = |name, kind, then: Vec<Act>| {
        let mut acts = vec![Act::Outside(Outside::Back), Act::Turns(5), says(0, 0, 0)];
        acts.extend(turns());
        acts.push(Act::Outside(Outside::Answers(1)));
        acts.extend(turns());
        acts.extend(then);
        case(name, kind, acts)
    };
    let of_one = |name, shape, extra, number, acts: Vec<Act>| {
        let mut first = vec![Act::Outside(Outside::Back), Act::Turns(5)];
        first.extend(acts);
        first.extend(turns());
        first.push(says_of(0, shape, extra, number));
        case(name, 1, first)
    };
    let away = || vec![Act::Outside(Outside::Away)];
    vec![
        of_kept("since, nothing missed", 0, 2, 0, &nothing),
        of_kept("since, a message of each", 0, 2, 0, &all),
        of_kept("since, as many messages as are sent", 0, 2, 0, &some),
        of_kept("since, with what each brings", 0, 6, 0, &all),
        of_kept("since unknown", 0, 2, 9_999_999, &all),
        of_kept("since unknown, and last", 0, 3, 9_999_999, &all),
        of_kept("last", 0, 1, 9, &all),
        of_kept("last, conflated", 2, 1, 9, &all),
        of_one(
            "since, 30,000 messages of a name",
            0,
            2,
            0,
            vec![messages_of_one(30_000)],
        ),
        case("the end of a client with 30,000 missed messages", 1, {
            let mut acts = vec![Act::Outside(Outside::Back), Act::Turns(5)];
            acts.push(messages_of_one(30_000));
            acts.extend(turns());
            // It reads nothing.
            acts.extend([Act::Room(0, 0), says_of(0, 0, 2, 0)]);
            acts.extend(turns());
            acts.push(Act::Ends(0));
            acts
        }),
        of_one("last of a pattern", 14, 1, 9, messages().collect()),
        holds("unsubscribe", 0, vec![says(8, 0, 0)]),
        holds("unsubscribe, conflated", 2, vec![says(8, 0, 0)]),
        holds("subscribe again", 0, vec![says(0, 4, 0)]),
        holds("subscribe again with since", 1, vec![says(0, 2, 0)]),
        holds("the end of the client", 0, vec![Act::Ends(0)]),
        holds("the end of the client, last values", 4, vec![Act::Ends(0)]),
        holds("a token that denies all", 16, vec![says(14, 8, 0)]),
        holds("a token that denies all, kept", 17, vec![says(14, 8, 0)]),
        holds(
            "a table that denies all",
            0,
            vec![Act::Table, says(0, 0, 0)],
        ),
        holds(
            "a table that denies all, kept",
            1,
            vec![Act::Table, says(0, 2, 0)],
        ),
        holds("the bus goes away", 0, away()),
        holds("the bus goes away, kept", 1, away()),
        holds("the bus is lost and back", 0, {
            let events = [Outside::Away, Outside::Gap, Outside::Back];
            events.into_iter().map(Act::Outside).collect()
        }),
        holds("a search for names", 0, vec![Act::Look]),
        case("as many texts as fit", 0, vec![says(0, 16, 0)]),
        case("as many escapes as fit", 0, vec![says(0, 16, 1)]),
        case("as many line feeds as fit", 0, vec![says(0, 16, 2)]),
        case("as many lists as fit", 0, vec![says(0, 16, 3)]),
        case("as many members as fit", 0, vec![says(0, 16, 4)]),
        case(
            "as many texts as fit, to unsubscribe",
            0,
            vec![says(8, 16, 0)],
        ),
        case(
            "the bus goes away before the answer",
            0,
            vec![
                Act::Outside(Outside::Back),
                Act::Turns(5),
                says(0, 4, 0),
                Act::Turns(255),
                Act::Outside(Outside::Away),
            ],
        ),
        case(
            "the answer is late",
            0,
            vec![
                Act::Outside(Outside::Back),
                Act::Turns(5),
                says(0, 4, 0),
                Act::Turns(255),
                Act::Pass(2_000_000),
            ],
        ),
        case(
            "the end of a client before the answer",
            0,
            vec![
                Act::Outside(Outside::Back),
                Act::Turns(5),
                says(0, 4, 0),
                Act::Turns(255),
                Act::Ends(0),
            ],
        ),
        case(
            "the end of a client in the middle of a resume",
            1,
            vec![
                Act::Outside(Outside::Back),
                Act::Turns(5),
                says(0, 6, 0),
                Act::Turns(200),
                Act::Ends(0),
            ],
        ),
        Case {
            name: "an event stream",
            kind: 1,
            flavour: 25,
            acts: vec![Act::Outside(Outside::Back)],
        },
    ]
}
