//! What the levels gateway computes, and the market of the demo.

use super::super::kind::{Kind, Unit};
use super::super::setting::Heading::{Market, Session};
use super::super::setting::Setting;
use super::super::setting::Subcommand::{Demo, Levels};

pub(super) static ROWS: &[Setting] = &[
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
