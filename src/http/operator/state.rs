//! `/operator/state`: a survey, the bus and the limits as JSON. `/operator/tail?topic=NAME&after=NUMBER`: the
//! newest messages of a topic; each request prolongs the tail for some seconds.

use std::sync::Arc;

use hyper::StatusCode;
use url::form_urlencoded;

use crate::base::Clock;
use crate::http::readiness::{ReadyLimits, not_ready};
use crate::http::site::{Answer, RequestParts};
use crate::hub::{ClientLook, Survey, TAILS_MAX, TailLine, TailLook, TopicLook, Traffic};
use crate::telemetry::{BusStatus, EndedAt, Surveyed, Telemetry, TooManyTails};
use crate::wire::object_writer::ObjectWriter;

/// A limit, and the metric to compare.
#[derive(Clone, Debug)]
pub struct ShownLimit {
    /// The flag on the command line.
    pub name: String,
    /// The limited quantity.
    pub about: &'static str,
    /// Whether the numbers are bytes.
    pub is_bytes: bool,
    /// The limit; `None` if there is none, or if `most_metric` has the limit.
    pub most: Option<u64>,
    /// The metric to compare.
    pub now_metric: &'static str,
    /// Only samples with this label are compared.
    pub label: Option<(&'static str, &'static str)>,
    /// Compares the largest sample, in place of the sum of all.
    pub of_one: bool,
    /// The metric with the limit in force.
    pub most_metric: Option<&'static str>,
}

/// Returns the whole JSON document. Asks the loop for the next survey.
pub(super) fn state(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    ready: &ReadyLimits,
    limits: &str,
    has_tail: bool,
) -> String {
    let surveyed = telemetry.surveys.ask();
    let now = clock.now();
    let build = telemetry.build();
    let reasons = not_ready(telemetry, now, ready);
    let mut object = ObjectWriter::new();
    object.string("gateway", build.gateway);
    object.string("version", build.version);
    object.number("now_unix_ms", now.unix_ms);
    object.number("uptime_seconds", telemetry.uptime_seconds(now));
    object.boolean("ready", reasons.is_empty());
    object.strings("reasons", reasons.iter().map(|reason| reason.as_str()));
    let age_ms = telemetry.event_loop.last_turn_age_ms(now);
    object.number("last_turn_age_ms", age_ms);
    match telemetry.bus() {
        Some(status) => object.object("bus", bus(status, now.unix_ms)),
        None => object.raw("bus", "null"),
    }
    match surveyed.as_deref() {
        Some(Surveyed { survey, ends }) => {
            let age_us = now.mono_us.saturating_sub(survey.ended.mono_us);
            object.object("survey", written(survey, age_us));
            object.raw("ends", &list(ends.iter().map(end)));
        }
        None => {
            object.raw("survey", "null");
            object.raw("ends", "[]");
        }
    }
    object.raw("limits", limits);
    object.boolean("tail", has_tail);
    object.finish()
}

pub(super) fn list(objects: impl Iterator<Item = ObjectWriter>) -> String {
    let objects: Vec<String> = objects.map(ObjectWriter::finish).collect();
    format!("[{}]", objects.join(","))
}

fn maybe_string(object: &mut ObjectWriter, key: &str, value: Option<&str>) {
    match value {
        Some(value) => object.string(key, value),
        None => object.raw(key, "null"),
    }
}

fn bus(status: &BusStatus, now_unix_ms: i64) -> ObjectWriter {
    let away_ms = |since: i64| now_unix_ms.saturating_sub(since).max(0);
    let mut object = ObjectWriter::new();
    object.boolean("connected", status.connected());
    object.boolean("subscribed", status.subscribed());
    object.maybe_number("away_ms", status.away_since_unix_ms().map(away_ms));
    object.number("reconnects", status.reconnects());
    object.number("refused", status.refused());
    let consumer = |consumer: &crate::telemetry::ConsumerStatus| {
        let mut object = ObjectWriter::new();
        object.string("name", consumer.name());
        object.string("subject", consumer.subject());
        object.maybe_number("lag", consumer.lag());
        let away = consumer.away_since_unix_ms().map(away_ms);
        object.maybe_number("away_ms", away);
        object.boolean("stalled", consumer.stall().is_some());
        object
    };
    let consumers = status.consumers_used().map(consumer);
    object.raw("consumers", &list(consumers));
    object
}

fn written(survey: &Survey, age_us: u64) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object.number("age_ms", age_us / 1_000);
    let took_us = survey.ended.mono_us.saturating_sub(survey.began.mono_us);
    object.number("took_us", took_us);
    object.number("slices", survey.slices);
    object.maybe_number("interval_ms", survey.interval_us.map(|us| us / 1_000));
    object.number("clients", survey.clients);
    object.number("clients_waiting", survey.clients_waiting);
    object.number("clients_blocked", survey.clients_blocked);
    object.number("clients_conflating", survey.clients_conflating);
    object.raw("slowest", &list(survey.slowest.iter().map(client)));
    object.raw("busiest", &list(survey.busiest.iter().map(client)));
    object.number("topics", survey.topics);
    let topics = survey.busiest_topics.iter().map(topic);
    object.raw("busiest_topics", &list(topics));
    object
}

