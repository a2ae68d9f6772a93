//! The settings of `weirgate trades`: the limits of a client, and its lines in the log.

use std::net::Ipv6Addr;

use crate::gateways::shared::metrics as shared_metrics;
use crate::gateways::trades::{CandleSettings, TradesGatewaySettings};
use weirgate_core::Limits;
use weirgate_server::settings::{
    Groups, Heading, Kind, ListenSettings, RowChange, Setting, Shows, With,
};
use weirgate_server::{field, group};

group! {
    /// What the start of `weirgate trades` needs; the limits of clients are in [`TradesGatewaySettings`].
    #[derive(Clone)]
    pub(super) struct TradesSettings {
        /// A name that is only shown.
        pub(super) environment: String = "development".to_owned(),
        /// `None`: no lines.
        pub(super) stats_log_interval_ms: Option<u64> = Some(60_000),
    }
}

/// The defaults of the contract.
pub(super) fn defaults(groups: &mut Groups) {
    let listen: &mut ListenSettings = groups.get_mut();
    listen.default_to(Ipv6Addr::UNSPECIFIED);
    listen.port = Some(8080);
    let limits: &mut Limits = groups.get_mut();
    limits.message_bytes_max = 102_400;
    limits.ping_interval_us = 30_000_000;
    limits.pong_timeout_us = 30_000_000;
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) const OWN: &[Setting] = &Heading("Trades").of([
    Setting::count(
        "symbols-max",
        (0, 100_000),
        field!(TradesGatewaySettings, symbols_max),
        "Symbols per connection",
    )
    .more(
        "A claim of the token overrides it, and counts all connections of the user to one process together. Candles \
         count once more for each interval.",
    )
    .original_env(&["MAX_SYMBOLS_PER_CONNECTION"])
    .in_short_help()
    .limit(
        "an error, and the request adds nothing",
        Shows::Elsewhere("the response to `subscribe`"),
        "tests/trades_gateway.rs::a_request_is_taken_whole_or_not_at_all",
    ),
    Setting::count(
        "messages-per-second-max",
        (0, 1_000_000),
        field!(TradesGatewaySettings, inbound_per_second),
        "Messages per second from a client; 0 for no limit",
    )
    .limit(
        "the message is dropped, and the client gets an error once a second",
        Shows::Metric(shared_metrics::REQUESTS_LIMITED),
        "tests/trades_gateway.rs::who_sends_too_much_is_told_once_a_second",
    ),
    Setting::new(
        "node-env",
        Kind::Text,
        field!(TradesSettings, environment),
        "Name of the environment, shown at the start; has no effect",
    )
    .original_env_only(&["NODE_ENV"]),
    Setting::ms(
        "stats-log-interval-ms",
        (0, DAY_MS),
        field!(TradesSettings, stats_log_interval_ms),
        "Time between log lines with the numbers of /stats; 0 for none",
    ),
    Setting::new(
        "candles",
        Kind::Switch,
        &With::<TradesGatewaySettings, bool> {
            set: |trades, has_candles| trades.candles = has_candles.then(CandleSettings::default),
            get: |trades| trades.candles.is_some(),
        },
        "Clients may subscribe to candles of 1 s, 1 min and 5 min",
    ),
]);

/// Changes to shared rows, by the contract.
pub(super) const CHANGES: &[RowChange] = &[
    // `PORT`, which the shared addition names, is not read here.
    ("port", |row| row.original_env(&["WS_PORT"]).more("")),
    ("redis-url", |row| {
        row.help("URL of Redis; required unless --redis-sentinels is set")
            .more(
                "The form is redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or \
                 unix://USER:PASSWORD@/PATH?db=DATABASE.",
            )
    }),
    ("require-auth", |row| {
        row.more(
            "By default no client is refused because of its token, and the claims of a valid token apply.",
        )
    }),
    ("pong-timeout-ms", |row| row.beyond("close 1000")),
];
