//! The requests of the reader: about the stream, for a message, and for consumers; the limits on a consumer, and the
//! acknowledgements. Pure.

use std::time::{Duration, Instant};

use super::{Check, Doubted, IfUnknown, JetStreamReader, ReaderStep, Start};
use crate::nats::api::{ApiError, ApiRequest};
use crate::nats::consumer::{AckPolicy, Consumer, Plan};
use crate::nats::needs::{Action, Need};
use crate::nats::protocol::{self, inbox};
use crate::nats::standstill::Standstills;
use weirgate_core::StoredId;

/// The pause before a question about the stream is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl JetStreamReader {
    /// What the reader needs.
    pub(in super::super::super) fn needs() -> Vec<Need> {
        let consumers = "a consumer that is left stays for 5 s";
        let acks = "the server bounds the messages on their way by flow control alone";
        let flow = "fewer messages are on their way from the stream";
        let losses = "a loss can be reported that is none";
        vec![
            Need::must(Action::StreamInfo),
            Need::must(Action::CreateConsumer),
            Need::may(Action::Acknowledge, acks),
            Need::may(Action::DeleteConsumer, consumers),
            Need::may(Action::ControlFlow, flow),
            Need::may(Action::GetMessage, losses),
            Standstills::need(),
        ]
    }

    /// The size of the largest request about a stream, bytes.
    pub(in super::super) fn request_bytes_max(stream: &str) -> usize {
        let plan = ConsumerLimits::default().plan(Start::Time(u64::MAX));
        let deliver = format!("{}.live.{}", inbox(), u64::MAX);
        plan.request(stream, Some(&deliver)).body.len()
    }

    /// The time of the next acknowledgement, or of the next question about the stream.
    pub(in super::super) fn work_due(&self) -> Option<Instant> {
        let question = match &self.step {
            ReaderStep::Info { again }
            | ReaderStep::Place { again, .. }
            | ReaderStep::Verify { again, .. } => Some(*again),
            ReaderStep::Read {
                check: Check::Due { at, .. },
                ..
            } => Some(*at),
            _ => None,
        };
        [question, self.acks.due].into_iter().flatten().min()
    }

    /// Handles the refusal of an answer to flow control. Returns whether that is news.
    pub(in super::super) fn without_flow_control(
        &mut self,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let is_new = self.limits.without_flow_control();
        if is_new {
            self.ask_info(now, out);
        }
        is_new
    }

    /// Handles the refusal of an acknowledgement. Returns whether that is news.
    pub(in super::super) fn without_acks(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let before = std::mem::replace(&mut self.limits.acks, AckPolicy::None);
        let is_new = before != AckPolicy::None;
        if is_new {
            self.ask_info(now, out);
        }
        is_new
    }

    /// Ends the consumer at a stop.
    pub(in super::super) fn stop(&mut self, out: &mut Vec<u8>) {
        self.leave_consumer(out);
    }

    /// Asks about the stream, if due. Returns whether a PING has to follow: [`Self::ponged`].
    pub(in super::super) fn check(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let read = self.progress.read_until().unwrap_or(0);
        match &mut self.step {
            ReaderStep::Info { again }
            | ReaderStep::Place { again, .. }
            | ReaderStep::Verify { again, .. }
                if now >= *again =>
            {
                *again = now + AGAIN;
                // With the same number, so the first answer counts.
                self.ask(out);
                false
            }
            ReaderStep::Read { check, .. } => {
                let Check::Due { at, behind_at } = *check else {
                    return false;
                };
                if now < at {
                    return false;
                }
                // Not again before the answer: on a slow line it may come later than the next question, and only the
                // answer to the last question counts.
                *check = Check::Asked {
                    behind_at,
                    read,
                    beats: 0,
                };
                self.last_request += 1;
                self.ask(out);
                true
            }
            _ => false,
        }
    }

    /// The consumer of this step.
    pub(super) fn consumer(&self) -> Option<&Consumer> {
        match &self.step {
            ReaderStep::Create(consumer)
            | ReaderStep::Place { consumer, .. }
            | ReaderStep::Prove(consumer, _)
            | ReaderStep::Read { consumer, .. } => Some(consumer),
            ReaderStep::Away
            | ReaderStep::Pause { .. }
            | ReaderStep::Info { .. }
            | ReaderStep::Verify { .. } => None,
        }
    }

    /// Ends the step.
    pub(super) fn take_consumer(&mut self) -> Option<Consumer> {
        self.acks = CumulativeAcks::default();
        match std::mem::take(&mut self.step) {
            ReaderStep::Create(consumer)
            | ReaderStep::Place { consumer, .. }
            | ReaderStep::Prove(consumer, _)
            | ReaderStep::Read { consumer, .. } => Some(consumer),
            ReaderStep::Away
            | ReaderStep::Pause { .. }
            | ReaderStep::Info { .. }
            | ReaderStep::Verify { .. } => None,
        }
    }

    /// The subject for answers that nobody waits for.
    pub(super) fn nobody(&self) -> String {
        format!("{}.answer.0", self.inbox)
    }

    /// Ends the step, and the consumer with it.
    pub(super) fn leave_consumer(&mut self, out: &mut Vec<u8>) {
        if let Some(consumer) = self.take_consumer() {
            consumer.leave(&self.nobody(), out);
        }
    }

    /// Asks for the state of the stream later.
    pub(super) fn pause(&mut self, until: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.step = ReaderStep::Pause { until };
    }

    /// Asks for the state of the stream.
    pub(super) fn ask_info(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.step = ReaderStep::Info { again: now + AGAIN };
        self.request(now, out);
    }

    /// Asks the leader which servers have all of the stream, after a consumer was made.
    pub(super) fn ask_placement(&mut self, now: Instant, out: &mut Vec<u8>) {
        if let ReaderStep::Create(consumer) = std::mem::take(&mut self.step) {
            let again = now + AGAIN;
            self.step = ReaderStep::Place { consumer, again };
            self.request(now, out);
        }
    }

    /// Leaves the consumer, and asks the leader whether it has the message `expected`, or, without that, the message
    /// after the newest that was read.
    pub(super) fn verify(
        &mut self,
        expected: Option<StoredId>,
        if_unknown: IfUnknown,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.leave_consumer(out);
        let next = self.progress.read_until().unwrap_or(0) + 1;
        self.step = ReaderStep::Verify {
            doubted: Doubted {
                from: expected.map_or(next, |id| id.major),
                expected,
                if_unknown,
            },
            again: now + AGAIN,
        };
        self.request(now, out);
    }

    fn request(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.last_request += 1;
        self.asked = Some(now);
        self.ask(out);
    }

    /// Sends the question of this step, with the number of the last request.
    fn ask(&self, out: &mut Vec<u8>) {
        let stream = &self.stream;
        match &self.step {
            ReaderStep::Verify { doubted, .. } => {
                let body =
                    sonic_rs::json!({ "seq": doubted.from, "next_by_subj": ">" }).to_string();
                let subject = Action::GetMessage.of(stream);
                self.send(&ApiRequest { subject, body }, out);
            }
            _ => self.send(&ApiRequest::of(Action::StreamInfo.of(stream)), out),
        }
    }

    /// Asks about the account, if the stream stands still. No other answer is awaited now.
    pub(super) fn ask_account(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.standstills.asks(now) {
            self.last_request += 1;
            self.account_request = Some(self.last_request);
            self.send(&ApiRequest::of(Action::AccountInfo.of("")), out);
        }
    }

    /// Sends a request, with the number of the last one.
    fn send(&self, request: &ApiRequest, out: &mut Vec<u8>) {
        let reply = format!("{}.answer.{}", self.inbox, self.last_request);
        protocol::publish(out, &request.subject, &reply, request.body.as_bytes());
    }

    /// Asks for a consumer that begins at the last message, if the stream keeps it as a proof, otherwise after it.
    pub(super) fn make_consumer(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.last_sid += 1;
        let deliver = format!("{}.live.{}", self.inbox, self.last_sid);
        let start = self.progress.next_start();
        let plan = self.limits.plan(start);
        let request = plan.request(&self.stream, Some(&deliver));
        let consumer = Consumer::new(&self.stream, self.last_sid, deliver, start);
        self.step = ReaderStep::Create(consumer);
        self.last_request += 1;
        self.asked = Some(now);
        self.send(&request, out);
    }
}

