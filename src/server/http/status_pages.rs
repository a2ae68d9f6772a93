//! The pages about the process: `/ready`, `/stats`, `/metrics`. Each gateway has its own `/health`.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::ACCEPT;

use super::metrics_format::MetricsFormat;
use super::readiness::{ReadyLimits, not_ready};
use super::site::{Answer, RequestParts, Route};
use crate::telemetry::{LoopNumbers, Telemetry};
use weirgate_runtime::{BusStatus, Clock};
use weirgate_wire::json::ObjectWriter;

/// Writes the members of `/stats` from a gateway's contract.
pub(crate) type StatsHead = Box<dyn Fn(&Telemetry, &mut ObjectWriter) + Send + Sync>;

/// Returns the routes `/ready`, `/stats` and `/metrics`, which every gateway has. `stats_head` writes the first members
/// of `/stats`.
pub(crate) fn status_routes(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    limits: ReadyLimits,
    stats_head: Option<StatsHead>,
) -> Vec<Route> {
    let [for_ready, for_stats] = [(); 2].map(|()| Arc::clone(telemetry));
    let texts = MetricsTexts::new(telemetry, clock);
    vec![
        Route::get("/ready", move |_| ready(&for_ready, clock, &limits)),
        Route::get("/stats", move |_| {
            let mut object = ObjectWriter::new();
            if let Some(head) = &stats_head {
                head(&for_stats, &mut object);
            }
            stats(object, &for_stats, clock, &limits)
        }),
        Route::get("/metrics", move |request| metrics(&texts, request)),
    ]
}

fn metrics(texts: &MetricsTexts, request: &RequestParts) -> Answer {
    let format = MetricsFormat::accepted(request.header_values(&ACCEPT));
    Answer::new(StatusCode::OK, format.content_type(), texts.text(format)).no_store()
}

/// How long a text of `/metrics` is served again, in microseconds: making one takes an HTTP thread a millisecond or more,
/// and anybody may ask for it in a loop.
const METRICS_KEPT_US: u64 = 250_000;

/// The last text of `/metrics` in each format.
struct MetricsTexts {
    telemetry: Arc<Telemetry>,
    clock: Clock,
    /// In the order of the formats.
    kept: Mutex<[Option<KeptText>; 3]>,
}

struct KeptText {
    made_us: u64,
    text: Vec<u8>,
}

impl MetricsTexts {
    fn new(telemetry: &Arc<Telemetry>, clock: Clock) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            clock,
            kept: Mutex::default(),
        }
    }

    /// The text in this format, at most [`METRICS_KEPT_US`] old. Each caller gets a copy, because a text that several
    /// share would be charged to none.
    fn text(&self, format: MetricsFormat) -> Bytes {
        let now_us = self.clock.mono_us();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut kept[format as usize];
        let is_fresh = |kept: &&KeptText| now_us < kept.made_us + METRICS_KEPT_US;
        if let Some(kept) = kept.as_ref().filter(is_fresh) {
            return Bytes::copy_from_slice(&kept.text);
        }
        let text = match format {
            MetricsFormat::OpenMetrics => self.telemetry.open_metrics().into_bytes(),
            MetricsFormat::PrometheusText => self.telemetry.prometheus_text().into_bytes(),
            MetricsFormat::PrometheusProtobuf => self.telemetry.prometheus_protobuf(),
        };
        // The numbers of single topics in the next text come from this survey. It is requested only after this text is
        // made: otherwise the speed of the loop would decide whether `weirgate_surveys_total` in this text counts it.
        self.telemetry.surveys.request();
        let copy = Bytes::copy_from_slice(&text);
        let made_us = now_us;
        *kept = Some(KeptText { made_us, text });
        copy
    }
}

/// `/ready`: 200, or 503 with the reasons.
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
    if let Some((messages, ms)) = telemetry.bus().and_then(BusStatus::stream_behind) {
        let mut behind = ObjectWriter::new();
        behind.maybe_number("messages", messages);
        behind.raw("seconds", &format!("{:.3}", ms as f64 / 1e3));
        object.object("stream_behind", behind);
    }
    Answer::json(status, object.finish()).no_store()
}

