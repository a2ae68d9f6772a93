//! What clients get: `type, event, request_id, data, error`, all five always there.

use std::sync::Arc;

use crate::hub::{Core, Frame, FrameBytes, Now};
use crate::wire::object_writer::ObjectWriter;

use super::message::Message;

/// An error's `code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    MessageTooLarge,
    RateLimited,
    BadRequest,
    Unauthenticated,
    UnknownEvent,
    UpstreamError,
}

impl Code {
    /// All codes, in the order of their numbers.
    pub(super) const ALL: [Self; 6] = [
        Self::MessageTooLarge,
        Self::RateLimited,
        Self::BadRequest,
        Self::Unauthenticated,
        Self::UnknownEvent,
        Self::UpstreamError,
    ];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::MessageTooLarge => "message_too_large",
            Self::RateLimited => "rate_limited",
            Self::BadRequest => "bad_request",
            Self::Unauthenticated => "unauthenticated",
            Self::UnknownEvent => "unknown_event",
            Self::UpstreamError => "upstream_error",
        }
    }
}

/// The parts of an envelope, all JSON text.
struct Envelope<'a> {
    kind: &'static str,
    event: &'a str,
    request_id: &'a str,
    data: &'a str,
    error: &'a str,
}

impl Envelope<'_> {
    fn text(&self) -> String {
        let mut object = ObjectWriter::new();
        object.string("type", self.kind);
        object.raw("event", self.event);
        object.raw("request_id", self.request_id);
        object.raw("data", self.data);
        object.raw("error", self.error);
        object.finish()
    }
}

/// What a frame needs of the core, for who makes one elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    alive: FrameBytes,
    now: Now,
}

impl From<&Core> for Origin {
    fn from(core: &Core) -> Self {
        Self {
            alive: core.frame_bytes().clone(),
            now: core.now(),
        }
    }
}

/// The answer to a message; `data` is JSON without white space.
pub(super) fn response(origin: &Origin, message: &Message, data: &str) -> Arc<Frame> {
    answer(
        origin,
        &Envelope {
            kind: "response",
            event: &message.event,
            request_id: &message.request_id,
            data,
            error: "null",
        },
    )
}

/// The refusal of a message of the right shape.
pub(super) fn refusal(origin: &Origin, message: &Message, code: Code, why: &str) -> Arc<Frame> {
    error(origin, &message.event, &message.request_id, code, why)
}

/// The refusal of something that is no message.
pub(super) fn gateway_error(core: &Core, code: Code, why: &str) -> Arc<Frame> {
    error(&core.into(), "\"gateway\"", "null", code, why)
}

fn error(origin: &Origin, event: &str, request_id: &str, code: Code, why: &str) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("code", code.word());
    object.string("message", why);
    object.raw("details", "null");
    answer(
        origin,
        &Envelope {
            kind: "error",
            event,
            request_id,
            data: "null",
            error: &object.finish(),
        },
    )
}

/// The first message to a client that has not said who it is.
pub(super) fn identify_required(core: &Core) -> Arc<Frame> {
    answer(
        &core.into(),
        &Envelope {
            kind: "event",
            event: "\"gateway.identify_required\"",
            request_id: "null",
            data: "{\"hint\":\"Send {event:'identify', data:{device_id}} or connect with ?device_id=\"}",
            error: "null",
        },
    )
}

/// What a service pushes to devices; `event` and `data` are JSON text.
pub(super) fn push(alive: &FrameBytes, now: Now, event: &str, data: &str) -> Arc<Frame> {
    let envelope = Envelope {
        kind: "event",
        event,
        request_id: "null",
        data,
        error: "null",
    };
    let frame = Frame::text(alive).received(now);
    frame.body(envelope.text().as_bytes()).finish()
}

fn answer(origin: &Origin, envelope: &Envelope<'_>) -> Arc<Frame> {
    Frame::text(&origin.alive)
        .answer()
        .received(origin.now)
        .body(envelope.text().as_bytes())
        .finish()
}
