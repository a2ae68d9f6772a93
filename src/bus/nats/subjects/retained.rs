//! Last values: questions to JetStream on the connection that also delivers the messages, so the order of answers and
//! messages is defined. Pure: the session writes and reads.
//!
//! An exact subject takes two requests: the name of the stream, and the last message. The values of a pattern come from
//! each stream with such subjects, through a consumer of the last message of each subject. The consumer asks for
//! acknowledgements and gets none, so the server stops at `max_ack_pending` messages. The consumer is deleted at the
//! end; if the deletion fails, the server deletes the consumer after some seconds without a listener. A question ends
//! after [`ANSWER_TIMEOUT`], with the values received until then.
//!
//! Only the leader of a stream surely has the last values: another server may catch up after a restart. The leader
//! answers the question for a message, and a consumer that was put on another server is made again. A message is
//! delivered before the servers of its stream have agreed to store it, so the client of a question may have come after
//! the message, and the answer may be from before it. So a question is asked again until its answer has the newest
//! message that was delivered shortly before the question.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use sonic_rs::JsonValueTrait;

use super::super::api::{first_stream, message, refusal};
use super::super::consumer::{Consumer, Plan, Start};
use super::super::protocol::{self, AckSubject, Delivery, inbox};
use crate::outage::shown;
use crate::requests::Question;
use weirgate_wire::auth::Subject;
use weirgate_wire::json;
use weirgate_wire::json::{Json, JsonError};

/// The most questions on their way at once; the others wait.
const ASKED_MAX: usize = 64;
/// How long the answers to a question may take together. Longer than the wait for a silent server, so a question on a
/// dead link is asked again on the next link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before a question is asked again, and the longest; each pause is half as long again as the one before.
/// A consumer is on the leader at the third attempt on average, so the first pauses are short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(320);
/// How long the servers of a stream may take to store a message that was delivered already. After that, the message
/// counts as refused by the stream.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// The most delivered messages that are remembered for that, the newest.
const LIVE_MAX: usize = 32_768;
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
    last_sid: u64,
    live: Live,
    /// The values and ends that the session has not taken.
    pub(super) told: Vec<Told>,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    /// The number of the subscription to the messages of the name, if any.
    sid: Option<u64>,
    begun: Instant,
    step: Step,
    /// The next pause.
    pause: Duration,
    /// The last message of an exact subject, in the leader's last answer; empty if it was deleted.
    value: Option<Vec<u8>>,
    /// The values of a pattern.
    values: LastValues,
}

/// What a question waits for.
#[derive(Debug)]
enum Step {
    /// The streams that hold the subjects.
    Streams,
    /// The last message of a stream.
    Message(String),
    /// A consumer of the values of a pattern in a stream.
    Create(Target, Consumer),
    /// The values.
    Values(Consumer),
    /// The time to ask again.
    Pause(Instant, Again),
}

