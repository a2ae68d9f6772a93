//! What the levels gateway relays and computes, and the market of the demo.

use super::super::kind::{Kind, Unit};
use super::super::setting::Heading::{Market, Relays, Session};
use super::super::setting::Setting;
use super::super::setting::Subcommand::{Demo, Levels};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Relays,
        "relay",
        Kind::Relays,
        "",
        "One more NATS subject: its last message, as it is, under KEY; may be repeated",
    )
    .more(
        "Without stream, the one that holds the subject; it is never made, but waited for. \
         Without durable, gateway_KEY. In the environment, several with space between them.",
    )
    .on(&[Levels]),
    Setting::new(
        Relays,
        "endpoint",
        Kind::Endpoints,
        "",
        "One more WebSocket path, which sends only these keys; may be repeated",
    )
    .more(
        "The keys are flow, levels, viewport and those of --relay (weirgate levels). In the environment, several \
         with space between them.",
    )
    .on(&[Levels, Demo]),
    Setting::new(
        Session,
        "session-length-min",
        Kind::number(Unit::Minutes, (1, 870)),
        "240",
        "Minutes from the open (09:30 New York) at which bars_since_open stops",
    )
    .on(&[Levels, Demo]),
    Setting::count(
        Market,
        "levels",
        (1, 1000),
        "10",
        "Price levels in each message",
    )
    .on(&[Demo]),
    Setting::new(
        Market,
        "rate-hz",
        Kind::number(Unit::Hertz, (1, 10_000)),
        "4",
        "Messages a second",
    )
    .on(&[Demo]),
    Setting::count(
        Market,
        "seed",
        (0, u64::MAX),
        "1",
        "Start of the random numbers: the same seed, the same market",
    )
    .on(&[Demo]),
];
