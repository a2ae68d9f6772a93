//! `/operator/tail?topic=NAME&after=NUMBER`: the newest messages of one topic. Asking keeps them
//! coming for some seconds.

use std::sync::Arc;

use hyper::StatusCode;
use url::form_urlencoded;

use super::state::list;
use crate::base::Clock;
use crate::http::site::{Answer, RequestParts};
use crate::hub::{TAILS_MAX, TailLine, TailLook};
use crate::telemetry::{Telemetry, TooManyTails};
use crate::wire::object_writer::ObjectWriter;

/// The longest name that a topic may have: a channel's.
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
        Ok(look) => Answer::json(StatusCode::OK, written(&topic, look.as_ref(), after)).no_store(),
        Err(TooManyTails) => {
            let detail = format!("{TAILS_MAX} other topics are looked at; close one of them");
            Answer::detail(StatusCode::SERVICE_UNAVAILABLE, &detail)
        }
    }
}

fn written(topic: &str, look: Option<&TailLook>, after: u64) -> String {
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
