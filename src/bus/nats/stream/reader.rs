//! Reads a JetStream stream over all connections, through consumers: decides on the next request, and interprets the
//! answers. Pure. The id of a message has two parts, the sequence number and the time of storage; both are compared. If
//! the stream keeps acknowledged messages, the next consumer begins at the last message that was handed over, not after
//! it: the first delivery proves that the stream is still the same. Without this proof a loss could go unnoticed: a
//! consumer skips messages that are gone (the stream was purged, made anew or restored), and the stream's counters do
//! not show every such case.
//!
//! A consumer only carries messages. Its server may catch up after a restart, so the consumer's word that a message is
//! gone, or that nothing is newer, is not enough: the leader of the stream is asked for the message
//! ([`ReaderStep::Verify`]), and a consumer whose server lacks what the leader has is replaced after a pause. For a user that
//! may not ask for a message, what the leader says of the stream as a whole has to do.

mod requests;

use std::time::{Duration, Instant};

use self::requests::{ConsumerLimits, CumulativeAcks};
use super::MS_NS;
use crate::NAME_NOT_UTF8;
use crate::kept::KeptEvent;
use crate::nats::api::ApiError;
use crate::nats::consumer::{AckPolicy, Beat, Consumer, HEARTBEAT_MS, Start};
use crate::nats::error::NatsError;
use crate::nats::protocol::{self, AckSubject, Delivery, inbox};
use crate::nats::standstill::Standstills;
use crate::nats::stream_info::{Retention, StreamInfo, stored};
use weirgate_core::StoredId;

/// How long JetStream may take to answer: longer than most elections of a stream's leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The silence after which a consumer is given up: its server may be gone.
const SILENCE_MAX: Duration = Duration::from_millis(3 * HEARTBEAT_MS);
/// The wait before the next look when a consumer was of no use: each look makes another consumer.
const ANOTHER_PAUSE: Duration = Duration::from_millis(HEARTBEAT_MS);
/// The wait before the next look at a stream that cannot be read.
const UNUSABLE_PAUSE: Duration = Duration::from_secs(1);
/// After this number of heartbeats without a delivery, a message that the reader waits for may be gone.
const IDLE_BEATS_MAX: u32 = 3;
/// How often the reader asks about the stream while it reads, and how soon again after an answer by which it is behind.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_AGAIN: Duration = Duration::from_millis(500);
/// The number of heartbeats in five seconds, the time for an answer.
const UNANSWERED_BEATS_MAX: u32 = 10;
/// The number of the subscription for answers; the subscriptions of consumers have the next numbers.
const ANSWERS_SID: u64 = 1;
/// The head of a stream without any message so far: the first message has the number 1.
const NO_MESSAGE: StoredId = StoredId { major: 0, minor: 0 };

/// The place of this process in a stream.
#[derive(Debug)]
pub(in super::super) struct JetStreamReader {
    stream: String,
    history_ns: u64,
    /// The start reads no more messages than fit in so many bytes.
    history_bytes: u64,
    /// The beginning of the subjects for answers and deliveries, which nobody else can guess.
    inbox: String,
    /// The number of the newest subscription, and the newest request.
    last_sid: u64,
    last_request: u64,
    /// Older messages are not handed over while no message was handed over; Unix nanoseconds. `None` before the first
    /// look.
    since_ns: Option<u64>,
    /// Where the next consumer begins while no message was handed over.
    start: Start,
    /// The newest message that was handed over.
    last: Option<StoredId>,
    /// The state of the stream in the leader's last answer.
    info: Option<StreamInfo>,
    /// The newest message of the stream when nothing was left to read, or [`NO_MESSAGE`]. `None` again once a message is
    /// read.
    empty_at: Option<StoredId>,
    /// The last sequence number from before the start of this process, until the message is read.
    old_until: Option<u64>,
    /// Messages up to this number were stored before the newest loss that was reported to clients.
    reported_until: u64,
    /// The number of messages in the last [`KeptEvent::Lag`].
    behind: Option<u64>,
    /// The newest message of the stream when the reader was first seen to be behind, and that time, until the message
    /// is read.
    ahead: Option<(u64, Instant)>,
    /// The limits that the server permits a consumer.
    limits: ConsumerLimits,
    acks: CumulativeAcks,
    /// When the last request left.
    asked: Option<Instant>,
    /// The number of the last question about the account.
    account_request: Option<u64>,
    pub(in super::super) standstills: Standstills,
    /// Whether [`KeptEvent::CaughtUp`] was said on this connection.
    pub(super) is_caught_up: bool,
    step: ReaderStep,
}

