//! Reads a JetStream stream over all connections, through consumers: decides on the next request, and interprets the
//! answers. Pure. The id of a message has two parts, the sequence number and the time of storage; both are compared. If
//! the stream keeps acknowledged messages, the next consumer begins at the last message that was handed over, not after
//! it: the first delivery proves that the stream is still the same. (If newer messages replace older ones, it begins at
//! the time of the last message, and a newer message with a higher number is a proof, too.) Without this proof a loss
//! could go unnoticed: a consumer skips messages that are gone (the stream was purged, made anew or restored), and the
//! stream's counters do not show every such case.
//!
//! A consumer only carries messages. Its server may catch up after a restart, so the consumer's word that a message is
//! gone, or that nothing is newer, is not enough: the leader of the stream is asked for the message
//! ([`ReaderStep::Verify`]), and a consumer whose server lacks what the leader has is replaced after a pause. For a
//! user that may not ask for a message, what the leader says of the stream as a whole has to do.
//!
//! `requests` has the requests of each step, `progress` judges what was read and what is lost, and `trims` what a mirror has
//! removed.

mod acks;
mod limits;
mod progress;
mod requests;
mod trims;

use std::time::{Duration, Instant};

use self::acks::CumulativeAcks;
use self::limits::ReaderLimits;
pub(super) use self::progress::LeaderAnswer;
use self::progress::{Doubted, IfUnknown, Progress};
use crate::kept::KeptEvent;
use crate::nats::api::{ApiError, answer_with_message};
use crate::nats::connection::Arrivals;
use crate::nats::consumer::{AckPolicy, Beat, Consumer, HEARTBEAT_MS, Start};
use crate::nats::consumer_limits::ConsumerLimits;
use crate::nats::error::{JETSTREAM_ADVICE, NatsError};
use crate::nats::protocol::{self, AckSubject, Delivery, PayloadLimits, inbox};
use crate::nats::standstill::Standstills;
use crate::nats::stream_info::{Retention, StreamInfo, stored_message};
use weirgate_core::StoredId;

/// How long JetStream may take to answer: longer than most elections of a stream's leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The silence after which a consumer is given up: its server may be gone.
const SILENCE_MAX: Duration = Duration::from_millis(3 * HEARTBEAT_MS);
/// The wait before the next look when a consumer was of no use: each look makes another consumer.
/// A *look* asks for the state of the stream, and then for a consumer.
const ANOTHER_PAUSE: Duration = Duration::from_millis(HEARTBEAT_MS);
/// The wait before the next look at a stream that cannot be read.
const UNUSABLE_PAUSE: Duration = Duration::from_secs(1);
/// After this number of heartbeats without a delivery, a message that the reader waits for may be gone.
const IDLE_BEATS_MAX: u32 = 3;
/// How often the reader asks about the stream while it reads, and how soon again after an answer by which it is behind.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_AGAIN: Duration = Duration::from_millis(500);
/// How soon the reader asks about the stream if messages may have been removed before they were read.
const DOUBT_PAUSE: Duration = Duration::from_millis(20);
/// The number of heartbeats in five seconds, the time for an answer.
const UNANSWERED_BEATS_MAX: u32 = 10;
/// The number of the subscription for answers; the subscriptions of consumers have the next numbers.
const ANSWERS_SID: u64 = 1;

/// The conversation with JetStream about a stream.
#[derive(Debug)]
pub(in super::super) struct JetStreamReader {
    stream: String,
    /// The beginning of the subjects for answers and deliveries, which nobody else can guess.
    inbox: String,
    /// The number of the newest subscription.
    last_sid: u64,
    /// The number of the newest request.
    last_request: u64,
    /// The limits that the server permits a consumer.
    limits: ReaderLimits,
    acks: CumulativeAcks,
    /// When the last request was sent.
    asked: Option<Instant>,
    /// When the consumer began to deliver, or its newest message or heartbeat came. Answers do not count: they come
    /// without the consumer, too.
    heard: Option<Instant>,
    /// The number of the last question about the account.
    account_request: Option<u64>,
    pub(in super::super) standstills: Standstills,
    progress: Progress,
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
    /// The leader is asked for a message. Asks again as in `Info`.
    Verify { doubted: Doubted, again: Instant },
}

