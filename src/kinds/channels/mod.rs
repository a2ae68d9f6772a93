//! `weirgate channels`: what a client may hold, say and get.

#[cfg(feature = "redis")]
mod pages;
#[cfg(feature = "redis")]
mod start;

#[cfg(feature = "redis")]
use self::start::start;
use super::auth::acl;
#[cfg(not(feature = "redis"))]
use super::auth::without_redis as start;
use crate::run::{GatewayKind, Print, TokenUse};
use crate::settings::{Change, Heading, Kind, Part, Rows, Setting, Shows};
use crate::telemetry::names;

/// `weirgate channels`.
pub(super) const CHANNELS: GatewayKind = GatewayKind::new(
    "channels",
    "Relay Redis channels and patterns, with roles and limits",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::Redis,
        Part::RedisHost,
        Part::Json,
        Part::RequireAuth,
        Part::Tokens,
    ])
    .own(&[OWN])
    .changes(CHANGES),
    start,
)
.prints(PRINTS)
.dialect(super::dialects::CHANNELS)
.tokens(TokenUse::Roles(|checked| {
    acl(checked.path("acl").as_deref())
}));

const PRINTS: &[Print] = &[Print {
    flag: "print-acl",
    help: "Show the table of who may subscribe to what, as JSON, and exit",
    text: |checked| acl(checked.path("acl").as_deref()).map(|acl| acl.to_json()),
}];

const HEADING: Heading = Heading("Channels");

/// What is beyond a limit over all clients, and the test of these limits.
const ALL_BEYOND: &str = "an error in the response, and the next entry is checked; names that \
    somebody holds are granted";
const ALL_TEST: &str =
    "tests/channels_gateway/requests.rs::names_of_all_clients_together_are_bounded";

const OWN: &[Setting] = &[
    Setting::count(
        HEADING,
        "channels-max",
        (0, 100_000),
        "50",
        "Names that a client may hold, including patterns; 0 allows none",
    )
    .original_env(&["MAX_CHANNELS_PER_CLIENT"])
    .limit(
        "an error in the response, and no further entry is checked",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    ),
    Setting::bytes(
        HEADING,
        "channel-name-bytes-max",
        (1, 65_536),
        "512",
        "Bytes of a name or pattern that a client subscribes to",
    )
    .limit(
        "an error in the response, and the next entry is checked",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::a_name_that_is_too_long_is_refused_without_a_copy",
    ),
    Setting::count(
        HEADING,
        "wildcards-max",
        (0, 100_000),
        "5",
        "Patterns (names with * or ?) that a client may hold; 0 allows none",
    )
    .original_env(&["MAX_WILDCARD_SUBSCRIPTIONS"])
    .limit(
        "an error in the response, and the next entry is checked",
        Shows::Elsewhere("`errors` of `subscribed`"),
        "tests/channels_gateway/requests.rs::limits_are_looked_at_in_the_contracts_order",
    ),
    Setting::count(
        HEADING,
        "all-channels-max",
        (1, 10_000_000),
        "100000",
        "Different names that all clients together may hold, including patterns",
    )
    .more("A name held by several clients counts once.")
    .limit(
        ALL_BEYOND,
        Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::bytes(
        HEADING,
        "all-channel-name-bytes-max",
        (1_024, 1_073_741_824),
        "16777216",
        "Bytes of the different names and patterns that all clients together hold",
    )
    .limit(
        ALL_BEYOND,
        Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::count(
        HEADING,
        "all-wildcards-max",
        (0, 1_000_000),
        "1000",
        "Different patterns that all clients together may hold",
    )
    .more(
        "Redis compares every publication with each pattern: 1,000 patterns cost 0.05 to 0.6 ms \
        per publication.",
    )
    .limit(
        ALL_BEYOND,
        Shows::Metric(names::SUBSCRIPTIONS_LIMITED),
        ALL_TEST,
    ),
    Setting::count(
        HEADING,
        "messages-per-second-max",
        (1, 1_000_000),
        "1000",
        "Messages per second from a client",
    )
    .more(
        "If set, a client also gets at most this number of data messages per second; further \
        data messages are shed.",
    )
    .original_env(&["MAX_MESSAGES_PER_SECOND"])
    .limit(
        "the message is dropped, and the client gets an error once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
        "tests/channels_gateway/requests.rs::who_sends_too_much_is_told_once_a_second",
    ),
    Setting::new(
        HEADING,
        "default-role",
        Kind::Text,
        "user",
        "Role of clients without a role in the token, or without --require-auth",
    )
    .original_env(&["DEFAULT_ROLE"]),
    Setting::new(
        HEADING,
        "acl",
        Kind::Path,
        "",
        "JSON file with the names and patterns of each role",
    )
    .more(
        "Replaces the built-in table. --print-acl prints the table in force, in the same form. \
         SIGHUP reads the file again; a broken file leaves the table unchanged.",
    )
    .in_short_help(),
];

/// As the contract has them.
const CHANGES: &[Change] = &[
    ("listen", |row| row.original_env(&["REDIS_WS_GATEWAY_HOST"])),
    ("port", |row| {
        let row = row.original_env(&["REDIS_WS_GATEWAY_PORT"]);
        row.default("8889").more("")
    }),
    ("message-bytes-max", |row| row.default("2097152")),
];
