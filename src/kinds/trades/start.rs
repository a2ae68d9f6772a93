//! Assembles the trades gateway.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::TRADES;
use super::pages::{Numbers, health_route, upgrade_required};
use crate::auth::{Authenticator, NamePatterns, NameSyntax};
use crate::base::Clock;
use crate::feeds::Subscription;
use crate::feeds::trades::{PATTERN, TradesFeed, TradesFeedSettings};
use crate::gateways::{
    CandleSettings, CandleStats, TradesGateway, TradesGatewaySettings, TradesStats,
};
use crate::http::{ClientModule, FrontPage, StatusCode, client_routes};
use crate::hub::FrameBytes;
use crate::kinds::auth::{access_metrics, authenticator, warn_of};
use crate::kinds::bus::{REDIS, redis_question, redis_stream, shown_redis, stream_settings};
use crate::run::{CommonSettings, Parts, Prepared, Question, RunError, say};
use crate::settings::Checked;
use crate::sources::redis::{RedisNeeds, RedisSettings, RedisSource};
use crate::sources::{KeptFeed, Source, StreamSettings};
use crate::telemetry::{BusStatus, GatewayMetric, names};

pub(super) fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let common = CommonSettings::new(checked);
    let auth = checked.auth();
    let mut redis = REDIS.redis(checked)?;
    redis.payload_bytes_max = checked.number("bus-message-bytes-max");
    redis.needs_all_names = true;
    let (authenticator, mut keys) = authenticator(&auth, clock)?;
    let gateway_settings = gateway_settings(checked, &common, authenticator);
    let environment = checked.text("node-env");
    warn_of(&auth, &gateway_settings.authenticator);

    let status = Arc::new(BusStatus::new(&[], clock.now().unix_ms));
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
    let mut metrics = metrics(&stats, gateway_settings.candles.as_ref());
    metrics.extend(keys.metrics());
    let gateway = TradesGateway::new(gateway_settings, Arc::clone(&stats));
    let line = checked.unless_0("stats-log-interval-ms");
    let (for_line, for_stats) = (numbers.clone(), numbers.clone());
    Parts::new(TRADES.name, common, feed, gateway)
        .frame_bytes(frame_bytes)
        .boxed_source(source, status)
        .asks([question])
        .asks(keys.question.take())
        .awaits_keys(keys.awaits.take())
        .threads(keys.threads())
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
        .metrics(metrics)
        .reloads(keys.reload)
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
        source = source.with_kept(kept_feed()?, &marks).map_err(wrong)?;
    }
    Ok((Box::new(source), question))
}

/// The one pattern of the gateway.
fn kept_feed() -> Result<KeptFeed, RunError> {
    let pattern = vec![Subscription::pattern(PATTERN)];
    KeptFeed::new(NameSyntax::Redis, pattern)
        .map_err(|(name, error)| RunError::Settings(format!("{name}: {error}")))
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
    let subscriptions =
        GatewayMetric::number(&names::SUBSCRIPTIONS, stats, |s| s.subscriptions.get());
    let access = access_metrics(&stats.access);
    let candles = candles.map(|candles| candle_metrics(stats, candles.pairs_max));
    let candles = candles.into_iter().flatten();
    [subscriptions]
        .into_iter()
        .chain(access)
        .chain(candles)
        .collect()
}

/// The metrics of candles, if there are candles.
fn candle_metrics(stats: &TradesStats, pairs_max: usize) -> [GatewayMetric; 4] {
    let candles = &stats.candles;
    [
        GatewayMetric::number(&names::CANDLE_PAIRS, candles, |s| s.pairs.get()),
        GatewayMetric::fixed(&names::CANDLE_PAIRS_MAX, pairs_max),
        GatewayMetric::by_label(&names::CANDLE_TRADES_DROPPED, candles, |s| {
            s.dropped().collect()
        }),
        GatewayMetric::by_label(&names::SUBSCRIPTIONS_LIMITED, candles, |s| {
            vec![("candle_pairs", s.limited.get())]
        }),
    ]
}