/// Returns the counters that are most useful to a person; `/metrics` has all.
fn stats(
    mut object: ObjectWriter,
    telemetry: &Telemetry,
    clock: Clock,
    limits: &ReadyLimits,
) -> Answer {
    let now = clock.now();
    let turn = telemetry.event_loop.numbers();
    object.string("gateway", telemetry.gateway_name());
    object.string("version", telemetry.version());
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
    let turns = &telemetry.event_loop.durations.turns;
    let turns = ("turns", turns.counts().count());
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

/// The part of `/stats` about messages to and from clients.
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

/// The part of `/stats` about the bus and its subjects.
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
pub(crate) mod tests {
    use super::*;
    use crate::build_info::BuildInfo;
    use hyper::header;
    use weirgate_core::FeedStats;
    use weirgate_wire::base::Now;

    pub(crate) fn telemetry(clock: Clock) -> Arc<Telemetry> {
        let consumers = [
            ("gateway_levels", "levels.signals"),
            ("gateway_flow", "market.flow"),
        ];
        let build = BuildInfo {
            version: "1.2.3",
            commit: "c0ffee",
            features: "nats",
            ..BuildInfo::THIS
        };
        let feed = FeedStats::of(["levels.signals"]);
        let bus = BusStatus::new(&consumers, clock.mono_us());
        Telemetry::new(build, "levels", feed, Some(Arc::new(bus)), clock.now())
    }

    pub(crate) fn turn(telemetry: &Telemetry, fill: impl FnOnce(&mut LoopNumbers)) {
        assert!(telemetry.event_loop.turn_ended(Now::default(), fill));
    }

    pub(crate) fn text(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    #[test]
    fn ready_says_why_it_is_not() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        let limits = ReadyLimits::default();
        let answer = ready(&telemetry, clock, &limits);
        assert_eq!(answer.status, 503);
        assert_eq!(text(&answer), r#"{"ready":false,"reasons":["starting"]}"#);
        telemetry.event_loop.set_caught_up();
        let answer = ready(&telemetry, clock, &limits);
        assert_eq!(answer.status, 200);
        assert_eq!(text(&answer), r#"{"ready":true,"reasons":[]}"#);
        for (messages, shown) in [(Some(7), "7"), (None, "null")] {
            let bus = telemetry.bus().expect("a bus");
            bus.set_stream_behind(messages, 1_500);
            let want = format!(r#""stream_behind":{{"messages":{shown},"seconds":1.500}}}}"#);
            let answer = ready(&telemetry, clock, &limits);
            assert!(text(&answer).ends_with(&want), "{}", text(&answer));
        }
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        telemetry.event_loop.set_draining();
        assert_eq!(ready(&telemetry, clock, &limits).status, 503);
    }

    #[test]
    fn stats_is_json_with_the_numbers_of_the_loop() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        turn(&telemetry, |numbers| {
            numbers.hub.messages_sent = 42;
            numbers.feed.subjects[0].messages_bad = 1;
        });
        let answer = stats(
            ObjectWriter::new(),
            &telemetry,
            clock,
            &ReadyLimits::default(),
        );
        let value: sonic_rs::Value = sonic_rs::from_str(text(&answer)).unwrap();
        let number = |path: &[&str]| {
            let found = path
                .iter()
                .try_fold(&value, |at, key| sonic_rs::JsonValueTrait::get(at, *key));
            found.and_then(sonic_rs::JsonValueTrait::as_u64)
        };
        assert_eq!(number(&["messages", "sent"]), Some(42));
        assert_eq!(
            number(&["bus", "subjects", "levels.signals", "bad"]),
            Some(1)
        );
        assert_eq!(number(&["connections", "http"]), Some(0));
        assert_eq!(number(&["send_errors", "peer_gone"]), Some(0));
        assert_eq!(number(&["loop", "turns"]), Some(0));
    }
}
