//! The pages that tell of the process: `/ready`, `/stats`, `/metrics`. `/health` is the gateway's.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::ACCEPT;

use super::accept::MetricsFormat;
use super::readiness::{ReadyLimits, not_ready};
use super::site::{Answer, RequestParts, Route};
use crate::base::Clock;
use crate::telemetry::{
    LoopNumbers, OPEN_METRICS_CONTENT_TYPE, PROMETHEUS_TEXT_CONTENT_TYPE, Telemetry,
};
use crate::wire::object_writer::ObjectWriter;

/// Writes the members of `/stats` that a gateway's contract asks for.
pub type StatsHead = Box<dyn Fn(&Telemetry, &mut ObjectWriter) + Send + Sync>;

/// `/ready`, `/stats` and `/metrics`: what every gateway has. `stats_head` goes first in `/stats`.
pub fn status_routes(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    limits: ReadyLimits,
    stats_head: Option<StatsHead>,
) -> Vec<Route> {
    let [for_ready, for_stats, for_metrics] = [(); 3].map(|()| Arc::clone(telemetry));
    vec![
        Route::get("/ready", move |_| ready(&for_ready, clock, &limits)),
        Route::get("/stats", move |_| {
            let mut object = ObjectWriter::new();
            if let Some(head) = &stats_head {
                head(&for_stats, &mut object);
            }
            stats(object, &for_stats, clock, &limits)
        }),
        Route::get("/metrics", move |request| metrics(&for_metrics, request)),
    ]
}

fn metrics(telemetry: &Arc<Telemetry>, request: &RequestParts) -> Answer {
    let accept = request.head.headers.get_all(ACCEPT).iter();
    let (content_type, text) = match MetricsFormat::accepted(accept.filter_map(|v| v.to_str().ok()))
    {
        MetricsFormat::OpenMetrics => (OPEN_METRICS_CONTENT_TYPE, telemetry.open_metrics()),
        MetricsFormat::PrometheusText => {
            (PROMETHEUS_TEXT_CONTENT_TYPE, telemetry.prometheus_text())
        }
    };
    Answer::new(StatusCode::OK, content_type, text).no_store()
}

fn ready(telemetry: &Telemetry, clock: Clock, limits: &ReadyLimits) -> Answer {
    let reasons = not_ready(telemetry, clock.now(), limits);
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut object = ObjectWriter::new();
    object.boolean("ready", reasons.is_empty());
    object.strings("reasons", reasons.iter().map(|reason| reason.as_str()));
    Answer::json(status, object.finish()).no_store()
}

/// The counters that a person looks at first; `/metrics` has all.
fn stats(
    mut object: ObjectWriter,
    telemetry: &Telemetry,
    clock: Clock,
    limits: &ReadyLimits,
) -> Answer {
    let now = clock.now();
    let turn = telemetry.event_loop.numbers();
    let build = telemetry.build();
    object.string("gateway", build.gateway);
    object.string("version", build.version);
    object.number("uptime_seconds", telemetry.uptime_seconds(now));
    object.boolean("ready", not_ready(telemetry, now, limits).is_empty());
    object.number("clients", turn.hub.open);
    object.object("connections", numbers(turn.connections()));
    object.number("accepted", turn.hub.accepted);
    object.number("returned", turn.hub.returned);
    object.object("outcomes", numbers(turn.outcomes()));
    object.object("closes", numbers(turn.closes()));
    object.object("messages", messages(&turn));
    object.object("send_errors", numbers(turn.send_errors()));
    object.object("bus", bus(telemetry, &turn));
    let age_ms = telemetry.event_loop.last_turn_age_ms(clock.now());
    let turns = ("turns", turn.times.turns.count());
    let event_loop = [turns, ("last_turn_age_ms", age_ms)];
    object.object("loop", numbers(event_loop.into_iter()));
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

fn numbers<'a>(values: impl Iterator<Item = (&'a str, u64)>) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    for (name, value) in values {
        object.number(name, value);
    }
    object
}

fn messages(turn: &LoopNumbers) -> ObjectWriter {
    let hub = &turn.hub;
    let values = [
        ("queued", hub.messages_queued),
        ("sent", hub.messages_sent),
        ("sent_bytes", hub.bytes_sent),
        ("conflated", hub.messages_conflated),
        ("shed", hub.messages_shed),
        ("dropped", hub.messages_dropped),
        ("waiting", hub.messages_waiting),
        ("waiting_bytes", hub.send_queue_bytes),
        ("waiting_bytes_peak", hub.send_queue_peak_bytes),
        ("frame_bytes_alive", turn.shell.frame_bytes_alive),
        ("received", hub.received_messages),
        ("received_bytes", hub.received_bytes),
    ];
    numbers(values.into_iter())
}

fn bus(telemetry: &Telemetry, turn: &LoopNumbers) -> ObjectWriter {
    let feed = &turn.feed;
    let mut object = ObjectWriter::new();
    if let Some(bus) = telemetry.bus() {
        object.boolean("connected", bus.connected());
        object.boolean("subscribed", bus.subscribed());
        object.number("reconnects", bus.reconnects());
    }
    object.boolean("caught_up", telemetry.event_loop.caught_up());
    object.maybe_number("last_message_ts", feed.last_message_unix_ms);
    object.number("gaps", feed.gaps);
    object.number("ignored", feed.messages_ignored);
    object.number("queued", turn.shell.bus_queue_messages);
    let mut subjects = ObjectWriter::new();
    for subject in &feed.subjects {
        let counts = [
            ("messages", subject.messages),
            ("bad", subject.messages_bad),
            ("old", subject.messages_old),
        ];
        subjects.object(&subject.subject, numbers(counts.into_iter()));
    }
    object.object("subjects", subjects);
    object
}

#[cfg(test)]
pub(crate) mod tests;
