//! Stored messages from JetStream. A *question* asks for those of a name: the last values, the newest, or all. It goes to
//! JetStream on the connection that also delivers the messages, so the order of answers and messages is defined. Pure: the
//! session writes and reads.
//!
//! Each question is a row of [`Pending`], and moves from [`QuestionStep`] to [`QuestionStep`]: begin with [`Retained::ask`],
//! then [`Retained::handle_answer`].
//!
//! | file | owns |
//! | --- | --- |
//! | `streams` | which streams hold a name, by the answers of JetStream |
//! | `all_streams` | the list of all streams: those that hold a name by a transform, or as copies |
//! | `stream_config` | what a stream stores, by its settings |
//! | `reading` | how far a question has read |
//! | `all_read` | the same of a question for all messages |
//! | `removals` | whether messages were removed before such a question has read them |
//! | `live` | messages that were delivered shortly before a question |
//! | `making` | how many consumers are made at once |
//! | `listening` | the subscription for answers |
//! | `patience` | when a question without new messages ends |
//! | `events` | what the session gets: values, ends of pages, ends of questions |
//!
//! # Exact subjects
//! An exact subject takes two requests: the name of the stream, and the last message. If no stream takes the subject from
//! publishers, and for each pattern, weirgate also looks through all streams for subjects of transforms and of copies
//! ([`AllStreams`]).
//!
//! # Patterns
//! The values of a pattern come from each stream with such subjects, through a consumer of the last message of each
//! subject, which weirgate asks for a page at a time: neither here nor on the way more waits, however many values there
//! are. Each request is for as many messages as fit in the page if none is larger than those before; a consumer that
//! brings far more bytes all the same is left, and made again for the next page. nats-server 2.9 makes no consumer for
//! a pattern of copies whose origin is gone; the stream is asked for the last message of the pattern, which says
//! whether values are missing.
//!
//! For a wide pattern it takes a server long to make a consumer, so few are made at once ([`making`]), and questions for a
//! message of an exact subject do not wait for those of patterns.
//!
//! # The order of values
//! The consumer brings the messages in the order of their numbers: first those that were the last of their subjects
//! when it was made, then all later ones. A stream is read once the consumer has brought as many messages as waited
//! when it was made: what was replaced since then has come as a later message. The server's count of what still waits
//! can be wrong after deletions, so it ends nothing. The consumer is deleted at the end; if the deletion fails, the
//! server deletes the consumer after [`LIMITS`], or sooner if the stream permits less. A question ends [`ANSWER_TIMEOUT`] after
//! it was asked or has brought its newest value, with the values received until then: also if each of its consumers is made
//! and then refuses to deliver ([`Patience`]).
//!
//! A question begins after the messages that were read before ([`PageCursor`]): a consumer that is made again leaves them
//! out by their numbers. So a question goes on after the loss of a connection or of a consumer.
//!
//! # All messages
//! A question for all messages of a name in the stream that is the kept feed takes the same steps with a consumer of
//! all messages, from the time of the last one that was read on: in another epoch of the stream (it was made anew, or
//! went back in time), a lower number or another message of the same number comes. If the clock has gone back, the
//! consumer begins behind messages that were not read, and is made again from the number of the last one on. So it is
//! for a stream in memory, too ([`StreamInfo::can_start_at_time`]), and once a message was read: only the position that
//! the client has may be of another epoch of the stream. The consumer is left after each page. Between two messages of
//! the name are numbers of others, so a number that does not come may have been removed before it was read: if the
//! stream begins behind such a place after the page, or has lost messages within ([`removals`]), messages may be missing.
//!
//! # Leaders
//! Only the leader of a stream surely has the last values: another server may catch up after a restart. The leader
//! answers the question for a message, and a consumer that was put on another server is made again. A message is
//! delivered before the servers of its stream have agreed to store it, so the client of a question may have come after
//! the message, and the answer may be from before it. So a question is asked again until its answer has the newest
//! message that was delivered shortly before the question. If the live messages of a pattern come by a wider one, the
//! question carries the wider one, and those that the pattern matches count ([`LiveScope`]).
//!
//! A leader that was elected a moment ago, or no longer is the leader, may lack messages that the source of the kept feed has
//! read from another server. Clients get later ones live, so those between would be missing. So a question for all messages
//! goes on only if the answer about the stream has the newest that the source had read, and is over only if the leader is
//! still the one whose consumer was read.

mod all_read;
mod all_streams;
mod events;
mod listening;
mod live;
mod making;
mod patience;
mod reading;
mod removals;
mod stream_config;
mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::all_read::{AfterCheck, AllRead};
use self::all_streams::{AfterPage, AllStreams};
pub(super) use self::events::{NatsCut, RetainedEvent};
use self::listening::Listening;
pub(super) use self::live::LiveScope;
use self::live::{Live, LiveMessage};
use self::making::{MAKING_MAX, Making};
use self::patience::{ANSWER_TIMEOUT, Patience};
use self::reading::{PAGE_BYTES, PageProgress, QuestionReading, STREAMS_MAX};
pub(in crate::nats) use self::stream_config::stored_subjects;
use self::streams::{PartsFound, StreamPart, parts_in_stream, parts_taken_by_streams};
pub(in crate::nats) use self::streams::{StreamOfName, streams_taking};
use super::super::api::{ApiError, ApiRequest, Fetched, answer_with_message, message, refusal};
use super::super::consumer::{AckPolicy, Consumer, Plan, Start};
use super::super::consumer_limits::ConsumerLimits;
use super::super::in_flight::MessageBytes;
use super::super::needs::{Action, Need};
use super::super::protocol::{self, AckSubject, Delivery, PayloadLimits, inbox};
use super::super::refusals::{INBOXES, PermissionsViolation};
use super::super::stream_info::StreamInfo;
use crate::kept::SourceProgress;
use crate::requests::{Question, Wants};
use crate::server_words::shown;
use weirgate_core::StoredId;
use weirgate_wire::json::Json;

/// The most questions on their way at once; the others wait. A question whose page clients take is not on its way.
const ASKED_MAX: usize = 64;
/// The most of them that read with consumers; the others ask for a message, which takes the server little time.
const READING_MAX: usize = ASKED_MAX / 2;
/// For so long a consumer waits for messages. If it brings none for twice this time, there are none.
const PULL_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause before a question is asked again, and the longest; each pause is half as long again as the one before.
/// A consumer is on the leader at the third attempt on average, so the first pauses are short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(320);
/// How long the servers of a stream may take to store a message that was delivered already. After that, the message
/// counts as refused by the stream.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// The status of a consumer that has waited for as long as it was asked to.
const TIMEOUT: u16 = 408;
/// A consumer that brings more bytes in a page is left.
const PAGE_BYTES_LIMIT: usize = 2 * PAGE_BYTES;
/// The largest limits of a consumer. The server deletes it after `idle_max_ms` without a request; clients take a page
/// in less time.
const LIMITS: ConsumerLimits = ConsumerLimits {
    // Without acknowledgements, this limit has no effect.
    pending_max: 0,
    idle_max_ms: 180_000,
};
/// The question about a stream, with the list of its missing numbers.
const MISSING_NUMBERS: &str = r#"{"deleted_details":true}"#;
/// The length of a name for which the size of a request is calculated, bytes.
const NAME_BYTES: usize = 512;
/// The first number for subscriptions of questions; requested names have smaller numbers. The subscription for
/// answers has this one.
pub(super) const FIRST_SID: u64 = 1 << 62;

