//! `weirgate trades`: its settings, its start and its pages.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::gateways::shared::auth::{access_metrics, authenticator, warn_of};
use crate::gateways::shared::bus::{Bus, redis};
use crate::gateways::shared::feed::FeedSettings;
use crate::gateways::shared::reading::{Reading, open};
use crate::gateways::trades::feed::{PATTERN, TradesFeed};
use crate::gateways::trades::{CandleSettings, TradesGateway, TradesGatewaySettings, TradesStats};
use weirgate_bus::runtime::Clock;
use weirgate_bus::status::BusStatus;
use weirgate_core::Subscription;
use weirgate_core::{DeflateWindow, FrameBytes, Limits};
use weirgate_server::http::{
    Answer, ClientModule, FrontPage, Handler, Route, StatusCode, client_routes,
};
use weirgate_server::run::{
    CommonSettings, GatewayKind, Parts, Prepared, RunError, StatsLine, TokenUse, say,
};
use weirgate_server::settings::{
    BusSettings, Change, Checked, Groups, Heading, Kind, Listen, ListenSettings, Part, RedisAccess,
    Rows, Setting, Shows, StreamSettings, field, flag, group,
};
use weirgate_server::telemetry::{GatewayMetric, Telemetry, names};
use weirgate_wire::auth::{Authenticator, NamePatterns, NameSyntax};
use weirgate_wire::json::ObjectWriter;

/// `weirgate trades`.
pub(in crate::gateways) const TRADES: GatewayKind = GatewayKind::new(
    "trades",
    "Relay trades from Redis to clients by symbol",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::Redis,
        Part::RedisUrl,
        Part::History,
        Part::HistoryMarks,
        Part::Stream,
        Part::RequireAuth,
        Part::Tokens,
    ])
    .own(&[OWN])
    .changes(CHANGES)
    .defaults(defaults),
    start,
)
.dialect(crate::gateways::shared::dialects::TRADES)
.tokens(TokenUse::Claims(|checked| {
    let symbols_max = checked.get::<TradesSettings>().symbols_max;
    u32::try_from(symbols_max).unwrap_or(u32::MAX)
}));

group! {
    /// The settings of `weirgate trades`.
    #[derive(Clone)]
    struct TradesSettings {
        symbols_max: usize = 5,
        messages_per_second_max: Option<u32> = None,
        environment: String = "development".to_owned(),
        stats_log_interval_ms: Option<u64> = Some(60_000),
        candles: bool = false,
    }
}