/// What is asked again.
#[derive(Debug)]
enum Again {
    Streams,
    Message(String),
    Create(Target),
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
    #[error("JetStream gives no last values: {0}")]
    Refused(String),
    #[error("an answer about last values cannot be read: {0}")]
    Unreadable(#[from] JsonError),
}

impl Retained {
    /// Makes an empty list; `values_max` is the limit on values sent for a pattern, 0 if nobody asks for last values.
    pub(super) fn new(values_max: usize) -> Self {
        Self {
            inbox: inbox(),
            values_max,
            asked: BTreeMap::new(),
            last: 0,
            last_sid: FIRST_SID,
            live: Live::default(),
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

    /// Remembers a message of a requested name: its stream may store it later.
    pub(super) fn note_live(&mut self, delivery: &Delivery, now: Instant) {
        if self.values_max > 0 {
            self.live.note(delivery, now);
        }
    }

    /// Asks which streams hold the subjects. `sid`: the subscription to the messages of the name, if any.
    pub(super) fn ask(
        &mut self,
        question: Question,
        sid: Option<u64>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if self.last == 0 {
            protocol::subscribe(out, &format!("{}.*", self.inbox), None, FIRST_SID);
        }
        self.last += 1;
        let asked = Asked {
            question,
            sid,
            begun: now,
            step: Step::Streams,
            pause: PAUSE_MIN,
            value: None,
            values: LastValues::new(self.values_max),
        };
        self.asked.insert(self.last, asked);
        self.send(self.last, out);
    }

    /// Sends the request of this step.
    fn send(&self, number: u64, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get(&number) else {
            return;
        };
        let subscription = &asked.question.subscription;
        let name = &*subscription.name;
        let (subject, body) = match &asked.step {
            Step::Streams => {
                let verb = match subscription.is_pattern {
                    true => "LIST",
                    false => "NAMES",
                };
                let body = sonic_rs::json!({ "subject": name }).to_string();
                (format!("$JS.API.STREAM.{verb}"), body)
            }
            Step::Message(stream) => {
                let body = sonic_rs::json!({ "last_by_subj": name }).to_string();
                (format!("$JS.API.STREAM.MSG.GET.{stream}"), body)
            }
            Step::Create(target, consumer) => {
                let deliver = self.deliver_subject(consumer.sid);
                asked.values.plan(target).request(&target.stream, &deliver)
            }
            Step::Values(_) | Step::Pause(..) => return,
        };
        protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
    }

    /// Takes a message of a question's subscription.
    pub(super) fn take(&mut self, delivery: Delivery, now: Instant, out: &mut Vec<u8>) {
        if delivery.sid == FIRST_SID {
            let number = delivery.subject.rsplit_once('.');
            if let Some(number) = number.and_then(|(_, number)| number.parse().ok()) {
                self.answered(number, &delivery, now, out);
            }
            return;
        }
        let is_of = |asked: &Asked| match &asked.step {
            Step::Values(consumer) => consumer.sid == delivery.sid,
            _ => false,
        };
        let mut asked = self.asked.iter();
        let of = asked.find(|(_, asked)| is_of(asked));
        if let Some(number) = of.map(|(number, _)| *number) {
            self.delivered(number, delivery, now, out);
        }
    }

    /// Ends the questions whose time is over, and asks again what is due.
    pub(super) fn work(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some((&number, asked)) = self.asked.first_key_value()
            && asked.begun + ANSWER_TIMEOUT <= now
        {
            // The last answer, though it may be from before the newest message.
            match asked.has_answer() {
                true => self.end(number, None, out),
                false => self.refuse(number, "no answer", out),
            }
        }
        let is_due = |asked: &Asked| matches!(asked.step, Step::Pause(at, _) if at <= now);
        let due = self.asked.iter().filter(|(_, asked)| is_due(asked));
        for number in due.map(|(number, _)| *number).collect::<Vec<_>>() {
            let Some(asked) = self.asked.get_mut(&number) else {
                continue;
            };
            match std::mem::replace(&mut asked.step, Step::Streams) {
                Step::Pause(_, Again::Create(target)) => self.create(number, target, out),
                Step::Pause(_, Again::Message(stream)) => {
                    asked.step = Step::Message(stream);
                    self.send(number, out);
                }
                _ => self.send(number, out),
            }
        }
    }

    /// When [`Self::work`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let pauses = self.asked.values().filter_map(|asked| match asked.step {
            Step::Pause(at, _) => Some(at),
            _ => None,
        });
        let first = self.asked.first_key_value()?.1.begun + ANSWER_TIMEOUT;
        Some(pauses.fold(first, Instant::min))
    }

    /// Asks again after a pause.
    fn pause(&mut self, number: u64, again: Again, now: Instant) {
        if let Some(asked) = self.asked.get_mut(&number) {
            asked.step = Step::Pause(now + asked.pause, again);
            asked.pause = (asked.pause * 3 / 2).min(PAUSE_MAX);
        }
    }

