//! Fixed limits of the NATS source.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const NATS: &[Fixed] = &[
    Fixed {
        what: "Messages from JetStream without an acknowledgement, per consumer",
        value: "512",
        beyond: "the server waits; the stream keeps the rest",
        shows: Shows::Metric(names::CONSUMER_LAG),
        code: (
            "src/sources/nats/consumers.rs",
            "ACK_PENDING_MAX: i64 = 512;",
        ),
        test: "tests/nats_source/outages.rs::a_full_channel_leaves_the_rest_with_the_server",
    },
    Fixed {
        what: "Refusals of NATS that are remembered for one connection",
        value: "64",
        beyond: "the oldest are forgotten, and logged again when they come again",
        shows: Shows::Metric(names::BUS_REFUSED),
        code: ("src/sources/nats/refusals.rs", "REFUSALS_MAX: usize = 64;"),
        test: "src/sources/nats/refusals.rs::a_server_that_refuses_everything_fills_no_memory",
    },
];
