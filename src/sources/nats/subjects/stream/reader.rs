//! Reading a JetStream stream over all connections, through consumers that live as long as a look: the next
//! requests, and the sense of the answers. Pure: the session writes and reads.
//!
//! Both parts of an id are compared, the sequence number and the time of storage. A consumer that goes on begins
//! at the last message that was handed over, and not behind: the first delivery proves that the message is
//! still there and the same. Every way to read a stream skips what is gone and says nothing (purged, trimmed,
//! made anew, restored from a backup), and its counters each miss some of these ways.

mod answers;

use std::time::{Duration, Instant};

use self::answers::{StreamInfo, create, created, rfc_3339};
use super::super::super::error::NatsError;
use super::super::super::position::AckSubject;
use super::super::super::protocol::{self, Delivery};
use super::super::inbox;
use super::MS_NS;
use crate::feeds::StoredId;
use crate::sources::stored::Told;

/// The time for an answer of JetStream, longer than the choice of a stream's new leader in most cases.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of a consumer's heartbeats while the consumer has no message.
const HEARTBEAT_MS: u64 = 500;
/// The silence after which a consumer is given up: its server may be gone.
const SILENCE_MAX: Duration = Duration::from_millis(3 * HEARTBEAT_MS);
/// The wait before the next look when a consumer has missed a delivery: each look leaves a consumer behind, which
/// the server deletes later.
const MISSED_PAUSE: Duration = Duration::from_millis(HEARTBEAT_MS);
/// The heartbeats without a delivery in between after which a message that is waited for counts as deleted.
const IDLE_BEATS_MAX: u32 = 3;
/// Messages acknowledged together, and the longest wait for so many. A consumer stops at four times as many.
const ACKED_TOGETHER: u64 = 512;
const ACK_WAIT: Duration = Duration::from_millis(100);
/// The subscription for answers; a consumer has the next numbers.
const ANSWERS_SID: u64 = 1;
/// The head of a stream without any message so far: the first message has the number 1.
const NO_MESSAGE: StoredId = StoredId { major: 0, minor: 0 };

/// The place of this process in a stream.
#[derive(Debug)]
pub(super) struct StreamReader {
    stream: String,
    history_ns: u64,
    /// The beginning of the subjects for answers and deliveries, which nobody else can guess.
    inbox: String,
    /// The number of the newest subscription, and the newest request.
    last_sid: u64,
    last_request: u64,
    /// The time from which messages are read while none was, Unix nanoseconds. `None` before the first look.
    since_ns: Option<u64>,
    /// The newest message that was handed over.
    last: Option<StoredId>,
    /// The newest message of the stream in the last look.
    head: Option<StoredId>,
    /// The newest message when nothing was there to read, or [`NO_MESSAGE`], while no message was handed over
    /// since.
    empty_at: Option<StoredId>,
    /// When the stream was made, as of the last look.
    created_ns: Option<u64>,
    /// The last sequence number from before the start of this process, until the message is read.
    old_until: Option<u64>,
    /// Whether [`Told::Stands`] was said on this connection.
    stands: bool,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Not connected.
    Away,
    /// A delivery is missing.
    Pause { until: Instant },
    /// Asked for the state of the stream.
    Look { due: Instant },
    /// A consumer was asked for, and delivers if made.
    Read(Consumer),
}

#[derive(Debug)]
struct Consumer {
    sid: u64,
    /// The end of the wait for the answer that the consumer was made.
    due: Option<Instant>,
    /// The first delivery has to be this message, which was handed over before.
    expects: Option<StoredId>,
    /// The number of the last delivery.
    sequence: u64,
    heard: Instant,
    /// The number of heartbeats since the last delivery.
    idle_beats: u32,
    /// The newest message without an acknowledgement, the number of such messages, and the time of the
    /// acknowledgement.
    ack: Option<String>,
    unacked: u64,
    ack_due: Option<Instant>,
}

impl StreamReader {
    /// A reader that begins with the messages of the last `history_ms` milliseconds.
    pub(super) fn new(stream: &str, history_ms: u64) -> Self {
        Self {
            stream: stream.to_owned(),
            history_ns: history_ms.saturating_mul(MS_NS),
            inbox: inbox(),
            last_sid: ANSWERS_SID,
            last_request: 0,
            since_ns: None,
            last: None,
            head: None,
            empty_at: None,
            created_ns: None,
            old_until: None,
            stands: false,
            step: Step::Away,
        }
    }

    /// Handles a new connection.
    pub(super) fn connected(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.last_sid = ANSWERS_SID;
        self.stands = false;
        self.step = Step::Away;
        protocol::subscribe(out, &format!("{}.answer.*", self.inbox), None, ANSWERS_SID);
        self.look(now, out);
    }