    /// Handles the answer to a request.
    fn answered(&mut self, number: u64, delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let answer = match json::read(&delivery.payload) {
            Ok(answer) => answer,
            Err(error) => return self.end(number, Some(error.into()), out),
        };
        let subscription = &asked.question.subscription;
        let refused = refusal(answer).filter(|error| !error.message_is_missing());
        match (&asked.step, refused) {
            (Step::Pause(..) | Step::Values(_), _) => {}
            _ if delivery.status.is_some() => self.refuse(number, "nobody answers", out),
            (Step::Streams | Step::Message(_), Some(error)) => {
                self.refuse(number, &error.to_string(), out);
            }
            (Step::Streams, None) if subscription.is_pattern => {
                asked.values.take_streams(&subscription.name, answer);
                self.next_stream(number, now, out);
            }
            (Step::Streams, None) => match first_stream(answer).ok().flatten() {
                Some(stream) => {
                    asked.step = Step::Message(stream);
                    self.send(number, out);
                }
                None => self.end(number, None, out),
            },
            (Step::Message(stream), None) => {
                let stream = stream.clone();
                asked.value = last_message(answer);
                let payload = asked.value.as_deref().unwrap_or_default();
                let payload = self.live.hasher.hash_one(payload);
                let before = self.live.unstored(asked, now);
                match before.values().any(|live| *live != payload) {
                    true => self.pause(number, Again::Message(stream), now),
                    false => self.end(number, None, out),
                }
            }
            (Step::Create(..), _) => self.created(number, delivery, now, out),
        }
    }

    /// Handles the answer to the request for a consumer.
    fn created(&mut self, number: u64, delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
        let nobody = self.reply(0);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let step = std::mem::replace(&mut asked.step, Step::Streams);
        let Step::Create(target, mut consumer) = step else {
            return;
        };
        if let Err(error) = consumer.made(&delivery.payload) {
            asked.values.refused = Some(shown(&error.to_string()));
            return self.next_stream(number, now, out);
        }
        let made = consumer.answer().cloned().unwrap_or_default();
        if made.server.is_some_and(|server| server != target.leader) {
            consumer.leave(&nobody, out);
            return self.pause(number, Again::Create(target), now);
        }
        let room = asked.values.values_left + asked.values.sent.len();
        asked.values.is_cut |= made.waiting > room as u64;
        if made.waiting == 0 {
            consumer.leave(&nobody, out);
            return self.next_stream(number, now, out);
        }
        consumer.listen(out);
        asked.step = Step::Values(consumer);
    }

