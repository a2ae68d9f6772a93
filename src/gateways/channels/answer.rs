//! What the gateway says by itself (contract channels: row messages). The number of the message
//! goes before everything but its type: it is known only when the message is queued.

use std::sync::Arc;

use super::history::Position;
use crate::hub::{Core, Frame, Lead, TopicName};
use crate::wire::object_writer::{ObjectWriter, iso_utc};

/// An answer without its number and its time.
#[derive(Debug)]
pub(super) struct Answer {
    lead: &'static str,
    body: ObjectWriter,
}

impl Answer {
    pub(super) fn connected(client_id: &str, role: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"connected","seq":"#);
        answer.body.string("clientId", client_id);
        answer.body.string("role", role);
        answer
    }

    pub(super) fn subscribed(granted: &[String], errors: &[String], request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"subscribed","seq":"#);
        answer.strings("channels", granted);
        answer.strings("errors", errors);
        answer.to(request_id)
    }

    pub(super) fn unsubscribed(left: &[String], request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"unsubscribed","seq":"#);
        answer.strings("channels", left);
        answer.to(request_id)
    }

    pub(super) fn pong(request_id: &str) -> Self {
        Self::new(r#"{"type":"pong","seq":"#).to(request_id)
    }

    pub(super) fn error(error: &str, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"error","seq":"#);
        answer.body.string("error", error);
        answer.to(request_id)
    }

    fn new(lead: &'static str) -> Self {
        Self {
            lead,
            body: ObjectWriter::new(),
        }
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.body.strings(key, values.iter().map(String::as_str));
    }

    fn to(mut self, request_id: &str) -> Self {
        self.body.raw("requestId", request_id);
        self
    }

    /// Where the granted names are.
    pub(super) fn positions<'a>(&mut self, of: impl Iterator<Item = (&'a TopicName, Position)>) {
        let mut positions = ObjectWriter::new();
        for (name, position) in of {
            let mut inner = ObjectWriter::new();
            inner.string("epoch", &position.epoch.text());
            inner.number("offset", position.offset);
            positions.object(name.as_str(), inner);
        }
        self.body.object("positions", positions);
    }

    /// Whether everything that the client missed of a name comes behind the answer.
    pub(super) fn recovered<'a>(&mut self, of: impl Iterator<Item = (&'a TopicName, bool)>) {
        let mut recovered = ObjectWriter::new();
        for (name, is_recovered) in of {
            recovered.boolean(name.as_str(), is_recovered);
        }
        self.body.object("recovered", recovered);
    }

    /// Bytes that it will have, about.
    pub(super) fn bytes(&self) -> usize {
        self.body.bytes()
    }

    /// The frame, with the time of the call.
    pub(super) fn frame(mut self, core: &Core) -> Arc<Frame> {
        let now = core.now();
        self.body.string("timestamp", &iso_utc(now.unix_ms));
        let body = self.body.finish();
        // The lead has opened the object and holds its first members.
        let body = format!(",{}", body.trim_start_matches('{'));
        Frame::text(core.frame_bytes())
            .answer()
            .lead(Lead::Seq(self.lead))
            .received(now)
            .body(body.as_bytes())
            .finish()
    }
}