    /// The time of the next [`Self::tick`].
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.step {
            Step::Away => None,
            Step::Pause { until: due } | Step::Look { due } => Some(*due),
            Step::Read(consumer) => {
                let silent = consumer.heard + SILENCE_MAX;
                let due = consumer.due.unwrap_or(silent);
                Some(consumer.ack_due.map_or(due, |ack| ack.min(due)))
            }
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// JetStream has not answered.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<u8>) -> Result<(), NatsError> {
        let consumer = match &mut self.step {
            Step::Read(consumer) => consumer,
            Step::Pause { until } if now >= *until => {
                self.look(now, out);
                return Ok(());
            }
            Step::Look { due } if now >= *due => return Err(self.trouble("no answer")),
            Step::Away | Step::Pause { .. } | Step::Look { .. } => return Ok(()),
        };
        if consumer.ack_due.is_some_and(|due| now >= due) {
            consumer.acknowledge(out);
        }
        match consumer.due {
            Some(due) if now >= due => return Err(self.trouble("no answer")),
            None if now >= consumer.heard + SILENCE_MAX => self.look(now, out),
            _ => {}
        }
        Ok(())
    }

    /// Takes a message of one of this reader's subscriptions. `unix_ns` is the time now.
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
            let number = delivery.subject.rsplit_once('.');
            let number = number.and_then(|(_, number)| number.parse().ok());
            return match number == Some(self.last_request) {
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
        consumer.heard = now;
        match delivery.status {
            None => self.delivered(delivery, now, out, told),
            Some(100) => {
                consumer.idle_beats += 1;
                let is_behind = |last| last > consumer.sequence;
                let waits = self.old_until.is_some() || consumer.expects.is_some();
                if delivery.last_consumer.is_some_and(is_behind)
                    || waits && consumer.idle_beats >= IDLE_BEATS_MAX
                {
                    self.missed(now, out);
                }
                Ok(())
            }
            Some(status) => Err(self.trouble(&format!("status {status} of the consumer"))),
        }
    }

    /// Handles a missing delivery.
    fn missed(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        let until = now + MISSED_PAUSE;
        self.step = Step::Pause { until };
    }

    /// Forgets the consumer. The server deletes a consumer without a listener.
    fn leave_consumer(&self, out: &mut Vec<u8>) {
        if let Step::Read(consumer) = &self.step {
            protocol::unsubscribe(out, consumer.sid);
        }
    }

    /// Asks for the state of the stream.
    fn look(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        let subject = format!("$JS.API.STREAM.INFO.{}", self.stream);
        self.request(&subject, b"", out);
        let due = now + ANSWER_TIMEOUT;
        self.step = Step::Look { due };
    }