/// The questions about the stream while messages come. On a server that is cut off from its cluster, a consumer still
/// sends heartbeats, but gets no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The next question is due then.
    Due {
        at: Instant,
        /// The number of the consumer's last delivery when the stream was found to have newer messages; `None`: it had
        /// none.
        behind_at: Option<u64>,
    },
    /// Not answered yet.
    Asked {
        /// As of [`Self::Due`].
        behind_at: Option<u64>,
        /// The newest message that was read when the question left.
        read: u64,
        /// Heartbeats since the server has taken the question.
        beats: u32,
    },
}

impl JetStreamReader {
    /// The largest limits of its consumers.
    pub(in super::super) const LIMITS: ConsumerLimits = limits::LIMITS;

    /// A reader that begins with the messages of the last `history_ms` milliseconds, but with no more than fit in
    /// `history_bytes` of memory.
    pub(super) fn new(stream: &str, history_ms: u64, history_bytes: usize) -> Self {
        Self {
            stream: stream.to_owned(),
            inbox: inbox(),
            last_sid: ANSWERS_SID,
            last_request: 0,
            limits: ReaderLimits::default(),
            acks: CumulativeAcks::default(),
            asked: None,
            heard: None,
            account_request: None,
            standstills: Standstills::default(),
            progress: Progress::new(history_ms, history_bytes),
            step: ReaderStep::Away,
        }
    }

    /// How much of a payload is read on the connection: a message within the limit is also whole in the answer to the
    /// question for it.
    pub(super) const fn payload_limits(payload_bytes_max: usize) -> PayloadLimits {
        PayloadLimits::with_answers(payload_bytes_max, ANSWERS_SID)
    }

    /// The name of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Whether the stream keeps messages after weirgate has acknowledged them.
    pub(super) fn keeps(&self) -> bool {
        self.progress.keeps()
    }

    /// When the stream was made, as far as is known; Unix nanoseconds.
    pub(super) fn made_ns(&self) -> Option<u64> {
        self.progress.made_ns()
    }

    /// Whether the reader has caught up on this connection.
    pub(super) const fn is_caught_up(&self) -> bool {
        self.progress.is_caught_up()
    }

    /// Whether the server has a consumer that [`Self::stop`] would have to delete.
    pub(super) fn owes(&self) -> bool {
        self.consumer().is_some_and(|one| one.answer().is_some())
    }

    /// Handles a new connection.
    pub(super) fn connected(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.progress.connected();
        self.standstills.forget();
        protocol::subscribe(out, &format!("{}.answer.*", self.inbox), None, ANSWERS_SID);
        // The consumer of the connection before.
        if let Some(consumer) = self.take_consumer() {
            self.limits.note_end();
            consumer.delete(&self.unread_reply(), out);
        }
        self.ask_info(now, out);
    }

