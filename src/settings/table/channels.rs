//! What a client of the channels gateway may hold, say and get.

use super::super::kind::Kind;
use super::super::limit::Shows;
use super::super::setting::Heading::Channels as Heading;
use super::super::setting::Setting;
use super::super::setting::Subcommand::Channels;
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::count(
        Heading,
        "channels-max",
        (0, 100_000),
        "50",
        "Names that a client may hold, patterns among them; 0 allows none",
    )
    .original_env(&["MAX_CHANNELS_PER_CLIENT"])
    .limit(
        "an error in the answer, and no further entry is looked at",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    )
    .on(&[Channels]),
    Setting::count(
        Heading,
        "wildcards-max",
        (0, 100_000),
        "5",
        "Patterns (names with * or ?) that a client may hold; 0 allows none",
    )
    .original_env(&["MAX_WILDCARD_SUBSCRIPTIONS"])
    .limit(
        "an error in the answer, and on to the next entry",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    )
    .on(&[Channels]),
    Setting::count(
        Heading,
        "messages-per-second-max",
        (1, 1_000_000),
        "1000",
        "Messages that a client may send, a second",
    )
    .more("If it is set, a client also gets no more data messages than that; the others are shed.")
    .original_env(&["MAX_MESSAGES_PER_SECOND"])
    .limit(
        "dropped, and told so once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
        "tests/channels_gateway/requests.rs::who_sends_too_much_is_told_once_a_second",
    )
    .on(&[Channels]),
    Setting::new(
        Heading,
        "default-role",
        Kind::Text,
        "user",
        "The role of clients whose token names none, and of all without --require-auth",
    )
    .original_env(&["DEFAULT_ROLE"])
    .on(&[Channels]),
    Setting::new(
        Heading,
        "acl",
        Kind::Text,
        "",
        "JSON file, role to names and patterns, in place of the built-in table",
    )
    .more("--print-acl shows the table that is in force, in the same form.")
    .on(&[Channels]),
];