    /// Handles a value delivered by a consumer.
    fn delivered(&mut self, number: u64, delivery: Delivery, now: Instant, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let Step::Values(consumer) = &mut asked.step else {
            return;
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        if !ack.is_some_and(|ack| consumer.takes(ack.consumer_sequence)) {
            // A value is missing before this one.
            self.leave_consumer(number, out);
            return self.pause(number, Again::Streams, now);
        }
        let hashes = self.live.hashes(&delivery);
        let (is_good, next) = asked.values.delivered(&delivery, hashes);
        if is_good && (delivery.is_deletion || !delivery.payload.is_empty()) {
            self.told.push(Told::Value {
                of: asked.question.clone(),
                subject: delivery.subject.into(),
                payload: delivery.payload,
            });
        }
        if next == Next::Stream {
            self.next_stream(number, now, out);
        }
    }

    /// Leaves the consumer of a pattern, and requests a consumer of the next stream. After the last one, asks again if a
    /// message was delivered before the question, and is not among the values.
    fn next_stream(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        if let Some(target) = asked.values.next_target() {
            return self.create(number, target, out);
        }
        asked.values.is_whole = true;
        let values = &asked.values;
        let mut before = self.live.unstored(asked, now).into_iter();
        let is_all = values.is_cut || values.refused.is_some();
        match !is_all && before.any(|(subject, live)| values.sent.get(&subject) != Some(&live)) {
            true => self.pause(number, Again::Streams, now),
            false => self.end(number, None, out),
        }
    }

    /// Requests a consumer of a stream.
    fn create(&mut self, number: u64, target: Target, out: &mut Vec<u8>) {
        self.last_sid += 1;
        let deliver = self.deliver_subject(self.last_sid);
        let start = Start::LastPerSubject;
        let consumer = Consumer::new(&target.stream, self.last_sid, deliver, start);
        if let Some(asked) = self.asked.get_mut(&number) {
            asked.step = Step::Create(target, consumer);
            self.send(number, out);
        }
    }

    fn leave_consumer(&mut self, number: u64, out: &mut Vec<u8>) {
        let nobody = self.reply(0);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        match std::mem::replace(&mut asked.step, Step::Streams) {
            Step::Create(_, consumer) | Step::Values(consumer) => consumer.leave(&nobody, out),
            step => asked.step = step,
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
        if let (Some(payload), None) = (asked.value, &lack) {
            self.told.push(Told::Value {
                of: asked.question.clone(),
                subject: Arc::clone(&asked.question.subscription.name),
                payload,
            });
        }
        let is_cut = asked.values.is_cut.then_some(Lack::Cut);
        let of_values = asked.values.refused.map(Lack::Refused).or(is_cut);
        self.told.push(Told::End {
            question: asked.question,
            lack: lack.or(of_values),
        });
    }

    fn reply(&self, number: u64) -> String {
        format!("{}.{number}", self.inbox)
    }

    fn deliver_subject(&self, sid: u64) -> String {
        format!("{}.v.{sid}", self.inbox)
    }
}

impl Asked {
    /// Whether an answer has come that may be from before the newest message.
    fn has_answer(&self) -> bool {
        let is_asked_again = matches!(self.step, Step::Pause(_, Again::Message(_)));
        self.value.is_some() || self.values.is_whole || is_asked_again
    }
}

/// Messages of requested names that were delivered within [`STORED_WITHIN`].
#[derive(Debug, Default)]
struct Live {
    hasher: RandomState,
    messages: VecDeque<LiveMessage>,
}

/// A delivered message; hashes take less memory than texts.
#[derive(Clone, Copy, Debug)]
struct LiveMessage {
    at: Instant,
    sid: u64,
    subject: u64,
    payload: u64,
}

impl Live {
    /// The hashes of subject and payload.
    fn hashes(&self, delivery: &Delivery) -> (u64, u64) {
        let payload = self.hasher.hash_one(&delivery.payload[..]);
        (self.hasher.hash_one(&*delivery.subject), payload)
    }

    fn note(&mut self, delivery: &Delivery, at: Instant) {
        let is_over = |first: &LiveMessage| first.at + STORED_WITHIN <= at;
        while self.messages.len() >= LIVE_MAX || self.messages.front().is_some_and(is_over) {
            self.messages.pop_front();
        }
        let (subject, payload) = self.hashes(delivery);
        self.messages.push_back(LiveMessage {
            at,
            sid: delivery.sid,
            subject,
            payload,
        });
    }

    /// The newest messages of the subjects of a question, as hashes, that were delivered before the question and
    /// perhaps not stored by then. A subject with a message after the question is left out: the clients have it.
    fn unstored(&self, asked: &Asked, now: Instant) -> HashMap<u64, u64> {
        let mut newest = HashMap::new();
        for live in &self.messages {
            if Some(live.sid) != asked.sid || now >= live.at + STORED_WITHIN {
                continue;
            }
            match live.at <= asked.begun {
                true => newest.insert(live.subject, live.payload),
                false => newest.remove(&live.subject),
            };
        }
        newest
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

/// A stream with values of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    stream: String,
    /// The part of the pattern in the stream.
    filter: String,
    /// The server that leads the stream; empty if nobody does, or without a cluster.
    leader: String,
}

/// The values of a pattern.
#[derive(Debug)]
struct LastValues {
    /// Streams not asked yet.
    targets: VecDeque<Target>,
    values_left: usize,
    bytes_left: usize,
    /// The values that were sent: a hash of the payload for the hash of a subject.
    sent: HashMap<u64, u64>,
    /// All streams have given their values once.
    is_whole: bool,
    /// There are more values than were sent.
    is_cut: bool,
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
    fn new(values_max: usize) -> Self {
        Self {
            targets: VecDeque::new(),
            values_left: values_max,
            bytes_left: BYTES_MAX,
            sent: HashMap::new(),
            is_whole: false,
            is_cut: false,
            refused: None,
        }
    }

    /// Selects the streams in the answer that hold a part of the pattern. The answer is one page (of 256 streams); the
    /// streams of the other pages count as cut.
    fn take_streams(&mut self, pattern: &str, streams: Json<'_>) {
        let (targets, listed) = targets(pattern, streams);
        let total = streams.number(&["total"]).unwrap_or(0);
        self.is_cut |= targets.len() > STREAMS_MAX || total > listed;
        self.targets = targets;
        self.targets.truncate(STREAMS_MAX);
    }

    /// The next stream. `None` without a next stream, or without room for values.
    fn next_target(&mut self) -> Option<Target> {
        let has_room = self.values_left > 0 && self.bytes_left > 0;
        if !has_room {
            self.is_cut |= !self.targets.is_empty();
            return None;
        }
        self.targets.pop_front()
    }

    /// The consumer of the values of a stream.
    fn plan<'a>(&self, target: &'a Target) -> Plan<'a> {
        Plan {
            start: Start::LastPerSubject,
            filter: Some(&target.filter),
            durable: None,
            acks_all: false,
            // Values that were sent before may be delivered again.
            pending_max: (self.values_left + self.sent.len()) as u64,
            deliveries_max: Some(1),
            idle_max_ms: 5_000,
            beats: false,
            has_flow_control: false,
            is_in_memory: true,
        }
    }

    /// Counts a value; `hashes` are those of its subject and payload. Returns whether to send the value, and the next
    /// step.
    fn delivered(&mut self, delivery: &Delivery, hashes: (u64, u64)) -> (bool, Next) {
        let (subject, payload) = hashes;
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let pending = ack.map_or(0, |ack| ack.pending);
        let is_new = self.sent.get(&subject) != Some(&payload);
        let bytes = delivery.payload.len();
        if is_new {
            if self.values_left == 0 || bytes > self.bytes_left {
                (self.is_cut, self.bytes_left) = (true, 0);
                return (false, Next::Stream);
            }
            self.values_left -= 1;
            self.bytes_left -= bytes;
            self.sent.insert(subject, payload);
        }
        if pending > 0 && self.values_left > 0 {
            return (is_new, Next::Wait);
        }
        self.is_cut |= pending > 0;
        (is_new, Next::Stream)
    }
}

/// The streams that hold a part of the pattern, and the number of streams in the answer. A consumer's filter has to lie within one subject of
/// its stream.
fn targets(pattern: &str, answer: Json<'_>) -> (VecDeque<Target>, u64) {
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
        let leader = stream.get("cluster").and_then(|cluster| {
            let leader = cluster.get("leader");
            leader.and_then(|leader| leader.as_str().map(str::to_owned))
        });
        let leader = leader.unwrap_or_default();
        let subjects = config.get("subjects");
        let subjects = subjects.and_then(|all| json::value(&all).ok());
        let subjects: Vec<String> = subjects.unwrap_or_default();
        for subject in subjects {
            let held = Subject::parse(&subject).ok();
            if let Some(both) = held.and_then(|held| pattern.intersection(&held))
                && let Some(name) = name.clone()
            {
                targets.push_back(Target {
                    stream: name,
                    filter: both.to_string(),
                    leader: leader.clone(),
                });
            }
        }
    }
    (targets, listed)
}

#[cfg(test)]
mod tests;
