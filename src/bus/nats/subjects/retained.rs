//! Last values: questions to JetStream on the connection that also delivers the messages, so the order of answers and
//! messages is defined. Pure: the session writes and reads.
//!
//! An exact subject takes two requests: the name of the stream, and the last message. If no stream takes the subject from
//! publishers, and for each pattern, weirgate also looks through all streams for subjects of transforms and of copies
//! ([`AllStreams`]).
//!
//! The values of a pattern come from each stream with such subjects, through a consumer of the last message of each subject,
//! which weirgate asks for a page at a time: neither here nor on the way more waits, however many values there are. Each
//! request is for as many messages as fit in the page if none is larger than those before; a consumer that brings far more
//! bytes all the same is left, and made again for the next page.
//!
//! The consumer brings the messages in the order of their numbers: first those that were the last of their subjects when it
//! was made, then all later ones. A stream is read once the consumer has brought as many messages as waited when it was made:
//! what was replaced since then has come as a later message. The server's count of what still waits can be wrong after
//! deletions, so it ends nothing. The consumer is deleted at the end; if the deletion fails, the server deletes the consumer
//! after [`IDLE_MAX`]. A question ends [`ANSWER_TIMEOUT`] after it was asked or has brought its newest value, with the values
//! received until then.
//!
//! A question begins after the messages that were read before ([`PageCursor`]): a consumer that is made again leaves them
//! out by their numbers. So a question goes on after the loss of a connection or of a consumer.
//!
//! A question for all messages of a name in the stream that is the kept feed takes the same steps with a consumer of all
//! messages, from the last one that was read on, which comes again: so another message of its number is found out. Its
//! consumer is left after each page. Between two messages of the name are numbers of others, so a number that does not come
//! may have been removed before it was read: if the stream begins behind such a place after the page, messages may be missing.
//!
//! Only the leader of a stream surely has the last values: another server may catch up after a restart. The leader
//! answers the question for a message, and a consumer that was put on another server is made again. A message is
//! delivered before the servers of its stream have agreed to store it, so the client of a question may have come after
//! the message, and the answer may be from before it. So a question is asked again until its answer has the newest
//! message that was delivered shortly before the question.

mod live;
mod streams;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::live::Live;
use self::streams::{AllStreams, Found, Listed, Target, targets, targets_in};
pub(in crate::nats) use self::streams::{StreamOfName, streams_in, subjects_in};
use super::super::api::{ApiError, message, refusal};
use super::super::consumer::{AckPolicy, Consumer, Plan, Start};
use super::super::error::INBOXES;
use super::super::needs::{Action, Need};
use super::super::protocol::{self, AckSubject, Delivery, inbox};
use super::super::stream_info::StreamInfo;
use crate::NAME_NOT_UTF8;
use crate::outage::shown;
use crate::requests::{Question, Wants};
use weirgate_core::{PageCursor, ReadPart, RetainedCut, StoredId};
use weirgate_wire::json::{self, Json, JsonError};

/// The most questions on their way at once; the others wait. A question whose page clients take is not on its way.
const ASKED_MAX: usize = 64;
/// How long the answers to a question may bring no new value. Longer than the wait for a silent server, so a question on a
/// dead link is asked again on the next link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// For so long a consumer waits for messages. If it brings none for twice this time, there are none.
const PULL_TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause before a question is asked again, and the longest; each pause is half as long again as the one before.
/// A consumer is on the leader at the third attempt on average, so the first pauses are short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(320);
/// How long the servers of a stream may take to store a message that was delivered already. After that, the message
/// counts as refused by the stream.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// The bytes and the messages of a page of values. The last value, or the last request, may bring more.
const PAGE_BYTES: usize = 512 * 1024;
const PAGE_VALUES: u64 = 2_048;
/// A consumer that brings more bytes in a page is left.
const PAGE_BYTES_LIMIT: usize = 2 * PAGE_BYTES;
/// The messages of the first request to a consumer; each further one is for this many times what has come, at most.
const PULL_GROWTH: u64 = 8;
/// After this time without a request the server deletes a consumer. Clients take a page in less time.
const IDLE_MAX: Duration = Duration::from_secs(180);
/// The length of a name for which the size of a request is calculated, bytes.
const NAME_BYTES: usize = 512;
/// The first number for subscriptions of questions; requested names have smaller numbers.
pub(super) const FIRST_SID: u64 = 1 << 62;

