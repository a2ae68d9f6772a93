//! What `weirgate channels` is made of.

use crate::settings::ChannelsSettings;

use super::RunError;

/// Without the Redis source there is nothing to run.
///
/// # Errors
/// Always.
#[cfg(not(feature = "redis"))]
pub fn channels(_: ChannelsSettings) -> Result<(), RunError> {
    Err(RunError::NotBuilt("Redis"))
}

#[cfg(feature = "redis")]
pub use self::with_redis::channels;

#[cfg(feature = "redis")]
mod with_redis {
    use std::sync::Arc;

    use hyper::StatusCode;

    use super::{ChannelsSettings, RunError};
    use crate::auth::{Origins, is_pattern};
    use crate::clock::Clock;
    use crate::feeds::Subscription;
    use crate::feeds::channels::{ChannelsFeed, ChannelsFeedSettings};
    use crate::gateways::channels::{ChannelsGateway, ChannelsGatewaySettings, ChannelsStats};
    use crate::http::{Answer, Route};
    use crate::hub::FrameBytes;
    use crate::reactor::Outside;
    use crate::run::auth::{access_metrics, acl, authenticator, warn_of};
    use crate::run::gateway::{Inside, Parts, run_gateway};
    use crate::run::process::{Process, say};
    use crate::run::redis::{shown_address, source_settings};
    use crate::sources::redis::{RedisInterest, RedisSource};
    use crate::telemetry::{BusStatus, GatewayMetric, Telemetry, names};
    use crate::wire::iso::iso_utc;
    use crate::wire::object_writer::ObjectWriter;

    /// Runs the channels gateway until a signal.
    ///
    /// # Errors
    /// It could not start, or the loop failed.
    pub fn channels(settings: ChannelsSettings) -> Result<(), RunError> {
        let common = &settings.common;
        let redis = source_settings(&settings.redis, common.limits.bus_message_bytes_max)?;
        let gateway_settings = gateway_settings(&settings)?;
        let process = Process::start(common)?;
        warn_of(&settings.auth, &gateway_settings.authenticator);
        if !gateway_settings.acl.knows(&settings.default_role) {
            let role = settings.default_role.as_str();
            tracing::warn!(role, "DEFAULT_ROLE is not in the table and grants nothing");
        }

        let clock = process.clock;
        let status = Arc::new(BusStatus::new(&[], clock.now().unix_ms));
        let shown = shown_address(&redis);
        let (source, interest) = RedisSource::new(redis, Arc::clone(&status))
            .map_err(|error| RunError::Settings(error.to_string()))?;
        let stats = Arc::new(ChannelsStats::default());
        let frame_bytes = FrameBytes::default();
        let feed_settings = ChannelsFeedSettings {
            json_depth_max: common.limits.json_depth_max,
            bus_message_bytes_max: common.limits.bus_message_bytes_max,
        };
        let for_stats = Arc::clone(&stats);
        let parts = Parts {
            name: "channels",
            common,
            status: Some(status),
            feed: ChannelsFeed::new(feed_settings, frame_bytes.clone()),
            gateway: ChannelsGateway::new(gateway_settings, Arc::clone(&stats)),
            frame_bytes,
            source: Some(Box::new(source)),
            routes: Box::new(move |telemetry| vec![health_route(telemetry, clock)]),
            fallback: None,
            stats_head: Some(Box::new(move |telemetry, object| {
                stats_head(object, telemetry, &for_stats, clock);
            })),
            stats_line: None,
            metrics: metrics(&stats),
            outside: Box::new(move |outside| tell(&interest, outside)),
            inside: Inside::nothing(),
        };
        run_gateway(process, parts, |addr| {
            let port = addr.port();
            say(&format!(
                "weirgate channels\n  Redis:     {shown}\n  WebSocket: ws://localhost:{port}/ws"
            ));
        })
    }

    fn gateway_settings(settings: &ChannelsSettings) -> Result<ChannelsGatewaySettings, RunError> {
        let common = &settings.common;
        Ok(ChannelsGatewaySettings {
            channels_max: settings.channels_max,
            patterns_max: settings.patterns_max,
            inbound_per_second: settings.inbound_per_second,
            outbound_per_second: settings.outbound_per_second,
            default_role: settings.default_role.clone(),
            json_depth_max: common.limits.json_depth_max,
            origins: Origins::new(common.allowed_origins.iter().cloned()),
            authenticator: authenticator(&settings.auth)?,
            acl: acl(settings.acl_file.as_deref())?,
        })
    }

    /// What clients hold is what Redis is asked for; the topic is the name.
    fn tell(interest: &RedisInterest, outside: Outside) {
        let Outside::Interest { topic, wanted } = outside else {
            return;
        };
        let subscription = match is_pattern(topic.as_str()) {
            true => Subscription::pattern(topic.as_str()),
            false => Subscription::channel(topic.as_str()),
        };
        match wanted {
            true => interest.subscribe(subscription),
            false => interest.unsubscribe(subscription),
        }
    }

    /// `/health` (contract channels, row HTTP).
    fn health_route(telemetry: &Arc<Telemetry>, clock: Clock) -> Route {
        let telemetry = Arc::clone(telemetry);
        Route::get("/health", move |_| {
            let mut object = ObjectWriter::new();
            object.string("status", "healthy");
            object.string("service", "redis-ws-gateway");
            object.boolean("redis_connected", is_connected(&telemetry));
            object.number("clients_connected", telemetry.event_loop.clients());
            object.string("timestamp", &iso_utc(clock.now().unix_ms));
            Answer::json(StatusCode::OK, object.finish()).no_store()
        })
    }

    /// What `/stats` begins with (contract channels, row HTTP).
    fn stats_head(
        object: &mut ObjectWriter,
        telemetry: &Telemetry,
        stats: &ChannelsStats,
        clock: Clock,
    ) {
        object.number("clients_connected", telemetry.event_loop.clients());
        object.number("total_subscriptions", stats.subscriptions());
        object.number("channels_subscribed", stats.channels());
        object.number("patterns_subscribed", stats.patterns());
        object.boolean("redis_connected", is_connected(telemetry));
        object.string("timestamp", &iso_utc(clock.now().unix_ms));
    }

    fn is_connected(telemetry: &Telemetry) -> bool {
        telemetry.bus().is_some_and(BusStatus::connected)
    }

    fn metrics(stats: &Arc<ChannelsStats>) -> Vec<GatewayMetric> {
        let [held, names] = [(); 2].map(|()| Arc::clone(stats));
        let own = [
            GatewayMetric::Number(
                &names::SUBSCRIPTIONS,
                Box::new(move || held.subscriptions()),
            ),
            GatewayMetric::ByLabel(
                &names::SUBSCRIBED_NAMES,
                Box::new(move || {
                    vec![("channel", names.channels()), ("pattern", names.patterns())]
                }),
            ),
        ];
        own.into_iter()
            .chain(access_metrics(&stats.access))
            .collect()
    }
}
