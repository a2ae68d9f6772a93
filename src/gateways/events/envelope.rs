//! Messages to devices: `type, event, request_id, data, error`, always all five.

use std::sync::Arc;

use super::device_message::DeviceMessage;
use crate::gateways::shared::history::{END_BYTES_MAX, append_end};
use weirgate_core::{CopyRank, Core, Frame, FrameBuilder, FrameBytes, Message as Data, Position};
use weirgate_wire::base::Now;
use weirgate_wire::json::ObjectWriter;

/// The `code` of an error.
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

    /// The code in an answer.
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

/// Why a message of a device is not handled, for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedMessage {
    pub(super) code: Code,
    pub(super) why: &'static str,
}

impl RefusedMessage {
    pub(super) fn new(code: Code, why: &'static str) -> Self {
        Self { code, why }
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
    /// The text without its last `}`.
    fn open_text(&self) -> String {
        let mut object = ObjectWriter::new();
        object.string("type", self.kind);
        object.raw("event", self.event);
        object.raw("request_id", self.request_id);
        object.raw("data", self.data);
        object.raw("error", self.error);
        object.finish_open()
    }
}

/// What a frame that is made outside of the loop needs from the core.
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

/// Returns the response to a request with this event and id. A position, if given, follows the other members; `data` is
/// JSON without white space.
pub(super) fn response(
    origin: &Origin,
    (event, request_id): (&str, &str),
    data: &str,
    position: Option<Position>,
) -> Arc<Frame> {
    let envelope = Envelope {
        kind: "response",
        event,
        request_id,
        data,
        error: "null",
    };
    answer(origin, &envelope, position)
}

/// Returns the refusal of a message that has the right shape.
pub(super) fn refusal(
    origin: &Origin,
    message: &DeviceMessage,
    code: Code,
    why: &str,
) -> Arc<Frame> {
    error(origin, message.request(), code, why)
}

/// Returns the refusal of bytes that are not a message.
pub(super) fn gateway_error(core: &Core, code: Code, why: &str) -> Arc<Frame> {
    error(&core.into(), ("\"gateway\"", "null"), code, why)
}

/// Returns an error as an answer. `event` and `request_id` are JSON, not plain texts.
fn error(origin: &Origin, (event, request_id): (&str, &str), code: Code, why: &str) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("code", code.word());
    object.string("message", why);
    object.raw("details", "null");
    let envelope = Envelope {
        kind: "error",
        event,
        request_id,
        data: "null",
        error: &object.finish(),
    };
    answer(origin, &envelope, None)
}

/// The first message to a client without a known device.
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
        None,
    )
}

/// A service's push to devices as data: the members of its object, for [`placed`]; `event` and `data` are JSON text.
/// `is_common`: the push is for several devices.
pub(super) fn push(alive: &FrameBytes, now: Now, event: &str, data: &str, is_common: bool) -> Data {
    let envelope = Envelope {
        kind: "event",
        event,
        request_id: "null",
        data,
        error: "null",
    };
    let push = Data::new(envelope.open_text().into(), now, alive);
    if is_common {
        push.set_common();
    }
    push
}

/// The frame of a push. Only the loop knows the position, because it decides on the order of pushes.
pub(super) fn placed(push: &Data, position: Option<Position>, alive: &FrameBytes) -> Arc<Frame> {
    let frame = Frame::text(alive).received(push.received);
    whole(frame.common(push.is_common()), push.payload(), position)
}

fn answer(origin: &Origin, envelope: &Envelope<'_>, position: Option<Position>) -> Arc<Frame> {
    let frame = Frame::text(&origin.alive).answer().received(origin.now);
    whole(frame, envelope.open_text().as_bytes(), position)
}

/// Ends the frame of an object that lacks its `}`, in one allocation.
fn whole(frame: FrameBuilder, open: &[u8], position: Option<Position>) -> Arc<Frame> {
    let mut frame = frame.with_capacity(open.len() + END_BYTES_MAX).body(open);
    append_end(&mut frame, position, CopyRank::LAST);
    frame.finish()
}
