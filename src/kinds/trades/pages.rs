//! The pages of the trades gateway: `/health`, `/stats`, the response to plain requests, and the line that is
//! logged once a minute.

use std::sync::Arc;

use hyper::StatusCode;

use crate::base::Clock;
use crate::gateways::TradesStats;
use crate::http::{Answer, Handler, Route};
use crate::run::StatsLine;
use crate::telemetry::{BusStatus, Telemetry};
use crate::wire::object_writer::ObjectWriter;

/// The response to plain requests outside the pages (contract trades, row "listens").
pub(super) fn upgrade_required() -> Handler {
    Handler::ready(|_| {
        let status = StatusCode::UPGRADE_REQUIRED;
        Answer::new(status, "text/plain", "Upgrade Required")
    })
}

/// `/health` (contract trades, row "once a minute").
pub(super) fn health_route(telemetry: &Arc<Telemetry>) -> Route {
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
pub(super) struct Numbers {
    pub(super) stats: Arc<TradesStats>,
    pub(super) server_id: String,
    pub(super) clock: Clock,
}

impl Numbers {
    pub(super) fn write(&self, telemetry: &Telemetry, object: &mut ObjectWriter) {
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

    pub(super) fn every(self, interval_ms: u64) -> StatsLine {
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