/// The questions of one connection.
#[derive(Debug)]
pub(in super::super) struct Retained {
    /// The subject for answers, before the number of the question.
    inbox: String,
    /// Whether anybody asks for last values.
    is_used: bool,
    /// The stream that is the kept feed, if there are questions about it.
    stream: Option<String>,
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
    value: Option<(Vec<u8>, StoredId)>,
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
    /// The messages that a consumer was asked for.
    Values(Consumer, Pull),
    /// The request for another page; without a consumer, one is made again.
    Page(Option<Consumer>),
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
        is_deletion: bool,
        /// The message in its stream.
        id: Option<StoredId>,
    },
    /// The end of a page.
    Page {
        /// The question's number.
        number: u64,
        cursor: Arc<PageCursor>,
        /// Whether the question goes on.
        is_open: bool,
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
    #[error("a pattern has last values in more streams than weirgate looks through")]
    Cut,
    #[error("a pattern has last values of {NAME_NOT_UTF8}, which are not sent")]
    Unnamed,
    #[error("messages after the position of a client are no longer in the stream")]
    Window,
    #[error("the position of a client is of another life of the stream")]
    Epoch,
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
            Self::Window => RetainedCut::Window,
            Self::Epoch => RetainedCut::Epoch,
            Self::Refused(_) => RetainedCut::Refused,
            Self::Unreadable(_) => RetainedCut::Unreadable,
        }
    }
}

impl Retained {
    /// Makes an empty list. `is_used`: there are questions about all streams; `stream`: there are some about this one.
    pub(super) fn new(is_used: bool, stream: Option<String>) -> Self {
        Self {
            inbox: inbox(),
            is_used,
            stream,
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
        let consumers = "each question for a pattern leaves a consumer for 3 minutes";
        vec![
            Need::must(Action::StreamList),
            Need::must(Action::GetMessage),
            Need::must(Action::CreateConsumer),
            Need::must(Action::NextMessages),
            Need::may(Action::DeleteConsumer, consumers),
        ]
    }

    /// The size of the largest request, bytes.
    pub(in super::super) fn request_bytes_max() -> usize {
        let target = Target {
            stream: String::new(),
            filter: "x".repeat(NAME_BYTES),
            ..Target::default()
        };
        let start = Start::Sequence(u64::MAX);
        target.plan(start).request("", None).1.len()
    }

    /// The number of questions on their way.
    pub(super) fn asked(&self) -> usize {
        self.asked.len() - self.paused()
    }

    /// The number of questions of which a page was sent, and no further page is wanted yet.
    pub(super) fn paused(&self) -> usize {
        let is_paused = |asked: &&Pending| matches!(asked.step, Step::Page(_));
        self.asked.values().filter(is_paused).count()
    }

    /// Whether another question may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < ASKED_MAX || self.asked() < ASKED_MAX
    }

    /// Remembers a message of a requested name: its stream may store it later.
    pub(super) fn note_live(&mut self, delivery: &Delivery, now: Instant) {
        if self.is_used {
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
        let values = LastValues::of(&question, self.live.before(sid, now));
        let asked = Pending {
            question,
            sid,
            begun: now,
            progressed: now,
            step: Step::Streams,
            pause: PAUSE_MIN,
            value: None,
            values,
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
            Step::Streams if asked.question.is_of_stream() => {
                let stream = self.stream.as_deref()?;
                (Action::StreamInfo.of(stream), String::new())
            }
            Step::Streams => {
                let body = sonic_rs::json!({ "subject": name }).to_string();
                (Action::StreamList.of(""), body)
            }
            Step::AllStreams => (Action::StreamList.of(""), self.all_streams.request()),
            Step::Message(streams) => {
                let body = sonic_rs::json!({ "last_by_subj": name }).to_string();
                (Action::GetMessage.of(streams.front()?), body)
            }
            Step::Create(target, _) => {
                let plan = target.plan(asked.values.start());
                plan.request(&target.stream, None)
            }
            Step::Values(consumer, _) => (consumer.pull_subject()?, String::new()),
            Step::Page(_) | Step::Pause(..) => return None,
        })
    }

