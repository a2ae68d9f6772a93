//! What a client of the trades gateway may hold and say, and what the gateway says of itself.

use super::super::kind::Kind;
use super::super::limit::Shows;
use super::super::setting::Heading::Trades as Heading;
use super::super::setting::Setting;
use super::super::setting::Subcommand::Trades;
use super::HOUR_MS;
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::count(
        Heading,
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
    )
    .on(&[Trades]),
    Setting::count(
        Heading,
        "messages-per-second-max",
        (0, 1_000_000),
        "0",
        "Messages that a client may send, a second; 0 for no limit",
    )
    .limit(
        "dropped, and told so once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
        "tests/trades_gateway.rs::who_sends_too_much_is_told_once_a_second",
    )
    .on(&[Trades]),
    Setting::new(
        Heading,
        "node-env",
        Kind::Text,
        "development",
        "What the environment is called at the start; changes nothing",
    )
    .original_env(&["NODE_ENV"])
    .on(&[Trades]),
    Setting::ms(
        Heading,
        "stats-log-interval-ms",
        (0, 24 * HOUR_MS),
        "60000",
        "Time between log lines with the numbers of /stats; 0 for none",
    )
    .on(&[Trades]),
];
