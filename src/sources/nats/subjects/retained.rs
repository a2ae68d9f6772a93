//! Last values: questions to JetStream on the connection that also delivers the messages, so the order of answers and
//! messages is defined. Pure: the session writes and reads.
//!
//! An exact subject takes two requests: the name of the stream, and the last message. The values of a pattern come from
//! each stream with such subjects, through a consumer of the last message of each subject. The consumer asks for
//! acknowledgements and gets none, so the server stops at `max_ack_pending` messages. The consumer is deleted at the
//! end; if the deletion fails, the server deletes the consumer after some seconds without a listener. A question ends
//! after [`ANSWER_TIMEOUT`], with the values received until then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sonic_rs::JsonValueTrait;

use super::super::api::{first_stream, message, messages_of_consumer, refusal};
use super::super::protocol::{self, AckSubject, Delivery, inbox};
use crate::auth::Subject;
use crate::sources::NAME_NOT_UTF8;
use crate::sources::outage::shown;
use crate::sources::requests::Question;
use crate::wire::json::{self, Json, JsonError};

/// The most questions on their way at once; the others wait.
const ASKED_MAX: usize = 64;
/// How long the answers to a question may take together. Longer than the wait for a silent server, so a question on a
/// dead link is asked again on the next link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The first number for subscriptions of questions; requested names have smaller numbers.
pub(super) const FIRST_SID: u64 = 1 << 62;

/// The questions of one connection.
#[derive(Debug)]
pub(super) struct Retained {
    /// The subject for answers, before the number of the question.
    inbox: String,
    /// The limit on values of a pattern.
    values_max: usize,
    /// By their numbers, and so in the order of their deadlines.
    asked: BTreeMap<u64, Asked>,
    last: u64,
    /// The values and ends that the session has not taken.
    pub(super) told: Vec<Told>,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    step: Step,
    due: Instant,
}

/// The answer that a question waits for.
#[derive(Debug)]
enum Step {
    /// The streams that hold the subjects.
    Streams,
    /// The last message.
    Message,
    /// The values of a pattern.
    Values(LastValues),
}

/// A value, or the end of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Value {
        /// The question.
        of: Question,
        subject: Arc<str>,
        payload: Vec<u8>,
    },
    /// The end of a question, answered or not.
    End {
        question: Question,
        /// The reason why values may be missing.
        lack: Option<Lack>,
    },
}

/// Why the values of a question may be missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("a pattern has more last values than are sent")]
    Cut,
    #[error("a pattern has last values of {NAME_NOT_UTF8}, which are not sent")]
    Unnamed,
    #[error("JetStream gives no last values: {0}")]
    Refused(String),
    #[error("an answer about last values cannot be read: {0}")]
    Unreadable(#[from] JsonError),
}

impl Retained {
    /// Makes an empty list; `values_max` is the limit on values sent for a pattern.
    pub(super) fn new(values_max: usize) -> Self {
        Self {
            inbox: inbox(),
            values_max,
            asked: BTreeMap::new(),
            last: 0,
            told: Vec::new(),
        }
    }