    /// Goes on with the next page of a question.
    pub(super) fn more(&mut self, question: u64, now: Instant, out: &mut Vec<u8>) {
        let of = self.asked.iter_mut();
        let mut of = of.filter(|(_, asked)| asked.question.number == question);
        let Some((number, asked)) = of.find(|(_, asked)| matches!(asked.step, Step::Page(_)))
        else {
            return;
        };
        let number = *number;
        (asked.progressed, asked.values.page) = (now, Page::default());
        match std::mem::replace(&mut asked.step, Step::Streams) {
            Step::Page(Some(consumer)) => {
                asked.step = Step::Values(consumer, Pull::default());
                self.pull(number, out);
            }
            _ => self.send(number, out),
        }
    }

    /// Forgets a question, because nobody waits for the answer.
    pub(super) fn forget(&mut self, question: u64, out: &mut Vec<u8>) {
        let of = |(_, asked): &(&u64, &Pending)| asked.question.number == question;
        if let Some(number) = self.asked.iter().find(of).map(|(number, _)| *number) {
            self.leave_consumer(number, out);
            self.asked.remove(&number);
        }
    }

    /// Ends all questions, because their connection ends: others may go on.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        for number in self.asked.keys().copied().collect::<Vec<_>>() {
            self.leave_consumer(number, out);
            if let Some(asked) = self.asked.remove(&number) {
                self.events.push(asked.page(false));
            }
        }
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
            Step::Values(consumer, _) => consumer.sid == delivery.sid,
            _ => false,
        };
        let mut asked = self.asked.iter();
        let of = asked.find(|(_, asked)| is_of(asked));
        match of.map(|(number, _)| *number) {
            Some(number) if delivery.status.is_some() => self.stopped(number, &delivery, now, out),
            Some(number) => self.delivered(number, delivery, now, out),
            None => {}
        }
    }

    /// Ends the questions whose time is over, and asks again what is due.
    pub(super) fn work(&mut self, now: Instant, out: &mut Vec<u8>) {
        let is_late = |asked: &Pending| {
            let is_paused = matches!(asked.step, Step::Page(_));
            !is_paused && asked.progressed + ANSWER_TIMEOUT <= now
        };
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
                Step::Pause(at, _) => Some(at.min(late)),
                Step::Page(_) => None,
                _ => Some(late),
            }
        };
        self.asked.values().filter_map(due).min()
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
            (Step::Pause(..) | Step::Values(..) | Step::Page(_) | Step::AllStreams, _) => {}
            _ if delivery.status.is_some() => self.refuse(number, "nobody answers", out),
            (Step::Streams | Step::Message(_), Some(error)) => {
                self.refuse(number, &error.to_string(), out);
            }
            (Step::Streams, None) if asked.question.wants == Wants::All => {
                let found = targets_in(&subscription.name, answer);
                match StreamInfo::read(&delivery.payload) {
                    Ok(stream) => self.handle_start(number, (found, &stream), now, out),
                    Err(ApiError::Unfinished) => self.pause(number, Again::Streams, now),
                    Err(error) => self.refuse(number, &error.to_string(), out),
                }
            }
            (Step::Streams, None) if asked.question.is_of_stream() => {
                let targets = targets_in(&subscription.name, answer);
                if subscription.is_pattern {
                    asked.values.targets = targets.into();
                    return self.next_stream(number, now, out);
                }
                self.find_message(number, targets.into_iter().take(1), now, out);
            }
            (Step::Streams, None) if subscription.is_pattern => {
                asked.values.take_streams(&subscription.name, answer);
                self.search_all_streams(number, now, out);
            }
            (Step::Streams, None) => {
                let found = targets(&subscription.name, answer);
                self.found_streams(number, found, now, out);
            }
            (Step::Message(_), None) => {
                asked.value = last_message(answer);
                self.message(number, now, out);
            }
            (Step::Create(..), _) => self.created(number, delivery, now, out),
        }
    }

    /// Goes on with the streams that take a name from publishers.
    fn found_streams(&mut self, number: u64, found: Found, now: Instant, out: &mut Vec<u8>) {
        match (found.targets.is_empty(), found.is_cut) {
            (false, _) => self.find_message(number, found.targets.into_iter().take(1), now, out),
            // The leader of the stream did not answer in time.
            (true, true) => self.pause(number, Again::Streams, now),
            (true, false) => self.search_all_streams(number, now, out),
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
        self.find_message(number, targets.into_iter().take(STREAMS_MAX), now, out);
    }

    /// Asks the first stream of a name for the last message; without a stream, ends the question.
    fn find_message(
        &mut self,
        number: u64,
        targets: impl Iterator<Item = Target>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let targets: Vec<Target> = targets.collect();
        // nats-server 2.9.10 crashes if it is asked for a message of a stream that it is still making.
        if targets.iter().any(Target::is_being_made) {
            return self.pause(number, Again::Streams, now);
        }
        if targets.is_empty() {
            return self.end(number, None, out);
        }
        if let Some(asked) = self.asked.get_mut(&number) {
            let streams = targets.into_iter().map(|target| target.stream);
            asked.step = Step::Message(streams.collect());
            self.send(number, out);
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
        let payload = asked.value.as_ref().map_or(&[][..], |(payload, _)| payload);
        let payload = self.live.hash(payload);
        let before = self.live.unstored(asked.sid, asked.begun, now);
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
        if made.waiting == 0 {
            consumer.leave(&nobody, out);
            return self.next_stream(number, now, out);
        }
        asked.values.begin(&target, made.waiting);
        asked.progressed = now;
        consumer.listen(None, out);
        let is_full = asked.values.page.is_full();
        asked.step = Step::Values(consumer, Pull::default());
        match is_full {
            true => self.fill_page(number, out),
            false => self.pull(number, out),
        }
    }

    /// Asks a consumer for as many messages as the page has room for.
    fn pull(&mut self, number: u64, out: &mut Vec<u8>) {
        if let Some(asked) = self.asked.get_mut(&number)
            && let Step::Values(consumer, pull) = &mut asked.step
        {
            pull.left = asked.values.room();
            consumer.pull(pull.left, PULL_TIMEOUT, out);
        }
    }

    /// Handles a message delivered by a consumer.
    fn delivered(&mut self, number: u64, delivery: Delivery, now: Instant, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let Step::Values(consumer, pull) = &mut asked.step else {
            return;
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let Some(ack) = ack.filter(|ack| consumer.count_delivery(ack.consumer_sequence)) else {
            // A message is missing before this one.
            self.leave_consumer(number, out);
            return self.pause(number, Again::Streams, now);
        };
        pull.left = pull.left.saturating_sub(1);
        let has_all = pull.left == 0;
        asked.progressed = now;
        let is_new = asked
            .values
            .take(&delivery, ack, self.live.hashes(&delivery));
        let (is_of_all, is_empty) = (asked.values.all.is_some(), delivery.payload.is_empty());
        if is_new
            && (is_of_all || delivery.is_deletion || !is_empty)
            && let Some(subject) = delivery.name()
        {
            self.events.push(RetainedEvent::Value {
                of: asked.question.clone(),
                subject: subject.into(),
                payload: delivery.payload,
                is_deletion: delivery.is_deletion || is_empty && !is_of_all,
                id: Some(StoredId {
                    major: ack.stream_sequence,
                    minor: ack.stored_unix_ns,
                }),
            });
        }
        let page = asked.values.page;
        if asked.values.is_of_other_life() {
            self.end(number, None, out);
        } else if asked.values.waiting == 0 {
            self.next_stream(number, now, out);
        } else if page.bytes > PAGE_BYTES_LIMIT && !has_all {
            self.leave_consumer(number, out);
            self.fill_page(number, out);
        } else if page.is_full() && has_all {
            self.fill_page(number, out);
        } else if has_all {
            self.pull(number, out);
        }
    }

    /// Handles a status in place of messages: nothing has come for a time, or the consumer is gone.
    fn stopped(&mut self, number: u64, status: &Delivery, now: Instant, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get(&number) else {
            return;
        };
        let is_over = asked.progressed + 2 * PULL_TIMEOUT <= now;
        match (status.status, &asked.step) {
            // Messages may have been removed since, or the consumer has lost its server: another one knows.
            (Some(TIMEOUT), Step::Values(..)) if is_over && asked.values.all.is_some() => {
                self.leave_consumer(number, out);
                self.pause(number, Again::Streams, now);
            }
            (Some(TIMEOUT), Step::Values(..)) if is_over => self.next_stream(number, now, out),
            (Some(TIMEOUT), _) if asked.values.page.is_full() => self.fill_page(number, out),
            (Some(TIMEOUT), _) => self.pull(number, out),
            _ => {
                self.leave_consumer(number, out);
                self.pause(number, Again::Streams, now);
            }
        }
    }

    /// Handles a page that is full.
    fn fill_page(&mut self, number: u64, out: &mut Vec<u8>) {
        let asked = self.asked.get(&number);
        match asked.is_some_and(|asked| asked.values.all.is_some()) {
            true => self.ask_start(number, Then::Page, out),
            false => self.end_page(number),
        }
    }

    /// Asks where the stream begins, if messages of a question for all may be missing since the last check.
    fn ask_start(&mut self, number: u64, then: Then, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let Some(all) = &mut asked.values.all else {
            return;
        };
        if all.jump.is_some() {
            (asked.step, all.then) = (Step::Streams, then);
            return self.send(number, out);
        }
        all.whole_to = all.after;
        match then {
            Then::Read | Then::End => self.end(number, None, out),
            Then::Page => self.end_page(number),
        }
    }

    /// Handles the answer about the stream of a question for all messages.
    fn handle_start(
        &mut self,
        number: u64,
        (found, stream): (Vec<Target>, &StreamInfo),
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Some(all) = self.asked.get_mut(&number).map(|asked| &mut asked.values) else {
            return;
        };
        match all.check_start(stream) {
            _ if all.is_of_other_life() => self.end(number, None, out),
            Then::Read => {
                all.begin_all(found);
                self.next_stream(number, now, out);
            }
            Then::Page => self.end_page(number),
            Then::End => self.end(number, None, out),
        }
    }

    /// Ends a page of a question.
    fn end_page(&mut self, number: u64) {
        if let Some(asked) = self.asked.get_mut(&number) {
            let consumer = match std::mem::replace(&mut asked.step, Step::Streams) {
                Step::Values(consumer, _) => Some(consumer),
                _ => None,
            };
            asked.step = Step::Page(consumer);
            self.events.push(asked.page(true));
        }
    }

    /// Leaves the consumer of a pattern, and requests a consumer of the next stream. After the last one, asks again if a
    /// message was delivered before the question, and is not among the values.
    fn next_stream(&mut self, number: u64, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        // The question waits, because what is read of a stream counts for the time at which the stream was made.
        if asked.values.targets.iter().any(Target::is_being_made) {
            return self.pause(number, Again::Streams, now);
        }
        if let Some(target) = asked.values.targets.pop_front() {
            return self.create(number, target, out);
        }
        asked.values.is_whole = true;
        if asked.values.all.is_some() {
            return self.ask_start(number, Then::End, out);
        }
        let values = &asked.values;
        let is_all = values.is_cut || values.refused.is_some();
        let mut before = self.live.unstored(asked.sid, asked.begun, now).into_iter();
        let mut is_missing =
            || before.any(|(subject, live)| values.unstored.get(&subject) == Some(&live));
        match !is_all && is_missing() {
            true => self.pause(number, Again::Streams, now),
            false => self.end(number, None, out),
        }
    }

    /// Requests a consumer of a stream.
    fn create(&mut self, number: u64, target: Target, out: &mut Vec<u8>) {
        self.last_sid += 1;
        let deliver = self.deliver_subject(self.last_sid);
        if let Some(asked) = self.asked.get_mut(&number) {
            let start = asked.values.start();
            let consumer = Consumer::new(&target.stream, self.last_sid, deliver, start);
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
            Step::Create(_, consumer) | Step::Values(consumer, _) | Step::Page(Some(consumer)) => {
                consumer.leave(&nobody, out)
            }
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
        if let (Some((payload, id)), None) = (asked.value, &lack) {
            self.events.push(RetainedEvent::Value {
                of: asked.question.clone(),
                subject: Arc::clone(&asked.question.subscription.name),
                is_deletion: payload.is_empty(),
                payload,
                id: Some(id),
            });
        }
        let is_cut = asked.values.is_cut.then_some(Lack::Cut);
        let is_unnamed = asked.values.is_unnamed.then_some(Lack::Unnamed);
        let refused = asked.values.refused.map(Lack::Refused);
        let of_all = asked.values.all.and_then(|all| all.lack);
        let of_values = refused.or(is_cut).or(of_all).or(is_unnamed);
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

    /// The end of a page.
    fn page(&self, is_open: bool) -> RetainedEvent {
        let values = &self.values;
        let lack = values.all.as_ref().and_then(|all| all.lack.as_ref());
        let unnamed = values.is_unnamed.then_some(RetainedCut::Unnamed);
        let mut cursor = match &values.all {
            Some(all) => PageCursor::after(all.whole_to),
            None => PageCursor::of(values.read.clone()),
        };
        cursor.cut = lack.map(Lack::cut).or(unnamed);
        RetainedEvent::Page {
            number: self.question.number,
            cursor: Arc::new(cursor),
            is_open,
        }
    }
}

/// The payload of the message in the answer, empty if the value was deleted; `None` for an error, such as a missing
/// message, and for no payload.
fn last_message(answer: Json<'_>) -> Option<(Vec<u8>, StoredId)> {
    let message = message(answer).ok()?;
    let is_value = message.is_deletion || !message.payload.is_empty();
    let id = StoredId {
        major: message.sequence,
        minor: message.stored_unix_ns.unwrap_or_default(),
    };
    is_value.then_some((message.payload, id))
}

/// The status of a consumer that has waited for as long as it was asked to.
const TIMEOUT: u16 = 408;
/// The limit on streams asked for a pattern.
const STREAMS_MAX: usize = 16;

/// The values of a pattern.
#[derive(Debug)]
struct LastValues {
    /// Streams not asked yet.
    targets: VecDeque<Target>,
    /// What was read of each stream.
    read: Vec<ReadPart>,
    /// The place of the stream that is read in this list.
    at: usize,
    /// What may still come of the messages that waited when the consumer was made.
    waiting: u64,
    /// How many messages have come, and the bytes of the largest.
    seen: u64,
    largest: usize,
    page: Page,
    /// Messages that were delivered shortly before the question and have not come: a hash of the payload for the hash of a
    /// subject.
    unstored: HashMap<u64, u64>,
    /// All streams have given their values once.
    is_whole: bool,
    /// There are more streams than are asked.
    is_cut: bool,
    /// A value has a subject that is not UTF-8, and was not sent.
    is_unnamed: bool,
    /// Why a stream gave no values.
    refused: Option<String>,
    /// Of a question for all messages.
    all: Option<AllRead>,
}

/// How far all messages were read.
#[derive(Debug, Default)]
struct AllRead {
    after: Option<StoredId>,
    /// The same, at the last check of the beginning of the stream: what comes after it may not be whole.
    whole_to: Option<StoredId>,
    /// The first message since then after which numbers did not come.
    jump: Option<u64>,
    lack: Option<Lack>,
    /// What follows the next check.
    then: Then,
}

/// What follows a check of the beginning of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Then {
    /// The next page.
    #[default]
    Read,
    /// The end of a page.
    Page,
    /// The end of the question.
    End,
}

impl AllRead {
    fn new(after: Option<StoredId>) -> Self {
        Self {
            after,
            whole_to: after,
            ..Self::default()
        }
    }

    /// Counts a message. Returns false if it was read before.
    fn take(&mut self, id: StoredId) -> bool {
        if let Some(after) = self.after {
            if after == id {
                return false;
            }
            if id.major <= after.major {
                self.lack = Some(Lack::Epoch);
                return false;
            }
            if id.major > after.major + 1 {
                self.jump.get_or_insert(after.major);
            }
        }
        self.after = Some(id);
        true
    }
}

/// What was sent of a page.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    values: u64,
    bytes: usize,
}

impl Page {
    fn is_full(self) -> bool {
        self.values >= PAGE_VALUES || self.bytes >= PAGE_BYTES
    }
}

impl Target {
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
            pending_max: 0,
            deliveries_max: None,
            idle_max_ms: IDLE_MAX.as_millis() as u64,
            beats: false,
            has_flow_control: false,
            is_in_memory: true,
        }
    }
}