/// The questions of one connection.
#[derive(Debug)]
pub(in super::super) struct Retained {
    /// The subject for answers, before the number of the question.
    inbox: String,
    listening: Listening,
    /// Whether there are questions for last values, which are about all streams, and not only about `stream`.
    is_used: bool,
    /// The stream that is the kept feed, if there are questions about it.
    stream: Option<String>,
    /// The payload limit, bytes. Of a larger value one byte more is sent on: the gateway knows by it that the value is
    /// too large.
    payload_bytes_max: usize,
    /// The largest request that the server takes, bytes: a larger one would end the connection.
    pub(super) request_bytes_max: usize,
    /// The questions, each by the number that ends the subject for its answers. This is not the number by which the gateway
    /// knows the question.
    pending: BTreeMap<u64, Pending>,
    /// The newest of these numbers.
    last: u64,
    /// The number of the newest subscription.
    last_sid: u64,
    all_streams: AllStreams,
    making: Making,
    live: Live,
    /// How far the source of the kept feed has read its stream, so that clients may have what it has read.
    progress: SourceProgress,
    pub(super) answer_bytes: MessageBytes,
    /// The values and ends that the session has not taken.
    pub(super) events: Vec<RetainedEvent>,
}

#[derive(Debug)]
struct Pending {
    question: Question,
    /// The live messages of the name, if it is subscribed.
    scope: Option<LiveScope>,
    /// When it was asked.
    begun: Instant,
    patience: Patience,
    step: QuestionStep,
    /// The next pause.
    pause: Duration,
    /// The last message of an exact subject, in the leader's last answer.
    value: Option<LastMessage>,
    /// How far the values of a pattern, or all messages, were read.
    reading: QuestionReading,
}

/// What a question waits for.
#[derive(Debug)]
enum QuestionStep {
    /// The streams that hold the subjects.
    Streams,
    /// The list of all streams.
    AllStreams,
    /// The last message of the first of these streams; if it has none, of the next.
    Message(VecDeque<String>),
    /// Its turn to ask for a consumer of the values of a pattern in a stream.
    InLine(StreamPart),
    /// This consumer.
    Create(StreamPart, Consumer),
    /// Whether the stream has a value of the pattern. It refuses the consumer with these words.
    Any(StreamPart, String),
    /// The messages that a consumer was asked for.
    Values(Consumer, Pull),
    /// The request for another page; without a consumer, one is made again.
    NextPage(Option<Consumer>),
    /// The time to ask again.
    Pause(Instant, Again),
}

/// How many messages of a request to a consumer may still come.
#[derive(Clone, Copy, Debug, Default)]
struct Pull {
    left: u64,
}

/// What is asked again.
#[derive(Debug)]
enum Again {
    Streams,
    Message(VecDeque<String>),
    Create(StreamPart),
}

impl Retained {
    /// Makes an empty list. `is_used`: there are questions about all streams; `stream`: there are some about this one.
    pub(super) fn new(
        is_used: bool,
        stream: Option<String>,
        payload_bytes_max: usize,
        progress: SourceProgress,
        answer_bytes: MessageBytes,
    ) -> Self {
        Self {
            inbox: inbox(),
            listening: Listening::default(),
            is_used,
            stream,
            payload_bytes_max,
            // Until the session sets what the server says.
            request_bytes_max: usize::MAX,
            pending: BTreeMap::new(),
            last: 0,
            last_sid: FIRST_SID,
            all_streams: AllStreams::default(),
            making: Making::default(),
            live: Live::default(),
            progress,
            answer_bytes,
            events: Vec::new(),
        }
    }

    /// What the questions need.
    pub(in super::super) fn needs() -> Vec<Need> {
        let consumers = "each question for a pattern leaves a consumer for 3 minutes";
        vec![
            Need::must(Action::StreamList),
            Need::must(Action::GetMessage),
            Need::must(Action::CreateConsumer),
            Need::must(Action::NextMessages),
            Need::may(Action::DeleteConsumer, consumers),
        ]
    }

    /// How much of a payload is read on the connection.
    pub(super) const fn payload_limits(payload_bytes_max: usize) -> PayloadLimits {
        PayloadLimits::with_answers(payload_bytes_max, FIRST_SID)
    }

    /// The size of the largest request that questions send, bytes: the one for a consumer, for a name of [`NAME_BYTES`].
    pub(in super::super) fn request_bytes_max() -> usize {
        let part = StreamPart {
            // nats-server permits no longer names of streams.
            stream: "x".repeat(255),
            filter: "x".repeat(NAME_BYTES),
            ..StreamPart::default()
        };
        // The latest time: no text of another start is longer.
        let start = Start::Time(u64::MAX);
        part.plan(start).request(&part.stream, None).body.len()
    }

    /// The number of questions on their way.
    pub(super) fn asked(&self) -> usize {
        self.pending.len() - self.paused()
    }

    /// The number of questions of which a page was sent, and no further page is wanted yet.
    pub(super) fn paused(&self) -> usize {
        let is_paused = |pending: &&Pending| matches!(pending.step, QuestionStep::NextPage(_));
        self.pending.values().filter(is_paused).count()
    }

    /// The numbers of the questions of which this holds.
    fn numbers(&self, holds: impl Fn(&Pending) -> bool) -> Vec<u64> {
        let pending = self.pending.iter().filter(|(_, pending)| holds(pending));
        pending.map(|(number, _)| *number).collect()
    }

    /// The number of the question of which this holds.
    fn number_of(&self, holds: impl Fn(&Pending) -> bool) -> Option<u64> {
        let mut pending = self.pending.iter();
        let found = pending.find(|(_, pending)| holds(pending));
        found.map(|(number, _)| *number)
    }