    /// The number of questions on their way.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Whether another question may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < ASKED_MAX
    }

    /// Asks which streams hold the subjects.
    pub(super) fn ask(&mut self, question: Question, now: Instant, out: &mut Vec<u8>) {
        if self.last == 0 {
            protocol::subscribe(out, &format!("{}.*", self.inbox), None, FIRST_SID);
        }
        self.last += 1;
        let verb = match question.subscription.is_pattern {
            true => "LIST",
            false => "NAMES",
        };
        let body = sonic_rs::json!({ "subject": &*question.subscription.name }).to_string();
        let subject = format!("$JS.API.STREAM.{verb}");
        protocol::publish(out, &subject, &self.reply(self.last), body.as_bytes());
        let asked = Asked {
            question,
            step: Step::Streams,
            due: now + ANSWER_TIMEOUT,
        };
        self.asked.insert(self.last, asked);
    }

    /// Takes a message of a question's subscription.
    pub(super) fn take(&mut self, delivery: Delivery, out: &mut Vec<u8>) {
        if delivery.sid == FIRST_SID {
            if let Some(number) = delivery.request() {
                self.answered(number, &delivery, out);
            }
        } else {
            self.delivered(delivery.sid - FIRST_SID, delivery, out);
        }
    }

    /// Ends the questions whose time is over.
    pub(super) fn end_late(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some((&number, asked)) = self.asked.first_key_value()
            && asked.due <= now
        {
            self.refuse(number, "no answer", out);
        }
    }

    /// When the first question ends without an answer.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.asked.first_key_value()?.1.due)
    }

    /// Handles the answer to a request.
    fn answered(&mut self, number: u64, delivery: &Delivery, out: &mut Vec<u8>) {
        let values_max = self.values_max;
        let reply = self.reply(number);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let answer = match json::read(&delivery.payload) {
            Ok(answer) => answer,
            Err(error) => return self.end(number, Some(error.into()), out),
        };
        let subscription = &asked.question.subscription;
        let name = &subscription.name;
        let refused = refusal(answer).filter(|error| !error.message_is_missing());
        match (&mut asked.step, refused) {
            _ if delivery.status.is_some() => self.refuse(number, "nobody answers", out),
            (Step::Streams | Step::Message, Some(error)) => {
                self.refuse(number, &error.to_string(), out);
            }
            (Step::Streams, None) if subscription.is_pattern => {
                let values = LastValues::new(name, answer, values_max);
                asked.step = Step::Values(values);
                self.next_stream(number, out);
            }
            (Step::Streams, None) => match first_stream(answer).ok().flatten() {
                Some(stream) => {
                    let body = sonic_rs::json!({ "last_by_subj": &**name }).to_string();
                    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
                    asked.step = Step::Message;
                    protocol::publish(out, &subject, &reply, body.as_bytes());
                }
                None => self.end(number, None, out),
            },
            (Step::Message, None) => {
                let value = last_message(answer).map(|payload| Told::Value {
                    of: asked.question.clone(),
                    subject: Arc::clone(name),
                    payload,
                });
                self.told.extend(value);
                self.end(number, None, out);
            }
            (Step::Values(values), _) => {
                if values.created(answer) == Next::Stream {
                    self.next_stream(number, out);
                }
            }
        }
    }

    /// Handles a value delivered by a consumer.
    fn delivered(&mut self, number: u64, delivery: Delivery, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let Step::Values(values) = &mut asked.step else {
            return;
        };
        let (is_good, next) = values.delivered(&delivery);
        if is_good
            && (delivery.is_deletion || !delivery.payload.is_empty())
            && let Some(subject) = delivery.name()
        {
            self.told.push(Told::Value {
                of: asked.question.clone(),
                subject: subject.into(),
                payload: delivery.payload,
            });
        }
        if next == Next::Stream {
            self.next_stream(number, out);
        }
    }

    /// Leaves the consumer of a pattern, and requests a consumer of the next stream.
    fn next_stream(&mut self, number: u64, out: &mut Vec<u8>) {
        let (inbox, reply) = (format!("{}.v.{number}", self.inbox), self.reply(number));
        self.leave_consumer(number, out);
        let Some(Asked {
            step: Step::Values(values),
            ..
        }) = self.asked.get_mut(&number)
        else {
            return;
        };
        match values.next_consumer(&inbox) {
            Some((subject, body)) => {
                protocol::subscribe(out, &inbox, None, FIRST_SID + number);
                protocol::publish(out, &subject, &reply, body.as_bytes());
            }
            None => self.end(number, None, out),
        }
    }

    fn leave_consumer(&mut self, number: u64, out: &mut Vec<u8>) {
        let nobody = self.reply(0);
        if let Some(asked) = self.asked.get_mut(&number)
            && let Step::Values(values) = &mut asked.step
        {
            protocol::unsubscribe(out, FIRST_SID + number);
            if let Some(subject) = values.delete() {
                protocol::publish(out, &subject, &nobody, b"");
            }
        }
    }

    fn refuse(&mut self, number: u64, words: &str, out: &mut Vec<u8>) {
        self.end(number, Some(Lack::Refused(shown(words))), out);
    }

    fn end(&mut self, number: u64, lack: Option<Lack>, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(asked) = self.asked.remove(&number) else {
            return;
        };
        let of_values = match asked.step {
            Step::Values(values) => {
                let is_cut = values.is_cut.then_some(Lack::Cut);
                let is_unnamed = values.is_unnamed.then_some(Lack::Unnamed);
                values.refused.map(Lack::Refused).or(is_cut).or(is_unnamed)
            }
            _ => None,
        };
        self.told.push(Told::End {
            question: asked.question,
            lack: lack.or(of_values),
        });
    }

    fn reply(&self, number: u64) -> String {
        format!("{}.{number}", self.inbox)
    }
}

/// The payload of the message in the answer, empty if the value was deleted; `None` for an error, such as a missing
/// message, and for no payload.
fn last_message(answer: Json<'_>) -> Option<Vec<u8>> {
    let message = message(answer).ok()?;
    let is_value = message.is_deletion || !message.payload.is_empty();
    is_value.then_some(message.payload)
}

/// The limit on payload bytes of the last values of a pattern: half of the default limit of a client's send queue, so a
/// client that reads is not dropped because of last values.
const BYTES_MAX: usize = 512 * 1024;
/// The limit on streams asked for a pattern.
const STREAMS_MAX: usize = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// The question for a pattern.
#[derive(Debug)]
struct LastValues {
    /// Streams not asked yet, with the part of the pattern in each.
    targets: VecDeque<(String, String)>,
    /// The stream of the consumer; the name in `consumer` follows with the server's answer.
    stream: String,
    consumer: Option<String>,
    values_left: usize,
    bytes_left: usize,
    /// There are more values than were sent.
    is_cut: bool,
    /// A value has a subject that is not UTF-8, and was not sent.
    is_unnamed: bool,
    /// Why a stream gave no values.
    refused: Option<String>,
}

/// The next step after a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More values follow.
    Wait,
    /// This stream has no more.
    Stream,
}

impl LastValues {
    /// Selects the streams in the answer that hold a part of the pattern. The answer is one page (of 256 streams); the
    /// streams of the other pages count as cut.
    fn new(pattern: &str, streams: Json<'_>, values_max: usize) -> Self {
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
            is_unnamed: false,
            refused: None,
        }
    }

    /// The request for a consumer of the next stream: subject and body. `None` without a next stream, or without room
    /// for values.
    fn next_consumer(&mut self, deliver_subject: &str) -> Option<(String, String)> {
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
    fn created(&mut self, answer: Json<'_>) -> Next {
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
    fn delivered(&mut self, delivery: &Delivery) -> (bool, Next) {
        let bytes = delivery.payload.len();
        if self.values_left == 0 || bytes > self.bytes_left {
            (self.is_cut, self.bytes_left) = (true, 0);
            return (false, Next::Stream);
        }
        self.values_left -= 1;
        self.bytes_left -= bytes;
        self.is_unnamed |= delivery.name().is_none();
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
    fn delete(&mut self) -> Option<String> {
        let (stream, consumer) = (&self.stream, self.consumer.take()?);
        Some(format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"))
    }
}

/// Streams and filters, and the number of streams in the answer. A consumer's filter has to lie within one subject of
/// its stream.
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
mod tests;