#[derive(Debug, Default)]
enum ReaderStep {
    /// Not connected.
    #[default]
    Away,
    /// The consumer was of no use, or the stream cannot be read: waits before it asks for the state of the stream.
    Pause { until: Instant },
    /// Asked for the state of the stream, and will ask again: servers that elect a leader drop the question.
    Info { again: Instant },
    /// A consumer was asked for.
    Create(Consumer),
    /// The consumer is there, and the leader is asked which servers have all of the stream. Asks again as in `Info`.
    Place { consumer: Consumer, again: Instant },
    /// The next delivery has to be this message, which was handed over before.
    Prove(Consumer, StoredId),
    /// Messages come.
    Read { consumer: Consumer, check: Check },
    /// The leader is asked for the first message from `from` on. Asks again as in `Info`.
    Verify {
        from: u64,
        /// This message has to be there; `None`: any message of the number `from`.
        expected: Option<StoredId>,
        /// What to believe if this user may not ask.
        is_gone: bool,
        again: Instant,
    },
}

/// The questions about the stream while messages come. On a server that is cut off from its cluster, a consumer still
/// sends heartbeats, but gets no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The next question is due then.
    Due {
        at: Instant,
        /// The number of the consumer's last delivery when the stream was found to have newer messages.
        behind_at: Option<u64>,
    },
    /// Not answered yet.
    Asked {
        behind_at: Option<u64>,
        /// The newest message that was read when the question left.
        read: u64,
        /// Heartbeats since the server has taken the question.
        beats: u32,
    },
}

impl JetStreamReader {
    /// A reader that begins with the messages of the last `history_ms` milliseconds, but with no more than fit in
    /// `history_bytes` of memory.
    pub(super) fn new(stream: &str, history_ms: u64, history_bytes: usize) -> Self {
        Self {
            stream: stream.to_owned(),
            history_bytes: history_bytes as u64,
            history_ns: history_ms.saturating_mul(MS_NS),
            inbox: inbox(),
            last_sid: ANSWERS_SID,
            last_request: 0,
            since_ns: None,
            start: Start::Time(0),
            last: None,
            info: None,
            empty_at: None,
            old_until: None,
            reported_until: 0,
            behind: None,
            ahead: None,
            limits: ConsumerLimits::default(),
            acks: CumulativeAcks::default(),
            asked: None,
            account_request: None,
            standstills: Standstills::default(),
            is_caught_up: false,
            step: ReaderStep::Away,
        }
    }

    /// The name of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Whether the stream keeps messages after weirgate has acknowledged them.
    pub(super) fn keeps(&self) -> bool {
        let info = self.info.as_ref();
        info.is_none_or(|info| info.retention == Retention::Limits)
    }

    /// Whether a consumer may be left on the server.
    pub(super) fn owes(&self) -> bool {
        self.consumer().is_some_and(|one| one.answer().is_some())
    }

    /// Handles a new connection.
    pub(super) fn connected(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.is_caught_up = false;
        self.standstills.forget();
        protocol::subscribe(out, &format!("{}.answer.*", self.inbox), None, ANSWERS_SID);
        if let Some(consumer) = self.take_consumer() {
            consumer.delete(&self.nobody(), out);
        }
        self.ask_info(now, out);
    }

    /// The time of the next [`Self::tick`]. `last_received` is when the last bytes of a message arrived, whole or not: over a
    /// slow link an answer can come after a large message.
    pub(super) fn due(&self, last_received: Instant) -> Option<Instant> {
        let since = self
            .asked
            .map_or(last_received, |asked| asked.max(last_received));
        match &self.step {
            ReaderStep::Away => None,
            ReaderStep::Pause { until } => Some(*until),
            ReaderStep::Prove(..) | ReaderStep::Read { .. } => Some(since + SILENCE_MAX),
            _ => Some(since + ANSWER_TIMEOUT),
        }
    }

    /// Handles the PONG after a question: the server has the question, so its heartbeats count from here on.
    pub(super) fn ponged(&mut self) {
        if let ReaderStep::Read {
            check: Check::Asked { beats, .. },
            ..
        } = &mut self.step
        {
            *beats = 0;
        }
    }

