//! The requests of the reader: the state of the stream, consumers and their ends. Pure.

use std::time::{Duration, Instant};

use super::super::super::super::protocol;
use super::answers::{create, rfc_3339};
use super::consumer::Consumer;
use super::{Step, StreamReader};
use crate::feeds::StoredId;

/// The pause before a question about the stream is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl StreamReader {
    /// The time of the next acknowledgement, or of the next question about the stream.
    pub(in super::super) fn work_due(&self) -> Option<Instant> {
        match &self.step {
            Step::Away | Step::Pause { .. } => None,
            Step::Look { again } => Some(*again),
            Step::Read(consumer) => {
                let check = consumer.check_due();
                Some(consumer.ack_due.map_or(check, |due| due.min(check)))
            }
        }
    }

    /// Handles the refusal of an answer to flow control.
    pub(in super::super) fn without_flow_control(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.limits.without_flow_control();
        self.look(now, out);
    }

    /// Ends the consumer at a stop.
    pub(in super::super) fn stop(&mut self, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.step = Step::Away;
    }

    /// Asks about the stream, if due. Returns whether a PING has to follow: [`Self::ponged`].
    pub(in super::super) fn check(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        match &mut self.step {
            Step::Look { again } if now >= *again => {
                *again = now + AGAIN;
                // With the same number, so the first answer counts.
                self.send(&self.info_subject(), b"", out);
                false
            }
            Step::Read(consumer) if now >= consumer.check_due() => {
                let asks = consumer.checks(now);
                // Not again before the answer: on a slow line it may come later than the next question, and only the
                // answer to the last question counts.
                if asks {
                    self.request(&self.info_subject(), b"", out);
                }
                asks
            }
            _ => false,
        }
    }

    /// Looks at the stream later.
    pub(super) fn pause(&mut self, until: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.step = Step::Pause { until };
    }

    /// Forgets the consumer, and asks the server to delete it, without an answer. If this user may not ask, the
    /// server deletes the consumer by itself when nobody has listened for some seconds.
    pub(super) fn leave_consumer(&mut self, out: &mut Vec<u8>) {
        if let Step::Read(consumer) = &self.step
            && consumer.is_listened_to
        {
            protocol::unsubscribe(out, consumer.sid);
        }
        if let Some(name) = self.made.take() {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{name}", self.stream);
            protocol::publish(out, &subject, &format!("{}.answer.0", self.inbox), b"");
        }
    }

    /// Asks for the state of the stream.
    pub(super) fn look(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.ask_stream(now, out);
        self.step = Step::Look { again: now + AGAIN };
    }

    pub(super) fn ask_stream(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.request(&self.info_subject(), b"", out);
        self.asked = Some(now);
    }

    fn info_subject(&self) -> String {
        format!("$JS.API.STREAM.INFO.{}", self.stream)
    }

    /// Subscribes to the deliveries of the consumer; without that it sends nothing.
    pub(super) fn listen(&mut self, out: &mut Vec<u8>) {
        if let Step::Read(consumer) = &mut self.step
            && !std::mem::replace(&mut consumer.is_listened_to, true)
        {
            let deliver = format!("{}.live.{}", self.inbox, consumer.sid);
            // Under a wildcard a consumer sees no interest and sends nothing.
            protocol::subscribe(out, &deliver, None, consumer.sid);
        }
    }

    pub(super) fn request(&mut self, subject: &str, body: &[u8], out: &mut Vec<u8>) {
        self.last_request += 1;
        self.send(subject, body, out);
    }

    /// Sends a request with the number of the last one.
    fn send(&self, subject: &str, body: &[u8], out: &mut Vec<u8>) {
        let reply = format!("{}.answer.{}", self.inbox, self.last_request);
        protocol::publish(out, subject, &reply, body);
    }

    /// Asks for a consumer that begins at the last message, if that is expected as the first delivery (`expects`),
    /// otherwise after it, or with the messages since a time. Without an expected delivery nothing proves that the
    /// stream has not changed since the look: then the reader asks about the stream once more before it listens.
    pub(super) fn make_consumer(
        &mut self,
        expects: Option<StoredId>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.last_sid += 1;
        let sid = self.last_sid;
        let deliver = format!("{}.live.{sid}", self.inbox);
        self.step = Step::Read(Consumer::new(sid, expects, now));
        if expects.is_some() {
            self.listen(out);
        }
        let since = rfc_3339(self.since_ns.unwrap_or(0));
        let from = self
            .last
            .map(|last| last.major + u64::from(expects.is_none()));
        let body = create(&self.stream, &deliver, from, &since, self.limits);
        let subject = format!("$JS.API.CONSUMER.CREATE.{}", self.stream);
        self.request(&subject, body.as_bytes(), out);
        self.asked = Some(now);
    }
}