    /// Whether another question for a message may be asked.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let is_awaited = |pending: &&Pending| {
            let waits = matches!(
                pending.step,
                QuestionStep::InLine(_) | QuestionStep::NextPage(_)
            );
            !waits && !pending.patience.is_silent(now)
        };
        let awaited = self.pending.values().filter(is_awaited).count();
        self.asked() < ASKED_MAX && awaited < self.answer_bytes.waiting_max(ASKED_MAX)
    }

    /// Whether another question that reads with a consumer may be asked: the others wait where they take turns, and where
    /// they may be withdrawn.
    pub(super) fn has_room_to_read(&self) -> bool {
        let reads = |pending: &&Pending| {
            let is_paused = matches!(pending.step, QuestionStep::NextPage(_));
            pending.question.reads() && !is_paused
        };
        let begins = |pending: &&Pending| match pending.step {
            QuestionStep::Streams
            | QuestionStep::AllStreams
            | QuestionStep::InLine(_)
            | QuestionStep::Create(..) => pending.question.reads(),
            _ => false,
        };
        self.pending.values().filter(begins).count() < 2 * MAKING_MAX
            && self.pending.values().filter(reads).count()
                < self.answer_bytes.waiting_max(READING_MAX)
    }

    /// Remembers a message of a requested name: its stream may store it later.
    pub(super) fn note_live(&mut self, delivery: &Delivery, now: Instant) {
        if self.is_used {
            self.live.note(delivery, now);
        }
    }

    /// Asks which streams hold the subjects. `scope`: the live messages of the name, if it is subscribed.
    pub(super) fn ask(
        &mut self,
        question: Question,
        scope: Option<LiveScope>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let is_listening = self.listen(now, out);
        self.last += 1;
        let reading = QuestionReading::of(&question);
        let pending = Pending {
            question,
            scope,
            begun: now,
            patience: Patience::new(now),
            step: QuestionStep::Streams,
            pause: PAUSE_MIN,
            value: None,
            reading,
        };
        self.pending.insert(self.last, pending);
        match is_listening {
            true => self.send(self.last, out),
            false => {
                let words = self.listening.words().to_owned();
                self.refuse_for_now(self.last, &words, out);
            }
        }
    }

    /// Subscribes to the answers, unless the server has refused that a moment ago. Returns whether answers come.
    fn listen(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        if self.listening.begins(now) {
            protocol::subscribe(out, &format!("{}.*", self.inbox), None, FIRST_SID);
        }
        self.listening.is_on()
    }

    /// Handles the error that the connection has too many subscriptions. `oldest`: the number of the ping after the oldest
    /// change of names without an answer. Returns whether the subscription for answers is meant: once there is room, it is
    /// made again.
    pub(super) fn lacks_room(
        &mut self,
        words: &str,
        oldest: Option<u64>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let is_meant = self.listening.may_be_meant(oldest);
        if is_meant {
            self.handle_deafness(shown(words), now, out);
        }
        is_meant
    }

    /// Handles the refusal of the subscription for answers, also a later one: a server whose permissions change ends the
    /// subscription, and does not make it again when the permission is back. No answer arrives any more.
    fn handle_deafness(&mut self, words: String, now: Instant, out: &mut Vec<u8>) {
        protocol::unsubscribe(out, FIRST_SID);
        self.all_streams.refused();
        for number in self.numbers(|_| true) {
            self.making.take_answered(number);
            self.refuse_for_now(number, &words, out);
        }
        self.listening.refused(words, now);
    }

    /// Sends the request of this step.
    fn send(&mut self, number: u64, out: &mut Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number)
            && pending.reading.all.is_some()
        {
            pending.reading.needed = self.progress.now().reached;
        }
        let request = self
            .pending
            .get(&number)
            .and_then(|pending| self.request(pending));
        let Some(ApiRequest { subject, body }) = request else {
            return;
        };
        match body.len() > self.request_bytes_max {
            true => self.give_up_request(number, body.len(), out),
            false => protocol::publish(out, &subject, &self.reply(number), body.as_bytes()),
        }
    }

    /// Ends a question whose request is too large for the server, and was not sent.
    fn give_up_request(&mut self, number: u64, bytes: usize, out: &mut Vec<u8>) {
        self.making.take_answered(number);
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.step = QuestionStep::Streams;
        }
        let bytes_max = self.request_bytes_max;
        let words = format!("the request has {bytes} bytes, and max_payload is {bytes_max}");
        self.refuse(number, &words, out);
    }

    /// The subject to which a question's step has sent its request, by which a refusal is found.
    fn asked_subject(&self, pending: &Pending) -> Option<String> {
        match &pending.step {
            QuestionStep::Values(consumer, _) => consumer.pull_subject(),
            _ => self.request(pending).map(|request| request.subject),
        }
    }

    /// The request of a question's step. `None`: the step waits for nothing that is asked once; a consumer is asked for
    /// messages by [`Self::pull`].
    fn request(&self, pending: &Pending) -> Option<ApiRequest> {
        let subscription = &pending.question.subscription;
        let name = &*subscription.name;
        Some(match &pending.step {
            QuestionStep::Streams if pending.question.is_of_stream() => {
                let subject = Action::StreamInfo.subject_about(self.stream.as_deref()?);
                let all = pending.reading.all.as_ref();
                match all.is_some_and(AllRead::asks_list) {
                    true => ApiRequest {
                        subject,
                        body: MISSING_NUMBERS.to_owned(),
                    },
                    false => ApiRequest::of(subject),
                }
            }
            QuestionStep::Streams => {
                let body = sonic_rs::json!({ "subject": name }).to_string();
                ApiRequest {
                    subject: Action::StreamList.subject_without_stream(),
                    body,
                }
            }
            QuestionStep::AllStreams => self.list_request(),
            QuestionStep::Message(streams) => last_message_request(streams.front()?, name),
            QuestionStep::Any(part, _) => last_message_request(&part.stream, &part.filter),
            QuestionStep::Create(part, _) => {
                let plan = part.plan(pending.reading.consumer_start(part));
                plan.request(&part.stream, None)
            }
            QuestionStep::Values(..)
            | QuestionStep::InLine(_)
            | QuestionStep::NextPage(_)
            | QuestionStep::Pause(..) => return None,
        })
    }

    /// Goes on with the next page of a question.
    pub(super) fn more(&mut self, question: u64, now: Instant, out: &mut Vec<u8>) {
        let is_it = |pending: &Pending| {
            pending.question.number == question && matches!(pending.step, QuestionStep::NextPage(_))
        };
        let Some(number) = self.number_of(is_it) else {
            return;
        };
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        (pending.patience, pending.reading.page) = (Patience::new(now), PageProgress::default());
        match std::mem::replace(&mut pending.step, QuestionStep::Streams) {
            QuestionStep::NextPage(Some(consumer)) => {
                pending.step = QuestionStep::Values(consumer, Pull::default());
                self.pull(number, out);
            }
            _ => self.send(number, out),
        }
    }

    /// Forgets a question, because nobody waits for the answer.
    pub(super) fn forget(&mut self, question: u64, out: &mut Vec<u8>) {
        let is_it = |pending: &Pending| pending.question.number == question;
        if let Some(number) = self.number_of(is_it) {
            self.leave_consumer(number, out);
            self.pending.remove(&number);
        }
    }

    /// Ends all questions, because their connection ends. The gateway may ask again from where each one stopped.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if self.asked() > 0 {
            self.answer_bytes.note_end();
        }
        for number in self.pending.keys().copied().collect::<Vec<_>>() {
            self.leave_consumer(number, out);
            if let Some(pending) = self.pending.remove(&number) {
                self.events.push(pending.page(false));
            }
        }
    }

    /// Handles the server's refusal to let this user publish to a subject, or subscribe to it: ends the questions that
    /// need it. Returns whether the refusal is of an action of questions.
    pub(super) fn not_permitted(
        &mut self,
        violation: &PermissionsViolation,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let subject = match violation {
            PermissionsViolation::Subscribe(subject) => {
                let is_of_answers = subject.starts_with(&self.inbox);
                if is_of_answers {
                    self.handle_deafness(inboxes_refused(), now, out);
                }
                return is_of_answers;
            }
            PermissionsViolation::Publish(subject) => subject,
        };
        let needs_it = |pending: &Pending| {
            let asked = self.asked_subject(pending);
            asked.is_some_and(|asked| asked == *subject)
        };
        let ended = self.numbers(needs_it);
        if *subject == Action::StreamList.subject_without_stream() {
            self.all_streams.refused();
        }
        let error = ApiError::NotPermitted(format!("publish to {subject}")).to_string();
        for number in &ended {
            self.making.take_answered(*number);
            self.refuse(*number, &error, out);
        }
        !ended.is_empty() || Self::needs().iter().any(|need| violation.is_of(need))
    }

    /// Takes a message of a question's subscription.
    pub(super) fn take(&mut self, delivery: Delivery, now: Instant, out: &mut Vec<u8>) {
        if delivery.sid == FIRST_SID {
            if let Some(number) = delivery.request() {
                self.take_answer(number, delivery, now, out);
                self.make_next(now, out);
            }
            return;
        }
        let is_of = |pending: &Pending| match &pending.step {
            QuestionStep::Values(consumer, _) => consumer.sid == delivery.sid,
            _ => false,
        };
        match self.number_of(is_of) {
            Some(number) if delivery.status.is_some() => {
                self.handle_stop(number, &delivery, now, out)
            }
            Some(number) => self.handle_delivery(number, delivery, now, out),
            // It is of a consumer that was left.
            None => {}
        }
    }

    /// Takes the answer to a request.
    fn take_answer(&mut self, number: u64, delivery: Delivery, now: Instant, out: &mut Vec<u8>) {
        if let Some(mut consumer) = self.making.take_answered(number) {
            // The answer says the name, by which the server can delete it.
            if consumer.made(&delivery.payload).is_ok() {
                consumer.leave(&self.reply_for_nobody(), out);
            }
        } else if self.all_streams.asked() == Some(number) {
            self.handle_list_page(number, &delivery, now, out);
        } else if delivery.is_cut() {
            self.handle_cut_answer(number, &delivery, now, out);
        } else {
            self.handle_answer(number, &delivery, now, out);
        }
    }

    /// Ends the questions whose time is over, and asks again what is due.
    pub(super) fn work(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.pending.is_empty() {
            return;
        }
        let is_late = |pending: &Pending| {
            let waits = matches!(
                pending.step,
                QuestionStep::InLine(_) | QuestionStep::NextPage(_)
            );
            !waits && pending.patience.end() <= now
        };
        for number in self.numbers(is_late) {
            // The last answer counts, though it may be from before the newest message.
            match self
                .pending
                .get(&number)
                .is_some_and(Pending::has_older_answer)
            {
                true => self.end(number, None, out),
                false => self.handle_silence(number, now, out),
            }
        }
        let is_due =
            |pending: &Pending| matches!(pending.step, QuestionStep::Pause(at, _) if at <= now);
        for number in self.numbers(is_due) {
            let Some(pending) = self.pending.get_mut(&number) else {
                continue;
            };
            match std::mem::replace(&mut pending.step, QuestionStep::Streams) {
                QuestionStep::Pause(_, Again::Create(part)) => {
                    self.create(number, part, now, out);
                }
                QuestionStep::Pause(_, Again::Message(streams)) => {
                    pending.step = QuestionStep::Message(streams);
                    self.send(number, out);
                }
                _ => self.send(number, out),
            }
        }
        self.make_next(now, out);
    }

    /// Whether the caller has to send a ping, and to call [`Self::note_ping`]: the answers to requests that were given
    /// up are late, or the subscription for answers was sent.
    pub(super) fn needs_ping(&self, now: Instant) -> bool {
        self.making.needs_ping(now) || self.listening.needs_ping()
    }

    /// Notes the number of a ping that goes out now.
    pub(super) fn note_ping(&mut self, ping: u64, now: Instant) {
        self.making.note_ping(ping, now);
        self.listening.note_ping(ping);
    }

    /// Some pings were answered.
    pub(super) fn note_pongs(&mut self, is_answered: impl Fn(u64) -> bool) {
        self.making.note_pongs(&is_answered);
        self.listening.note_pongs(is_answered);
    }

    /// When [`Self::work`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |pending: &Pending| {
            let late = pending.patience.end();
            match pending.step {
                QuestionStep::Pause(at, _) => Some(at.min(late)),
                QuestionStep::InLine(_) | QuestionStep::NextPage(_) => None,
                _ => Some(late),
            }
        };
        let dues = self.pending.values().filter_map(due);
        dues.chain(self.making.due()).min()
    }

    /// Asks again after a pause.
    fn pause(&mut self, number: u64, again: Again, now: Instant) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.step = QuestionStep::Pause(now + pending.pause, again);
            pending.pause = (pending.pause * 3 / 2).min(PAUSE_MAX);
        }
    }

    /// Handles the answer to a request.
    fn handle_answer(&mut self, number: u64, delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
        self.note_message(number, delivery);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let answer = match Json::read(&delivery.payload) {
            Ok(answer) => answer,
            Err(error) => return self.end(number, Some(error.into()), out),
        };
        let refused = refusal(answer).filter(|error| !error.message_is_missing());
        match (&pending.step, refused) {
            (
                // These steps wait for no answer of their own: it is a late one.
                QuestionStep::Pause(..)
                | QuestionStep::Values(..)
                | QuestionStep::InLine(_)
                | QuestionStep::NextPage(_)
                | QuestionStep::AllStreams,
                _,
            ) => {}
            _ if delivery.status.is_some() => self.refuse_for_now(number, "nobody answers", out),
            (QuestionStep::Streams | QuestionStep::Message(_), Some(error)) => {
                match error.is_an_answer() {
                    true => self.refuse(number, &error.to_string(), out),
                    false => self.refuse_for_now(number, &error.to_string(), out),
                }
            }
            (QuestionStep::Streams, None) => self.handle_streams(number, answer, now, out),
            (QuestionStep::Message(_), None) => {
                let value = last_message(answer, self.payload_bytes_max);
                self.handle_message(number, value, now, out);
            }
            (QuestionStep::Create(..), _) => self.handle_created(number, delivery, now, out),
            (QuestionStep::Any(..), _) => {
                let error = refusal(answer);
                let has_none = error.is_some_and(|error| error.message_is_missing());
                self.handle_any(number, has_none, now, out);
            }
        }
    }

    /// Counts the size of an answer that has a message.
    fn note_message(&mut self, number: u64, answer: &Delivery) {
        let step = self.pending.get(&number).map(|pending| &pending.step);
        if let Some(QuestionStep::Message(_) | QuestionStep::Any(..)) = step {
            self.answer_bytes.note(answer.size());
        }
    }

    /// Handles an answer that is longer than an answer may be. If it has a message, its beginning is
    /// enough: the message is over the payload limit. Any other answer is of no use without the missing part.
    fn handle_cut_answer(
        &mut self,
        number: u64,
        answer: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.note_message(number, answer);
        match self.pending.get(&number).map(|pending| &pending.step) {
            Some(QuestionStep::Message(_)) => {
                let value = beginning_of_message(answer, self.payload_bytes_max);
                self.handle_message(number, value, now, out);
            }
            // So long an answer has a message, so the stream has a value.
            Some(QuestionStep::Any(..)) => self.handle_any(number, false, now, out),
            Some(QuestionStep::Streams | QuestionStep::Create(..)) => {
                self.end(number, Some(NatsCut::too_long()), out);
            }
            _ => {}
        }
    }

    /// Handles the answer about the streams of a question.
    fn handle_streams(&mut self, number: u64, answer: Json<'_>, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let (question, subscription) = (&pending.question, &pending.question.subscription);
        let is_of_stream = question.is_of_stream();
        let what = if is_of_stream { "config" } else { "streams" };
        if answer.get(&[what]).is_none() {
            self.end(number, Some(NatsCut::lacks(what)), out);
        } else if question.wants == Wants::All {
            let found = parts_in_stream(&subscription.name, answer);
            match StreamInfo::of(answer) {
                Ok(stream) => self.handle_stream_begin(number, found, &stream, now, out),
                Err(ApiError::Unfinished) => self.pause(number, Again::Streams, now),
                Err(error) => self.refuse(number, &error.to_string(), out),
            }
        } else if is_of_stream {
            let parts = parts_in_stream(&subscription.name, answer);
            if subscription.is_pattern {
                (pending.reading.parts_left, pending.reading.refused) = (parts.into(), None);
                return self.next_stream(number, now, out);
            }
            // All parts are of one stream, which is asked once.
            self.find_message(number, parts.into_iter().take(1), now, out);
        } else if subscription.is_pattern {
            pending.reading.take_streams(&subscription.name, answer);
            self.search_all_streams(number, now, out);
        } else {
            let found = parts_taken_by_streams(&subscription.name, answer);
            self.handle_found_streams(number, found, now, out);
        }
    }

    /// Goes on with the streams that take a name from publishers.
    fn handle_found_streams(
        &mut self,
        number: u64,
        found: PartsFound,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        match (found.parts.is_empty(), found.has_more_streams) {
            // The subjects of two streams never overlap, so at most one takes the name.
            (false, _) => self.find_message(number, found.parts.into_iter().take(1), now, out),
            // The leader of the stream did not answer in time.
            (true, true) => self.pause(number, Again::Streams, now),
            (true, false) => self.search_all_streams(number, now, out),
        }
    }

    /// Looks for streams that have the name by transforms or as copies, in the list of all streams.
    fn search_all_streams(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        if self.all_streams.is_known(now) {
            return self.handle_searched_streams(number, now, out);
        }
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.step = QuestionStep::AllStreams;
        }
        // All questions that wait for the list go on with the same answers.
        let number = self.last + 1;
        if self.all_streams.ask(number, now) {
            self.last = number;
            self.ask_list_page(number, out);
        }
    }

    /// The request for the next page of the list of all streams.
    fn list_request(&self) -> ApiRequest {
        ApiRequest {
            subject: Action::StreamList.subject_without_stream(),
            body: self.all_streams.request(),
        }
    }

    /// Asks for the next page of the list of all streams.
    fn ask_list_page(&self, number: u64, out: &mut Vec<u8>) {
        let ApiRequest { subject, body } = self.list_request();
        protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
    }

    /// Handles a page of the list of all streams: once the list is whole, all questions that wait for it go on.
    fn handle_list_page(
        &mut self,
        number: u64,
        delivery: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let read = Json::read(&delivery.payload);
        let cut = match &read {
            _ if delivery.status.is_some() => Some(NatsCut::Refused(shown("nobody answers"))),
            _ if delivery.is_cut() => Some(NatsCut::too_long()),
            Err(error) => Some((*error).clone().into()),
            Ok(answer) => match refusal(*answer) {
                Some(error) => Some(NatsCut::Refused(shown(&error.to_string()))),
                None if answer.get(&["streams"]).is_none() => Some(NatsCut::lacks("streams")),
                None => None,
            },
        };
        if let (Ok(answer), None) = (read, &cut)
            && self.all_streams.add_page(answer) == AfterPage::NextPage
        {
            return self.ask_list_page(number, out);
        }
        if cut.is_some() {
            self.all_streams.refused();
        }
        for number in self.numbers(|pending| matches!(pending.step, QuestionStep::AllStreams)) {
            match cut.clone() {
                Some(cut) => self.end(number, Some(cut), out),
                None => self.handle_searched_streams(number, now, out),
            }
        }
    }

    /// Goes on with the streams that were found in the list of all.
    fn handle_searched_streams(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let subscription = &pending.question.subscription;
        let parts = self.all_streams.parts_elsewhere(&subscription.name);
        if subscription.is_pattern {
            pending.reading.extend(parts);
            pending.reading.has_more_streams |= self.all_streams.has_more_streams();
            return self.next_stream(number, now, out);
        }
        self.find_message(number, parts.into_iter().take(STREAMS_MAX), now, out);
    }

    /// Asks the first stream of a name for the last message; without a stream, ends the question.
    fn find_message(
        &mut self,
        number: u64,
        parts: impl Iterator<Item = StreamPart>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let parts: Vec<StreamPart> = parts.collect();
        // nats-server 2.9.10 crashes if it is asked for a message of a stream that it is still making.
        if parts.iter().any(StreamPart::is_being_made) {
            return self.pause(number, Again::Streams, now);
        }
        if parts.is_empty() {
            return self.end(number, None, out);
        }
        if let Some(pending) = self.pending.get_mut(&number) {
            let streams = parts.into_iter().map(|part| part.stream);
            pending.step = QuestionStep::Message(streams.collect());
            self.send(number, out);
        }
    }

    /// Handles the answer to the question for a message.
    fn handle_message(
        &mut self,
        number: u64,
        value: Result<Option<LastMessage>, NatsCut>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        match (value, self.pending.get_mut(&number)) {
            (Ok(value), Some(pending)) => {
                pending.value = value;
                self.judge_message(number, now, out);
            }
            (Err(unreadable), _) => self.end(number, Some(unreadable), out),
            (Ok(_), None) => {}
        }
    }

    /// Judges the last message of a stream, or that there is none: the next stream may have one. Asks again if the
    /// message is older than one that was delivered before the question.
    fn judge_message(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Message(streams) = &mut pending.step else {
            return;
        };
        if pending.value.is_none() && streams.len() > 1 {
            streams.pop_front();
            return self.send(number, out);
        }
        let streams = streams.clone();
        // Without a value, as of an empty payload: a live message that is empty leaves no value.
        let payload = pending
            .value
            .as_ref()
            .map_or(&[][..], |value| &value.payload);
        let payload = self.live.payload_hash(payload);
        let is_it = |live: &LiveMessage| live.payload == payload;
        match self
            .live
            .has_unstored(pending.scope.as_ref(), pending.begun, now, is_it)
        {
            true => self.pause(number, Again::Message(streams), now),
            false => self.end(number, None, out),
        }
    }

    /// Handles the answer to the request for a consumer.
    fn handle_created(
        &mut self,
        number: u64,
        delivery: &Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let nobody = self.reply_for_nobody();
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        // `Streams` only fills the place: each way on from here sets the next step.
        let step = std::mem::replace(&mut pending.step, QuestionStep::Streams);
        let QuestionStep::Create(mut part, mut consumer) = step else {
            return;
        };
        if let Err(error) = consumer.made(&delivery.payload) {
            // These limits were asked for: the one that the server refuses is halved, and the request repeated.
            if part.limits.shrink(part.limits, &error) {
                return self.create(number, part, now, out);
            }
            let words = shown(&error.to_string());
            if error.filter_is_foreign() {
                pending.step = QuestionStep::Any(part, words);
                return self.send(number, out);
            }
            pending.reading.may_answer_later |= !error.is_an_answer();
            pending.reading.refused = Some(words);
            return self.next_stream(number, now, out);
        }
        let made = consumer.answer().cloned().unwrap_or_default();
        // Only the leader surely has the last values.
        if made.server.is_some_and(|server| server != part.leader) {
            consumer.leave(&nobody, out);
            pending.patience.note_placement(now);
            return self.pause(number, Again::Create(part), now);
        }
        if let Some(all) = &mut pending.reading.all {
            if all.restart_by_number_if_late(made.begins) {
                consumer.leave(&nobody, out);
                return self.create(number, part, now, out);
            }
            all.expect(made.waiting);
        }
        if made.waiting == 0 {
            consumer.leave(&nobody, out);
            return self.next_stream(number, now, out);
        }
        pending.reading.begin(&part, made.waiting, made.created_ns);
        pending.patience.note_step(now);
        consumer.listen(None, out);
        let all = pending.reading.all.as_ref();
        // A page that is full already reads on only to find out whether messages are missing.
        let is_full = pending.reading.page.is_full() && !all.is_some_and(AllRead::needs_consumer);
        pending.step = QuestionStep::Values(consumer, Pull::default());
        match is_full {
            true => self.handle_full_page(number, out),
            false => self.pull(number, out),
        }
    }

    /// Goes on after a stream that refuses a consumer for the pattern. Unless it has no value of the pattern
    /// (`has_none`), values are missing.
    fn handle_any(&mut self, number: u64, has_none: bool, now: Instant, out: &mut Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number)
            && let QuestionStep::Any(_, words) = &mut pending.step
            && !has_none
        {
            pending.reading.refused = Some(std::mem::take(words));
        }
        self.next_stream(number, now, out);
    }

    /// Asks a consumer for as many messages as the page has room for.
    fn pull(&mut self, number: u64, out: &mut Vec<u8>) {
        let awaited = self.awaited_beside(number);
        if let Some(pending) = self.pending.get_mut(&number)
            && let QuestionStep::Values(consumer, pull) = &mut pending.step
        {
            let unknown_max = self.answer_bytes.waiting_max_beside(awaited, ASKED_MAX);
            let next = pending.reading.next_pull(unknown_max as u64);
            pull.left = consumer.pull(next, PULL_TIMEOUT, out);
        }
    }

    /// The bytes that the consumers of all other questions may still bring for what they were asked.
    fn awaited_beside(&self, number: u64) -> usize {
        let others = self.pending.iter().filter(|(other, _)| **other != number);
        let awaited = others.map(|(_, pending)| match &pending.step {
            QuestionStep::Values(_, pull) => {
                let left = usize::try_from(pull.left).unwrap_or(usize::MAX);
                let largest = pending.reading.largest();
                match largest {
                    Some(bytes) => bytes.saturating_mul(left),
                    None => self.answer_bytes.of(left),
                }
            }
            _ => 0,
        });
        awaited.fold(0, usize::saturating_add)
    }

    /// Handles a message delivered by a consumer.
    fn handle_delivery(
        &mut self,
        number: u64,
        delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Values(consumer, pull) = &mut pending.step else {
            return;
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let Some(ack) = ack.filter(|ack| consumer.count_delivery(ack.consumer_sequence)) else {
            return self.ask_again(number, "a message is missing", now, out);
        };
        self.answer_bytes.note(delivery.size());
        pull.left = pull.left.saturating_sub(1);
        let has_all = pull.left == 0;
        let live = self
            .live
            .number_of(pending.scope.as_ref(), pending.begun, &delivery);
        let is_new = pending.reading.take(&delivery, ack, live);
        pending.patience.note_message(is_new, now);
        let (is_of_all, is_empty) = (pending.reading.all.is_some(), delivery.payload.is_empty());
        // Among last values, an empty message that deletes nothing is none.
        if is_new
            && (is_of_all || delivery.is_deletion || !is_empty)
            && let Ok(subject) = delivery.name()
        {
            self.events.push(RetainedEvent::Value {
                question: pending.question.clone(),
                subject: subject.into(),
                payload: delivery.payload,
                is_deletion: delivery.is_deletion || is_empty && !is_of_all,
                id: Some(StoredId {
                    major: ack.stream_sequence,
                    minor: ack.stored_unix_ns,
                }),
            });
        }
        let page = pending.reading.page;
        let all = pending.reading.all.as_ref();
        if all.is_some_and(AllRead::is_of_other_epoch) {
            self.end(number, None, out);
        } else if pending.reading.waiting == 0 || pending.reading.is_behind_listed(ack) {
            pending.reading.end_part();
            self.next_stream(number, now, out);
        } else if page.bytes > PAGE_BYTES_LIMIT && !has_all {
            self.leave_consumer(number, out);
            self.handle_full_page(number, out);
        } else if page.is_full() && has_all {
            self.handle_full_page(number, out);
        } else if has_all {
            self.pull(number, out);
        }
    }

    /// Handles a status in place of messages: nothing has come for a time, the server permits only a smaller request, or the
    /// consumer is of no use.
    fn handle_stop(&mut self, number: u64, delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Values(consumer, _) = &mut pending.step else {
            return;
        };
        let (status, words) = (delivery.status.unwrap_or_default(), &*delivery.status_words);
        if consumer.is_permitted_less(words) {
            return self.pull(number, out);
        }
        let is_over = pending.patience.quiet_for(now) >= 2 * PULL_TIMEOUT;
        match status {
            // Nothing more is there, whatever the server counts.
            TIMEOUT if is_over && pending.reading.all.is_none() => {
                pending.reading.end_part();
                self.next_stream(number, now, out);
            }
            TIMEOUT if !is_over && pending.reading.page.is_full() => {
                self.handle_full_page(number, out)
            }
            TIMEOUT if !is_over => self.pull(number, out),
            // Messages may have been removed since, or the consumer has lost its server: another one knows.
            _ => {
                let why = shown(&format!("status {status} of its consumer: {words}"));
                self.ask_again(number, why.trim_end_matches([':', ' ']), now, out);
            }
        }
    }

    /// Leaves a consumer that is of no use, and asks again which streams hold the subjects: another consumer may go on. After a
    /// stream was given up, there is no other.
    fn ask_again(&mut self, number: u64, why: &str, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        if pending.patience.has_given_up() {
            return self.give_up_stream(number, why.to_owned(), now, out);
        }
        pending.patience.note_failure(why, now);
        self.pause(number, Again::Streams, now);
    }

    /// Goes on with the next stream, because this one gives no values for now.
    fn give_up_stream(&mut self, number: u64, why: String, now: Instant, out: &mut Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.patience.give_up(now);
            pending.reading.refused = Some(why);
            pending.reading.may_answer_later = true;
            self.next_stream(number, now, out);
        }
    }

    /// Handles a page of values that is full.
    fn handle_full_page(&mut self, number: u64, out: &mut Vec<u8>) {
        let pending = self.pending.get(&number);
        match pending.is_some_and(|pending| pending.reading.all.is_some()) {
            true => self.ask_stream_begin(number, AfterCheck::Page, out),
            false => self.end_page(number),
        }
    }

    /// Ends a page of a question for all, or the question. If messages may be missing since the last check, or another
    /// server may lead the stream by now, asks about the stream first, and [`Self::handle_stream_begin`] goes on.
    fn ask_stream_begin(&mut self, number: u64, after_check: AfterCheck, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        // The question is over only if the server whose consumer was read still is the leader.
        let is_led = after_check == AfterCheck::End && !pending.reading.leader.is_empty();
        let Some(all) = &mut pending.reading.all else {
            return;
        };
        if all.needs_check(after_check, is_led) {
            pending.step = QuestionStep::Streams;
            return self.send(number, out);
        }
        match after_check {
            AfterCheck::Read | AfterCheck::End => self.end(number, None, out),
            AfterCheck::Page => self.end_page(number),
        }
    }

    /// Handles the answer about the stream of a question for all messages.
    fn handle_stream_begin(
        &mut self,
        number: u64,
        found: Vec<StreamPart>,
        stream: &StreamInfo,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(reading) = self
            .pending
            .get_mut(&number)
            .map(|pending| &mut pending.reading)
        else {
            return;
        };
        let is_behind = reading.is_behind(&found, stream);
        let is_led_elsewhere = reading.is_led_elsewhere(&found);
        let Some(all) = &mut reading.all else {
            return self.end(number, None, out);
        };
        if is_behind {
            return self.pause(number, Again::Streams, now);
        }
        if all.needs_list(stream, now) {
            return self.send(number, out);
        }
        match all.check(stream, now) {
            _ if all.is_of_other_epoch() => self.end(number, None, out),
            AfterCheck::End if is_led_elsewhere => {
                self.ask_again(number, "another server leads the stream", now, out);
            }
            // Begins, or goes on reading; or only the number of messages that wait for the next consumer tells whether
            // some were removed.
            after if after == AfterCheck::Read || all.needs_consumer() => {
                reading.begin_all(found, stream);
                self.next_stream(number, now, out);
            }
            AfterCheck::Page => self.end_page(number),
            AfterCheck::Read | AfterCheck::End => self.end(number, None, out),
        }
    }

    /// Ends a page of values.
    fn end_page(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(&number) {
            let consumer = match std::mem::replace(&mut pending.step, QuestionStep::Streams) {
                QuestionStep::Values(consumer, _) => Some(consumer),
                _ => None,
            };
            pending.step = QuestionStep::NextPage(consumer);
            self.events.push(pending.page(true));
        }
    }

    /// Leaves the consumer of a pattern, and requests a consumer of the next stream. After the last one, asks again if a
    /// message was delivered before the question, and is not among the values.
    fn next_stream(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        // The question waits, because what is read of a stream counts for the time at which the stream was made.
        if pending
            .reading
            .parts_left
            .iter()
            .any(StreamPart::is_being_made)
        {
            return self.pause(number, Again::Streams, now);
        }
        if let Some(part) = pending.reading.next_part() {
            return self.create(number, part, now, out);
        }
        pending.reading.is_whole = true;
        if pending.reading.all.is_some() {
            return self.ask_stream_begin(number, AfterCheck::End, out);
        }
        let reading = &mut pending.reading;
        // What is missing may be in a stream that was not read.
        let has_read_all = !reading.has_more_streams && reading.refused.is_none();
        if has_read_all && reading.reads_again() {
            return self.pause(number, Again::Streams, now);
        }
        let has_come = |live: &LiveMessage| reading.came.contains(&live.number);
        let (live, scope) = (&mut self.live, pending.scope.as_ref());
        match has_read_all && live.has_unstored(scope, pending.begun, now, has_come) {
            true => self.pause(number, Again::Streams, now),
            false => self.end(number, None, out),
        }
    }

    /// Requests a consumer of a stream, as soon as there is a slot.
    fn create(&mut self, number: u64, part: StreamPart, now: Instant, out: &mut Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.step = QuestionStep::InLine(part);
            pending.patience.join_line(now);
            self.making.join_line(number);
            self.make_next(now, out);
        }
    }

    /// Requests the consumers whose turn it is.
    fn make_next(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some(number) = self.making.next() {
            self.last_sid += 1;
            let (sid, deliver) = (self.last_sid, self.deliver_subject(self.last_sid));
            let Some(pending) = self.pending.get_mut(&number) else {
                continue;
            };
            match std::mem::replace(&mut pending.step, QuestionStep::Streams) {
                QuestionStep::InLine(part) => {
                    let start = pending.reading.consumer_start(&part);
                    let consumer = Consumer::new(&part.stream, sid, deliver, start);
                    pending.step = QuestionStep::Create(part, consumer);
                    pending.patience.leave_line(now);
                    self.making.note_sent(number, now);
                    self.send(number, out);
                }
                step => pending.step = step,
            }
        }
    }

    /// Leaves the consumer of a question, if it has one or waits for one. If the request for the consumer is on its way, the
    /// consumer is left with the answer ([`Making::give_up`]). The caller then sets the next step; a step without a consumer
    /// stays.
    fn leave_consumer(&mut self, number: u64, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let consumer = match std::mem::replace(&mut pending.step, QuestionStep::Streams) {
            QuestionStep::InLine(_) => return self.making.leave_line(number),
            QuestionStep::Create(_, consumer) => self.making.give_up(number, consumer),
            QuestionStep::Values(consumer, _) | QuestionStep::NextPage(Some(consumer)) => {
                Some(consumer)
            }
            step => {
                pending.step = step;
                return;
            }
        };
        if let Some(consumer) = consumer {
            consumer.leave(&self.reply_for_nobody(), out);
        }
    }

    /// Handles a question whose time is over. If the values of a pattern are in further streams, these are read.
    fn handle_silence(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get(&number) else {
            return;
        };
        let reads = matches!(
            pending.step,
            QuestionStep::Create(..)
                | QuestionStep::Any(..)
                | QuestionStep::Values(..)
                | QuestionStep::Pause(_, Again::Streams | Again::Create(_))
        );
        let (words, parts_left) = (pending.patience.words(), &pending.reading.parts_left);
        // A stream that is being made keeps all others from being read.
        let can_go_on = !parts_left.is_empty() && !parts_left.iter().any(StreamPart::is_being_made);
        match reads && can_go_on {
            true => self.give_up_stream(number, words, now, out),
            false => self.refuse_for_now(number, &words, out),
        }
    }

    /// Ends a question that NATS does not answer at present. If it is for last values, the gateway asks again later.
    fn refuse_for_now(&mut self, number: u64, words: &str, out: &mut Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.reading.may_answer_later = true;
        }
        self.refuse(number, words, out);
    }

    /// Ends a question because NATS refuses it, with its words.
    fn refuse(&mut self, number: u64, words: &str, out: &mut Vec<u8>) {
        self.end(number, Some(NatsCut::Refused(shown(words))), out);
    }

    /// Ends a question, and reports its value and why others are missing.
    /// `cut`: why, if what was read does not say it.
    fn end(&mut self, number: u64, cut: Option<NatsCut>, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(pending) = self.pending.remove(&number) else {
            return;
        };
        // An end has one reason: that messages are missing, which was not said yet, is said first. The gateway asks
        // another question, and that is refused as this one.
        let lacks_some = pending.reading.last_cursor().cut.is_some();
        let has_cut = pending.question.after.cut.is_some();
        if let Some(NatsCut::Refused(_)) = cut
            && pending.reading.all.is_some()
            && lacks_some
            && !has_cut
        {
            return self.events.push(pending.page(false));
        }
        if let (Some(value), None) = (pending.value, &cut) {
            self.events.push(RetainedEvent::Value {
                question: pending.question.clone(),
                subject: Arc::clone(&pending.question.subscription.name),
                is_deletion: value.is_deletion(),
                payload: value.payload,
                id: Some(value.id),
            });
        }
        let cut = cut.or_else(|| pending.reading.cut());
        let (question, reading) = (pending.question, pending.reading);
        let may_answer_later = reading.may_answer_later && question.wants == Wants::LastValues;
        self.events.push(match cut {
            Some(why @ NatsCut::Refused(_)) if may_answer_later => RetainedEvent::Unanswered {
                question,
                cursor: Arc::new(reading.cursor()),
                why,
            },
            cut => RetainedEvent::End { question, cut },
        });
    }

    /// The subject for the answer to a request of this question.
    fn reply(&self, number: u64) -> String {
        format!("{}.{number}", self.inbox)
    }

    /// The subject for an answer that nobody needs: no question has the number 0.
    fn reply_for_nobody(&self) -> String {
        self.reply(0)
    }

    /// The subject to which a consumer delivers.
    fn deliver_subject(&self, sid: u64) -> String {
        format!("{}.v.{sid}", self.inbox)
    }
}