    /// Does what is due. `last_received` as in [`Self::due`].
    ///
    /// # Errors
    /// JetStream has not answered.
    pub(super) fn tick(
        &mut self,
        (now, last_received): (Instant, Instant),
        out: &mut Vec<u8>,
    ) -> Result<(), NatsError> {
        self.acks.send_due(now, out);
        let is_due = self.due(last_received).is_some_and(|due| now >= due);
        match &self.step {
            _ if !is_due => Ok(()),
            ReaderStep::Pause { .. } | ReaderStep::Prove(..) | ReaderStep::Read { .. } => {
                self.ask_info(now, out);
                Ok(())
            }
            _ => Err(self.trouble("no answer")),
        }
    }

    /// Takes a message of a subscription of this reader. `unix_ns` is the time now.
    ///
    /// # Errors
    /// JetStream refuses, or the consumer is gone: this connection is of no use.
    pub(super) fn take(
        &mut self,
        delivery: Delivery,
        (now, unix_ns): (Instant, u64),
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) -> Result<(), NatsError> {
        if delivery.sid == ANSWERS_SID {
            return match delivery.request() {
                request if request.is_some() && request == self.account_request => {
                    self.standstills.account(&delivery.payload);
                    Ok(())
                }
                Some(last) if last == self.last_request => {
                    self.handle_answer(&delivery, (now, unix_ns), out, events)
                }
                _ => Ok(()),
            };
        }
        if self.consumer().is_none_or(|one| one.sid != delivery.sid) {
            return Ok(());
        }
        match delivery.status {
            None => self.delivered(delivery, now, out, events),
            Some(100) => self.beat(delivery, now, out),
            Some(status) => Err(self.trouble(&format!("status {status} of the consumer"))),
        }
    }

    /// Handles a control message of the consumer.
    fn beat(
        &mut self,
        delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), NatsError> {
        // Flow control: the server sends no more until it knows that all sent bytes have arrived.
        if let Some(subject) = delivery.reply.or(delivery.stalled) {
            protocol::publish(out, &subject, "", b"");
            return Ok(());
        }
        let last = delivery.last_consumer;
        let (beat, expected) = match &mut self.step {
            ReaderStep::Prove(consumer, expected) => {
                (consumer.count_heartbeat(last), Some(*expected))
            }
            ReaderStep::Read { consumer, check } => {
                if let Check::Asked { beats, .. } = check {
                    *beats += 1;
                    if *beats >= UNANSWERED_BEATS_MAX {
                        return Err(self.trouble("no answer"));
                    }
                }
                (consumer.count_heartbeat(last), None)
            }
            _ => return Ok(()),
        };
        match beat {
            Beat::Missing => self.pause(now + ANOTHER_PAUSE, out),
            Beat::Idle(beats) if beats < IDLE_BEATS_MAX => {}
            Beat::Idle(_) if expected.is_some() || self.old_until.is_some() => {
                self.verify(expected, true, now, out);
            }
            Beat::Idle(_) => {}
        }
        Ok(())
    }

    /// Handles the answer to the newest request; what it answers follows from the step.
    fn handle_answer(
        &mut self,
        delivery: &Delivery,
        (now, unix_ns): (Instant, u64),
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) -> Result<(), NatsError> {
        // Only the server itself sends a status: 503, nobody listens on the subject.
        if delivery.status.is_some() {
            return Err(self.trouble("nobody answers"));
        }
        let answer = &delivery.payload;
        match &mut self.step {
            // These steps ask nothing: a late answer to an earlier step.
            ReaderStep::Away | ReaderStep::Pause { .. } | ReaderStep::Prove(..) => {}
            ReaderStep::Info { .. } => {
                let info = self.stream_info(answer, now, out)?;
                self.handle_info(info, unix_ns, events);
                self.make_consumer(now, out);
            }
            ReaderStep::Create(consumer) => match consumer.made(answer) {
                Ok(()) => self.ask_placement(now, out),
                Err(error) if self.limits.shrink(&error) => self.make_consumer(now, out),
                Err(error) => return Err(self.trouble(&error.to_string())),
            },
            ReaderStep::Place { .. } => {
                let info = self.stream_info(answer, now, out)?;
                self.handle_placement(info, now, out, events);
            }
            ReaderStep::Read { .. } => {
                self.handle_check(StreamInfo::read(answer), now, out, events)
            }
            ReaderStep::Verify { .. } => match stored(answer) {
                Err(error) if error.stream_is_missing() => {
                    return Err(self.unusable(
                        NatsError::NoSuchStream(self.stream.clone()),
                        now,
                        out,
                    ));
                }
                // A large message is cut, and cannot be read.
                found => self.handle_found(found.ok(), now, out, events),
            },
        }
        Ok(())
    }