impl LastValues {
    fn of(question: &Question, unstored: HashMap<u64, u64>) -> Self {
        let all = (question.wants == Wants::All).then(|| AllRead::new(question.after.after));
        Self {
            all,
            ..Self::new(&question.after, unstored)
        }
    }

    fn new(after: &PageCursor, unstored: HashMap<u64, u64>) -> Self {
        Self {
            targets: VecDeque::new(),
            read: after.parts.clone(),
            at: 0,
            waiting: 0,
            seen: 0,
            largest: 0,
            page: Page::default(),
            unstored,
            is_whole: false,
            is_cut: false,
            is_unnamed: false,
            refused: None,
            all: None,
        }
    }

    /// The first message of a consumer.
    fn start(&self) -> Start {
        match &self.all {
            Some(all) => Start::Sequence(all.after.map_or(1, |after| after.major)),
            None => Start::LastPerSubject,
        }
    }

    /// Begins to read all messages. A consumer has one filter: for a name in several parts of the stream it brings the whole
    /// stream, in its order.
    fn begin_all(&mut self, mut found: Vec<Target>) {
        let is_in_parts = found.len() > 1;
        found.truncate(1);
        if let Some(target) = found.first_mut().filter(|_| is_in_parts) {
            target.filter = String::new();
        }
        self.targets = found.into();
    }

