//! Limits between the loop and a bus whose names change: Redis, and NATS for channels.

use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const REDIS: &[Fixed] = &[
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
