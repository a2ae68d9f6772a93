//! What `weirgate trades` is made of.

use crate::settings::TradesSettings;

use super::RunError;

/// Without the Redis source there is nothing to run.
///
/// # Errors
/// Always.
#[cfg(not(feature = "redis"))]
pub fn trades(_: TradesSettings) -> Result<(), RunError> {
    Err(RunError::NotBuilt("Redis"))
}

#[cfg(feature = "redis")]
pub use self::with_redis::trades;

#[cfg(feature = "redis")]
mod with_redis {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::Arc;

    use hyper::StatusCode;

    use super::{RunError, TradesSettings};
    use crate::auth::Origins;
    use crate::clock::Clock;
    use crate::feeds::Subscription;
    use crate::feeds::trades::{PATTERN, TradesFeed, TradesFeedSettings};
    use crate::gateways::{TradesGateway, TradesGatewaySettings, TradesStats};
    use crate::http::{Answer, Handler, Route};
    use crate::hub::FrameBytes;
    use crate::run::auth::{access_metrics, authenticator, warn_of};
    use crate::run::gateway::{Inside, Parts, run_gateway};
    use crate::run::process::{Process, say};
    use crate::run::redis::{shown_address, source_settings};
    use crate::run::stats_line::StatsLine;
    use crate::sources::redis::RedisSource;
    use crate::telemetry::{BusStatus, GatewayMetric, Telemetry, names};
    use crate::wire::object_writer::ObjectWriter;

    /// Runs the trades gateway until a signal.
    ///
    /// # Errors
    /// It could not start, or the loop failed.
    pub fn trades(settings: TradesSettings) -> Result<(), RunError> {
        let common = &settings.common;
        let redis = source_settings(&settings.redis, common.limits.bus_message_bytes_max)?;
        let gateway_settings = gateway_settings(&settings, server_id())?;
        let process = Process::start(common)?;
        warn_of(&settings.auth, &gateway_settings.authenticator);

        let status = Arc::new(BusStatus::new(&[], process.clock.now().unix_ms));
        let redis_shown = shown_address(&redis);
        let (source, interest) = RedisSource::new(redis, Arc::clone(&status))
            .map_err(|error| RunError::Settings(error.to_string()))?;
        interest.subscribe(Subscription::pattern(PATTERN));
        let stats = Arc::new(TradesStats::default());
        let numbers = Numbers {
            stats: Arc::clone(&stats),
            server_id: gateway_settings.server_id.clone(),
            clock: process.clock,
        };
        let frame_bytes = FrameBytes::default();
        let feed_settings = TradesFeedSettings {
            json_depth_max: common.limits.json_depth_max,
            bus_message_bytes_max: common.limits.bus_message_bytes_max,
        };
        let parts = Parts {
            name: "trades",
            common,
            status: Some(status),
            feed: TradesFeed::new(feed_settings, frame_bytes.clone()),
            gateway: TradesGateway::new(gateway_settings, Arc::clone(&stats)),
            frame_bytes,
            source: Some(Box::new(source)),
            routes: Box::new(|telemetry| vec![health_route(telemetry)]),
            fallback: Some(upgrade_required()),
            stats_line: settings
                .stats_log_interval_ms
                .map(|ms| numbers.clone().every(ms)),
            stats_head: Some(Box::new({
                let numbers = numbers.clone();
                move |telemetry, object| numbers.write(telemetry, object)
            })),
            metrics: metrics(&stats),
            outside: Box::new(|_| {}),
            inside: Inside::nothing(),
        };
        run_gateway(process, parts, |addr| {
            let (port, environment) = (addr.port(), &settings.node_env);
            let server_id = &numbers.server_id;
            say(&format!(
                "weirgate trades\n  Redis:       {redis_shown}\n  WebSocket:   \
                 ws://localhost:{port}\n  Environment: {environment}\n  Server:      {server_id}"
            ));
        })
    }

    fn gateway_settings(
        settings: &TradesSettings,
        server_id: String,
    ) -> Result<TradesGatewaySettings, RunError> {
        let common = &settings.common;
        Ok(TradesGatewaySettings {
            server_id,
            symbols_max: settings.symbols_max,
            inbound_per_second: settings.inbound_per_second,
            json_depth_max: common.limits.json_depth_max,
            origins: Origins::new(common.allowed_origins.iter().cloned()),
            authenticator: authenticator(&settings.auth)?,
        })
    }

    /// `ws-gateway-` and eight hexadecimal digits, new at each start.
    fn server_id() -> String {
        let random = RandomState::new().hash_one(0) as u32;
        format!("ws-gateway-{random:08x}")
    }

    /// For plain requests to anything but the pages (contract trades, row "listens").
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

    /// What `/stats` begins with, and what is logged once a minute.
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
                ("totalSymbolSubscriptions", self.stats.subscriptions()),
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

    fn metrics(stats: &Arc<TradesStats>) -> Vec<GatewayMetric> {
        let held = Arc::clone(stats);
        let subscriptions = GatewayMetric::Number(
            &names::SUBSCRIPTIONS,
            Box::new(move || held.subscriptions()),
        );
        let access = access_metrics(&stats.access);
        [subscriptions].into_iter().chain(access).collect()
    }
}