/// The defaults of the contract.
fn defaults(groups: &mut Groups) {
    let listen: &mut ListenSettings = groups.of();
    listen.listen = vec![Listen::Ip(Ipv6Addr::UNSPECIFIED.into())];
    listen.port = Some(8080);
    let limits: &mut Limits = groups.of();
    limits.message_bytes_max = 102_400;
    limits.ping_interval_us = 30_000_000;
    limits.pong_timeout_us = 30_000_000;
    // Strangers cannot cause messages of a symbol.
    limits.deflate_window = DeflateWindow::Shared;
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const OWN: &[Setting] = &Heading("Trades").of([
    Setting::count(
        "symbols-max",
        (0, 100_000),
        field!(TradesSettings, symbols_max),
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
        "messages-per-second-max",
        (0, 1_000_000),
        field!(TradesSettings, messages_per_second_max),
        "Messages per second from a client; 0 for no limit",
    )
    .limit(
        "the message is dropped, and the client gets an error once a second",
        Shows::Metric(names::REQUESTS_LIMITED),
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
        field!(TradesSettings, candles),
        "Clients may subscribe to candles of 1 s, 1 min and 5 min",
    )
    .more(
        "Every trade is then added to candles, whether a client watches the symbol or not. The \
        replaced gateway has no candles.",
    ),
]);

/// Changes to shared rows, by the contract.
const CHANGES: &[Change] = &[
    ("port", |row| row.original_env(&["WS_PORT"]).more("")),
    ("redis-url", |row| {
        row.help("URL of Redis; required unless --redis-sentinels is set")
            .more(
                "redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or \
                 unix://USER:PASSWORD@/PATH?db=DATABASE; shown without the password.",
            )
    }),
    ("require-auth", |row| {
        row.more(
            "By default no client is refused for a token, and the claims of a valid token \
            still apply.",
        )
    }),
    ("pong-timeout-ms", |row| row.beyond("close 1000")),
];

fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let own: TradesSettings = checked.get();
    let auth = checked.auth();
    let (authenticator, keys) = authenticator(&auth, clock)?;
    let gateway_settings = gateway_settings(&own, &common, authenticator);
    let environment = own.environment;
    warn_of(&auth, &gateway_settings.authenticator);

    let bus_settings: BusSettings = checked.get();
    let bus = Bus::Redis(redis(
        checked,
        flag!("redis-url"),
        &checked.get::<RedisAccess>().url,
    )?);
    let redis_shown = bus.address();
    let open_bus = open(bus, reading(checked), clock)?;
    let stats = Arc::new(TradesStats::default());
    let numbers = Numbers {
        stats: Arc::clone(&stats),
        server_id: gateway_settings.server_id.clone(),
        clock,
    };
    let frame_bytes = FrameBytes::default();
    let feed_settings = FeedSettings {
        bus_message_bytes_max: bus_settings.message_bytes_max,
        is_stamped: bus_settings.is_stamped,
    };
    let feed = TradesFeed::new(feed_settings, frame_bytes.clone());
    let metrics = metrics(&stats, gateway_settings.candles.as_ref());
    let gateway = TradesGateway::new(gateway_settings, Arc::clone(&stats));
    let line = own.stats_log_interval_ms;
    let (for_line, for_stats) = (numbers.clone(), numbers.clone());
    let parts = Parts::new(TRADES.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .routes(|telemetry| {
            let mut routes = client_routes(ClientModule::Trades);
            routes.push(health_route(telemetry));
            routes
        })
        .fallback(upgrade_required())
        .stats_line(line.map(|ms| for_line.every(ms)))
        .front(FrontPage {
            gateway: TRADES.name,
            path: "/",
            status: StatusCode::UPGRADE_REQUIRED,
            client: "/trades.js",
            tail: "--subscribe SYMBOL",
            documents: &[
                "docs/guides/hello/trades.md",
                "docs/guides/trades.md",
                "docs/reference/protocol-trades.md",
            ],
        })
        .stats_head(Box::new(move |telemetry, object| {
            for_stats.write(telemetry, object);
        }))
        .metrics(metrics);
    keys.add_to(open_bus.add_to(parts))
        .prepare(clock, move |listening| {
            let (websocket, server_id) = (listening.url("ws", ""), &numbers.server_id);
            let pages = listening.page_lines(13);
            let text = format!(
                "weirgate trades\n  Redis:       {redis_shown}\n  WebSocket:   \
                 {websocket}{pages}\n  Environment: {environment}\n  Server:      {server_id}"
            );
            say(&text, || {
                tracing::info!(
                    redis = redis_shown,
                    websocket,
                    environment,
                    server_id,
                    "weirgate trades"
                );
            });
        })
}

/// All trades, or those of a stream.
fn reading(checked: &Checked) -> Reading<'static> {
    let mut reading = Reading::of(checked);
    if let Some(stream) = &mut reading.stream {
        stream.only = NamePatterns::new(NameSyntax::Redis, &[PATTERN.to_owned()]).ok();
    }
    let has_history = checked.get::<Limits>().history.keep_us > 0;
    let marks = checked.get::<StreamSettings>().marks_channel;
    Reading {
        names: vec![Subscription::pattern(PATTERN)],
        needs_names: true,
        kept: has_history.then_some(marks),
        ..reading
    }
}