    /// Checks at the beginning of the stream whether messages after the last check were removed before they were read. Returns
    /// what follows.
    fn check_start(&mut self, stream: &StreamInfo) -> Then {
        let Some(all) = &mut self.all else {
            return Then::End;
        };
        let after = all.after.map(|after| after.major);
        if after.is_some_and(|after| stream.head_number() < after) {
            all.lack = Some(Lack::Epoch);
        } else if all.jump.or(after).is_some_and(|at| at + 1 < stream.first) {
            all.lack.get_or_insert(Lack::Window);
        }
        (all.jump, all.whole_to) = (None, all.after);
        std::mem::take(&mut all.then)
    }

    /// The position from which all messages are read is of another life of the stream.
    fn is_of_other_life(&self) -> bool {
        let all = self.all.as_ref();
        all.is_some_and(|all| matches!(all.lack, Some(Lack::Epoch)))
    }

    /// Selects the streams in the answer that hold a part of the pattern. The answer is one page (of 256 streams); the
    /// streams of the other pages count as cut.
    fn take_streams(&mut self, pattern: &str, streams: Json<'_>) {
        let found = targets(pattern, streams);
        self.is_cut |= found.targets.len() > STREAMS_MAX || found.is_cut;
        self.targets = found.targets;
        self.targets.truncate(STREAMS_MAX);
    }

