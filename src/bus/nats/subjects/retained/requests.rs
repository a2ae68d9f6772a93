//! The requests of a question's steps.

use super::Retained;
use super::all_read::AllRead;
use super::question::{PendingQuestion, QuestionStep, ReplyNumber};
use super::streams::StreamPart;
use crate::nats::api::ApiRequest;
use crate::nats::consumer::{AckPolicy, Plan, Start};
use crate::nats::needs::Action;
use crate::nats::protocol;

/// The question about a stream, with the list of its missing numbers.
const MISSING_NUMBERS: &str = r#"{"deleted_details":true}"#;
/// The length of a name for which the size of a request is calculated, bytes.
const NAME_BYTES: usize = 512;

impl Retained {
    /// The size of the largest request that questions send, bytes: the one for a consumer, for a name of [`NAME_BYTES`].
    pub(in crate::nats) fn request_bytes_max() -> usize {
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

    /// Sends the request of this step. If it is larger than the server takes, ends the question.
    pub(super) fn send(&mut self, number: ReplyNumber, out: &mut Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number)
            && let QuestionStep::Check(_) = pending.step
            && let Some(all) = pending.reading.all_mut()
        {
            all.need(self.progress.now().reached);
        }
        let Some(pending) = self.pending.get(&number) else {
            return;
        };
        let Some(ApiRequest { subject, body }) = self.request(pending) else {
            return;
        };
        let reply = match &pending.step {
            // The question may ask for the next consumer before the server answers.
            QuestionStep::Create { consumer, .. } => ReplyNumber(consumer.sid),
            _ => number,
        };
        match body.len() > self.request_bytes_max {
            true => self.give_up_request(number, body.len(), out),
            false => protocol::publish(out, &subject, &self.reply(reply), body.as_bytes()),
        }
    }

    /// The subject to which a question's step has sent its request, by which a refusal is found.
    pub(super) fn asked_subject(&self, pending: &PendingQuestion) -> Option<String> {
        match &pending.step {
            QuestionStep::Values { consumer, .. } => consumer.pull_subject(),
            _ => self.request(pending).map(|request| request.subject),
        }
    }

    /// The request of a question's step. `None`: the step waits for nothing that is asked once; a consumer is asked for
    /// messages by [`Self::pull`].
    fn request(&self, pending: &PendingQuestion) -> Option<ApiRequest> {
        let name = &*pending.question.subscription.name;
        Some(match &pending.step {
            QuestionStep::Streams => self.streams_request(pending)?,
            QuestionStep::Check(_) => self.check_request(pending.reading.all()?)?,
            QuestionStep::AllStreams => self.list_request(),
            QuestionStep::Message(streams) => last_message_request(streams.front()?, name),
            QuestionStep::AnyValue { part, .. } => last_message_request(&part.stream, &part.filter),
            QuestionStep::Create { part, .. } => {
                let plan = part.plan(pending.reading.consumer_start(part));
                plan.request(&part.stream, None)
            }
            QuestionStep::Values { .. }
            | QuestionStep::InLine(_)
            | QuestionStep::NextPage(_)
            | QuestionStep::Pause { .. } => return None,
        })
    }

    /// Asks for the number of the last message of the stream that a question reads, if it is needed.
    pub(super) fn ask_for_end(&self, number: ReplyNumber, out: &mut Vec<u8>) {
        let pending = self.pending.get(&number);
        let pending = pending.filter(|pending| pending.reading.needs_end());
        if let Some(ApiRequest { subject, body }) = pending.and_then(|it| self.streams_request(it))
        {
            protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
        }
    }

    /// The request for the streams that hold the name, with their state.
    fn streams_request(&self, pending: &PendingQuestion) -> Option<ApiRequest> {
        if pending.question.is_of_stream() {
            return Some(ApiRequest::of(self.stream_subject()?));
        }
        let name = &*pending.question.subscription.name;
        Some(ApiRequest {
            subject: Action::StreamList.subject_without_stream(),
            body: sonic_rs::json!({ "subject": name }).to_string(),
        })
    }

    /// The subject of requests about the stream that is the kept feed.
    fn stream_subject(&self) -> Option<String> {
        let stream = self.settings.stream.as_deref()?;
        Some(Action::StreamInfo.subject_about(stream))
    }

    /// The request for the state of the stream that is the kept feed.
    fn check_request(&self, all: &AllRead) -> Option<ApiRequest> {
        let subject = self.stream_subject()?;
        Some(match all.asks_list() {
            true => ApiRequest {
                subject,
                body: MISSING_NUMBERS.to_owned(),
            },
            false => ApiRequest::of(subject),
        })
    }

    /// The request for the next page of the list of all streams.
    fn list_request(&self) -> ApiRequest {
        ApiRequest {
            subject: Action::StreamList.subject_without_stream(),
            body: self.all_streams.request(),
        }
    }

    /// Asks for the next page of the list of all streams.
    pub(super) fn ask_list_page(&self, number: ReplyNumber, out: &mut Vec<u8>) {
        let ApiRequest { subject, body } = self.list_request();
        protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
    }

    /// The subject for the answer to a request of this question.
    pub(super) fn reply(&self, number: ReplyNumber) -> String {
        format!("{}.{number}", self.inbox)
    }

    /// The subject for an answer that nobody needs.
    pub(super) fn reply_for_nobody(&self) -> String {
        self.reply(ReplyNumber::NOBODY)
    }

    /// The subject to which a consumer delivers.
    pub(super) fn deliver_subject(&self, sid: u64) -> String {
        format!("{}.v.{sid}", self.inbox)
    }
}

impl StreamPart {
    /// The consumer of the part.
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