fn gateway_settings(
    own: &TradesSettings,
    common: &CommonSettings,
    authenticator: Authenticator,
) -> TradesGatewaySettings {
    TradesGatewaySettings {
        server_id: server_id(),
        symbols_max: own.symbols_max,
        inbound_per_second: own.messages_per_second_max,
        origins: common.origins(),
        authenticator,
        candles: own.candles.then(CandleSettings::default),
    }
}

/// `ws-gateway-` and eight hexadecimal digits, new at each start.
fn server_id() -> String {
    let random = RandomState::new().hash_one(0) as u32;
    format!("ws-gateway-{random:08x}")
}

fn metrics(stats: &Arc<TradesStats>, candles: Option<&CandleSettings>) -> Vec<GatewayMetric> {
    let mut metrics = vec![GatewayMetric::number(&names::SUBSCRIPTIONS, stats, |s| {
        s.subscriptions.get()
    })];
    metrics.extend(access_metrics(&stats.access));
    if let Some(CandleSettings { pairs_max, .. }) = candles {
        let candles = &stats.candles;
        metrics.extend([
            GatewayMetric::number(&names::CANDLE_PAIRS, candles, |s| s.pairs.get()),
            GatewayMetric::fixed(&names::CANDLE_PAIRS_MAX, *pairs_max),
            GatewayMetric::by_label(&names::CANDLE_TRADES_DROPPED, candles, |s| {
                s.dropped().collect()
            }),
            GatewayMetric::by_label(&names::SUBSCRIPTIONS_LIMITED, candles, |s| {
                vec![("candle_pairs", s.limited.get())]
            }),
        ]);
    }
    metrics
}

/// The response to plain requests for other paths than the pages (contract trades, row "listens").
fn upgrade_required() -> Handler {
    Handler::ready(|_| {
        let status = StatusCode::UPGRADE_REQUIRED;
        Answer::new(status, "text/plain", "Upgrade Required")
    })
}

/// `/health` (contract trades, row "once a minute").
fn health_route(telemetry: &Arc<Telemetry>) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| {
        let numbers = telemetry.event_loop.numbers();
        let mut object = ObjectWriter::new();
        object.string("service", "gateway");
        object.string("status", "healthy");
        let connected = telemetry.bus().is_some_and(BusStatus::connected);
        object.boolean("redis_connected", connected);
        object.maybe_number("last_message_ts", numbers.feed.last_message_unix_ms);
        object.number("connections", numbers.hub.open);
        Answer::json(StatusCode::OK, object.finish()).no_store()
    })
}

/// Writes the head of `/stats`, and the line that is logged once a minute.
#[derive(Clone)]
struct Numbers {
    stats: Arc<TradesStats>,
    server_id: String,
    clock: Clock,
}

impl Numbers {
    fn write(&self, telemetry: &Telemetry, object: &mut ObjectWriter) {
        for (name, value) in self.values(telemetry) {
            object.number(name, value);
        }
        object.string("serverId", &self.server_id);
        let upgrades = telemetry.event_loop.read(|numbers| numbers.hub.opened);
        object.number("totalConnections", upgrades);
    }

    fn values(&self, telemetry: &Telemetry) -> [(&'static str, u64); 5] {
        let hub = telemetry.event_loop.read(|numbers| numbers.hub.clone());
        [
            ("activeConnections", hub.open),
            ("totalSymbolSubscriptions", self.stats.subscriptions.get()),
            ("messagesSent", hub.messages_sent),
            ("messagesReceived", hub.received_messages),
            ("uptimeSeconds", telemetry.uptime_seconds(self.clock.now())),
        ]
    }

    fn every(self, interval_ms: u64) -> StatsLine {
        let log = move |telemetry: &Telemetry| {
            let [active, symbols, sent, received, uptime] =
                self.values(telemetry).map(|(_, value)| value);
            tracing::info!(
                activeConnections = active,
                totalSymbolSubscriptions = symbols,
                messagesSent = sent,
                messagesReceived = received,
                uptimeSeconds = uptime,
                "gateway stats"
            );
        };
        StatsLine {
            interval_ms,
            log: Box::new(log),
        }
    }
}