    /// Adds streams that were found in the list of all.
    fn extend(&mut self, targets: Vec<Target>) {
        let is_new = |target: &Target| !self.targets.iter().any(|known| known.is_same(target));
        let targets: Vec<Target> = targets.into_iter().filter(is_new).collect();
        self.targets.extend(targets);
        self.is_cut |= self.targets.len() > STREAMS_MAX;
        self.targets.truncate(STREAMS_MAX);
    }

    /// Begins to read a stream with a consumer for which so many messages wait. What was read of a stream that was made anew, or
    /// that has lost messages since, counts no more.
    fn begin(&mut self, target: &Target, waiting: u64) {
        self.waiting = waiting;
        if self.all.is_some() {
            return;
        }
        let is_it =
            |part: &ReadPart| (&part.stream, &part.filter) == (&target.stream, &target.filter);
        let at = self.read.iter().position(is_it);
        self.at = at.unwrap_or_else(|| {
            self.read.push(ReadPart {
                stream: target.stream.clone(),
                filter: target.filter.clone(),
                made: target.made.clone(),
                sequence: 0,
            });
            self.read.len() - 1
        });
        let part = &mut self.read[self.at];
        if part.made != target.made || part.sequence > target.last {
            part.made.clone_from(&target.made);
            part.sequence = 0;
        }
    }

