//! Limits between the loop and a bus whose names change: Redis, and NATS for channels.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const REDIS: &[Fixed] = &[
    Fixed {
        what: "Patterns of channels that the bus is asked for though a pattern of the table covers them",
        value: "5",
        beyond: "the bus is asked for the pattern of the table, and weirgate matches the patterns within",
        shows: Shows::Metric(names::SUBSCRIBED_NAMES),
        code: (
            "src/gateways/channels/judge.rs",
            "BESIDE_COVERS_MAX: usize = 5;",
        ),
        test: "tests/channels_gateway/covers.rs::many_patterns_cost_the_bus_one_and_each_client_gets_its_own_copies",
    },
    Fixed {
        what: "Copies of a message of channels for different patterns that weirgate matches, beside one for each address",
        value: "32: an address gets another one only while it has fewer than are left, so a lone address has 16",
        beyond: "the clients of the address lose its newest patterns, miss a number and get an error",
        shows: Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        code: (
            "src/gateways/channels/patterns.rs",
            "COPIES_MAX: usize = 32;",
        ),
        test: "tests/channels_gateway/covers.rs::the_newest_patterns_over_the_copies_of_a_message_are_given_up_with_an_error",
    },
    Fixed {
        what: "Steps of matching a name with a pattern that weirgate matches",
        value: "1,000, and 4 for each byte of the name",
        beyond: "the clients of the address lose the pattern, miss a number and get an error",
        shows: Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        code: (
            "src/gateways/channels/patterns.rs",
            "STEPS_MAX: usize = 1_000;",
        ),
        test: "src/gateways/channels/patterns.rs::a_pattern_that_takes_too_many_steps_is_given_up",
    },
    Fixed {
        what: "Changes of subscriptions that wait for the thread of the bus",
        value: "one for each name: at most twice `--all-channels-max`",
        beyond: "a later change of a name replaces the earlier one",
        shows: Shows::Metric(names::SUBSCRIPTION_CHANGES),
        code: (
            "src/sources/interest.rs",
            "by_name: HashMap<Subscription, (u64, T)>,",
        ),
        test: "src/sources/interest.rs::changes_that_nobody_takes_are_no_more_than_the_names",
    },
    Fixed {
        what: "Changes of subscriptions that the thread of the bus takes between two reads",
        value: "256",
        beyond: "the others are taken after the next read",
        shows: Shows::Metric(names::SUBSCRIPTION_CHANGES),
        code: ("src/sources/interest.rs", "TAKEN_MAX: usize = 256;"),
        test: "src/sources/interest.rs::many_changes_are_taken_in_parts_and_in_their_order",
    },
    Fixed {
        what: "Names that the bus was asked to subscribe or unsubscribe and has not answered",
        value: "32 KiB of commands; while names of a new connection are restored 8,192, and 1 MiB",
        beyond: "the other names are queued; a name that was given up leaves the queue",
        shows: Shows::Metric(names::SUBSCRIPTION_CHANGES),
        code: (
            "src/sources/ledger.rs",
            "ASKED_BYTES_MAX: usize = 32 * 1024;",
        ),
        test: "src/sources/ledger/tests.rs::names_that_came_and_went_while_the_server_was_silent_leave_nothing",
    },
];