    /// The time of the next [`Self::tick`]. `arrivals` put the time off, because over a slow link an answer or a
    /// heartbeat can come after a large message.
    pub(super) fn due(&self, arrivals: Arrivals) -> Option<Instant> {
        let last = |own: Option<Instant>, at: Instant| own.map_or(at, |own| own.max(at));
        match &self.step {
            ReaderStep::Away => None,
            ReaderStep::Pause { until } => Some(*until),
            ReaderStep::Prove(..) | ReaderStep::Read { .. } => {
                Some(last(self.heard, arrivals.partial_at) + SILENCE_MAX)
            }
            _ => Some(last(self.asked, arrivals.any_at) + ANSWER_TIMEOUT),
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

    /// Does what is due. `arrivals` as in [`Self::due`].
    ///
    /// # Errors
    /// JetStream has not answered.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        arrivals: Arrivals,
        out: &mut Vec<u8>,
    ) -> Result<(), NatsError> {
        self.acks.send_due(now, out);
        let is_due = self.due(arrivals).is_some_and(|due| now >= due);
        match &self.step {
            _ if !is_due => Ok(()),
            ReaderStep::Pause { .. } | ReaderStep::Prove(..) | ReaderStep::Read { .. } => {
                self.ask_info(now, out);
                Ok(())
            }
            _ => Err(self.trouble("no answer")),
        }
    }

    /// Takes a message of a subscription of this reader. `unix_ns` is the same time as `now`.
    ///
    /// # Errors
    /// JetStream refuses, or the consumer is gone: this connection is of no use.
    pub(super) fn take(
        &mut self,
        delivery: Delivery,
        now: Instant,
        unix_ns: u64,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) -> Result<(), NatsError> {
        if delivery.sid == ANSWERS_SID {
            return match delivery.request() {
                request if request.is_some() && request == self.account_request => {
                    self.standstills.note_account(&delivery.payload);
                    Ok(())
                }
                Some(last) if last == self.last_request => {
                    self.handle_answer(&delivery, now, unix_ns, out, events)
                }
                // A late answer to an earlier request.
                _ => Ok(()),
            };
        }
        if self.consumer().is_none_or(|one| one.sid != delivery.sid) {
            return Ok(());
        }
        self.heard = Some(now);
        match delivery.status {
            None => {
                let is_too_large = self.limits.note_message(delivery.size(), now);
                self.delivered(delivery, now, out, events)?;
                if is_too_large {
                    self.make_again(now, out);
                }
                Ok(())
            }
            // A heartbeat, or flow control.
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
            self.progress.flow_is_controlled();
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
        // While messages come, such a heartbeat says that the consumer has delivered all that there is.
        if let (Beat::Idle(_), None) = (beat, expected) {
            self.progress.nothing_is_unread(now);
        }
        match beat {
            Beat::Missing => self.pause(now + ANOTHER_PAUSE, out),
            Beat::Idle(beats) if beats < IDLE_BEATS_MAX => {}
            // The message that is awaited may be gone: the proof, or the next one from before the start.
            Beat::Idle(_) if expected.is_some() || self.progress.is_at_start() => {
                self.verify(expected, IfUnknown::Gone, now, out);
            }
            Beat::Idle(_) => {}
        }
        Ok(())
    }

    /// Handles the answer to the newest request; what it answers follows from the step.
    fn handle_answer(
        &mut self,
        delivery: &Delivery,
        now: Instant,
        unix_ns: u64,
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
                self.progress.begin(info, now, unix_ns, events);
                self.make_consumer(now, out);
            }
            ReaderStep::Create(consumer) => match consumer.made(answer) {
                Ok(()) => self.ask_placement(now, out),
                Err(error) if self.limits.shrink(&error) => self.make_consumer(now, out),
                Err(error) => return Err(self.refused(&error)),
            },
            ReaderStep::Place { .. } => {
                let info = self.stream_info(answer, now, out)?;
                self.handle_placement(info, now, out, events);
            }
            ReaderStep::Read { .. } => {
                self.handle_check(StreamInfo::read(answer), now, out, events)?;
                if self.limits.may_widen(now) {
                    self.make_again(now, out);
                }
            }
            ReaderStep::Verify { .. } => match stored_message(&answer_with_message(delivery)) {
                Err(error) if error.stream_is_missing() => return Err(self.no_stream(now, out)),
                Err(_) => self.handle_leader_answer(LeaderAnswer::Unknown, now, out, events),
                Ok(None) => self.handle_leader_answer(LeaderAnswer::Nothing, now, out, events),
                Ok(Some(id)) => {
                    self.handle_leader_answer(LeaderAnswer::Message(id), now, out, events)
                }
            },
        }
        Ok(())
    }

    /// Reads an answer about the stream, and notes for [`Standstills`] what it says.
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
            Err(error) if error.stream_is_missing() => Err(self.no_stream(now, out)),
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn no_stream(&mut self, now: Instant, out: &mut Vec<u8>) -> NatsError {
        self.unusable(NatsError::NoSuchStream(self.stream.clone()), now, out)
    }