    /// How many messages to ask for.
    fn room(&self) -> u64 {
        let bytes = PAGE_BYTES.saturating_sub(self.page.bytes) / self.largest.max(1);
        let values = PAGE_VALUES.saturating_sub(self.page.values);
        let growth = PULL_GROWTH * self.seen.max(1);
        values.min(bytes as u64).min(growth).max(1)
    }

    /// Counts a message; `hashes` are those of its subject and payload. Returns false if it was read before.
    fn take(&mut self, delivery: &Delivery, ack: AckSubject, hashes: (u64, u64)) -> bool {
        let bytes = delivery.payload.len() + delivery.subject.len();
        self.waiting = self.waiting.saturating_sub(1);
        (self.seen, self.largest) = (self.seen + 1, self.largest.max(bytes));
        let (subject, payload) = hashes;
        if self.unstored.get(&subject) == Some(&payload) {
            self.unstored.remove(&subject);
        }
        let id = StoredId {
            major: ack.stream_sequence,
            minor: ack.stored_unix_ns,
        };
        if self.all.as_mut().is_some_and(|all| !all.take(id)) {
            return false;
        }
        if let Some(part) = self.read.get_mut(self.at) {
            // nats-server 2.9 brings a message twice if the one before was replaced after the consumer was made.
            if ack.stream_sequence <= part.sequence {
                return false;
            }
            part.sequence = ack.stream_sequence;
        }
        self.is_unnamed |= delivery.name().is_none();
        self.page.values += 1;
        self.page.bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests;
