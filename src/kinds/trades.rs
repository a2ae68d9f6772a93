//! `weirgate trades`: its settings, its start and its pages.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::auth::{access_metrics, authenticator, warn_of};
use super::bus::{REDIS, redis_question, redis_stream, shown_redis, stream_settings};
use crate::auth::{Authenticator, NamePatterns, NameSyntax};
use crate::base::Clock;
use crate::feeds::Subscription;
use crate::feeds::trades::{PATTERN, TradesFeed, TradesFeedSettings};
use crate::gateways::{CandleSettings, TradesGateway, TradesGatewaySettings, TradesStats};
use crate::http::{Answer, ClientModule, FrontPage, Handler, Route, StatusCode, client_routes};
use crate::hub::FrameBytes;
use crate::run::{
    CommonSettings, GatewayKind, Parts, Prepared, Question, RunError, StatsLine, TokenUse, say,
};
use crate::settings::{Change, Checked, Heading, Kind, Part, Rows, Setting, Shows};
use crate::sources::redis::{RedisNeeds, RedisSettings, RedisSource};
use crate::sources::{KeptFeed, Source, StreamSettings};
use crate::telemetry::{BusStatus, GatewayMetric, Telemetry, names};
use crate::wire::object_writer::ObjectWriter;

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

fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let auth = checked.auth();
    let mut redis = REDIS.redis(checked)?;
    redis.payload_bytes_max = checked.number("bus-message-bytes-max");
    redis.needs_all_names = true;
    let (authenticator, keys) = authenticator(&auth, clock)?;
    let gateway_settings = gateway_settings(checked, &common, authenticator);
    let environment = checked.text("node-env");
    warn_of(&auth, &gateway_settings.authenticator);

    let status = Arc::new(BusStatus::new(&[], clock.mono_us()));
    let redis_shown = shown_redis(&redis);
    let (source, question) = bus(checked, redis, &status)?;
    let stats = Arc::new(TradesStats::default());
    let numbers = Numbers {
        stats: Arc::clone(&stats),
        server_id: gateway_settings.server_id.clone(),
        clock,
    };
    let frame_bytes = FrameBytes::default();
    let feed_settings = TradesFeedSettings {
        json_depth_max: checked.number("json-depth-max"),
        bus_message_bytes_max: checked.number("bus-message-bytes-max"),
    };
    let feed = TradesFeed::new(feed_settings, frame_bytes.clone());
    let metrics = metrics(&stats, gateway_settings.candles.as_ref());
    let gateway = TradesGateway::new(gateway_settings, Arc::clone(&stats));
    let line = checked.unless_0("stats-log-interval-ms");
    let (for_line, for_stats) = (numbers.clone(), numbers.clone());
    let parts = Parts::new(TRADES.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .boxed_source(source, status)
        .asks([question])
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
    keys.add_to(parts).prepare(clock, move |listening| {
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

/// The source, and the check for `--check --connect`.
fn bus(
    checked: &Checked,
    redis: RedisSettings,
    status: &Arc<BusStatus>,
) -> Result<(Box<dyn Source>, Question), RunError> {
    let marks = checked.text("history-channel");
    let has_history = checked.number::<u64>("history-ms") > 0;
    let status = Arc::clone(status);
    let wrong = |error| REDIS.redis_error(error);
    if let Some(stream) = stream_settings(checked) {
        let only = NamePatterns::new(NameSyntax::Redis, &[PATTERN.to_owned()]);
        let stream = StreamSettings {
            only: only.ok(),
            ..stream
        };
        return redis_stream(redis, stream, status).map_err(wrong);
    }
    let marks_wanted = has_history.then(|| Subscription::channel(marks.as_str()));
    let needs = RedisNeeds {
        subscriptions: vec![Subscription::pattern(PATTERN)],
        requests: marks_wanted.into_iter().collect(),
        marks: has_history.then(|| marks.clone()),
        ..RedisNeeds::default()
    };
    let question = redis_question(&redis, needs);
    let (mut source, interest) = RedisSource::new(redis, status).map_err(wrong)?;
    interest.subscribe(Subscription::pattern(PATTERN));
    if has_history {
        let feed = KeptFeed::new(NameSyntax::Redis, vec![Subscription::pattern(PATTERN)]);
        let feed = feed.map_err(|(name, error)| RunError::Settings(format!("{name}: {error}")))?;
        source = source.with_kept(feed, &marks).map_err(wrong)?;
    }
    Ok((Box::new(source), question))
}

fn gateway_settings(
    checked: &Checked,
    common: &CommonSettings,
    authenticator: Authenticator,
) -> TradesGatewaySettings {
    let candles = CandleSettings {
        grace_ms: checked.number("candle-grace-ms"),
        pairs_max: checked.number("candle-pairs-max"),
    };
    TradesGatewaySettings {
        server_id: server_id(),
        symbols_max: checked.number("symbols-max"),
        inbound_per_second: checked.unless_0("messages-per-second-max"),
        json_depth_max: checked.number("json-depth-max"),
        origins: common.origins(),
        authenticator,
        candles: checked.switch("candles").then_some(candles),
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

/// The response to plain requests outside the pages (contract trades, row "listens").
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

/// The head of `/stats`, and the line that is logged once a minute.
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
