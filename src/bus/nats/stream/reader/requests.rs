//! The requests of the reader: about the stream, for a message, and for consumers; when each is due. Pure.

use std::time::{Duration, Instant};

use super::acks::CumulativeAcks;
use super::limits::ReaderLimits;
use super::progress::{Doubted, IfUnknown};
use super::{Check, JetStreamReader, ReaderStep, Start};
use crate::nats::api::ApiRequest;
use crate::nats::consumer::{AckPolicy, Consumer};
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
        let mut limits = ReaderLimits::default();
        // The latest time, and below the largest number: no text is longer.
        let plan = limits.plan(Start::Time(u64::MAX));
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

    /// Asks about the stream, if that is due. Before the reader reads, it asks again each second under the same number, and
    /// the first answer counts. While it reads, it asks once, under a new number, and not again before the answer. Returns
    /// true for such a question: a PING has to follow. Its PONG says that the server has the question ([`Self::ponged`]),
    /// and heartbeats count from then on.
    pub(in super::super) fn ask_if_due(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let read = self.progress.read_until().unwrap_or(0);
        match &mut self.step {
            ReaderStep::Info { again }
            | ReaderStep::Place { again, .. }
            | ReaderStep::Verify { again, .. }
                if now >= *again =>
            {
                *again = now + AGAIN;
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
                // On a slow line the answer may come later than the next question would be sent, and only the answer to
                // the last number counts.
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

    /// Ends the step. Returns its consumer, if it has one.
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

    /// The reply subject of requests whose answers nobody reads.
    pub(super) fn unread_reply(&self) -> String {
        // No request has the number 0.
        format!("{}.answer.0", self.inbox)
    }

    /// Ends the step, and the consumer with it.
    pub(super) fn leave_consumer(&mut self, out: &mut Vec<u8>) {
        if let Some(consumer) = self.take_consumer() {
            consumer.leave(&self.unread_reply(), out);
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

    /// Makes the consumer again with another limit, if messages come.
    pub(super) fn make_again(&mut self, now: Instant, out: &mut Vec<u8>) {
        if let ReaderStep::Read { .. } = self.step {
            self.ask_info(now, out);
        }
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
                is_contradicted: false,
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
                let subject = Action::GetMessage.subject_about(stream);
                self.send(&ApiRequest { subject, body }, out);
            }
            _ => self.send(
                &ApiRequest::of(Action::StreamInfo.subject_about(stream)),
                out,
            ),
        }
    }

    /// Asks about the account, if the stream stands still. No other answer is awaited now.
    pub(super) fn ask_account(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.standstills.take_account_question(now) {
            self.last_request += 1;
            self.account_request = Some(self.last_request);
            self.send(
                &ApiRequest::of(Action::AccountInfo.subject_without_stream()),
                out,
            );
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
        self.progress.consumer_is_new();
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
