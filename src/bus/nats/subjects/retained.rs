//! Stored messages from JetStream. A *question* asks for those of a name: the last values, the newest, or all. It goes to
//! JetStream on the connection that also delivers the messages, so the order of answers and messages is defined. Pure: the
//! session writes and reads.
//!
//! Each question is a [`PendingQuestion`], and moves from [`QuestionStep`] to [`QuestionStep`]: begin with
//! [`Retained::ask`], then [`Retained::take`]. A name without wildcards takes the steps of [`last_message`], a pattern those
//! of [`consuming`], and a question for all messages also those of [`stream_check`].
//!
//! | file | a step of a question |
//! | --- | --- |
//! | `question` | what a question waits for |
//! | `requests` | the request of a step |
//! | `answers` | which step gets an answer |
//! | `search` | which streams hold the name |
//! | `last_message` | the last message of an exact subject |
//! | `consuming` | messages through a consumer |
//! | `stream_check` | whether all messages have come, and of the same stream |
//! | `ending` | ends of pages and questions, and what follows a failure |
//! | `refused` | what the server permits nobody to ask |
//!
//! | file | what is known |
//! | --- | --- |
//! | `streams` | which streams hold a name, by the answers of JetStream |
//! | `all_streams` | the list of all streams: those that hold a name by a transform, or as copies |
//! | `stream_config` | what a stream stores, by its settings |
//! | `reading` | how far a question has read |
//! | `values_read` | the same of a question for last values |
//! | `listed` | whether all values have come that a consumer has listed |
//! | `all_read` | the same of a question for all messages |
//! | `removals` | whether messages were removed before such a question has read them |
//! | `live` | messages that were delivered shortly before a question |
//! | `making` | how many consumers are made at once |
//! | `listening` | the subscription for answers |
//! | `patience` | when a question without new messages ends |
//! | `events` | what the session gets: values, ends of pages, ends of questions |
//!
//! # Turns and ends
//! For a wide pattern it takes a server long to make a consumer, so few are made at once ([`making`]), and questions for a
//! message of an exact subject do not wait for those of patterns. A question ends [`ANSWER_TIMEOUT`] after it was asked or
//! has brought its newest value, with the values received until then: also if each of its consumers is made and then refuses
//! to deliver ([`Patience`](patience::Patience)).
//!
//! A question begins after the messages that were read before ([`PageCursor`](weirgate_core::PageCursor)): a consumer that is
//! made again leaves them out by their numbers. So a question goes on after the loss of a connection or of a consumer.
//!
//! # Leaders
//! Only the leader of a stream surely has the last values: another server may catch up after a restart. The leader
//! answers the question for a message, and a consumer that was put on another server is made again. A message is
//! delivered before the servers of its stream have agreed to store it, so the client of a question may have come after
//! the message, and the answer may be from before it. So a question is asked again until its answer has the newest
//! message that was delivered shortly before the question. If the live messages of a pattern come by a wider one, the
//! question carries the wider one, and those that the pattern matches count ([`LiveScope`]).

mod all_read;
mod all_streams;
mod answers;
mod consuming;
mod ending;
mod events;
mod last_message;
mod listed;
mod listening;
mod live;
mod making;
mod patience;
mod question;
mod reading;
mod refused;
mod removals;
mod requests;
mod search;
mod stream_check;
mod stream_config;
mod streams;
mod values_read;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::all_streams::AllStreams;
pub(super) use self::events::{NatsCut, RetainedEvent};
use self::listening::Listening;
use self::live::Live;
pub(super) use self::live::LiveScope;
use self::making::{MAKING_MAX, Making};
use self::patience::{ANSWER_TIMEOUT, Patience};
use self::question::{Again, PendingQuestion, QuestionStep, ReplyNumber};
use self::reading::RefusalLasts;
pub(in crate::nats) use self::stream_config::stored_subjects;
pub(in crate::nats) use self::streams::{StreamOfName, streams_taking};
use super::super::consumer_limits::ConsumerLimits;
use super::super::in_flight::MessageBytes;
use super::super::needs::{Action, Need};
use super::super::protocol::{Delivery, PayloadLimits, inbox};
use crate::kept::SourceProgress;
use crate::requests::Question;

