//! Reads a JetStream stream over all connections, through consumers: decides on the next request, and interprets the
//! answers. Pure. The id of a message has two parts, the sequence number and the time of storage; both are compared. If
//! the stream keeps acknowledged messages, the next consumer begins at the last message that was handed over, not after
//! it: the first delivery proves that the stream is still the same. Without this proof a loss could go unnoticed: a
//! consumer skips messages that are gone (the stream was purged, made anew or restored), and the stream's counters do
//! not show every such case.

mod consumer;

use std::time::{Duration, Instant};

use self::consumer::{Consumer, Limits, Retention, StreamInfo, created};
use super::MS_NS;
use crate::feeds::StoredId;
use crate::sources::NAME_NOT_UTF8;
use crate::sources::kept::Told;
use crate::sources::nats::api::ApiError;
use crate::sources::nats::error::NatsError;
use crate::sources::nats::protocol::{self, AckSubject, Delivery, inbox};

/// How long JetStream may take to answer: longer than most elections of a stream's leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of a consumer's heartbeats while the consumer has no message.
const HEARTBEAT_MS: u64 = 500;
/// The silence after which a consumer is given up: its server may be gone.
const SILENCE_MAX: Duration = Duration::from_millis(3 * HEARTBEAT_MS);
/// The wait before the next look when a consumer has missed a delivery: each look makes another consumer.
const MISSED_PAUSE: Duration = Duration::from_millis(HEARTBEAT_MS);
/// The wait before the next look at a stream that cannot be read.
const UNUSABLE_PAUSE: Duration = Duration::from_secs(1);
/// The number of the subscription for answers; the subscriptions of consumers have the next numbers.
const ANSWERS_SID: u64 = 1;
/// The head of a stream without any message so far: the first message has the number 1.
const NO_MESSAGE: StoredId = StoredId { major: 0, minor: 0 };

/// The place of this process in a stream.
#[derive(Debug, Default)]
pub(super) struct StreamReader {
    stream: String,
    history_ns: u64,
    /// The beginning of the subjects for answers and deliveries, which nobody else can guess.
    inbox: String,
    /// The number of the newest subscription, and the newest request.
    last_sid: u64,
    last_request: u64,
    /// The time from which messages are read, as long as no message was read; Unix nanoseconds. `None` before the first
    /// look.
    since_ns: Option<u64>,
    /// The newest message that was handed over.
    last: Option<StoredId>,
    /// The newest message of the stream in the last look.
    head: Option<StoredId>,
    /// The newest message of the stream when there was nothing to read, or [`NO_MESSAGE`]. `None` again once a message
    /// is read.
    empty_at: Option<StoredId>,
    /// When the stream was made, as of the last look.
    created_ns: Option<u64>,
    /// The last sequence number from before the start of this process, until the message is read.
    old_until: Option<u64>,
    /// Messages up to this number were stored before the newest loss that was reported to clients.
    told_until: u64,
    /// The number of messages in the last [`Told::Behind`].
    behind: Option<u64>,
    /// The limits that the server permits a consumer.
    limits: Limits,
    /// The name of the last consumer, until its deletion was asked for.
    made: Option<String>,
    /// Whether the stream keeps messages after weirgate has acknowledged them.
    pub(super) keeps: bool,
    /// When the last request left.
    asked: Option<Instant>,
    /// Whether [`Told::CaughtUp`] was said on this connection.
    pub(super) is_caught_up: bool,
    step: Step,
}

#[derive(Debug, Default)]
enum Step {
    /// Not connected.
    #[default]
    Away,
    /// A delivery is missing, or the stream cannot be read: waits before the next look.
    Pause { until: Instant },
    /// Asked for the state of the stream, and will ask again: servers that elect a leader drop the question.
    Look { again: Instant },
    /// A consumer was asked for, and delivers if made.
    Read(Consumer),
}

impl StreamReader {
    /// A reader that begins with the messages of the last `history_ms` milliseconds.
    pub(super) fn new(stream: &str, history_ms: u64) -> Self {
        Self {
            stream: stream.to_owned(),
            history_ns: history_ms.saturating_mul(MS_NS),
            inbox: inbox(),
            last_sid: ANSWERS_SID,
            keeps: true,
            ..Self::default()
        }
    }

