//! The last values of the subjects that match a pattern: from each stream with such subjects,
//! through a consumer of the last message of each subject. Pure.
//!
//! The consumer asks for acknowledgements and gets none, so the server stops at `max_ack_pending`
//! messages. The consumer is deleted at the end; if the deletion fails, the server deletes the
//! consumer after some seconds without a listener.

use std::collections::VecDeque;

use sonic_rs::JsonValueTrait;

use super::super::api::{messages_of_consumer, refusal};
use super::super::position::AckSubject;
use super::super::protocol::Delivery;
use crate::auth::Subject;
use crate::sources::outage::shown;
use crate::wire::json::{self, Json};

/// The limit on payload bytes of the last values of a pattern: half of the default limit of a
/// client's send queue, so a client that reads is not dropped because of last values.
const BYTES_MAX: usize = 512 * 1024;
/// The limit on streams asked for a pattern.
const STREAMS_MAX: usize = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// The question for a pattern.
#[derive(Debug)]
pub(super) struct LastValues {
    /// Streams not asked yet, with the part of the pattern in each.
    targets: VecDeque<(String, String)>,
    /// The stream of the consumer; the name in `consumer` follows with the server's answer.
    stream: String,
    consumer: Option<String>,
    values_left: usize,
    bytes_left: usize,
    /// There are more values than were sent.
    pub(super) is_cut: bool,
    /// Why a stream gave no values.
    pub(super) refused: Option<String>,
}

/// The next step after a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More values follow.
    Wait,
    /// This stream has no more.
    Stream,
}

impl LastValues {
    /// Selects the streams in the answer that hold a part of the pattern. The answer is one page
    /// (of 256 streams); the streams of the other pages count as cut.
    pub(super) fn new(pattern: &str, streams: Json<'_>, values_max: usize) -> Self {
        let (mut targets, listed) = targets(pattern, streams);
        let total = streams.number(&["total"]).unwrap_or(0);
        let is_cut = targets.len() > STREAMS_MAX || total > listed;
        targets.truncate(STREAMS_MAX);
        Self {
            targets,
            stream: String::new(),
            consumer: None,
            values_left: values_max,
            bytes_left: BYTES_MAX,
            is_cut,
            refused: None,
        }
    }

    /// The request for a consumer of the next stream: subject and body. `None` without a next
    /// stream, or without room for values.
    pub(super) fn next_consumer(&mut self, deliver_subject: &str) -> Option<(String, String)> {
        let has_room = self.values_left > 0 && self.bytes_left > 0;
        if !has_room {
            self.is_cut |= !self.targets.is_empty();
            return None;
        }
        let (stream, filter) = self.targets.pop_front()?;
        let body = sonic_rs::json!({
            "stream_name": stream.as_str(),
            "config": {
                "deliver_subject": deliver_subject,
                "deliver_policy": "last_per_subject",
                "filter_subject": filter.as_str(),
                "ack_policy": "explicit",
                "ack_wait": 30 * SECOND_NS,
                "max_ack_pending": self.values_left,
                "max_deliver": 1,
                "replay_policy": "instant",
                "mem_storage": true,
                "num_replicas": 1,
                "inactive_threshold": 5 * SECOND_NS,
            },
        });
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}");
        (self.stream, self.consumer) = (stream, None);
        Some((subject, body.to_string()))
    }

    /// Handles the answer to the request for a consumer.
    pub(super) fn created(&mut self, answer: Json<'_>) -> Next {
        let Some(name) = answer.text(&["name"]) else {
            self.refused = refusal(answer).map(|error| shown(&error.to_string()));
            return Next::Stream;
        };
        self.consumer = Some(name);
        let total = messages_of_consumer(answer);
        self.is_cut |= total > self.values_left as u64;
        match total {
            0 => Next::Stream,
            _ => Next::Wait,
        }
    }

    /// Counts a value. Returns whether the value is within the limits, and the next step.
    pub(super) fn delivered(&mut self, delivery: &Delivery) -> (bool, Next) {
        let bytes = delivery.payload.len();
        if self.values_left == 0 || bytes > self.bytes_left {
            (self.is_cut, self.bytes_left) = (true, 0);
            return (false, Next::Stream);
        }
        self.values_left -= 1;
        self.bytes_left -= bytes;
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        match ack.map(|ack| ack.pending) {
            Some(1..) if self.values_left > 0 => (true, Next::Wait),
            pending => {
                self.is_cut |= pending.is_some_and(|pending| pending > 0);
                (true, Next::Stream)
            }
        }
    }

    /// The subject of the request to delete the consumer.
    pub(super) fn delete(&mut self) -> Option<String> {
        let (stream, consumer) = (&self.stream, self.consumer.take()?);
        Some(format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"))
    }
}

