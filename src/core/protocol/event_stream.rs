//! Server-Sent Events (WHATWG HTML §9.2): a client that gets messages as an event stream in the
//! response to a plain `GET`. The messages of the client are in the query of the request, as parameters
//! `send`.

mod response;

use std::vec;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use self::response::{COMMENT, DATA, RequestingPage};
use super::{ClientMessage, ClientStep, Encoding, Protocol, Request, RequestRefusal};
use crate::{CloseCode, CloseReason, Content, Encoded, Frame, Limits};
use weirgate_wire::RequestHead;
use weirgate_wire::base::allocated_bytes;
use weirgate_wire::json::ObjectWriter;

/// The most bytes after the request that are read and ignored.
const IGNORED_BYTES_MAX: usize = 16 * 1024;

/// An `EventSource` reconnects after this time, in milliseconds (the `Retry-After` of [`RequestRefusal::for_now`]), and
/// a random time up to [`RETRY_SPREAD_MS`], so that not all clients of an instance reconnect at the same moment.
const RETRY_MS: u64 = 1_000;
const RETRY_SPREAD_MS: u64 = 4_000;

/// Makes the event of a frame. A text is the event's data; bytes are base64 in an event of type `binary`, and the text
/// before them stays text.
pub(crate) fn encode(frame: &Frame) -> Encoded {
    if frame.content() == Content::Text {
        return event(b"", &frame.in_one_piece(), frame.position());
    }
    let (text, bytes) = frame.text_and_bytes();
    let text = [text, BASE64_STANDARD.encode(bytes).as_bytes()].concat();
    event(BINARY, &text, frame.position())
}

/// Makes the event of a frame for a client that gets payloads alone: bytes are the event's data, without the text before
/// them. A text is a response or a status; it has a type, which `onmessage` of an `EventSource` does not get.
pub(crate) fn encode_raw(frame: &Frame) -> Encoded {
    match frame.content() {
        Content::Text => event(CONTROL, &frame.in_one_piece(), frame.position()),
        Content::Binary => event(b"", frame.text_and_bytes().1, frame.position()),
    }
}

/// About the most memory that [`encode`], or [`encode_raw`] if `is_raw`, takes for a frame.
pub(crate) fn encoded_bytes(frame: &Frame, is_raw: bool) -> usize {
    let (text, bytes) = match frame.content() {
        Content::Text => (frame.body_bytes() + added_bytes(&frame.pieces()), 0),
        Content::Binary => {
            let (text, bytes) = frame.text_and_bytes();
            match is_raw {
                true => (bytes.len() + added_bytes(&[bytes]), 0),
                // The base64, and with it the text before it is part of the event.
                false => (text.len(), 2 * bytes.len().div_ceil(3) * 4),
            }
        }
    };
    text + bytes + frame.position().len()
}

/// Bytes of the fields that the lines of a text need, but the first.
fn added_bytes(pieces: &[&[u8]]) -> usize {
    let is_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    let ends: usize = pieces
        .iter()
        .map(|piece| piece.iter().filter(is_end).count())
        .sum();
    ends * DATA.len()
}

/// An event that begins with the line of its type, or without one.
fn event(kind: &[u8], text: &[u8], id: &[u8]) -> Encoded {
    let mut event = [kind, DATA].concat();
    let body_at = event.len() as u8;
    response::end_data(&mut event, text, id);
    Encoded::new(event, 0, body_at)
}

/// The type of events with bytes.
const BINARY: &[u8] = b"event: binary\n";
/// The type of responses and statuses beside payloads alone.
const CONTROL: &[u8] = b"event: control\n";

/// Whether a client asks for payloads alone. The first `payload` counts.
pub(crate) fn asks_raw(head: &RequestHead<'_>) -> bool {
    head.parameters("payload").next().as_deref() == Some("raw")
}

const fn bad_request(detail: &'static str) -> RequestRefusal {
    RequestRefusal::new(400, detail)
}

