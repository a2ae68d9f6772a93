//! Last values: questions to JetStream on the connection that also delivers the messages, so the order of answers and
//! messages is defined. Pure: the session writes and reads.
//!
//! An exact subject takes two requests: the name of the stream, and the last message. If no stream takes the subject from
//! publishers, and for each pattern, weirgate also looks through all streams for subjects of transforms and of copies
//! ([`AllStreams`]). The values of a pattern come from
//! each stream with such subjects, through a consumer of the last message of each subject. The consumer asks for
//! acknowledgements and gets none, so the server stops at `max_ack_pending` messages. The consumer is deleted at the
//! end; if the deletion fails, the server deletes the consumer after some seconds without a listener. A question ends
//! [`ANSWER_TIMEOUT`] after it was asked or has brought its newest value, with the values received until then.
//!
//! Only the leader of a stream surely has the last values: another server may catch up after a restart. The leader
//! answers the question for a message, and a consumer that was put on another server is made again. A message is
//! delivered before the servers of its stream have agreed to store it, so the client of a question may have come after
//! the message, and the answer may be from before it. So a question is asked again until its answer has the newest
//! message that was delivered shortly before the question.

mod streams;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

pub(in crate::nats) use self::streams::subjects_in;
use self::streams::{AllStreams, Listed, Target, targets};
use super::super::api::{ApiError, first_stream, message, refusal};
use super::super::consumer::{AckPolicy, Consumer, Plan, Start};
use super::super::error::INBOXES;
use super::super::needs::{Action, Need};
use super::super::protocol::{self, AckSubject, Delivery, inbox};
use crate::NAME_NOT_UTF8;
use crate::outage::shown;
use crate::requests::Question;
use weirgate_core::RetainedCut;
use weirgate_wire::json::{self, Json, JsonError};

/// The most questions on their way at once; the others wait.
const ASKED_MAX: usize = 64;
/// How long the answers to a question may bring no new value. Longer than the wait for a silent server, so a question on a
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
/// The length of a name for which the size of a request is calculated, bytes.
const NAME_BYTES: usize = 512;
/// The first number for subscriptions of questions; requested names have smaller numbers.
pub(super) const FIRST_SID: u64 = 1 << 62;

/// The questions of one connection.
#[derive(Debug)]
pub(in super::super) struct Retained {
    /// The subject for answers, before the number of the question.
    inbox: String,
    /// The limit on values of a pattern.
    values_max: usize,
    /// By their numbers.
    asked: BTreeMap<u64, Pending>,
    last: u64,
    last_sid: u64,
    all_streams: AllStreams,
    live: Live,
    /// The values and ends that the session has not taken.
    pub(super) events: Vec<RetainedEvent>,
}

#[derive(Debug)]
struct Pending {
    question: Question,
    /// The number of the subscription to the messages of the name, if any.
    sid: Option<u64>,
    begun: Instant,
    /// When it was asked, or brought its newest value.
    progressed: Instant,
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
    /// The list of all streams.
    AllStreams,
    /// The last message of the first of these streams; if it has none, of the next.
    Message(VecDeque<String>),
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
    Message(VecDeque<String>),
    Create(Target),
}

/// A value, or the end of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RetainedEvent {
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