    /// The name of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Whether a consumer may be left on the server.
    pub(super) fn owes(&self) -> bool {
        self.made.is_some()
    }

    /// Handles a new connection.
    pub(super) fn connected(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.is_caught_up = false;
        self.step = Step::Away;
        protocol::subscribe(out, &format!("{}.answer.*", self.inbox), None, ANSWERS_SID);
        self.look(now, out);
    }

    /// The time of the next [`Self::tick`]. `heard` is when the last bytes of a message arrived, whole or not: over a
    /// slow link an answer can come after a large message.
    pub(super) fn due(&self, heard: Instant) -> Option<Instant> {
        let since = self.asked.map_or(heard, |asked| asked.max(heard));
        match &self.step {
            Step::Away => None,
            Step::Pause { until } => Some(*until),
            Step::Look { .. } => Some(since + ANSWER_TIMEOUT),
            Step::Read(consumer) if !consumer.is_made => Some(since + ANSWER_TIMEOUT),
            Step::Read(_) => Some(since + SILENCE_MAX),
        }
    }

    /// Handles the PONG after a question.
    pub(super) fn ponged(&mut self) {
        if let Step::Read(consumer) = &mut self.step {
            consumer.is_asked();
        }
    }

    /// Does what is due. `heard` as in [`Self::due`].
    ///
    /// # Errors
    /// JetStream has not answered.
    pub(super) fn tick(
        &mut self,
        (now, heard): (Instant, Instant),
        out: &mut Vec<u8>,
    ) -> Result<(), NatsError> {
        if let Step::Read(consumer) = &mut self.step
            && consumer.ack_due.is_some_and(|due| now >= due)
        {
            consumer.acknowledge(out);
        }
        let is_due = self.due(heard).is_some_and(|due| now >= due);
        match &self.step {
            Step::Pause { .. } | Step::Read(Consumer { is_made: true, .. }) if is_due => {
                self.look(now, out);
                Ok(())
            }
            _ if is_due => Err(self.trouble("no answer")),
            _ => Ok(()),
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
        told: &mut Vec<Told>,
    ) -> Result<(), NatsError> {
        if delivery.sid == ANSWERS_SID {
            return match delivery.request() == Some(self.last_request) {
                true => self.answered(&delivery, (now, unix_ns), out, told),
                false => Ok(()),
            };
        }
        let Step::Read(consumer) = &mut self.step else {
            return Ok(());
        };
        if delivery.sid != consumer.sid {
            return Ok(());
        }
        match delivery.status {
            None => self.delivered(delivery, now, out, told),
            Some(100) => {
                // Flow control: the server sends no more until it knows that all sent bytes have arrived.
                if let Some(subject) = delivery.reply.or(delivery.stalled) {
                    protocol::publish(out, &subject, "", b"");
                    return Ok(());
                }
                if consumer.misses(delivery.last_consumer, self.old_until.is_some()) {
                    self.pause(now + MISSED_PAUSE, out);
                } else if consumer.is_cut_off() {
                    return Err(self.trouble("no answer"));
                }
                Ok(())
            }
            Some(status) => Err(self.trouble(&format!("status {status} of the consumer"))),
        }
    }

    fn answered(
        &mut self,
        delivery: &Delivery,
        (now, unix_ns): (Instant, u64),
        out: &mut Vec<u8>,
        told: &mut Vec<Told>,
    ) -> Result<(), NatsError> {
        if delivery.status.is_some() {
            return Err(self.trouble("nobody answers"));
        }
        match &mut self.step {
            Step::Away | Step::Pause { .. } => Ok(()),
            Step::Look { .. } => {
                let info = match StreamInfo::read(&delivery.payload) {
                    Err(error) if error.stream_is_missing() => {
                        self.pause(now + UNUSABLE_PAUSE, out);
                        return Err(NatsError::NoSuchStream(self.stream.clone()));
                    }
                    info => info.map_err(|error| self.trouble(&error.to_string()))?,
                };
                if info.retention == Retention::WorkQueue {
                    self.pause(now + UNUSABLE_PAUSE, out);
                    return Err(NatsError::WorkQueue(self.stream.clone()));
                }
                self.looked(info, unix_ns, told);
                self.make_consumer(self.last.filter(|_| self.keeps), now, out);
                Ok(())
            }
            Step::Read(consumer) if consumer.unanswered.is_some() => {
                let info = StreamInfo::read(&delivery.payload);
                // An answer shows that the stream has a leader.
                if info.as_ref().err().is_none_or(ApiError::is_an_answer) {
                    consumer.unanswered = None;
                }
                if let Ok(StreamInfo { head, .. }) = info {
                    let [newest, read] =
                        [head, self.last.or(self.empty_at)].map(|id| id.map_or(0, |id| id.major));
                    self.head = head;
                    self.is_behind(newest.saturating_sub(read), told);
                }
                Ok(())
            }
            Step::Read(consumer) if consumer.waiting.is_some() => {
                let info = StreamInfo::read(&delivery.payload).ok();
                let created_ns = info.map(|info| info.created_ns);
                match created_ns == self.created_ns {
                    true => self.made(now, out, told),
                    false => self.look(now, out),
                }
                Ok(())
            }
            Step::Read(consumer) => match created(&delivery.payload) {
                Ok((name, messages)) => {
                    (consumer.waiting, self.made) = (Some(messages), name);
                    match consumer.expects {
                        Some(_) => self.made(now, out, told),
                        None => self.ask_stream(now, out),
                    }
                    Ok(())
                }
                Err(error) if self.limits.shrink(&error) => {
                    let expects = consumer.expects;
                    self.leave_consumer(out);
                    self.make_consumer(expects, now, out);
                    Ok(())
                }
                Err(error) => Err(self.trouble(&error.to_string())),
            },
        }
    }

    /// Handles the state of the stream.
    fn looked(&mut self, info: StreamInfo, unix_ns: u64, told: &mut Vec<Told>) {
        // The numbers may be those of other messages by now.
        (self.head, self.told_until) = (info.head, 0);
        self.keeps = info.retention == Retention::Limits;
        if self.since_ns.is_none() {
            // The server's clock may be behind.
            let newest_ns = info.head.map_or(unix_ns, |head| head.minor.min(unix_ns));
            self.since_ns = Some(newest_ns.saturating_sub(self.history_ns));
            self.old_until = info.head.map(|head| head.major);
            self.empty_at = info.head.is_none().then_some(NO_MESSAGE);
        }
        let head = info.head.map_or(0, |head| head.major);
        let is_behind = |known: Option<StoredId>| known.is_some_and(|known| head < known.major);
        let created_ns = self.created_ns.replace(info.created_ns);
        let is_made_anew = created_ns.is_some_and(|created_ns| created_ns != info.created_ns);
        let is_other = is_made_anew && self.last.or(self.empty_at).is_some();
        if is_behind(self.last) || is_behind(self.empty_at) || is_other {
            self.lost(told);
        }
    }

    /// Handles the proof that the consumer exists, on the stream of the last look.
    fn made(&mut self, now: Instant, out: &mut Vec<u8>, told: &mut Vec<Told>) {
        let Step::Read(consumer) = &mut self.step else {
            return;
        };
        consumer.is_made = true;
        let waits = consumer.expects.is_some();
        let is_empty = consumer.waiting == Some(0);
        self.listen(out);
        if is_empty {
            if waits && self.head == self.last {
                // Nothing is newer, so nothing is missing, even if this message was trimmed.
                self.leave_consumer(out);
                return self.make_consumer(None, now, out);
            }
            if waits {
                // Not even the last message is there. The stream may be another by now.
                self.lost(told);
                return self.look(now, out);
            }
            self.old_until = None;
            match (self.last, self.head) {
                (None, _) => self.is_empty(told),
                // Messages that were delivered while nobody listened are gone.
                (Some(last), Some(head)) if !self.keeps && head.major > last.major => {
                    self.lost(told);
                    return self.look(now, out);
                }
                _ => {}
            }
        }
        if self.old_until.is_none() && !waits {
            self.report_caught_up(told);
        }
        if is_empty {
            self.is_behind(0, told);
        }
    }

    /// Handles a stream in which there is nothing to read.
    fn is_empty(&mut self, told: &mut Vec<Told>) {
        let head = self.head.unwrap_or(NO_MESSAGE);
        match self.empty_at.replace(head) {
            Some(before) if before == head => return,
            // Messages that were delivered in between are gone.
            Some(_) => told.push(Told::Lost),
            None => {}
        }
        told.extend(self.head.map(Told::Head));
    }

    fn delivered(
        &mut self,
        mut delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
        told: &mut Vec<Told>,
    ) -> Result<(), NatsError> {
        let Step::Read(consumer) = &mut self.step else {
            return Ok(());
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let (Some(ack), Some(reply)) = (ack, delivery.reply.take()) else {
            return Err(self.trouble("a message without a number"));
        };
        if ack.consumer_sequence != consumer.sequence + 1 {
            self.pause(now + MISSED_PAUSE, out);
            return Ok(());
        }
        consumer.sequence = ack.consumer_sequence;
        consumer.idle_beats = 0;
        consumer.owe(reply, self.limits.pending_max, now, out);
        let id = StoredId {
            major: ack.stream_sequence,
            minor: ack.stored_unix_ns,
        };
        if let Some(expected) = consumer.expects.take() {
            if id == expected {
                if ack.pending == 0 || self.old_until.is_none_or(|until| id.major >= until) {
                    self.old_until = None;
                    self.report_caught_up(told);
                }
            } else {
                self.lost(told);
                self.look(now, out);
            }
            return Ok(());
        }
        // A redelivery: its acknowledgement was late.
        if self.last.is_some_and(|last| id.major <= last.major) {
            return Ok(());
        }
        self.message(id, ack.pending, delivery, told);
        Ok(())
    }

    fn message(&mut self, id: StoredId, pending: u64, delivery: Delivery, told: &mut Vec<Told>) {
        // A hole: messages were deleted before they were read.
        let empty_at = self.empty_at.take();
        let before = self.last.or(empty_at);
        let is_next = before.is_none_or(|before| id.major == before.major + 1);
        if !is_next {
            // The first hole of a backlog is reported as a loss. The later holes were there by then, so they are no
            // further losses.
            if id.major <= self.told_until {
                told.push(Told::Hole);
            } else {
                told.push(Told::Lost);
                let stored = self.head.map_or(0, |head| head.major);
                self.told_until = stored.max(id.major.saturating_add(pending));
            }
        }
        self.last = Some(id);
        let is_old = self.old_until.is_some_and(|until| id.major <= until);
        if !is_old {
            self.old_until = None;
            self.report_caught_up(told);
        }
        told.push(match String::from_utf8(delivery.subject) {
            Ok(subject) => Told::Message {
                id,
                subject,
                payload: delivery.payload,
                is_deletion: delivery.is_deletion,
                is_old,
            },
            Err(_) => Told::Bad(NAME_NOT_UTF8),
        });
        if pending == 0 || self.old_until == Some(id.major) {
            self.old_until = None;
            self.report_caught_up(told);
        }
        self.is_behind(pending, told);
    }

    /// Says how many messages were not read, if that is news. The newest one is known as of the last look.
    fn is_behind(&mut self, messages: u64, told: &mut Vec<Told>) {
        if messages == 0 && self.behind == Some(0) {
            return;
        }
        self.behind = Some(messages);
        let [newest_ns, read_ns] =
            [self.head, self.last].map(|id| id.map_or(u64::MAX, |id| id.minor));
        let ms = match messages {
            0 => 0,
            _ => newest_ns.saturating_sub(read_ns) / MS_NS,
        };
        let messages = Some(messages);
        told.push(Told::Behind { messages, ms });
    }

    /// Goes on with the messages stored after the last one, whatever their numbers.
    fn lost(&mut self, told: &mut Vec<Told>) {
        told.push(Told::Lost);
        self.told_until = self.head.map_or(0, |head| head.major);
        self.old_until = None;
        self.empty_at = None;
        if let Some(last) = self.last.take() {
            self.since_ns = Some(last.minor.saturating_add(1));
        }
    }

    fn report_caught_up(&mut self, told: &mut Vec<Told>) {
        if !self.is_caught_up {
            self.is_caught_up = true;
            told.push(Told::CaughtUp);
        }
    }

    fn trouble(&self, reason: &str) -> NatsError {
        NatsError::JetStream {
            action: format!("read the stream {}", self.stream),
            reason: reason.to_owned(),
            is_of_all: true,
        }
    }
}

#[cfg(test)]
mod tests;