/// Checks the request and the messages in the query.
pub(super) fn check(head: &RequestHead<'_>, limits: &Limits) -> Result<(), RequestRefusal> {
    if head.announces_body() {
        return Err(bad_request("a request for an event stream has no body"));
    }
    for (count, message) in (1..).zip(head.sent_in_query()) {
        let Ok(message) = message else {
            return Err(bad_request("a send parameter is not UTF-8"));
        };
        if count > limits.event_stream_sends_max {
            return Err(bad_request("too many parameters send in one request"));
        }
        if message.len() > limits.message_bytes_max {
            return Err(bad_request("a send parameter is over --message-bytes-max"));
        }
    }
    Ok(())
}

/// Responds with a 200; the events follow.
pub(super) fn greet(request: &Request<'_>, out: &mut Vec<u8>) -> (Protocol, Encoding) {
    let head = request.head;
    let retry_spread_ms = request.random % RETRY_SPREAD_MS;
    let page = page(head, request.limits);
    response::answer(out, page, RETRY_MS + retry_spread_ms);
    let messages: Vec<_> = head.sent_in_query().flatten().collect();
    let stream = EventStream {
        messages: messages.into_iter(),
        ignored_bytes: 0,
        retry_spread_ms,
    };
    let encoding = match asks_raw(head) {
        true => Encoding::RawEvent,
        false => Encoding::Event,
    };
    (Protocol::EventStream(Box::new(stream)), encoding)
}

/// Responds to a request that is refused for now: a whole stream, which only says when to reconnect. After any status
/// but 200 an `EventSource` never reconnects (WHATWG HTML §9.2.3, "fail the connection").
pub(crate) fn refuse(head: &RequestHead<'_>, limits: &Limits, random: u64, out: &mut Vec<u8>) {
    let retry_ms = RETRY_MS + random % RETRY_SPREAD_MS;
    response::refusal(out, page(head, limits), retry_ms);
}

/// Responds to a `HEAD`, as a monitor sends it.
pub(crate) fn answer_head(head: &RequestHead<'_>, limits: &Limits, out: &mut Vec<u8>) {
    response::head(out, page(head, limits), "");
}

fn page<'a>(head: &RequestHead<'a>, limits: &Limits) -> RequestingPage<'a> {
    RequestingPage {
        origin: head.header("Origin"),
        is_listed: limits.origins_are_listed,
    }
}

/// Appends a sign of life.
pub(super) fn comment(out: &mut Vec<u8>) {
    out.extend_from_slice(COMMENT);
}

#[derive(Debug)]
pub(crate) struct EventStream {
    /// Messages of the query, not yet handled.
    messages: vec::IntoIter<String>,
    ignored_bytes: usize,
    /// The random part of the time after which this client reconnects.
    retry_spread_ms: u64,
}

impl EventStream {
    /// Returns the next message of the query. Input is discarded; the first time that it is more than a few bytes is a
    /// violation: an event stream takes none.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Option<ClientStep> {
        if let Some(message) = self.messages.next() {
            return Some(ClientStep::Message(ClientMessage::Text(message.into())));
        }
        self.messages = Vec::new().into_iter();
        let was_over = self.ignored_bytes > IGNORED_BYTES_MAX;
        self.ignored_bytes += std::mem::take(input).len();
        (self.ignored_bytes > IGNORED_BYTES_MAX && !was_over).then(|| {
            let code = CloseCode::new(1002, "an event stream takes no input");
            ClientStep::Violation(code, CloseReason::ProtocolError)
        })
    }

    /// Memory of the messages that are not handled yet.
    pub(super) fn unfinished_bytes(&self) -> usize {
        let messages = self.messages.as_slice().iter();
        messages
            .map(|text| size_of::<String>() + allocated_bytes(text.capacity()))
            .sum()
    }

    pub(super) fn holds_messages(&self) -> bool {
        !self.messages.as_slice().is_empty()
    }

    pub(super) fn close(&mut self, out: &mut Vec<u8>, code: CloseCode) {
        let mut object = ObjectWriter::new();
        object.number("code", u64::from(code.code));
        object.string("reason", &code.reason());
        if code.retry_after_ms > 0 {
            // An `EventSource` does not know the event `close`, but it waits for this time before it reconnects.
            let retry_ms = u64::from(code.retry_after_ms) + self.retry_spread_ms;
            out.extend_from_slice(&response::retry(retry_ms));
        }
        out.extend_from_slice(b"event: close\n");
        out.extend_from_slice(DATA);
        response::end_data(out, object.finish().as_bytes(), b"");
    }
}