    /// Leaves the step, and looks at the stream again after [`UNUSABLE_PAUSE`], because the stream cannot be read. Returns
    /// the error.
    fn unusable(&mut self, error: NatsError, now: Instant, out: &mut Vec<u8>) -> NatsError {
        self.standstills.forget();
        self.progress.cannot_read();
        self.pause(now + UNUSABLE_PAUSE, out);
        error
    }

    /// Handles the leader's word about the servers of the stream, after the consumer was made on one of them.
    fn handle_placement(
        &mut self,
        info: StreamInfo,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        if self.progress.is_other(&info) {
            return self.ask_info(now, out);
        }
        let ReaderStep::Place { mut consumer, .. } = std::mem::take(&mut self.step) else {
            return;
        };
        let is_well_placed = consumer.is_well_placed(&info);
        // `u64::MAX`: nothing was read since the question.
        self.progress.note_info(info, u64::MAX, events);
        let made = consumer.answer().cloned().unwrap_or_default();
        if !is_well_placed {
            consumer.leave(&self.unread_reply(), out);
            return self.pause(now + ANOTHER_PAUSE, out);
        }
        if self.progress.fix_start(made.begins) {
            consumer.leave(&self.unread_reply(), out);
            return self.make_consumer(now, out);
        }
        // `None`: the consumer has no group.
        consumer.listen(None, out);
        self.heard = Some(now);
        let has_nothing = made.waiting == 0;
        match self.progress.proof() {
            // Not even the last message is there.
            Some(last) if has_nothing => {
                self.step = ReaderStep::Prove(consumer, last);
                self.verify(Some(last), IfUnknown::Gone, now, out);
            }
            Some(last) => self.step = ReaderStep::Prove(consumer, last),
            None => {
                self.step = read_step(consumer, now);
                match has_nothing {
                    true => self.begin_without_messages(now, out, events),
                    false => self.progress.report_caught_up(events),
                }
            }
        }
    }

    /// Begins to read with a consumer that has nothing to deliver: the stream has nothing newer, or the leader is asked for
    /// the next message.
    fn begin_without_messages(
        &mut self,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        if !self.progress.begin_empty(events) {
            return self.verify(None, IfUnknown::Gone, now, out);
        }
        self.progress.report_caught_up(events);
        self.progress.report_lag(0, now, events);
    }

    /// Handles an answer about the stream while messages come. If the stream twice has newer messages than were read, and
    /// the consumer has delivered none between the two answers, the leader is asked for the next message.
    ///
    /// # Errors
    /// The stream is gone.
    fn handle_check(
        &mut self,
        info: Result<StreamInfo, ApiError>,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) -> Result<(), NatsError> {
        let ReaderStep::Read { consumer, check } = &mut self.step else {
            return Ok(());
        };
        let Check::Asked {
            behind_at,
            read: read_before,
            ..
        } = *check
        else {
            return Ok(());
        };
        if info.as_ref().is_err_and(ApiError::stream_is_missing) {
            return Err(self.no_stream(now, out));
        }
        self.standstills.note_info(&self.stream, info.as_ref(), now);
        // An answer shows that the stream has a leader.
        if info.as_ref().err().is_none_or(ApiError::is_an_answer) {
            *check = Check::Due {
                at: now + CHECK_INTERVAL,
                behind_at: None,
            };
        }
        let Ok(info) = info else { return Ok(()) };
        let sequence = consumer.sequence();
        let is_well_placed = consumer.is_well_placed(&info);
        // The newest messages may have come before the answer.
        if self.progress.is_other_than_read(&info, read_before) {
            self.ask_info(now, out);
            return Ok(());
        }
        let first = info.first;
        let has_unread = self.progress.has_unread(&info, sequence);
        self.progress.note_info(info, read_before, events);
        let read = self.progress.read_until().unwrap_or(0);
        if has_unread {
            match behind_at {
                Some(_) if !is_well_placed => {
                    self.pause(now + ANOTHER_PAUSE, out);
                    return Ok(());
                }
                // No delivery between two answers: the consumer stands still, or there is nothing to deliver.
                Some(before) if before == sequence => {
                    // 0: the answer does not say how many messages wait on the server of the consumer.
                    self.progress.report_lag(0, now, events);
                    // If the stream begins behind the next number, that message is gone.
                    let if_unknown = match first > read + 1 {
                        true => IfUnknown::Gone,
                        false => IfUnknown::There,
                    };
                    self.verify(None, if_unknown, now, out);
                    return Ok(());
                }
                _ => self.check_soon(sequence, now),
            }
        }
        self.check_if_in_doubt(now);
        self.ask_account(now, out);
        // As above.
        self.progress.report_lag(0, now, events);
        Ok(())
    }