/// Writes a client without its peer: limits count by the client's address.
pub fn client(look: &ClientLook) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object.string("client", &look.client.to_string());
    maybe_string(&mut object, "user", look.user.as_deref());
    object.string("path", &look.path);
    object.string("state", look.state.label());
    object.number("age_ms", look.age_us / 1_000);
    object.number("queue_messages", look.queue_messages);
    object.number("queue_bytes", look.queue_bytes);
    object.maybe_number("oldest_ms", look.oldest_us.map(|us| us / 1_000));
    object.maybe_number("stuck_ms", look.stuck_us.map(|us| us / 1_000));
    traffic(&mut object, &look.traffic);
    object.number("topics", look.topics);
    let topic = look.topic.as_ref().map(|topic| topic.as_str());
    maybe_string(&mut object, "topic", topic);
    object.number("recent_messages", look.recent_messages);
    object
}

fn topic(look: &TopicLook) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object.string("name", look.name.as_str());
    object.number("members", look.members);
    object.number("recent_messages", look.recent_messages);
    object.number("recent_bytes", look.recent_bytes);
    object
}

fn end(end: &EndedAt) -> ObjectWriter {
    let ended = &end.ended;
    let mut object = ObjectWriter::new();
    object.number("at_unix_ms", end.at_unix_ms);
    object.string("client", &ended.client.to_string());
    object.string("peer", &ended.peer.to_string());
    maybe_string(&mut object, "user", ended.user.as_deref());
    object.string("path", &ended.path);
    object.string("reason", ended.reason.label());
    object.maybe_number("code", ended.code);
    object.number("age_ms", ended.age_us / 1_000);
    traffic(&mut object, &ended.traffic);
    object
}

fn traffic(object: &mut ObjectWriter, traffic: &Traffic) {
    object.number("bytes_in", traffic.bytes_in);
    object.number("bytes_out", traffic.bytes_out);
    object.number("messages_in", traffic.messages_in);
    object.number("messages_out", traffic.messages_out);
    object.number("conflated", traffic.messages_conflated);
}

/// The limits as a JSON list, which stays the same for the life of the process.
pub(super) fn limits(limits: &[ShownLimit]) -> String {
    list(limits.iter().map(|limit| {
        let mut object = ObjectWriter::new();
        object.string("name", &limit.name);
        object.string("about", limit.about);
        object.boolean("is_bytes", limit.is_bytes);
        object.maybe_number("max", limit.most);
        object.string("metric", limit.now_metric);
        if let Some((name, value)) = limit.label {
            let mut label = ObjectWriter::new();
            label.string(name, value);
            object.object("label", label);
        }
        object.boolean("largest", limit.of_one);
        maybe_string(&mut object, "max_metric", limit.most_metric);
        object
    }))
}

/// The longest name of a topic: the limit for channels.
const TOPIC_BYTES_MAX: usize = 8 * 1024;

/// Answers with the messages behind the number `after`.
pub(super) fn tail(telemetry: &Arc<Telemetry>, clock: Clock, request: &RequestParts) -> Answer {
    let query = request.head.uri.query().unwrap_or_default();
    let (mut topic, mut after) = (None, 0);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "topic" => topic = Some(value),
            "after" => after = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    let Some(topic) = topic.filter(|topic| topic.len() <= TOPIC_BYTES_MAX) else {
        return Answer::detail(StatusCode::BAD_REQUEST, "topic is missing or too long");
    };
    match telemetry.tails.ask(&topic, clock.now().mono_us) {
        Ok(look) => {
            Answer::json(StatusCode::OK, tail_written(&topic, look.as_ref(), after)).no_store()
        }
        Err(TooManyTails) => {
            let detail = format!("{TAILS_MAX} other topics are looked at; close one of them");
            Answer::detail(StatusCode::SERVICE_UNAVAILABLE, &detail)
        }
    }
}

fn tail_written(topic: &str, look: Option<&TailLook>, after: u64) -> String {
    let mut object = ObjectWriter::new();
    object.string("topic", topic);
    object.maybe_number("began_unix_ms", look.map(|look| look.began_unix_ms));
    object.number("messages", look.map_or(0, |look| look.messages));
    object.number("left_out", look.map_or(0, |look| look.left_out));
    let lines = look.into_iter().flat_map(|look| &look.lines);
    let newer = lines.filter(|line| line.number > after);
    object.raw("lines", &list(newer.map(|line| line_written(line))));
    object.finish()
}

fn line_written(line: &TailLine) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object.number("number", line.number);
    object.number("at_unix_ms", line.at_unix_ms);
    object.number("bytes", line.bytes as u64);
    object.string("text", &line.text);
    object.boolean("is_cut", line.is_cut);
    object
}
