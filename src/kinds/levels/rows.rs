//! The settings of the levels gateway, and of the market of the demo.

use super::{endpoint, relay};
use crate::settings::{Change, Checked, Heading, Kind, Refused, Setting, SettingsError, Unit};

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
        "",
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
        WORDS[0],
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
        "",
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
        "false",
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
        "240",
        "Minutes after the open (09:30 New York) when bars_since_open stops rising",
    ),
];

pub(super) const OF_DEMO: &[Setting] = &[
    Setting::count(
        MARKET,
        "levels",
        (1, 1000),
        "10",
        "Price levels in each message",
    )
    .in_short_help(),
    Setting::new(
        MARKET,
        "rate-hz",
        Kind::number(Unit::Hertz, (1, 10_000)),
        "4",
        "Messages a second",
    )
    .in_short_help(),
    Setting::count(
        MARKET,
        "seed",
        (0, u64::MAX),
        "1",
        "Seed of the random numbers: the same seed gives the same market",
    ),
];

pub(super) const DEMO_CHANGES: &[Change] = &[
    ("listen", |row| {
        row.default("127.0.0.1").more(
            "May be repeated. By default only this machine reaches the demo, also at [::1]; 0.0.0.0 opens the demo to the \
             network.",
        )
    }),
    ("event-stream", |row| row.default("true")),
];

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
pub(super) fn market(checked: &Checked) -> Market {
    match checked.choice("market") {
        AUTO if !relay::of(checked).is_empty() => Market::IfThere,
        OFF => Market::Off,
        _ => Market::On,
    }
}

/// The error of settings with nothing to read.
pub(super) fn nothing_to_read(checked: &Checked) -> Option<SettingsError> {
    let is_nothing =
        checked.has("market") && market(checked) == Market::Off && relay::of(checked).is_empty();
    let allowed = || "auto, on, or at least one --relay beside off".to_owned();
    is_nothing.then(|| checked.refused("market", &Refused::new(OFF, allowed())))
}
