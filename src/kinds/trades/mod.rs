//! `weirgate trades`: the settings, the pages and the start of the gateway.

mod pages;
mod start;

use self::start::start;
use crate::run::{GatewayKind, TokenUse};
use crate::settings::{Change, Heading, Kind, Part, Rows, Setting, Shows};
use crate::telemetry::names;

/// `weirgate trades`.
pub(super) const TRADES: GatewayKind = GatewayKind::new(
    "trades",
    "Relay trades from Redis to clients by symbol",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::Redis,
        Part::Json,
        Part::History,
        Part::HistoryMarks,
        Part::Stream,
        Part::SharedWindow,
        Part::RequireAuth,
        Part::Tokens,
    ])
    .own(&[OWN])
    .changes(CHANGES),
    start,
)
.dialect(super::dialects::TRADES)
.tokens(TokenUse::Claims);

const HEADING: Heading = Heading("Trades");
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const OWN: &[Setting] = &[
    Setting::count(
        HEADING,
        "symbols-max",
        (0, 100_000),
        "5",
        "Symbols per connection",
    )
    .more(
        "The claim of a token overrides this number, and then counts all connections of the \
        user together. Candles of a symbol count once more for each interval.",
    )
    .original_env(&["MAX_SYMBOLS_PER_CONNECTION"])
    .in_short_help()
    .limit(
        "an error, and the request adds nothing",
        Shows::Elsewhere("the response to `subscribe`"),
        "tests/trades_gateway.rs::a_request_is_taken_whole_or_not_at_all",
    ),
    Setting::count(
        HEADING,
        "messages-per-second-max",
        (0, 1_000_000),
        "0",
        "Messages per second from a client; 0 for no limit",
    )
    .limit(
        "the message is dropped, and the client gets an error once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
        "tests/trades_gateway.rs::who_sends_too_much_is_told_once_a_second",
    ),
    Setting::new(
        HEADING,
        "node-env",
        Kind::Text,
        "development",
        "Name of the environment, shown at the start; has no effect",
    )
    .original_env(&["NODE_ENV"]),
    Setting::ms(
        HEADING,
        "stats-log-interval-ms",
        (0, DAY_MS),
        "60000",
        "Time between log lines with the numbers of /stats; 0 for none",
    ),
    Setting::new(
        HEADING,
        "candles",
        Kind::Switch,
        "false",
        "Clients may subscribe to candles of 1 s, 1 min and 5 min",
    )
    .more(
        "Every trade is then added to candles, whether a client watches the symbol or not. The \
        replaced gateway has no candles.",
    ),
    Setting::ms(
        HEADING,
        "candle-grace-ms",
        (0, 10_000),
        "500",
        "How long after its end a candle takes late trades, before it is closed",
    )
    .limit(
        "the candle lacks the trade",
        Shows::Metric(names::CANDLE_TRADES_DROPPED),
        "tests/trades_gateway/candles.rs::a_late_trade_goes_where_it_belongs_until_the_grace_time_is_over",
    ),
    Setting::count(
        HEADING,
        "candle-pairs-max",
        (3, 3_000_000),
        "30000",
        "Candles at once: pairs of a traded symbol and an interval; a symbol has three",
    )
    .more("Subscriptions to symbols without trades count only in the limit on symbols of a client.")
    .limit(
        "trades of further symbols are in no candle, and a request for such candles gets an error",
        Shows::Metric(names::CANDLE_PAIRS),
        "tests/trades_gateway/candles/room.rs::the_pairs_of_a_symbol_and_an_interval_are_limited",
    ),
];

/// The shared rows with the defaults and names of the contract.
const CHANGES: &[Change] = &[
    ("listen", |row| row.default("[::]")),
    ("port", |row| {
        row.default("8080").original_env(&["WS_PORT"]).more("")
    }),
    ("redis-url", |row| {
        row.help("URL of Redis; required unless --redis-sentinels is set")
            .more(
                "redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS; shown without the \
                 password.",
            )
    }),
    ("require-auth", |row| {
        row.more(
            "By default no client is refused for a token, and the claims of a valid token \
            still apply.",
        )
    }),
    ("message-bytes-max", |row| row.default("102400")),
    ("ping-interval-ms", |row| row.default("30000")),
    ("pong-timeout-ms", |row| {
        row.default("30000").beyond("close 1000")
    }),
];