impl Lack {
    /// The reason for clients.
    pub(super) const fn cut(&self) -> RetainedCut {
        match self {
            Self::Cut => RetainedCut::Limit,
            Self::Unnamed => RetainedCut::Unnamed,
            Self::Refused(_) => RetainedCut::Refused,
            Self::Unreadable(_) => RetainedCut::Unreadable,
        }
    }
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
            all_streams: AllStreams::default(),
            live: Live::default(),
            events: Vec::new(),
        }
    }

    /// What the questions need.
    pub(in super::super) fn needs() -> Vec<Need> {
        let consumers = "each question for a pattern leaves a consumer for 5 s";
        vec![
            Need::must(Action::StreamNames),
            Need::must(Action::StreamList),
            Need::must(Action::GetMessage),
            Need::must(Action::CreateConsumer),
            Need::may(Action::DeleteConsumer, consumers),
        ]
    }

    /// The size of the largest request, bytes.
    pub(in super::super) fn request_bytes_max() -> usize {
        let target = Target {
            stream: String::new(),
            filter: "x".repeat(NAME_BYTES),
            leader: String::new(),
        };
        let retained = Self::new(usize::MAX);
        let deliver = retained.deliver_subject(u64::MAX);
        let plan = LastValues::new(usize::MAX);
        plan.plan(&target).request("", &deliver).1.len()
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
        let asked = Pending {
            question,
            sid,
            begun: now,
            progressed: now,
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
        let request = self
            .asked
            .get(&number)
            .and_then(|asked| self.request(asked));
        if let Some((subject, body)) = request {
            protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
        }
    }

    /// The request of a question's step: subject and body.
    fn request(&self, asked: &Pending) -> Option<(String, String)> {
        let subscription = &asked.question.subscription;
        let name = &*subscription.name;
        Some(match &asked.step {
            Step::Streams => {
                let action = match subscription.is_pattern {
                    true => Action::StreamList,
                    false => Action::StreamNames,
                };
                let body = sonic_rs::json!({ "subject": name }).to_string();
                (action.of(""), body)
            }
            Step::AllStreams => (Action::StreamList.of(""), self.all_streams.request()),
            Step::Message(streams) => {
                let body = sonic_rs::json!({ "last_by_subj": name }).to_string();
                (Action::GetMessage.of(streams.front()?), body)
            }
            Step::Create(target, consumer) => {
                let deliver = self.deliver_subject(consumer.sid);
                asked.values.plan(target).request(&target.stream, &deliver)
            }
            Step::Values(_) | Step::Pause(..) => return None,
        })
    }

    /// Handles the server's refusal to let this user publish to a subject, or subscribe to it: ends the questions that
    /// need it. Returns whether the refusal is of an action of questions.
    pub(super) fn not_permitted(
        &mut self,
        (subject, is_subscription): (&str, bool),
        out: &mut Vec<u8>,
    ) -> bool {
        let is_deaf = is_subscription && subject.starts_with(&self.inbox);
        let (verb, what) = match is_deaf {
            true => ("subscribe", INBOXES),
            false => ("publish", subject),
        };
        let needs = |asked: &Pending| {
            let request = self.request(asked).filter(|_| !is_subscription);
            is_deaf || request.is_some_and(|(of_request, _)| of_request == subject)
        };
        let asked = self.asked.iter().filter(|(_, asked)| needs(asked));
        let ended: Vec<u64> = asked.map(|(number, _)| *number).collect();
        let error = ApiError::NotPermitted(format!("{verb} to {what}")).to_string();
        for number in &ended {
            self.refuse(*number, &error, out);
        }
        if is_deaf || subject == Action::StreamList.of("") {
            self.all_streams.refused();
        }
        let is_of = |need: &Need| !is_subscription && need.action.is_at(subject);
        is_deaf || !ended.is_empty() || Self::needs().iter().any(is_of)
    }

    /// Takes a message of a question's subscription.
    pub(super) fn take(&mut self, delivery: Delivery, now: Instant, out: &mut Vec<u8>) {
        if delivery.sid == FIRST_SID {
            match delivery.request() {
                Some(number) if self.all_streams.asked() == Some(number) => {
                    self.listed(number, &delivery, now, out);
                }
                Some(number) => self.answered(number, &delivery, now, out),
                None => {}
            }
            return;
        }
        let is_of = |asked: &Pending| match &asked.step {
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
        let is_late = |asked: &Pending| asked.progressed + ANSWER_TIMEOUT <= now;
        let late = self.asked.iter().filter(|(_, asked)| is_late(asked));
        let late = late.map(|(number, asked)| (*number, asked.has_answer()));
        for (number, has_answer) in late.collect::<Vec<_>>() {
            // The last answer, though it may be from before the newest message.
            match has_answer {
                true => self.end(number, None, out),
                false => self.refuse(number, "no answer", out),
            }
        }
        let is_due = |asked: &Pending| matches!(asked.step, Step::Pause(at, _) if at <= now);
        let due = self.asked.iter().filter(|(_, asked)| is_due(asked));
        for number in due.map(|(number, _)| *number).collect::<Vec<_>>() {
            let Some(asked) = self.asked.get_mut(&number) else {
                continue;
            };
            match std::mem::replace(&mut asked.step, Step::Streams) {
                Step::Pause(_, Again::Create(target)) => self.create(number, target, out),
                Step::Pause(_, Again::Message(streams)) => {
                    asked.step = Step::Message(streams);
                    self.send(number, out);
                }
                _ => self.send(number, out),
            }
        }
    }

    /// When [`Self::work`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |asked: &Pending| {
            let late = asked.progressed + ANSWER_TIMEOUT;
            match asked.step {
                Step::Pause(at, _) => at.min(late),
                _ => late,
            }
        };
        self.asked.values().map(due).min()
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
            (Step::Pause(..) | Step::Values(_) | Step::AllStreams, _) => {}
            _ if delivery.status.is_some() => self.refuse(number, "nobody answers", out),
            (Step::Streams | Step::Message(_), Some(error)) => {
                self.refuse(number, &error.to_string(), out);
            }
            (Step::Streams, None) if subscription.is_pattern => {
                asked.values.take_streams(&subscription.name, answer);
                self.search_all_streams(number, now, out);
            }
            (Step::Streams, None) => match first_stream(answer).ok().flatten() {
                Some(stream) => {
                    asked.step = Step::Message(VecDeque::from([stream]));
                    self.send(number, out);
                }
                None => self.search_all_streams(number, now, out),
            },
            (Step::Message(_), None) => {
                asked.value = last_message(answer);
                self.message(number, now, out);
            }
            (Step::Create(..), _) => self.created(number, delivery, now, out),
        }
    }

    /// Looks for streams that have the name by transforms or as copies, in the list of all streams.
    fn search_all_streams(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        if self.all_streams.is_known(now) {
            return self.searched_streams(number, now, out);
        }
        if let Some(asked) = self.asked.get_mut(&number) {
            asked.step = Step::AllStreams;
        }
        if self.all_streams.ask(self.last + 1, now) {
            self.last += 1;
            self.list(self.last, out);
        }
    }

    fn list(&self, number: u64, out: &mut Vec<u8>) {
        let (subject, body) = (Action::StreamList.of(""), self.all_streams.request());
        protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
    }

    /// Handles a page of the list of all streams: once the list is whole, all questions that wait for it go on.
    fn listed(&mut self, number: u64, delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
        let read = json::read(&delivery.payload);
        let lack = match &read {
            _ if delivery.status.is_some() => Some(Lack::Refused(shown("nobody answers"))),
            Err(error) => Some((*error).clone().into()),
            Ok(answer) => refusal(*answer).map(|error| Lack::Refused(shown(&error.to_string()))),
        };
        if let (Ok(answer), None) = (read, &lack)
            && self.all_streams.take(answer) == Listed::More
        {
            return self.list(number, out);
        }
        if lack.is_some() {
            self.all_streams.refused();
        }
        let waits = |(_, asked): &(&u64, &Pending)| matches!(asked.step, Step::AllStreams);
        let waiting = self.asked.iter().filter(waits);
        for number in waiting.map(|(number, _)| *number).collect::<Vec<_>>() {
            match lack.clone() {
                Some(lack) => self.end(number, Some(lack), out),
                None => self.searched_streams(number, now, out),
            }
        }
    }

    /// Goes on with the streams that were found in the list of all.
    fn searched_streams(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let subscription = &asked.question.subscription;
        let targets = self.all_streams.targets(&subscription.name);
        if subscription.is_pattern {
            asked.values.extend(targets);
            asked.values.is_cut |= self.all_streams.is_cut();
            return self.next_stream(number, now, out);
        }
        let streams = targets.into_iter().map(|target| target.stream);
        asked.step = Step::Message(streams.take(STREAMS_MAX).collect());
        self.next_message(number, out);
    }

    /// Asks the first stream of a name for the last message; without a stream, ends the question.
    fn next_message(&mut self, number: u64, out: &mut Vec<u8>) {
        let asked = self.asked.get(&number).map(|asked| &asked.step);
        match asked {
            Some(Step::Message(streams)) if streams.is_empty() => self.end(number, None, out),
            _ => self.send(number, out),
        }
    }

    /// Handles the last message of a stream, or that there is none: the next stream may have one. Asks again if the
    /// message is older than one that was delivered before the question.
    fn message(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let Step::Message(streams) = &mut asked.step else {
            return;
        };
        if asked.value.is_none() && streams.len() > 1 {
            streams.pop_front();
            return self.send(number, out);
        }
        let streams = streams.clone();
        let payload = asked.value.as_deref().unwrap_or_default();
        let payload = self.live.hasher.hash_one(payload);
        let before = self.live.unstored(asked, now);
        match before.values().any(|live| *live != payload) {
            true => self.pause(number, Again::Message(streams), now),
            false => self.end(number, None, out),
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
            if !error.filter_is_foreign() {
                asked.values.refused = Some(shown(&error.to_string()));
            }
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
        consumer.listen(None, out);
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
        if is_good {
            asked.progressed = now;
        }
        if is_good
            && (delivery.is_deletion || !delivery.payload.is_empty())
            && let Some(subject) = delivery.name()
        {
            self.events.push(RetainedEvent::Value {
                of: asked.question.clone(),
                subject: subject.into(),
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
            self.events.push(RetainedEvent::Value {
                of: asked.question.clone(),
                subject: Arc::clone(&asked.question.subscription.name),
                payload,
            });
        }
        let is_cut = asked.values.is_cut.then_some(Lack::Cut);
        let is_unnamed = asked.values.is_unnamed.then_some(Lack::Unnamed);
        let refused = asked.values.refused.map(Lack::Refused);
        let of_values = refused.or(is_cut).or(is_unnamed);
        self.events.push(RetainedEvent::End {
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

impl Pending {
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
    fn unstored(&self, asked: &Pending, now: Instant) -> HashMap<u64, u64> {
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
    fn new(values_max: usize) -> Self {
        Self {
            targets: VecDeque::new(),
            values_left: values_max,
            bytes_left: BYTES_MAX,
            sent: HashMap::new(),
            is_whole: false,
            is_cut: false,
            is_unnamed: false,
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

    /// Adds streams that were found in the list of all.
    fn extend(&mut self, targets: Vec<Target>) {
        let is_new = |target: &Target| !self.targets.contains(target);
        let targets: Vec<Target> = targets.into_iter().filter(is_new).collect();
        self.targets.extend(targets);
        self.is_cut |= self.targets.len() > STREAMS_MAX;
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
            acks: AckPolicy::Explicit,
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
        self.is_unnamed |= delivery.name().is_none();
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

#[cfg(test)]
mod tests;
