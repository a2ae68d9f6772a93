//! The wait of the loop, and the messages from the bus.

use super::super::field::{With, field};
use super::super::groups::{BusSettings, ProcessSettings};
use super::super::kind::{Form, Kind, Refused, Unit};
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, KIB};
use crate::telemetry::names;

const CPUS_ALLOWED: &str = "one or two numbers of CPUs, such as 2 or 2,3";

/// The form of `--cpus`.
static CPUS: Form = Form {
    placeholder: "LOOP,BUS",
    allowed: CPUS_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| match parse_cpus(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(Refused::new(text, CPUS_ALLOWED)),
    },
};

fn parse_cpus(text: &str) -> Option<Vec<usize>> {
    let numbers = text.split(',').filter(|_| !text.is_empty());
    let cpus: Option<Vec<usize>> = numbers
        .map(|number| {
            let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse().ok().filter(|_| is_decimal)
        })
        .collect();
    cpus.filter(|cpus| cpus.len() <= 2)
}

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::LATENCY,
        "spin-us",
        Kind::number(Unit::Microseconds, (0, 1_000_000)),
        field!(ProcessSettings, spin_us),
        "How long loop and bus thread poll without sleeping after work; 0: not at all",
    )
    .more("Lower latency for a whole CPU of each of the two threads, while they poll."),
    Setting::new(
        Heading::LATENCY,
        "cpus",
        Kind::Form(&CPUS),
        &With::<ProcessSettings, String> {
            set: |process, text| process.cpus = parse_cpus(&text).unwrap_or_default(),
            get: |process| {
                let cpus = process.cpus.iter().map(usize::to_string);
                cpus.collect::<Vec<_>>().join(",")
            },
        },
        "CPU of the loop, and CPU of the bus thread, such as 2,3",
    )
    .more("Each of the two threads stays on its CPU; a number alone is for the loop. A CPU that the process may not use is refused at the start."),
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
    Setting::new(
        Heading::BUS,
        "stamp",
        Kind::Switch,
        field!(BusSettings, is_stamped),
        "Tell clients when each message came from the bus: recv_us",
    )
    .more(
        "Unix time in microseconds at the bus socket, in each message. A client with the same time takes the one-way \
         latency from it. The replaced gateways have no such key.",
    )
    .part(Part::BusMessages),
];