/// Messages are acknowledged together: when a fourth of the consumer's limit on unacknowledged messages is reached, or
/// after [`ACK_WAIT`].
pub(super) const ACKED_SHARE: u64 = 4;
pub(super) const ACK_WAIT: Duration = Duration::from_millis(100);

/// The acknowledgements of a consumer that wait; acknowledging the newest message acknowledges all before it.
#[derive(Debug, Default)]
pub(super) struct CumulativeAcks {
    /// The reply subject of the newest message without an acknowledgement.
    newest: Option<String>,
    /// The number of messages without an acknowledgement.
    count: u64,
    /// When these messages have to be acknowledged.
    due: Option<Instant>,
}

impl CumulativeAcks {
    /// Notes a message to acknowledge. The server stops at `pending_max` messages.
    pub(super) fn owe(&mut self, reply: String, pending_max: u64, now: Instant, out: &mut Vec<u8>) {
        self.newest = Some(reply);
        self.count += 1;
        self.due.get_or_insert(now + ACK_WAIT);
        if self.count >= pending_max / ACKED_SHARE {
            self.send(out);
        }
    }

    /// Sends the acknowledgement, if due.
    pub(super) fn send_due(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.due.is_some_and(|due| now >= due) {
            self.send(out);
        }
    }

    fn send(&mut self, out: &mut Vec<u8>) {
        if let Some(subject) = self.newest.take() {
            protocol::publish(out, &subject, "", b"");
        }
        *self = Self::default();
    }
}

