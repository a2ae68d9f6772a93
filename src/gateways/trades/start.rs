//! `weirgate trades`: its start and its pages.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::commands::{GatewayKind, TokenUse};
use crate::gateways::shared::auth::{authenticator, warn_of};
use crate::gateways::shared::bus::{Bus, redis};
use crate::gateways::shared::open_bus::{BusReading, open};
use crate::gateways::trades::feed::TradesFeed;
use crate::gateways::trades::metrics::gateway_metrics;
use crate::gateways::trades::settings::TradesSettings;
use crate::gateways::trades::{TradesGateway, TradesGatewaySettings, TradesStats};
use weirgate_core::{FrameBytes, Limits, Subscription};
use weirgate_runtime::{BusStatus, Clock};
use weirgate_server::flag;
use weirgate_server::http::{Answer, ClientModule, FrontPage, Handler, Route, StatusCode};
use weirgate_server::run::{CommonSettings, Listening, Parts, Prepared, RunError, say};
use weirgate_server::settings::{Checked, RedisAccess, Rows, TablePart};
use weirgate_server::telemetry::Telemetry;
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::json::ObjectWriter;

/// `weirgate trades`.
pub(in crate::gateways) const TRADES: GatewayKind = GatewayKind::new(
    "trades",
    "Relay trades from Redis to clients by symbol",
    Rows::gateway(&[
        TablePart::Bus,
        TablePart::BusMessages,
        TablePart::Redis,
        TablePart::RedisUrl,
        TablePart::History,
        TablePart::HistoryMarks,
        TablePart::Stream,
        TablePart::RequireAuth,
        TablePart::Tokens,
    ])
    .own(&[super::settings::OWN])
    .changes(super::settings::CHANGES)
    .defaults(super::settings::defaults),
    start,
)
.dialect(crate::gateways::shared::dialects::TRADES)
.tokens(TokenUse::Claims(|checked| {
    let symbols_max = checked.get::<TradesGatewaySettings>().symbols_max;
    u32::try_from(symbols_max).unwrap_or(u32::MAX)
}));

/// The page for browsers.
const FRONT: FrontPage = FrontPage {
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
};

/// Assembles the gateway from its settings.
fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let own: TradesSettings = checked.get();
    let auth = checked.auth();
    let (authenticator, keys) = authenticator(&auth, clock)?;
    let bus = Bus::Redis(redis(
        checked,
        flag!("redis-url"),
        &checked.get::<RedisAccess>().url,
    )?);
    let redis_shown = bus.address();
    let reading = reading(checked);
    let gateway_settings = TradesGatewaySettings {
        source: reading.source(),
        server_id: server_id(),
        origins: common.origins(),
        authenticator,
        ..checked.get()
    };
    let environment = own.environment;
    warn_of(&gateway_settings.authenticator);

    let open_bus = open(bus, reading, clock)?;
    let stats = Arc::new(TradesStats::default());
    let numbers = Numbers {
        stats: Arc::clone(&stats),
        server_id: gateway_settings.server_id.clone(),
        clock,
    };
    let frame_bytes = FrameBytes::default();
    let feed = TradesFeed::new(checked.get(), frame_bytes.clone());
    let metrics = gateway_metrics(&stats, gateway_settings.candles.as_ref());
    let gateway = TradesGateway::new(gateway_settings, Arc::clone(&stats));
    let (for_line, for_stats) = (numbers.clone(), numbers.clone());
    let parts = Parts::new(TRADES.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .routes(routes)
        .fallback(upgrade_required())
        .stats_line(own.stats_log_interval_ms, move |telemetry| {
            for_line.log(telemetry);
        })
        .front(FRONT)
        .stats_head(Box::new(move |telemetry, object| {
            for_stats.write(telemetry, object);
        }))
        .metrics(metrics);
    let announce = move |listening: &Listening| {
        announce(&redis_shown, &environment, &numbers.server_id, listening);
    };
    keys.add_to(open_bus.add_to(parts)).prepare(clock, announce)
}

/// Says where the gateway listens, and to which Redis it connects.
fn announce(redis: &str, environment: &str, server_id: &str, listening: &Listening) {
    let websocket = listening.url("ws", "");
    let mut lines = vec![
        ("Redis", redis.to_owned()),
        ("WebSocket", websocket.clone()),
    ];
    lines.extend(listening.pages());
    lines.push(("Environment", environment.to_owned()));
    lines.push(("Server", server_id.to_owned()));
    say(&Listening::banner("weirgate trades", &lines), || {
        tracing::info!(redis, websocket, environment, server_id, "weirgate trades");
    });
}

/// All trades, or those of a stream. The gateway cannot work without them. If it keeps a history, the instances number
/// the messages with marks.
fn reading(checked: &Checked) -> BusReading<'static> {
    let mut reading = BusReading::of(checked);
    if let Some(stream) = &mut reading.stream {
        // Cannot fail: the pattern is valid.
        stream.only = NamePatterns::new(NameSyntax::Redis, &[TradesFeed::PATTERN.to_owned()]).ok();
    }
    let has_history = checked.get::<Limits>().history.keep_us > 0;
    BusReading {
        names: vec![Subscription::pattern(TradesFeed::PATTERN)],
        needs_names: true,
        keeps_names: has_history,
        ..reading
    }
}

/// `ws-gateway-` and eight hexadecimal digits, new at each start.
fn server_id() -> String {
    // Any value: the keys of the hasher are random.
    let random = RandomState::new().hash_one(0) as u32;
    format!("ws-gateway-{random:08x}")
}

/// The response to plain requests for other paths than the pages (protocol-trades.md, "HTTP").
fn upgrade_required() -> Handler {
    Handler::ready(|_| {
        let status = StatusCode::UPGRADE_REQUIRED;
        Answer::new(status, "text/plain", "Upgrade Required")
    })
}

/// The pages of the gateway.
fn routes(telemetry: &Arc<Telemetry>) -> Vec<Route> {
    let mut routes = ClientModule::Trades.routes();
    routes.push(health_route(telemetry));
    routes
}

/// `/health` (protocol-trades.md, "HTTP").
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

/// Writes the head of `/stats`, and the line that is logged every `--stats-log-interval-ms`.
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

    /// Returns what `/stats` and the logged line have in common, with the names that it has in both.
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

    fn log(&self, telemetry: &Telemetry) {
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
    }
}