    /// Asks about the stream again soon, because it has newer messages than the consumer had delivered up to `sequence`.
    fn check_soon(&mut self, sequence: u64, now: Instant) {
        if let ReaderStep::Read { check, .. } = &mut self.step {
            *check = Check::Due {
                at: now + CHECK_AGAIN,
                behind_at: Some(sequence),
            };
        }
    }

    /// Asks about the stream soon, if messages may have been removed before they were read.
    fn check_if_in_doubt(&mut self, now: Instant) {
        if let ReaderStep::Read {
            check: Check::Due { at, .. },
            ..
        } = &mut self.step
            && self.progress.is_in_doubt()
        {
            *at = (*at).min(now + DOUBT_PAUSE);
        }
    }

    /// Handles the leader's answer about a message.
    pub(super) fn handle_leader_answer(
        &mut self,
        found: LeaderAnswer,
        now: Instant,
        out: &mut Vec<u8>,
        events: &mut Vec<KeptEvent>,
    ) {
        let ReaderStep::Verify { doubted, .. } = self.step else {
            return;
        };
        match self.progress.take_leaders_answer(found, doubted, events) {
            // The message is there: another consumer may bring it.
            true => self.pause(now + ANOTHER_PAUSE, out),
            false => self.ask_info(now, out),
        }
    }

    /// Handles a message of the consumer.
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
        let may_stop = self.limits.acks != AckPolicy::None && {
            let message = (reply, ack.consumer_sequence);
            self.acks.owe(message, self.limits.pending_max, now, out)
        };
        let id = StoredId {
            major: ack.stream_sequence,
            minor: ack.stored_unix_ns,
        };
        if let Some(expected) = expected {
            // It was read before: the server of the consumer lacked the proof, so the consumer began at an earlier message.
            if self.progress.is_before(id, expected) {
                return Ok(());
            }
            if !self.progress.proves(id, expected) {
                self.verify(Some(expected), IfUnknown::Gone, now, out);
                if let ReaderStep::Verify { doubted, .. } = &mut self.step {
                    doubted.is_contradicted = true;
                }
                return Ok(());
            }
            if let ReaderStep::Prove(consumer, _) = std::mem::take(&mut self.step) {
                self.step = read_step(consumer, now);
            }
            self.progress.report_caught_up(events);
        }
        match self.progress.is_news(id) {
            true => {
                let pending = (ack.pending, may_stop);
                self.progress.hand_over(id, delivery, pending, now, events);
            }
            false => {
                self.progress.pass_over(id, events);
                self.progress.report_caught_up(events);
            }
        }
        self.check_if_in_doubt(now);
        // The rest of the messages from before the start may be gone.
        if ack.pending == 0 && self.progress.is_at_start() {
            self.verify(None, IfUnknown::Gone, now, out);
        }
        Ok(())
    }

    fn trouble(&self, reason: &str) -> NatsError {
        self.trouble_with_advice(reason, JETSTREAM_ADVICE)
    }

    fn refused(&self, error: &ApiError) -> NatsError {
        self.trouble_with_advice(&error.to_string(), error.advice())
    }

    fn trouble_with_advice(&self, reason: &str, advice: &'static str) -> NatsError {
        NatsError::JetStream {
            action: format!("read the stream {}", self.stream),
            reason: reason.to_owned(),
            advice,
            fails_all_requests: true,
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