impl Pending {
    /// Whether there is an answer to fall back on, which may be from before the newest message.
    fn has_older_answer(&self) -> bool {
        let is_asked_again = matches!(self.step, QuestionStep::Pause(_, Again::Message(_)));
        // If a message is asked for again, the answer may have been that there is none.
        self.value.is_some() || self.reading.is_whole || is_asked_again
    }

    /// The end of a page. If it `is_open`, the gateway asks for the next one.
    fn page(&self, is_open: bool) -> RetainedEvent {
        let cursor = match is_open {
            true => self.reading.cursor(),
            false => self.reading.last_cursor(),
        };
        RetainedEvent::Page {
            number: self.question.number,
            cursor: Arc::new(cursor),
            is_open,
        }
    }
}

impl StreamPart {
    /// Whether both are the same part of the same stream.
    fn is_same(&self, other: &Self) -> bool {
        (&self.stream, &self.filter) == (&other.stream, &other.filter)
    }

    /// The consumer of the values of a stream.
    fn plan(&self, start: Start) -> Plan<'_> {
        Plan {
            start,
            filter: Some(&*self.filter).filter(|filter| !filter.is_empty()),
            durable: None,
            acks: AckPolicy::None,
            limits: self.limits,
            deliveries_max: None,
            beats: false,
            has_flow_control: false,
            is_in_memory: true,
        }
    }
}

