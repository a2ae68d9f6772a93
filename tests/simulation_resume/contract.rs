//! What differs between trades and channels: the gateway, the feed, requests, and messages to clients.

use std::sync::Arc;

use serde_json::{Value, json};
use weirgate::auth::{Acl, Authenticator};
use weirgate::gateways::channels::ChannelsGateway;
use weirgate::gateways::channels::feed::ChannelsFeed;
use weirgate::gateways::channels::{AllClientsLimits, ChannelsGatewaySettings};
use weirgate::gateways::trades::feed::TradesFeed;
use weirgate::gateways::trades::{TradesGateway, TradesGatewaySettings};
use weirgate_core::{BusEvent, Feed, FeedSettings, FrameBytes, Gateway};
use weirgate_wire::auth::{NamePatterns, NameSyntax, Origins};

use crate::world::{Interests, Output};

/// What an instance was started with. A new version may be started with other settings.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Names of the kept feed; empty without a history.
    pub(crate) kept: Vec<String>,
    pub(crate) bus_message_bytes_max: usize,
    /// `None` with a stream.
    pub(crate) marks_channel: Option<String>,
    /// Slow clients get only the newest message of these names.
    pub(crate) conflated: Option<String>,
}

/// A message to a client.
#[derive(Debug)]
pub(crate) struct KeptEvent {
    pub(crate) what: What,
    pub(crate) pos: Option<String>,
    /// The number of the message on the connection, where messages are numbered.
    pub(crate) seq: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum What {
    /// A message by a name, with its number in the order of Redis.
    Data {
        name: String,
        number: usize,
    },
    /// The answer to a `subscribe`.
    Answer(Outcomes),
    Status {
        is_up: bool,
        has_lost: bool,
    },
    Welcome,
}

/// For the names of a request with `since`: `None` is recovered, otherwise why not.
#[derive(Debug)]
pub(crate) enum Outcomes {
    Nothing,
    All(Option<String>),
    Each(Vec<(String, Option<String>)>),
}

/// See the module.
pub(crate) trait Contract {
    type Gateway: Gateway<Out: Output>;
    type Feed: Feed<Event = BusEvent>;
    /// What clients may hold.
    const NAMES: &'static [&'static str];
    /// A name that is outside of every feed; nothing is published on it.
    const OUTSIDE: Option<&'static str>;
    /// Stands before a name in the name of a channel.
    const PREFIX: &'static str;
    /// Channels on which messages are published.
    const CHANNELS: &'static [&'static str];
    /// Begins the names of many more channels, so that small histories forget quiet names.
    const CROWD: &'static str;
    /// The lists of kept names; most instances have the first.
    const KEPT: &'static [&'static [&'static str]];
    /// The names of a stream: all that a client may hold.
    const STREAM: &'static [&'static str];
    /// Marks channels: the usual, and one within the feed.
    const MARKS: &'static [&'static str];
    /// Whether its stream may be one with doubts: a mirror of JetStream.
    const HAS_DOUBTS: bool;
    const PATH: &'static str;

    fn gateway(setup: &Setup) -> Self::Gateway;
    fn feed(setup: &Setup, alive: FrameBytes) -> Self::Feed;
    fn payload(number: usize, pad: usize) -> Vec<u8>;
    /// A payload that is counted and relayed by nobody.
    const JUNK: &'static [u8];
    fn subscribe(names: &[String], since: Option<&str>) -> String;
    fn read(text: &str) -> KeptEvent;
    /// Names that clients have asked for outside of the feed, with the numbers of the requests.
    fn asked(outputs: &mut <<Self::Gateway as Gateway>::Out as Output>::Kept)
    -> Vec<(String, u64)>;
}

pub(crate) struct Trades;

impl Contract for Trades {
    type Gateway = TradesGateway;
    type Feed = TradesFeed;
    const NAMES: &'static [&'static str] = &["A", "B", "C", "D", "QUIET"];
    const OUTSIDE: Option<&'static str> = None;
    const PREFIX: &'static str = "channel:trade:";
    const CHANNELS: &'static [&'static str] = &["A", "A", "A", "B", "B", "C", "D"];
    const CROWD: &'static str = "X";
    const KEPT: &'static [&'static [&'static str]] = &[&[TradesFeed::PATTERN]];
    const STREAM: &'static [&'static str] = &[TradesFeed::PATTERN];
    const MARKS: &'static [&'static str] = &["weirgate:mark", "channel:trade:MARK"];
    const HAS_DOUBTS: bool = false;
    const PATH: &'static str = "/";
    const JUNK: &'static [u8] = b"{\"price\":";

    fn gateway(_: &Setup) -> TradesGateway {
        let settings = TradesGatewaySettings {
            server_id: "ws-gateway-0a1b2c3d".to_owned(),
            symbols_max: 5,
            origins: Origins::new([]),
            authenticator: Authenticator::default(),
            ..TradesGatewaySettings::default()
        };
        TradesGateway::new(settings, Arc::default())
    }

    fn feed(setup: &Setup, alive: FrameBytes) -> TradesFeed {
        let settings = FeedSettings {
            bus_message_bytes_max: setup.bus_message_bytes_max,
            ..FeedSettings::default()
        };
        TradesFeed::new(settings, alive)
    }

    /// The symbol is in the channel's name: nothing keeps a payload from being in that member.
    fn payload(number: usize, pad: usize) -> Vec<u8> {
        format!(r#"{{"price":{number},"symbol":"{}"}}"#, "x".repeat(pad)).into_bytes()
    }

    fn subscribe(names: &[String], since: Option<&str>) -> String {
        let symbols: Vec<&str> = names
            .iter()
            .map(|name| &name[Self::PREFIX.len()..])
            .collect();
        match since {
            Some(since) => json!({"action": "subscribe", "symbols": symbols, "since": since}),
            None => json!({"action": "subscribe", "symbols": symbols}),
        }
        .to_string()
    }

    /// A trade says its symbol nowhere but in its number's channel, so the caller finds the name.
    fn read(text: &str) -> KeptEvent {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:.90}: {e}"));
        let data = &json["data"];
        let what = match json["type"].as_str() {
            Some("trade") => What::Data {
                name: String::new(),
                number: data["price"].as_u64().expect("a number") as usize,
            },
            Some("status") => status(&json),
            Some("success") if data.get("connectionId").is_some() => What::Welcome,
            Some("success") => What::Answer(match data["recovered"].as_bool() {
                None => Outcomes::Nothing,
                Some(true) => Outcomes::All(None),
                Some(false) => Outcomes::All(Some(word(&data["why"]))),
            }),
            _ => panic!("{text:.200}"),
        };
        KeptEvent {
            what,
            pos: json["pos"].as_str().map(str::to_owned),
            seq: None,
        }
    }

    fn asked((): &mut ()) -> Vec<(String, u64)> {
        Vec::new()
    }
}

