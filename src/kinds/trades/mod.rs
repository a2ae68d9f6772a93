//! `weirgate trades`: what a client may hold and say, and what the gateway says of itself.

#[cfg(feature = "redis")]
mod pages;
#[cfg(feature = "redis")]
mod start;

#[cfg(feature = "redis")]
use self::start::start;
#[cfg(not(feature = "redis"))]
use super::auth::without_redis as start;
use crate::run::GatewayKind;
use crate::settings::{Change, Heading, Kind, Part, Rows, Setting, Shows};
use crate::telemetry::names;

/// `weirgate trades`.
pub(super) const TRADES: GatewayKind = GatewayKind::new(
    "trades",
    "Relay trades from Redis to those who hold their symbols",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::Redis,
        Part::Json,
        Part::RequireAuth,
        Part::Tokens,
    ])
    .own(&[OWN])
    .changes(CHANGES),
    start,
);

const HEADING: Heading = Heading("Trades");
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const OWN: &[Setting] = &[
    Setting::count(
        HEADING,
        "symbols-max",
        (0, 100_000),
        "5",
        "Symbols that a connection may hold",
    )
    .more("A token's claim goes over it, and then counts all connections of its user together.")
    .original_env(&["MAX_SYMBOLS_PER_CONNECTION"])
    .limit(
        "an error, and the request adds nothing",
        Shows::Elsewhere("the answer to `subscribe`"),
        "tests/trades_gateway.rs::a_request_is_taken_whole_or_not_at_all",
    ),
    Setting::count(
        HEADING,
        "messages-per-second-max",
        (0, 1_000_000),
        "0",
        "Messages that a client may send, a second; 0 for no limit",
    )
    .limit(
        "dropped, and told so once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
        "tests/trades_gateway.rs::who_sends_too_much_is_told_once_a_second",
    ),
    Setting::new(
        HEADING,
        "node-env",
        Kind::Text,
        "development",
        "What the environment is called at the start; changes nothing",
    )
    .original_env(&["NODE_ENV"]),
    Setting::ms(
        HEADING,
        "stats-log-interval-ms",
        (0, DAY_MS),
        "60000",
        "Time between log lines with the numbers of /stats; 0 for none",
    ),
];

/// As the contract has them.
const CHANGES: &[Change] = &[
    ("listen", |row| row.default("[::]")),
    ("port", |row| {
        row.default("8080").original_env(&["WS_PORT"]).more("")
    }),
    ("redis-url", |row| {
        row.help("Redis; needed, unless there are --redis-sentinels; rediss:// goes through TLS")
    }),
    ("require-auth", |row| {
        row.more("Without it a token refuses nobody, and a good one still brings its claims.")
    }),
    ("message-bytes-max", |row| row.default("102400")),
    ("ping-interval-ms", |row| row.default("30000")),
    ("pong-timeout-ms", |row| {
        row.default("30000").beyond("close 1000")
    }),
];