/// The most questions on their way at once; the others wait. A question whose page clients take is not on its way.
const ASKED_MAX: usize = 64;
/// The most of them that read with consumers; the others ask for a message, which takes the server little time.
const READING_MAX: usize = ASKED_MAX / 2;
/// How long the servers of a stream may take to store a message that was delivered already. After that, the message
/// counts as refused by the stream.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// The largest limits of a consumer. The server deletes it after `idle_max_ms` without a request; clients take a page
/// in less time.
const LIMITS: ConsumerLimits = ConsumerLimits {
    // Without acknowledgements, this limit has no effect.
    pending_max: 0,
    idle_max_ms: 180_000,
};
/// The first number for subscriptions of questions; requested names have smaller numbers. The subscription for
/// answers has this one.
pub(super) const FIRST_SID: u64 = 1 << 62;

/// What questions may be about.
#[derive(Debug)]
pub(super) struct QuestionSettings {
    /// Whether there are questions for last values, which are about all streams, and not only about `stream`.
    pub(super) has_last_values: bool,
    /// The stream that is the kept feed, if there are questions about it.
    pub(super) stream: Option<String>,
    /// The payload limit, bytes. Of a larger value one byte more is sent on: the gateway knows by it that the value is
    /// too large.
    pub(super) payload_bytes_max: usize,
}

