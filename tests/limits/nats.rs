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
        code: ("src/sources/nats/error.rs", "REFUSALS_MAX: usize = 64;"),
        test: "src/sources/nats/error.rs::a_server_that_refuses_everything_fills_no_memory",
    },
    Fixed {
        what: "Questions for last values (`--retained`) that JetStream has not answered",
        value: "64, each for 5 s",
        beyond: "the others wait, one for each name that a client waits for, and none while NATS is away; a \
                 question without an answer ends without a value",
        shows: Shows::Metric(names::RETAINED_QUESTIONS),
        code: (
            "src/sources/nats/subjects/retained.rs",
            "ASKED_MAX: usize = 64;",
        ),
        test: "src/sources/nats/subjects/retained.rs::questions_beyond_the_limit_wait",
    },
    Fixed {
        what: "Bytes of last values that wait for one client",
        value: "512 KiB, or one value",
        beyond: "the client is asked for further names when it has taken the values",
        shows: Shows::Metric(names::RETAINED_BYTES),
        code: (
            "src/gateways/channels/retained/turns.rs",
            "CLIENT_BYTES_MAX: usize = 512 * 1024;",
        ),
        test: "tests/channels_gateway/retained.rs::a_client_gets_all_values_however_slowly_it_takes_them",
    },
    Fixed {
        what: "Time for which a client that has not taken its last values counts in `--retained-bytes-max`",
        value: "60 s",
        beyond: "the next client has its turn; the values count in `--frame-bytes-max` alone",
        shows: Shows::Metric(names::RETAINED_BYTES),
        code: (
            "src/gateways/channels/retained/turns.rs",
            "SHARE_US: u64 = 60_000_000;",
        ),
        test: "tests/channels_gateway/retained.rs::a_client_that_takes_next_to_nothing_counts_for_a_minute",
    },
    Fixed {
        what: "Payload bytes of the last values of one pattern",
        value: "512 KiB, from 16 streams",
        beyond: "the further values are not sent; a log line",
        shows: Shows::Metric(names::BUS_RETAINED_LIMITED),
        code: (
            "src/sources/nats/subjects/last_values.rs",
            "BYTES_MAX: usize = 512 * 1024;",
        ),
        test: "src/sources/nats/subjects/last_values.rs::values_are_bounded_in_number_and_bytes",
    },
    Fixed {
        what: "Subjects of a pattern that came live while clients wait for its last values",
        value: "10,000",
        beyond: "the clients that wait get no last values",
        shows: Shows::Metric(names::RETAINED_GIVEN_UP),
        code: (
            "src/gateways/channels/retained.rs",
            "LIVE_MAX: usize = 10_000;",
        ),
        test: "src/gateways/channels/retained/tests.rs::subjects_that_are_remembered_are_bounded",
    },
    Fixed {
        what: "Bytes of these subjects, over all patterns; each counts with 64 more",
        value: "16 MiB",
        beyond: "the clients that wait for the pattern get no last values",
        shows: Shows::Metric(names::RETAINED_GIVEN_UP),
        code: (
            "src/gateways/channels/retained.rs",
            "LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;",
        ),
        test: "src/gateways/channels/retained/tests.rs::and_so_are_their_bytes_over_all_patterns",
    },
    Fixed {
        what: "Names of a NATS cluster that settle (`--bus-settle-ms`) and are told to the loop between two reads",
        value: "1,024; names that settle are at most `--all-channels-max`",
        beyond: "the others are told after the next read",
        shows: Shows::Metric(names::SUBSCRIPTION_CHANGES),
        code: (
            "src/sources/nats/subjects/session.rs",
            "SETTLED_PER_TURN: usize = 1_024;",
        ),
        test: "src/sources/ledger/tests.rs::names_settle_together",
    },
    Fixed {
        what: "Silence of a connection to NATS or Redis while no second connection does better",
        value: "30 s",
        beyond: "weirgate gives the connection up and reconnects",
        shows: Shows::Metric(names::BUS_RECONNECTS),
        code: ("src/sources/relay.rs", "silence_max_ms: 30_000,"),
        test: "tests/nats_source/subjects.rs::a_server_that_is_silent_for_too_long_is_left",
    },
];