    fn request(&mut self, subject: &str, body: &[u8], out: &mut Vec<u8>) {
        self.last_request += 1;
        let reply = format!("{}.answer.{}", self.inbox, self.last_request);
        protocol::publish(out, subject, &reply, body);
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
                let info = StreamInfo::read(&delivery.payload);
                let info = info.map_err(|error| self.trouble(&error.to_string()))?;
                self.looked(info, unix_ns, told);
                self.make_consumer(now, out);
                Ok(())
            }
            Step::Read(consumer) => {
                consumer.due = None;
                consumer.heard = now;
                let messages = created(&delivery.payload);
                let messages = messages.map_err(|error| self.trouble(&error.to_string()))?;
                self.made(messages, now, out, told);
                Ok(())
            }
        }
    }

    /// Handles the state of the stream.
    fn looked(&mut self, info: StreamInfo, unix_ns: u64, told: &mut Vec<Told>) {
        self.head = info.head;
        if self.since_ns.is_none() {
            // The server's clock may be behind.
            let newest_ns = info.head.map_or(unix_ns, |head| head.minor.min(unix_ns));
            self.since_ns = Some(newest_ns.saturating_sub(self.history_ns));
            self.old_until = info.head.map(|head| head.major);
            self.empty_at = info.head.is_none().then_some(NO_MESSAGE);
        }
        let head = info.head.map_or(0, |head| head.major);
        let is_behind = |known: Option<StoredId>| known.is_some_and(|known| head < known.major);
        // With a message that was handed over, the first delivery says more.
        let created_ns = self.created_ns.replace(info.created_ns);
        let is_made_anew = created_ns.is_some_and(|created_ns| created_ns != info.created_ns);
        let is_other = is_made_anew && self.empty_at.is_some();
        if is_behind(self.last) || is_behind(self.empty_at) || is_other {
            self.lost(told);
        }
    }

    /// Asks for a consumer that begins at the last message, or with the messages of a time.
    fn make_consumer(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.last_sid += 1;
        let sid = self.last_sid;
        let deliver = format!("{}.live.{sid}", self.inbox);
        // Under a wildcard a consumer sees no interest and sends nothing.
        protocol::subscribe(out, &deliver, None, sid);
        let body = create(
            &self.stream,
            &deliver,
            self.last,
            &rfc_3339(self.since_ns.unwrap_or(0)),
        );
        let subject = format!("$JS.API.CONSUMER.CREATE.{}", self.stream);
        self.request(&subject, body.as_bytes(), out);
        self.step = Step::Read(Consumer {
            sid,
            due: Some(now + ANSWER_TIMEOUT),
            expects: self.last,
            sequence: 0,
            heard: now,
            idle_beats: 0,
            ack: None,
            unacked: 0,
            ack_due: None,
        });
    }

    /// Handles the answer to the request for a consumer: so many messages are delivered at once.
    fn made(&mut self, messages: u64, now: Instant, out: &mut Vec<u8>, told: &mut Vec<Told>) {
        let waits = matches!(&self.step, Step::Read(consumer) if consumer.expects.is_some());
        if messages == 0 {
            if waits {
                // Not even the last message is there. The stream may be another by now.
                self.lost(told);
                return self.look(now, out);
            }
            self.old_until = None;
            if self.last.is_none() {
                self.is_empty(told);
            }
        }
        if self.old_until.is_none() && !waits {
            self.stand(told);
        }
    }

    /// Handles a stream in which there is nothing to read.
    fn is_empty(&mut self, told: &mut Vec<Told>) {
        let head = self.head.unwrap_or(NO_MESSAGE);
        match self.empty_at.replace(head) {
            Some(before) if before == head => return,
            // What came in between is gone.
            Some(_) => told.push(Told::Lost),
            None => {}
        }
        told.extend(self.head.map(Told::Head));
    }

    fn delivered(
        &mut self,
        delivery: Delivery,
        now: Instant,
        out: &mut Vec<u8>,
        told: &mut Vec<Told>,
    ) -> Result<(), NatsError> {
        let Step::Read(consumer) = &mut self.step else {
            return Ok(());
        };
        let ack = delivery.reply.as_deref().and_then(AckSubject::parse);
        let (Some(ack), Some(reply)) = (ack, delivery.reply) else {
            return Err(self.trouble("a message without a number"));
        };
        if ack.consumer_sequence != consumer.sequence + 1 {
            self.missed(now, out);
            return Ok(());
        }
        consumer.sequence = ack.consumer_sequence;
        consumer.idle_beats = 0;
        consumer.owe(reply, now, out);
        let id = StoredId {
            major: ack.stream_sequence,
            minor: ack.stored_unix_ns,
        };
        if let Some(expected) = consumer.expects.take() {
            if id == expected {
                if ack.pending == 0 || self.old_until.is_none_or(|until| id.major >= until) {
                    self.old_until = None;
                    self.stand(told);
                }
            } else {
                self.lost(told);
                self.look(now, out);
            }
            return Ok(());
        }
        // A delivery again, whose acknowledgement was late.
        if self.last.is_some_and(|last| id.major <= last.major) {
            return Ok(());
        }
        self.message(id, ack.pending, (delivery.subject, delivery.payload), told);
        Ok(())
    }

    fn message(
        &mut self,
        id: StoredId,
        pending: u64,
        (subject, payload): (String, Vec<u8>),
        told: &mut Vec<Told>,
    ) {
        // A hole: messages were deleted before they were read. Or another life of the stream.
        let empty_at = self.empty_at.take();
        let before = self.last.or(empty_at);
        let is_next = before.is_none_or(|before| id.major == before.major + 1);
        // Made anew since the look.
        let is_other = |head: StoredId| id.major <= head.major && id.minor > head.minor;
        if !is_next || empty_at.is_some() && self.head.is_some_and(is_other) {
            told.push(Told::Lost);
        }
        self.last = Some(id);
        let is_old = self.old_until.is_some_and(|until| id.major <= until);
        if !is_old {
            self.old_until = None;
            self.stand(told);
        }
        told.push(Told::Message {
            id,
            subject,
            payload,
            is_old,
        });
        if pending == 0 || self.old_until == Some(id.major) {
            self.old_until = None;
            self.stand(told);
        }
    }

    /// Goes on with the messages stored after the last one, whatever their numbers.
    fn lost(&mut self, told: &mut Vec<Told>) {
        told.push(Told::Lost);
        self.old_until = None;
        self.empty_at = None;
        if let Some(last) = self.last.take() {
            self.since_ns = Some(last.minor.saturating_add(1));
        }
    }

    fn stand(&mut self, told: &mut Vec<Told>) {
        if !self.stands {
            self.stands = true;
            told.push(Told::Stands);
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

impl Consumer {
    /// Notes a message to acknowledge; the acknowledgement of the newest is one of all.
    fn owe(&mut self, reply: String, now: Instant, out: &mut Vec<u8>) {
        self.ack = Some(reply);
        self.unacked += 1;
        self.ack_due.get_or_insert(now + ACK_WAIT);
        if self.unacked >= ACKED_TOGETHER {
            self.acknowledge(out);
        }
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if let Some(subject) = self.ack.take() {
            protocol::publish(out, &subject, "", b"");
        }
        (self.unacked, self.ack_due) = (0, None);
    }
}

#[cfg(test)]
mod tests;