/// The request for the last message of a subject, or of a pattern, in a stream.
fn last_message_request(stream: &str, subject: &str) -> ApiRequest {
    ApiRequest {
        subject: Action::GetMessage.subject_about(stream),
        body: sonic_rs::json!({ "last_by_subj": subject }).to_string(),
    }
}

/// The last message of a subject in its stream.
#[derive(Debug, PartialEq, Eq)]
struct LastMessage {
    /// Empty if the value was deleted.
    payload: Vec<u8>,
    id: StoredId,
}

impl LastMessage {
    const fn is_deletion(&self) -> bool {
        self.payload.is_empty()
    }

    /// A larger payload is cut to one byte more than the limit, as in a message that a consumer delivers.
    fn cut_to(bytes_max: usize, mut message: Fetched) -> Self {
        message.payload.truncate(bytes_max.saturating_add(1));
        Self {
            payload: message.payload,
            id: StoredId {
                major: message.sequence,
                minor: message.stored_unix_ns.unwrap_or_default(),
            },
        }
    }
}

/// The message in the answer; `None` if the stream has none, and for a message without payload that deletes nothing.
///
/// # Errors
/// [`NatsCut::Unreadable`]: there is neither a message nor the word that there is none.
fn last_message(answer: Json<'_>, bytes_max: usize) -> Result<Option<LastMessage>, NatsCut> {
    if refusal(answer).is_some_and(|error| error.message_is_missing()) {
        return Ok(None);
    }
    let message = message(answer).map_err(|_| NatsCut::lacks("message"))?;
    let is_value = message.is_deletion || !message.payload.is_empty();
    Ok(is_value.then(|| LastMessage::cut_to(bytes_max, message)))
}

/// The message over the limit in an answer that is here in part.
///
/// # Errors
/// [`NatsCut::Unreadable`]: what is here of the message is within the limit.
fn beginning_of_message(
    answer: &Delivery,
    bytes_max: usize,
) -> Result<Option<LastMessage>, NatsCut> {
    let answer = answer_with_message(answer);
    let message = Json::read(&answer)
        .ok()
        .and_then(|answer| message(answer).ok());
    let message = message.filter(|message| message.payload.len() > bytes_max);
    let message = message.ok_or_else(NatsCut::too_long)?;
    Ok(Some(LastMessage::cut_to(bytes_max, message)))
}

/// Why no answer arrives.
fn inboxes_refused() -> String {
    ApiError::NotPermitted(format!("subscribe to {INBOXES}")).to_string()
}

#[cfg(test)]
mod tests;