/// Streams and filters, and the number of streams in the answer. A consumer's filter has to lie
/// within one subject of its stream.
fn targets(pattern: &str, answer: Json<'_>) -> (VecDeque<(String, String)>, u64) {
    let (mut targets, mut listed) = (VecDeque::new(), 0);
    let (Ok(pattern), Some(streams)) = (Subject::parse(pattern), answer.get(&["streams"])) else {
        return (targets, listed);
    };
    for stream in streams.into_array_iter().into_iter().flatten().flatten() {
        listed += 1;
        let Some(config) = stream.get("config") else {
            continue;
        };
        let name = config
            .get("name")
            .and_then(|n| n.as_str().map(str::to_owned));
        let subjects = config.get("subjects");
        let subjects = subjects.and_then(|all| json::value(&all).ok());
        let subjects: Vec<String> = subjects.unwrap_or_default();
        for subject in subjects {
            let held = Subject::parse(&subject).ok();
            if let Some(both) = held.and_then(|held| pattern.intersection(&held))
                && let Some(name) = name.clone()
            {
                targets.push_back((name, both.to_string()));
            }
        }
    }
    (targets, listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json<'_> {
        json::read(text.as_bytes()).expect("JSON")
    }

    const STREAMS: &str = r#"{"total":3,"streams":[
        {"config":{"name":"A","subjects":["a.*","x.>","q"]}},
        {"config":{"name":"M"}},
        {"config":{"name":"B","subjects":["a.b.>"]}}]}"#;

    fn value(payload: usize, pending: u64) -> Delivery {
        Delivery {
            reply: Some(format!("$JS.ACK.A.c.1.9.1.123.{pending}")),
            payload: vec![b'x'; payload],
            ..Delivery::default()
        }
    }

    #[test]
    fn each_stream_is_asked_for_its_part() {
        let of = |pattern| Vec::from(targets(pattern, json(STREAMS)).0);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of("a.>"), [pair("A", "a.*"), pair("B", "a.b.>")]);
        assert_eq!(of("*.*.c"), [pair("A", "x.*.c"), pair("B", "a.b.c")]);
        assert_eq!(of(">").len(), 4);
        assert_eq!(of("b.*"), []);
        assert_eq!(Vec::from(targets("a.>", json("{}")).0), []);
    }

    #[test]
    fn as_many_values_as_there_may_be_are_all() {
        let mut values = LastValues::new("a.*", json(STREAMS), 2);
        assert!(values.next_consumer("in").is_some());
        let created = values.created(json(r#"{"name":"c","num_pending":2}"#));
        assert_eq!(created, Next::Wait);
        assert_eq!(values.delivered(&value(1, 1)), (true, Next::Wait));
        assert_eq!(values.delivered(&value(1, 0)), (true, Next::Stream));
        assert!(values.next_consumer("in").is_none());
        assert!(!values.is_cut);
    }

    #[test]
    fn so_many_streams_are_asked_and_no_more() {
        for (count, is_cut) in [(STREAMS_MAX, false), (STREAMS_MAX + 1, true)] {
            let stream = |n| format!(r#"{{"config":{{"name":"S{n}","subjects":["a.{n}"]}}}}"#);
            let streams: Vec<String> = (0..count).map(stream).collect();
            let answer = format!(r#"{{"streams":[{}]}}"#, streams.join(","));
            let mut values = LastValues::new("a.*", json(&answer), 100);
            assert_eq!(values.is_cut, is_cut);
            let asked = std::iter::from_fn(|| values.next_consumer("in")).count();
            assert_eq!(asked, STREAMS_MAX);
        }
    }

    #[test]
    fn streams_of_other_pages_count_as_cut() {
        for (total, is_cut) in [(1, false), (2, true)] {
            let stream = r#"{"config":{"name":"S","subjects":["a.1"]}}"#;
            let answer = format!(r#"{{"total":{total},"streams":[{stream}]}}"#);
            let mut values = LastValues::new("a.*", json(&answer), 100);
            assert_eq!(values.is_cut, is_cut);
            assert!(values.next_consumer("in").is_some());
        }
    }

    #[test]
    fn values_are_bounded_in_number_and_bytes() {
        let mut values = LastValues::new("a.>", json(STREAMS), 3);
        let (subject, body) = values.next_consumer("in").expect("a stream");
        assert_eq!(subject, "$JS.API.CONSUMER.CREATE.A");
        assert!(
            body.contains(r#""filter_subject":"a.*""#) && body.contains(r#""max_ack_pending":3"#)
        );
        assert_eq!(
            values.created(json(r#"{"name":"c","num_pending":2}"#)),
            Next::Wait
        );
        assert_eq!(values.delivered(&value(1, 1)), (true, Next::Wait));
        assert_eq!(values.delivered(&value(1, 0)), (true, Next::Stream));
        assert_eq!(
            values.delete().as_deref(),
            Some("$JS.API.CONSUMER.DELETE.A.c")
        );
        assert!(!values.is_cut);
        assert!(values.next_consumer("in").is_some());
        assert_eq!(
            values.created(json(r#"{"name":"d","num_pending":5}"#)),
            Next::Wait
        );
        assert!(values.is_cut);
        assert_eq!(values.delivered(&value(1, 4)), (true, Next::Stream));
        assert!(values.next_consumer("in").is_none());
        let mut large = LastValues::new("a.*", json(STREAMS), 100);
        assert!(large.next_consumer("in").is_some());
        assert_eq!(
            large.delivered(&value(BYTES_MAX - 1, 5)),
            (true, Next::Wait)
        );
        assert_eq!(large.delivered(&value(2, 4)), (false, Next::Stream));
        assert!(large.is_cut && large.next_consumer("in").is_none());
        let mut none = LastValues::new("a.*", json(STREAMS), 100);
        assert!(none.next_consumer("in").is_some());
        assert_eq!(
            none.created(json(r#"{"name":"c","num_pending":0}"#)),
            Next::Stream
        );
        assert_eq!(
            none.created(json(r#"{"error":{"code":400}}"#)),
            Next::Stream
        );
    }
}