/// Limits of a consumer. Servers, accounts and streams can have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerLimits {
    /// Messages without acknowledgement at which the server stops.
    pub(super) pending_max: u64,
    /// Milliseconds without a listener after which the server deletes the consumer.
    idle_max_ms: u64,
    /// Whether the server bounds the bytes on their way, too.
    has_flow_control: bool,
    pub(super) acks: AckPolicy,
}

/// The largest limits.
impl Default for ConsumerLimits {
    fn default() -> Self {
        Self {
            pending_max: 2_048,
            idle_max_ms: 5_000,
            has_flow_control: true,
            acks: AckPolicy::All,
        }
    }
}

impl ConsumerLimits {
    /// Few enough messages of usual size to fit the server's output buffer for weirgate.
    const PENDING_WITHOUT_FLOW_CONTROL: u64 = 64;
    const PENDING_TOO_MANY: u64 = 10_121;
    const IDLE_TOO_LONG: u64 = 10_153;

    /// A consumer of all messages from `start` on.
    pub(super) const fn plan(self, start: Start) -> Plan<'static> {
        Plan {
            start,
            filter: None,
            durable: None,
            acks: self.acks,
            pending_max: self.pending_max,
            deliveries_max: None,
            idle_max_ms: self.idle_max_ms,
            beats: true,
            has_flow_control: self.has_flow_control,
            is_in_memory: true,
        }
    }

    /// Halves the limit that the server refuses. Returns false if the error is another one, or nothing is left.
    pub(super) fn shrink(&mut self, error: &ApiError) -> bool {
        let limit = match error.code() {
            Some(Self::PENDING_TOO_MANY) => &mut self.pending_max,
            Some(Self::IDLE_TOO_LONG) => &mut self.idle_max_ms,
            _ => return false,
        };
        *limit /= 2;
        *limit > 0
    }

    /// Turns flow control off, for a user that may not answer it, and lowers the limit on messages. Returns whether it
    /// was on.
    fn without_flow_control(&mut self) -> bool {
        self.pending_max = self.pending_max.min(Self::PENDING_WITHOUT_FLOW_CONTROL);
        std::mem::replace(&mut self.has_flow_control, false)
    }
}
