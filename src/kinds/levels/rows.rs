//! What the levels gateway relays and computes, and the market of the demo.

use super::{endpoint, relay};
use crate::settings::{Change, Heading, Kind, Setting, Unit};

const RELAYS: Heading = Heading("Relays and endpoints");
const SESSION: Heading = Heading("Trading session");
const MARKET: Heading = Heading("Simulated market");

pub(super) const OF_LEVELS: &[Setting] = &[Setting::new(
    RELAYS,
    "relay",
    Kind::Form(&relay::FORM),
    "",
    "One more NATS subject: its last message, as it is, under KEY; may be repeated",
)
.more(
    "Without stream, the one that holds the subject; it is never made, but waited for. \
         Without durable, gateway_KEY. In the environment, several with space between them.",
)];

pub(super) const OF_BOTH: &[Setting] = &[
    Setting::new(
        RELAYS,
        "endpoint",
        Kind::Form(&endpoint::FORM),
        "",
        "One more WebSocket path, which sends only these keys; may be repeated",
    )
    .more(
        "The keys are flow, levels, viewport and those of --relay (weirgate levels). In the environment, several \
         with space between them.",
    ),
    Setting::new(
        SESSION,
        "session-length-min",
        Kind::number(Unit::Minutes, (1, 870)),
        "240",
        "Minutes from the open (09:30 New York) at which bars_since_open stops",
    ),
];

pub(super) const OF_DEMO: &[Setting] = &[
    Setting::count(
        MARKET,
        "levels",
        (1, 1000),
        "10",
        "Price levels in each message",
    ),
    Setting::new(
        MARKET,
        "rate-hz",
        Kind::number(Unit::Hertz, (1, 10_000)),
        "4",
        "Messages a second",
    ),
    Setting::count(
        MARKET,
        "seed",
        (0, u64::MAX),
        "1",
        "Start of the random numbers: the same seed, the same market",
    ),
];

pub(super) const DEMO_CHANGES: &[Change] = &[("listen", |row| {
    row.default("127.0.0.1")
        .more("The demo is for this machine only; 0.0.0.0 shows it to the network.")
})];
