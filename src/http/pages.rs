//! The pages that tell of the process: `/ready`, `/stats`, `/metrics`. `/health` is the gateway's.

use std::sync::Arc;

use hyper::StatusCode;

use super::readiness::{ReadyLimits, not_ready};
use super::site::{Answer, Route};
use crate::clock::Clock;
use crate::telemetry::{OPEN_METRICS_CONTENT_TYPE, Telemetry};
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
        Route::get("/metrics", move |_| {
            let text = for_metrics.open_metrics();
            Answer::new(StatusCode::OK, OPEN_METRICS_CONTENT_TYPE, text).no_store()
        }),
    ]
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
    let event_loop = &telemetry.event_loop;
    let build = telemetry.build();
    object.string("gateway", build.gateway);
    object.string("version", build.version);
    object.number("uptime_seconds", telemetry.uptime_seconds(now));
    object.boolean("ready", not_ready(telemetry, now, limits).is_empty());
    object.number("clients", event_loop.clients.load());
    object.object("connections", numbers(event_loop.connections()));
    object.number("accepted", event_loop.connections_accepted.load());
    object.number("returned", event_loop.connections_returned.load());
    object.object("outcomes", numbers(event_loop.client_connections.iter()));
    object.object("closes", numbers(event_loop.client_closes.iter()));
    object.object("messages", messages(telemetry));
    object.object("send_errors", numbers(event_loop.send_errors.iter()));
    object.object("bus", bus(telemetry));
    object.object("loop", event_loop_age(telemetry, clock));
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

fn numbers<'a>(values: impl Iterator<Item = (&'a str, u64)>) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    for (name, value) in values {
        object.number(name, value);
    }
    object
}

fn messages(telemetry: &Telemetry) -> ObjectWriter {
    let event_loop = &telemetry.event_loop;
    let values = [
        ("queued", &event_loop.messages_queued),
        ("sent", &event_loop.frames_sent),
        ("sent_bytes", &event_loop.bytes_sent),
        ("conflated", &event_loop.messages_conflated),
        ("shed", &event_loop.messages_shed),
        ("dropped", &event_loop.messages_dropped),
        ("waiting", &event_loop.messages_waiting),
        ("waiting_bytes", &event_loop.send_queue_bytes),
        ("waiting_bytes_peak", &event_loop.send_queue_peak_bytes),
        ("frame_bytes_alive", &event_loop.frame_bytes_alive),
        ("received", &event_loop.received_messages),
        ("received_bytes", &event_loop.received_bytes),
    ];
    numbers(values.into_iter().map(|(name, value)| (name, value.load())))
}

fn bus(telemetry: &Telemetry) -> ObjectWriter {
    let event_loop = &telemetry.event_loop;
    let mut object = ObjectWriter::new();
    if let Some(bus) = telemetry.bus() {
        object.boolean("connected", bus.connected());
        object.boolean("subscribed", bus.subscribed());
        object.number("reconnects", bus.reconnects());
    }
    object.boolean("caught_up", event_loop.caught_up());
    object.maybe_number("last_message_ts", event_loop.last_message_unix_ms());
    object.number("gaps", event_loop.bus_gaps());
    object.number("ignored", event_loop.bus_messages_ignored());
    object.number("queued", event_loop.bus_queue_messages.load());
    let mut subjects = ObjectWriter::new();
    for (subject, [taken, bad, old]) in event_loop.bus_messages() {
        let counts = [("messages", taken), ("bad", bad), ("old", old)];
        subjects.object(subject, numbers(counts.into_iter()));
    }
    object.object("subjects", subjects);
    object
}

fn event_loop_age(telemetry: &Telemetry, clock: Clock) -> ObjectWriter {
    let event_loop = &telemetry.event_loop;
    let age_ms = event_loop.last_turn_age_ms(clock.now());
    numbers([("turns", event_loop.turns()), ("last_turn_age_ms", age_ms)].into_iter())
}

#[cfg(test)]
mod tests;
