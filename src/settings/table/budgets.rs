//! The wait of the loop, and the messages from the bus.

use super::super::field::field;
use super::super::groups::{BusSettings, ProcessSettings};
use super::super::kind::{Kind, Unit};
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, KIB};
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::LATENCY,
        "spin-us",
        Kind::number(Unit::Microseconds, (0, 1_000_000)),
        field!(ProcessSettings, spin_us),
        "How long loop and bus thread poll without sleeping after work; 0: not at all",
    )
    .more("Lower latency for a whole CPU of each of the two threads, while they poll."),
    Setting::bytes(
        Heading::BUS,
        "bus-message-bytes-max",
        (KIB, GIB),
        field!(BusSettings, message_bytes_max),
        "Bytes of one message from the bus",
    )
    .limit(
        "counted, logged and skipped",
        Shows::Metric(names::BUS_MESSAGES_BAD),
        "tests/blackbox/test_limits_turns.py::test_bus_messages_over_a_limit_are_skipped_and_counted",
    )
    .part(Part::BusMessages),
];
