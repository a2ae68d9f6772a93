//! The last message of an exact subject. It takes two requests: which stream takes the subject from publishers, and what its
//! last message is. If no stream takes it, weirgate looks through all streams for subjects of transforms and of copies
//! ([`search`](super::search)), and asks one after the other.

use std::time::Instant;

use super::Retained;
use super::events::NatsCut;
use super::question::{Again, QuestionStep, ReplyNumber};
use super::streams::StreamPart;
use crate::nats::api::{Fetched, answer_with_message, message, refusal};
use crate::nats::protocol::Delivery;
use weirgate_core::StoredId;
use weirgate_wire::json::Json;

/// The last message of a subject in its stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LastMessage {
    /// Empty if the value was deleted.
    pub(super) payload: Vec<u8>,
    pub(super) id: StoredId,
}

impl LastMessage {
    /// Whether the value of the subject was deleted.
    pub(super) const fn is_deletion(&self) -> bool {
        self.payload.is_empty()
    }

    /// The message in the answer; `None` if the stream has none, and for a message without payload that deletes nothing.
    ///
    /// # Errors
    /// [`NatsCut::Unreadable`]: there is neither a message nor the word that there is none.
    pub(super) fn read(answer: Json<'_>, bytes_max: usize) -> Result<Option<Self>, NatsCut> {
        if refusal(answer).is_some_and(|error| error.message_is_missing()) {
            return Ok(None);
        }
        let message = message(answer).map_err(|_| NatsCut::lacks("message"))?;
        let is_value = message.is_deletion || !message.payload.is_empty();
        Ok(is_value.then(|| Self::cut_to(bytes_max, message)))
    }

    /// The message over the limit in an answer that is here in part.
    ///
    /// # Errors
    /// [`NatsCut::Unreadable`]: what is here of the message is within the limit.
    pub(super) fn read_beginning(
        answer: &Delivery,
        bytes_max: usize,
    ) -> Result<Option<Self>, NatsCut> {
        let answer = answer_with_message(answer);
        let message = Json::read(&answer)
            .ok()
            .and_then(|answer| message(answer).ok());
        let message = message.filter(|message| message.payload.len() > bytes_max);
        let message = message.ok_or_else(NatsCut::too_long)?;
        Ok(Some(Self::cut_to(bytes_max, message)))
    }

    /// A larger payload is cut to one byte more than the limit, as in a message that a consumer delivers.
    fn cut_to(bytes_max: usize, mut message: Fetched) -> Self {
        message.payload.truncate(bytes_max.saturating_add(1));
        Self {
            payload: message.payload,
            id: StoredId {
                major: message.sequence,
                minor: message.stored_unix_ns.unwrap_or_default(),
            },
        }
    }
}

impl Retained {
    /// Asks the first stream of a name for the last message; without a stream, ends the question.
    pub(super) fn find_message(
        &mut self,
        number: ReplyNumber,
        parts: impl Iterator<Item = StreamPart>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let parts: Vec<StreamPart> = parts.collect();
        // nats-server 2.9.10 crashes if it is asked for a message of a stream that it is still making.
        if parts.iter().any(StreamPart::is_being_made) {
            return self.pause(number, Again::Begin, now);
        }
        if parts.is_empty() {
            return self.end(number, None, out);
        }
        if let Some(pending) = self.pending.get_mut(&number) {
            let streams = parts.into_iter().map(|part| part.stream);
            pending.step = QuestionStep::Message(streams.collect());
            self.send(number, out);
        }
    }

    /// Handles the answer to the question for a message.
    pub(super) fn handle_message(
        &mut self,
        number: ReplyNumber,
        message: Result<Option<LastMessage>, NatsCut>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        match (message, self.pending.get_mut(&number)) {
            (Ok(message), Some(pending)) => {
                pending.last_message = message;
                self.judge_message(number, now, out);
            }
            (Err(unreadable), _) => self.end(number, Some(unreadable), out),
            (Ok(_), None) => {}
        }
    }

    /// Judges the last message of a stream, or that there is none: the next stream may have one. Asks again if the
    /// message is older than one that was delivered before the question.
    fn judge_message(&mut self, number: ReplyNumber, now: Instant, out: &mut Vec<u8>) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let QuestionStep::Message(streams) = &mut pending.step else {
            return;
        };
        let message = pending.last_message.as_ref();
        if message.is_none() && streams.len() > 1 {
            streams.pop_front();
            return self.send(number, out);
        }
        // Without a message, as of an empty payload: a live message that is empty leaves no value.
        let payload = message.map_or(&[][..], |message| &message.payload);
        let payload = self.live.payload_hash(payload);
        let scope = pending.scope.as_ref();
        let is_older = self
            .live
            .has_unstored(scope, pending.begun, now, |live| live.payload == payload);
        if is_older {
            let again = Again::Message(std::mem::take(streams));
            return self.pause(number, again, now);
        }
        self.end(number, None, out);
    }
}