pub(crate) struct Channels;

impl Contract for Channels {
    type Gateway = ChannelsGateway;
    type Feed = ChannelsFeed;
    const NAMES: &'static [&'static str] = &["m:a", "m:ab", "m:b", "k:a", "m:quiet", "m:*", "m:a*"];
    const OUTSIDE: Option<&'static str> = Some("z:1");
    const PREFIX: &'static str = "";
    const CHANNELS: &'static [&'static str] = &["m:a", "m:a", "m:ab", "m:b", "k:a", "n:1"];
    const CROWD: &'static str = "m:x";
    const KEPT: &'static [&'static [&'static str]] = &[
        &["m:*", "m:a*", "k:a"],
        &["m:*", "n:1", "k:a"],
        &["k:a", "m:*", "n:*"],
    ];
    const STREAM: &'static [&'static str] = &["*"];
    const MARKS: &'static [&'static str] = &["weirgate:mark", "m:mark"];
    const HAS_DOUBTS: bool = true;
    const PATH: &'static str = "/ws";
    const JUNK: &'static [u8] = b"";

    fn gateway(setup: &Setup) -> ChannelsGateway {
        let settings = ChannelsGatewaySettings {
            channels_max: 50,
            name_bytes_max: 512,
            patterns_max: 5,
            all_clients: AllClientsLimits {
                names_max: 1_000,
                patterns_max: 1_000,
                name_bytes_max: 1 << 24,
            },
            inbound_per_second: 1_000,
            renewals_per_second: 1_000,
            default_role: "user".to_owned(),
            authenticator: Authenticator::default(),
            acl: Acl::from_json(NameSyntax::Redis, br#"{"user": ["*"]}"#).expect("a table"),
            marks_channel: setup.marks_channel.clone(),
            ..ChannelsGatewaySettings::default()
        };
        let gateway = ChannelsGateway::new(settings, Arc::default());
        let gateway = gateway.with_kept(setup.kept.clone());
        gateway.expect("names")
    }

    fn feed(setup: &Setup, alive: FrameBytes) -> ChannelsFeed {
        let settings = FeedSettings {
            bus_message_bytes_max: setup.bus_message_bytes_max,
            ..FeedSettings::default()
        };
        let feed = ChannelsFeed::new(settings, alive);
        match &setup.conflated {
            Some(names) => {
                let names = NamePatterns::new(NameSyntax::Redis, std::slice::from_ref(names));
                let names = names.expect("names");
                feed.conflating(move |name| names.matches(name))
            }
            None => feed,
        }
    }

    fn payload(number: usize, pad: usize) -> Vec<u8> {
        format!(r#"[{number},"{}"]"#, "x".repeat(pad)).into_bytes()
    }

    fn subscribe(names: &[String], since: Option<&str>) -> String {
        match since {
            Some(since) => json!({"action": "subscribe", "channels": names, "since": since}),
            None => json!({"action": "subscribe", "channels": names}),
        }
        .to_string()
    }

    fn read(text: &str) -> KeptEvent {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:.90}: {e}"));
        let what = match json["type"].as_str() {
            Some("data") => What::Data {
                name: match json["pattern"].as_str() {
                    Some(pattern) => pattern.to_owned(),
                    None => word(&json["channel"]),
                },
                number: json["data"][0].as_u64().expect("a number") as usize,
            },
            Some("status") => status(&json),
            Some("connected") => What::Welcome,
            Some("subscribed") => What::Answer(match json["recovered"].as_object() {
                None => Outcomes::Nothing,
                Some(each) => Outcomes::Each(
                    each.iter()
                        .map(|(name, whole)| {
                            let why =
                                (*whole != Value::Bool(true)).then(|| word(&json["why"][name]));
                            (name.clone(), why)
                        })
                        .collect(),
                ),
            }),
            _ => panic!("{text:.200}"),
        };
        KeptEvent {
            what,
            pos: json["pos"].as_str().map(str::to_owned),
            seq: Some(json["seq"].as_u64().expect("a number")),
        }
    }

    fn asked(outputs: &mut Interests) -> Vec<(String, u64)> {
        let mut asked = Vec::new();
        for (name, number) in std::mem::take(&mut outputs.numbers) {
            if outputs.wanted.get(&name) == Some(&true) {
                asked.push((name, number));
            }
        }
        asked
    }
}

fn status(json: &Value) -> What {
    What::Status {
        is_up: json["bus"] == "up",
        has_lost: json["lost"] == true,
    }
}

fn word(value: &Value) -> String {
    value.as_str().expect("a word").to_owned()
}