/// The questions of one connection.
#[derive(Debug)]
pub(in super::super) struct Retained {
    settings: QuestionSettings,
    /// The subject for answers, before the number of the question.
    inbox: String,
    listening: Listening,
    /// The largest request that the server takes, bytes: a larger one would end the connection.
    pub(super) request_bytes_max: usize,
    pending: BTreeMap<ReplyNumber, PendingQuestion>,
    /// The newest number of a question, or of a request for the list of all streams.
    last: ReplyNumber,
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

impl Retained {
    /// Makes an empty list.
    pub(super) fn new(
        settings: QuestionSettings,
        progress: SourceProgress,
        answer_bytes: MessageBytes,
    ) -> Self {
        Self {
            settings,
            inbox: inbox(),
            listening: Listening::default(),
            // Until the session sets what the server says.
            request_bytes_max: usize::MAX,
            pending: BTreeMap::new(),
            last: ReplyNumber::NOBODY,
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

    /// The number of questions on their way.
    pub(super) fn asked(&self) -> usize {
        self.pending.len() - self.paused()
    }

    /// The number of questions of which a page was sent, and no further page is wanted yet.
    pub(super) fn paused(&self) -> usize {
        self.count(PendingQuestion::is_paused)
    }

    /// How many questions there are of which this holds.
    fn count(&self, holds: impl Fn(&PendingQuestion) -> bool) -> usize {
        let pending = self.pending.values();
        pending.filter(|pending| holds(pending)).count()
    }

    /// The numbers of the questions of which this holds.
    fn numbers(&self, holds: impl Fn(&PendingQuestion) -> bool) -> Vec<ReplyNumber> {
        let pending = self.pending.iter().filter(|(_, pending)| holds(pending));
        pending.map(|(number, _)| *number).collect()
    }

    /// The number of the question of which this holds.
    fn number_of(&self, holds: impl Fn(&PendingQuestion) -> bool) -> Option<ReplyNumber> {
        let mut pending = self.pending.iter();
        let found = pending.find(|(_, pending)| holds(pending));
        found.map(|(number, _)| *number)
    }

    /// Whether another question for a message may be asked.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let awaited = self.count(|pending| pending.is_awaited(now));
        self.asked() < ASKED_MAX && awaited < self.answer_bytes.waiting_max(ASKED_MAX)
    }

    /// Whether another question that reads with a consumer may be asked: the others wait where they take turns, and where
    /// they may be withdrawn.
    pub(super) fn has_room_to_read(&self) -> bool {
        let reading_max = self.answer_bytes.waiting_max(READING_MAX);
        self.count(PendingQuestion::begins_to_read) < 2 * MAKING_MAX
            && self.count(PendingQuestion::reads) < reading_max
    }

    /// Remembers a message of a requested name: its stream may store it later.
    pub(super) fn note_live(&mut self, delivery: &Delivery, now: Instant) {
        if self.settings.has_last_values {
            self.live.note(delivery, now);
        }
    }

    /// Asks a question. `scope`: the live messages of the name, if it is subscribed.
    pub(super) fn ask(
        &mut self,
        question: Question,
        scope: Option<LiveScope>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let listens = self.listen(now, out);
        self.last = self.last.next();
        let pending = PendingQuestion::new(question, scope, now);
        self.pending.insert(self.last, pending);
        match listens {
            Ok(()) => self.send(self.last, out),
            Err(words) => self.refuse(self.last, &words, RefusalLasts::ForNow, out),
        }
    }

    /// Goes on with the next page of the gateway's question of this number.
    pub(super) fn more(&mut self, question: u64, now: Instant, out: &mut Vec<u8>) {
        let is_it =
            |pending: &PendingQuestion| pending.question.number == question && pending.is_paused();
        let Some(number) = self.number_of(is_it) else {
            return;
        };
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        pending.patience = Patience::new(now);
        pending.reading.begin_page();
        if let QuestionStep::NextPage(Some(consumer)) = std::mem::take(&mut pending.step) {
            pending.step = QuestionStep::Values { consumer, left: 0 };
            return self.pull(number, out);
        }
        pending.begin();
        self.send(number, out);
    }

    /// Forgets the gateway's question of this number, because nobody waits for the answer.
    pub(super) fn forget(&mut self, question: u64, out: &mut Vec<u8>) {
        let is_it = |pending: &PendingQuestion| pending.question.number == question;
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
        for number in self.numbers(|_| true) {
            self.leave_consumer(number, out);
            if let Some(pending) = self.pending.remove(&number) {
                self.events.push(pending.last_page());
            }
        }
    }

    /// Ends the questions whose time is over, and asks again what is due.
    pub(super) fn work(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.pending.is_empty() {
            return;
        }
        if self.holds_connection(now) {
            for pending in self.pending.values_mut() {
                pending.patience.note_held(now);
            }
        }
        for number in self.numbers(|pending| pending.is_late(now)) {
            self.handle_silence(number, now, out);
        }
        for number in self.numbers(|pending| pending.is_due(now)) {
            self.end_pause(number, now, out);
        }
        self.make_next(now, out);
    }

    /// Asks again after a pause.
    fn end_pause(&mut self, number: ReplyNumber, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Pause { then, .. } = std::mem::take(&mut pending.step) else {
            return;
        };
        match then {
            Again::Create(part) => return self.create(number, part, now, out),
            Again::Message(streams) => pending.step = QuestionStep::Message(streams),
            Again::Check(after_check) => pending.step = QuestionStep::Check(after_check),
            Again::Begin => pending.begin(),
        }
        self.send(number, out);
    }

    /// Whether the server may answer nothing else on the connection, because it makes a consumer: not even a ping.
    pub(super) fn holds_connection(&self, now: Instant) -> bool {
        self.making.holds(now)
    }

    /// Whether the caller has to send a ping, and to call [`Self::note_ping`]: a request for a consumer or the subscription
    /// for answers was sent, or the answers to requests that were given up are late.
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
        let dues = self.pending.values().filter_map(PendingQuestion::due);
        dues.chain(self.making.due()).min()
    }
}

#[cfg(test)]
mod tests;