    /// Reads an answer about the stream.
    ///
    /// # Errors
    /// The stream cannot be read, or JetStream refuses.
    fn stream_info(
        &mut self,
        answer: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<StreamInfo, NatsError> {
        let info = StreamInfo::read(answer);
        self.standstills.note_info(&self.stream, info.as_ref(), now);
        match info {
            Ok(info) if info.retention == Retention::WorkQueue => {
                Err(self.unusable(NatsError::WorkQueue(self.stream.clone()), now, out))
            }
            Ok(info) => Ok(info),
            Err(error) if error.stream_is_missing() => {
                Err(self.unusable(NatsError::NoSuchStream(self.stream.clone()), now, out))
            }
            Err(error) => Err(self.trouble(&error.to_string())),
        }
    }

    fn unusable(&mut self, error: NatsError, now: Instant, out: &mut Vec<u8>) -> NatsError {
        self.standstills.forget();
        self.pause(now + UNUSABLE_PAUSE, out);
        error
    }

    /// Handles what the server says of the stream before a consumer is made: where to begin, or whether what was read
    /// is lost.
    fn handle_info(&mut self, info: StreamInfo, unix_ns: u64, events: &mut Vec<KeptEvent>) {
        // The numbers may be those of other messages by now.
        self.reported_until = 0;
        let head = info.head.unwrap_or(NO_MESSAGE);
        self.report_subjects(&info, events);
        let is_other = self.is_other(&info) || self.is_refilled(head);
        self.info = Some(info);
        if self.since_ns.is_none() {
            // The server's clock may be behind.
            let newest_ns = match head {
                NO_MESSAGE => unix_ns,
                head => head.minor.min(unix_ns),
            };
            self.since_ns = Some(newest_ns.saturating_sub(self.history_ns));
            self.begin_at(head);
        } else if is_other && self.old_until.is_some() && self.last.is_none() {
            // Nothing was handed over, so nothing is missing.
            self.begin_at(head);
        } else if is_other {
            self.lost(events);
            self.start = Start::Time(self.since_ns.unwrap_or(0));
        }
    }

    /// Says which subjects the stream has, if that is news.
    fn report_subjects(&self, info: &StreamInfo, events: &mut Vec<KeptEvent>) {
        let known = self.info.as_ref().map_or(&[][..], |known| &known.subjects);
        if info.subjects != known {
            events.push(KeptEvent::Subjects(info.subjects.as_slice().into()));
        }
    }

    /// Begins with the messages that were stored since [`Self::since_ns`].
    fn begin_at(&mut self, head: StoredId) {
        self.start = Start::Time(self.since_ns.unwrap_or(0));
        self.old_until = Some(head.major).filter(|head| *head > 0);
        self.empty_at = (head == NO_MESSAGE).then_some(NO_MESSAGE);
    }

    /// Whether the stream was empty up to the number of its head, and now has another message of that number.
    fn is_refilled(&self, head: StoredId) -> bool {
        let empty_at = self.empty_at;
        empty_at.is_some_and(|at| at.major == head.major && at != head)
    }

    /// Whether this is another stream than before, or lacks what was read of it.
    fn is_other(&self, info: &StreamInfo) -> bool {
        let known = self.info.as_ref();
        known.is_some_and(|known| known.created_ns != info.created_ns)
            || self
                .read_until()
                .is_some_and(|read| info.head_number() < read)
    }

    /// The number of the newest message that was read, or that is older than what is read.
    fn read_until(&self) -> Option<u64> {
        let read = self.last.max(self.empty_at).map(|id| id.major);
        read.or_else(|| match self.start {
            Start::Sequence(first) => Some(first.saturating_sub(1)),
            Start::Time(_) | Start::LastPerSubject => None,
        })
    }

    /// The number from which on the messages of a start fit in the history. After the start every message is read.
    fn first_that_fits(&self) -> u64 {
        let info = self.info.as_ref().filter(|_| self.old_until.is_some());
        info.map_or(0, |info| {
            let fitting = info.messages_in(self.history_bytes);
            (info.head_number() + 1).saturating_sub(fitting)
        })
    }

    fn head(&self) -> Option<StoredId> {
        self.info.as_ref()?.head
    }

    /// Handles the leader's word about the servers of the stream, after the consumer was made on one of them.
    fn handle_placement(
        &mut self,
        info: StreamInfo,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        if self.is_other(&info) {
            return self.ask_info(now, out);
        }
        let ReaderStep::Place { mut consumer, .. } = std::mem::take(&mut self.step) else {
            return;
        };
        let is_well_placed = consumer.is_well_placed(&info);
        self.info = Some(info);
        let made = consumer.answer().cloned().unwrap_or_default();
        if !is_well_placed {
            consumer.leave(&self.nobody(), out);
            return self.pause(now + ANOTHER_PAUSE, out);
        }
        if let Start::Time(_) = self.start {
            let first = made.begins.max(self.first_that_fits());
            self.start = Start::Sequence(first);
            if first > made.begins {
                consumer.leave(&self.nobody(), out);
                return self.make_consumer(now, out);
            }
        }
        consumer.listen(None, out);
        let is_empty = made.waiting == 0;
        let expected = self.last.filter(|_| self.keeps());
        match expected.filter(|last| self.head() != Some(*last)) {
            // Not even the last message is there.
            Some(last) if is_empty => {
                self.step = ReaderStep::Prove(consumer, last);
                self.verify(Some(last), true, now, out);
            }
            Some(last) => self.step = ReaderStep::Prove(consumer, last),
            None => {
                self.step = read_step(consumer, now);
                self.begin_reading(is_empty, now, out, events);
            }
        }
    }

    /// Begins to read a consumer on the stream of the last look. `is_empty`: the consumer has nothing to deliver.
    fn begin_reading(
        &mut self,
        is_empty: bool,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        let head = self.head().unwrap_or(NO_MESSAGE);
        let read = self.read_until().unwrap_or(0);
        if is_empty && head.major > read {
            let is_gone = self
                .info
                .as_ref()
                .is_some_and(|info| info.first > head.major);
            if !is_gone {
                return self.verify(None, true, now, out);
            }
            self.nothing_left(events);
        } else if is_empty && self.last.or(self.empty_at).is_none() {
            // Older than what is read.
            self.nothing_left(events);
        }
        self.caught_up_if(|until, read| read >= until, events);
        if is_empty {
            self.is_behind(0, now, events);
        }
    }

    /// Says that the reader has caught up, if nothing of the start is left to read.
    fn caught_up_if(&mut self, is_read: impl Fn(u64, u64) -> bool, events: &mut Vec<KeptEvent>) {
        let read = self.read_until().unwrap_or(0);
        self.old_until = self.old_until.filter(|until| !is_read(*until, read));
        if self.old_until.is_none() && !std::mem::replace(&mut self.is_caught_up, true) {
            events.push(KeptEvent::CaughtUp);
        }
    }

    /// Handles an answer about the stream while messages come.
    fn handle_check(
        &mut self,
        info: Result<StreamInfo, ApiError>,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        let ReaderStep::Read { consumer, check } = &mut self.step else {
            return;
        };
        let Check::Asked {
            behind_at,
            read: read_before,
            ..
        } = *check
        else {
            return;
        };
        self.standstills.note_info(&self.stream, info.as_ref(), now);
        // An answer shows that the stream has a leader.
        if info.as_ref().err().is_none_or(ApiError::is_an_answer) {
            *check = Check::Due {
                at: now + CHECK_INTERVAL,
                behind_at: None,
            };
        }
        let Ok(info) = info else { return };
        let sequence = consumer.sequence();
        let is_well_placed = consumer.is_well_placed(&info);
        let known = self.info.as_ref();
        // The newest messages may have come before the answer.
        if known.is_some_and(|known| known.created_ns != info.created_ns)
            || info.head_number() < read_before
        {
            return self.ask_info(now, out);
        }
        let (head, first) = (info.head_number(), info.first);
        self.report_subjects(&info, events);
        self.info = Some(info);
        let read = self.read_until().unwrap_or(0);
        if head > read {
            match behind_at {
                Some(_) if !is_well_placed => return self.pause(now + ANOTHER_PAUSE, out),
                // No delivery between two answers: the consumer stands still, or there is nothing to deliver.
                Some(before) if before == sequence => {
                    self.is_behind(0, now, events);
                    return self.verify(None, first > read + 1, now, out);
                }
                _ => {}
            }
            if let ReaderStep::Read { check, .. } = &mut self.step {
                *check = Check::Due {
                    at: now + CHECK_AGAIN,
                    behind_at: Some(sequence),
                };
            }
        }
        self.ask_account(now, out);
        self.is_behind(0, now, events);
    }

    /// Handles the leader's answer to the question for the first message from a number on: the message, or that there
    /// is none; `None`: no answer that says so.
    pub(super) fn handle_found(
        &mut self,
        found: Option<Option<StoredId>>,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        let ReaderStep::Verify {
            from,
            expected,
            is_gone,
            ..
        } = self.step
        else {
            return;
        };
        let overwrites = self.info.as_ref().is_some_and(|info| info.overwrites);
        let is_there = |id: StoredId| match expected {
            Some(expected) => id == expected || overwrites && id.major > expected.major,
            None => match self.old_until {
                // Holes among the messages from before the start are no loss.
                Some(until) => id.major <= until,
                None => id.major == from || overwrites,
            },
        };
        match found {
            Some(Some(id)) if is_there(id) => return self.pause(now + ANOTHER_PAUSE, out),
            None if !is_gone => return self.pause(now + ANOTHER_PAUSE, out),
            // Not even the last message is the same, so the numbers mean nothing.
            _ if expected.is_some() => {
                self.lost(events);
                self.start = Start::Time(self.since_ns.unwrap_or(0));
            }
            Some(Some(id)) => match self.old_until.take() {
                Some(_) if self.last.is_some() => {}
                is_start => {
                    if is_start.is_none() {
                        self.lost(events);
                    }
                    self.start = Start::Sequence(id.major);
                }
            },
            Some(None) | None => self.nothing_left(events),
        }
        self.ask_info(now, out);
    }

    /// Handles a stream in which there is nothing to read up to its newest message. Messages that came and went since
    /// this process has started are a loss.
    fn nothing_left(&mut self, events: &mut Vec<KeptEvent>) {
        let head = self.head().unwrap_or(NO_MESSAGE);
        let is_start = self.old_until.take().is_some();
        // Also before the first message was handed over: a reader that has caught up stands at a number.
        if !is_start && self.read_until().is_some_and(|read| head.major > read) {
            self.lost(events);
        }
        self.empty_at = Some(head);
        if self.last.is_none() {
            self.start = Start::Sequence(head.major + 1);
            events.extend(self.head().map(KeptEvent::Head));
        }
    }

    fn delivered(
        &mut self,
        mut delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) -> Result<(), NatsError> {
        let (consumer, expected) = match &mut self.step {
            ReaderStep::Prove(consumer, expected) => (consumer, Some(*expected)),
            ReaderStep::Read { consumer, .. } => (consumer, None),
            _ => return Ok(()),
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let (Some(ack), Some(reply)) = (ack, delivery.reply.take()) else {
            return Err(self.trouble("a message without a number"));
        };
        if !consumer.count_delivery(ack.consumer_sequence) {
            self.pause(now + ANOTHER_PAUSE, out);
            return Ok(());
        }
        if self.limits.acks != AckPolicy::None {
            self.acks.owe(reply, self.limits.pending_max, now, out);
        }
        let id = StoredId {
            major: ack.stream_sequence,
            minor: ack.stored_unix_ns,
        };
        if let Some(expected) = expected {
            // The server of the consumer lacked the messages before.
            if id.major < expected.major {
                return Ok(());
            }
            let overwrites = self.info.as_ref().is_some_and(|info| info.overwrites);
            if id != expected && !(overwrites && id.major > expected.major) {
                self.verify(Some(expected), true, now, out);
                return Ok(());
            }
            if let ReaderStep::Prove(consumer, _) = std::mem::take(&mut self.step) {
                self.step = read_step(consumer, now);
            }
            self.caught_up_if(|until, read| read >= until, events);
        }
        match self.is_news(id) {
            true => self.message(id, ack.pending, delivery, now, events),
            false => self.caught_up_if(|until, read| read >= until, events),
        }
        // The rest of the messages from before the start may be gone.
        if ack.pending == 0 && self.old_until.is_some() {
            self.verify(None, true, now, out);
        }
        Ok(())
    }

    /// Whether a message is to be handed over: not delivered again because its acknowledgement was late, and not older
    /// than what is read, as from a server that catches up.
    fn is_news(&mut self, id: StoredId) -> bool {
        if let Some(last) = self.last {
            return id.major > last.major;
        }
        let is_old = self.read_until().is_some_and(|read| id.major <= read);
        let is_early = self.since_ns.is_some_and(|since_ns| id.minor < since_ns);
        if is_early && !is_old {
            self.start = Start::Sequence(id.major + 1);
        }
        !is_old && !is_early
    }

    fn message(
        &mut self,
        id: StoredId,
        pending: u64,
        delivery: Delivery,
        now: Instant,
        events: &mut Vec<KeptEvent>,
    ) {
        // A hole: messages were deleted before they were read. At the start, those before the first message are no loss.
        let before = match self.last {
            Some(last) => Some(last.major),
            None => self.read_until().filter(|_| self.old_until.is_none()),
        };
        self.empty_at = None;
        let is_next = before.is_none_or(|before| id.major == before + 1);
        if !is_next {
            // The first hole of a backlog is reported as a loss. The later holes were there by then, so they are no
            // further losses. Where newer messages replace older ones, nothing is lost.
            let info = self.info.as_ref();
            if id.major <= self.reported_until || info.is_some_and(|info| info.overwrites) {
                events.push(KeptEvent::Hole);
            } else {
                events.push(KeptEvent::Lost);
                let stored = info.map_or(0, StreamInfo::head_number);
                self.reported_until = stored.max(id.major.saturating_add(pending));
            }
        }
        self.last = Some(id);
        let is_old = self.old_until.is_some_and(|until| id.major <= until);
        self.caught_up_if(|until, read| read > until, events);
        events.push(match String::from_utf8(delivery.subject) {
            Ok(subject) => KeptEvent::Message {
                id,
                subject,
                payload: delivery.payload,
                is_deletion: delivery.is_deletion,
                is_old,
            },
            Err(_) => KeptEvent::Bad(NAME_NOT_UTF8),
        });
        self.caught_up_if(|until, read| read >= until, events);
        self.is_behind(pending, now, events);
    }

    /// Says how far the reader is behind, if that is news. `pending`: so many messages are on the server of the
    /// consumer.
    fn is_behind(&mut self, pending: u64, now: Instant, events: &mut Vec<KeptEvent>) {
        let read = self.read_until().unwrap_or(0);
        let head = self.head();
        let newest = head.map_or(0, |head| head.major);
        let messages = pending.max(newest.saturating_sub(read));
        let ahead = self.ahead.filter(|(number, _)| *number > read);
        let newest = (read.saturating_add(messages), now);
        self.ahead = (messages > 0).then_some(ahead.unwrap_or(newest));
        if messages == 0 && self.behind.replace(0) == Some(0) {
            return;
        }
        self.behind = Some(messages);
        let ms = self.ahead.map_or(0, |(_, since)| {
            let stored_ns = head.zip(self.last);
            let stored_ns =
                stored_ns.map_or(0, |(head, last)| head.minor.saturating_sub(last.minor));
            let seen = now.saturating_duration_since(since);
            (stored_ns / MS_NS).max(u64::try_from(seen.as_millis()).unwrap_or(u64::MAX))
        });
        let messages = Some(messages);
        events.push(KeptEvent::Lag { messages, ms });
    }

    /// Reports a loss. The caller says where to go on.
    fn lost(&mut self, events: &mut Vec<KeptEvent>) {
        events.push(KeptEvent::Lost);
        self.reported_until = self.head().map_or(0, |head| head.major);
        self.old_until = None;
        // What comes next is newer.
        let read = self.last.take().max(self.empty_at.take());
        let since_ns = self.since_ns.unwrap_or(0);
        self.since_ns = Some(read.map_or(since_ns, |read| since_ns.max(read.minor + 1)));
    }

    fn trouble(&self, reason: &str) -> NatsError {
        NatsError::JetStream {
            action: format!("read the stream {}", self.stream),
            reason: reason.to_owned(),
            is_of_all: true,
        }
    }
}

/// The step in which a new consumer's messages are read.
fn read_step(consumer: Consumer, now: Instant) -> ReaderStep {
    ReaderStep::Read {
        consumer,
        check: Check::Due {
            at: now + CHECK_INTERVAL,
            behind_at: None,
        },
    }
}

#[cfg(test)]
mod tests;
