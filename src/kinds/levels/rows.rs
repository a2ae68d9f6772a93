//! The settings of the levels gateway, and of the market of the demo.

use std::net::Ipv4Addr;

use super::endpoint::{self, EndpointSettings};
use super::relay::{self, RelaySettings};
use crate::hub::{DeflateWindow, Limits};
use crate::settings::{
    Change, Checked, Groups, Heading, Kind, Listen, ListenSettings, Refused, Setting,
    SettingsError, Unit, With, field,
};
use crate::sources::simulated::SimulatedSettings;

/// The settings of both gateways.
#[derive(Clone)]
pub(super) struct LevelsSettings {
    pub(super) relays: Vec<RelaySettings>,
    /// A word of [`WORDS`].
    market: String,
    pub(super) endpoints: Vec<EndpointSettings>,
    pub(super) is_numbered: bool,
    pub(super) session_length_min: u32,
}

impl Default for LevelsSettings {
    fn default() -> Self {
        Self {
            relays: Vec::new(),
            market: AUTO.to_owned(),
            endpoints: Vec::new(),
            is_numbered: false,
            session_length_min: 240,
        }
    }
}

/// The settings of the simulated market.
#[derive(Clone)]
pub(super) struct DemoSettings {
    pub(super) market: SimulatedSettings,
    pub(super) rate_hz: u32,
}

impl Default for DemoSettings {
    fn default() -> Self {
        Self {
            market: SimulatedSettings {
                levels: 10,
                seed: 1,
            },
            rate_hz: 4,
        }
    }
}

/// The defaults of both gateways. Strangers cannot cause messages of the market.
pub(super) fn defaults(groups: &mut Groups) {
    groups.of::<Limits>().deflate_window = DeflateWindow::Shared;
}

/// The defaults of the demo.
pub(super) fn demo_defaults(groups: &mut Groups) {
    defaults(groups);
    groups.of::<Limits>().event_stream = true;
    let listen: &mut ListenSettings = groups.of();
    listen.listen = vec![Listen::Ip(Ipv4Addr::LOCALHOST.into())];
}

const RELAYS: Heading = Heading("Relays and endpoints");
const SESSION: Heading = Heading("Trading session");
const MARKET: Heading = Heading("Simulated market");

/// The words of `--market`, the default first.
const WORDS: [&str; 3] = [AUTO, "on", OFF];
const AUTO: &str = "auto";
const OFF: &str = "off";

pub(super) const OF_LEVELS: &[Setting] = &[
    Setting::new(
        RELAYS,
        "relay",
        Kind::Form(&relay::FORM),
        &With::<LevelsSettings, String> {
            set: |levels, text| levels.relays = relay::parse(&text).unwrap_or_default(),
            get: |levels| relay::shown(&levels.relays),
        },
        "Relay another NATS subject under KEY; may be repeated",
    )
    .more(
        "Clients get the last message of the subject. stream defaults to the stream that holds the subject; weirgate waits for the stream and \
            never creates the stream. durable defaults to gateway_KEY. In the environment, several \
            relays are separated by spaces.",
    )
    .in_short_help(),
    Setting::new(
        RELAYS,
        "market",
        Kind::Choice(&WORDS),
        field!(LevelsSettings, market),
        "Whether to read levels.signals and market.flow too",
    )
    .more(
        "on: always, and missing streams of both are made. off: never; needs a --relay. auto: with a \
            --relay, only if the stream LEVEL_SIGNALS or MARKET_DATA exists, also later; without a --relay as on.",
    ),
];

pub(super) const OF_BOTH: &[Setting] = &[
    Setting::new(
        RELAYS,
        "endpoint",
        Kind::Form(&endpoint::FORM),
        &With::<LevelsSettings, String> {
            set: |levels, text| levels.endpoints = endpoint::parse(&text).unwrap_or_default(),
            get: |levels| endpoint::shown(&levels.endpoints),
        },
        "Open another WebSocket path for only the named keys; may be repeated",
    )
    .more(
        "Keys are flow, levels, viewport and the keys of --relay (weirgate levels). In the \
            environment, several endpoints are separated by spaces.",
    ),
    Setting::new(
        RELAYS,
        "state-seq",
        Kind::Switch,
        field!(LevelsSettings, is_numbered),
        "Number the messages of each path, under the key seq",
    )
    .more(
        "A client that skips states sees a gap; the clients of weirgate report it. The replaced \
            gateway has no such key.",
    ),
    Setting::new(
        SESSION,
        "session-length-min",
        Kind::number(Unit::Minutes, (1, 870)),
        field!(LevelsSettings, session_length_min),
        "Minutes after the open (09:30 New York) when bars_since_open stops rising",
    ),
];

pub(super) const OF_DEMO: &[Setting] = &[
    Setting::count(
        MARKET,
        "levels",
        (1, 1000),
        field!(DemoSettings, market.levels),
        "Price levels in each message",
    )
    .in_short_help(),
    Setting::new(
        MARKET,
        "rate-hz",
        Kind::number(Unit::Hertz, (1, 10_000)),
        field!(DemoSettings, rate_hz),
        "Messages a second",
    )
    .in_short_help(),
    Setting::count(
        MARKET,
        "seed",
        (0, u64::MAX),
        field!(DemoSettings, market.seed),
        "Seed of the random numbers: the same seed gives the same market",
    ),
];

pub(super) const DEMO_CHANGES: &[Change] = &[("listen", |row| {
    row.more(
            "May be repeated. By default only this machine reaches the demo, also at [::1]; 0.0.0.0 opens the demo to the \
             network.",
        )
})];

/// Whether `levels.signals` and `market.flow` are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Market {
    /// If one of their streams exists.
    IfThere,
    /// Always; missing streams are made.
    On,
    /// Never.
    Off,
}

/// The market of these settings. Without a relay there is nothing else to read, so `auto` is `on`.
pub(super) fn market(own: &LevelsSettings) -> Market {
    match own.market.as_str() {
        AUTO if !own.relays.is_empty() => Market::IfThere,
        OFF => Market::Off,
        _ => Market::On,
    }
}

/// The error of settings with nothing to read.
pub(super) fn nothing_to_read(checked: &Checked) -> Option<SettingsError> {
    let own: LevelsSettings = checked.get();
    let is_nothing = market(&own) == Market::Off && own.relays.is_empty();
    let allowed = "auto, on, or at least one --relay beside off";
    is_nothing.then(|| checked.refused(OF_LEVELS[1].flag, &Refused::new(OFF, allowed)))
}
