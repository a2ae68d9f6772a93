//! Server-Sent Events (WHATWG HTML §9.2): a client that gets messages as an event stream in the
//! response to a plain `GET`. The messages of the client are in the query of the request, as parameters
//! `send`.

mod response;

use std::vec;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use self::response::{COMMENT, DATA, DataLines, RequestingPage};
use super::{ClientMessage, ClientStep, Encoding, Protocol, Request, RequestRefusal};
use crate::frame::next_part;
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
    EventWriter::new(frame, false, encoded_bytes(frame, false)).whole(frame)
}

/// Makes the event of a frame for a client that gets payloads alone: bytes are the event's data, without the text before
/// them. A text is a response or a status; it has a type, which `onmessage` of an `EventSource` does not get.
pub(crate) fn encode_raw(frame: &Frame) -> Encoded {
    EventWriter::new(frame, true, encoded_bytes(frame, true)).whole(frame)
}

/// About the most memory that the event of a frame takes, or if `is_raw` that of its payload alone.
pub(crate) fn encoded_bytes(frame: &Frame, is_raw: bool) -> usize {
    let data = EventData::of(frame, is_raw);
    let ends = data.text.iter().map(|piece| response::line_ends(piece));
    let bytes = base64_bytes(data.bytes.len());
    data.text_bytes()
        + ends.sum::<usize>() * DATA.len()
        + bytes
        + frame.position().len()
        + BESIDE_BYTES
}

/// More than what an event has beside its data and its id.
const BESIDE_BYTES: usize = 32;

const fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// The data of a frame's event: its type, text, and after the text bytes that become base64.
struct EventData<'a> {
    kind: &'static [u8],
    text: [&'a [u8]; 3],
    bytes: &'a [u8],
}

impl<'a> EventData<'a> {
    /// Chooses what of the frame is data. `is_raw`: the client gets payloads alone, so a text frame has the type
    /// [`CONTROL`].
    fn of(frame: &'a Frame, is_raw: bool) -> Self {
        let (kind, text, bytes) = match (frame.content(), is_raw) {
            (Content::Text, false) => (&b""[..], frame.pieces(), &b""[..]),
            (Content::Text, true) => (CONTROL, frame.pieces(), &b""[..]),
            (Content::Binary, false) => {
                let (text, bytes) = frame.text_and_bytes();
                (BINARY, [text, b"", b""], bytes)
            }
            (Content::Binary, true) => (&b""[..], [frame.text_and_bytes().1, b"", b""], &b""[..]),
        };
        Self { kind, text, bytes }
    }

    fn text_bytes(&self) -> usize {
        self.text.iter().map(|piece| piece.len()).sum()
    }
}

/// Makes the event of a frame in steps, because that of many megabytes takes long.
#[derive(Debug)]
pub(crate) struct EventWriter {
    is_raw: bool,
    event: Vec<u8>,
    /// Where the data begins.
    body_at: u8,
    /// Bytes of the data that are in the event.
    taken: usize,
    lines: DataLines,
}

impl EventWriter {
    /// Begins the event, which takes about `bytes` ([`encoded_bytes`]). The steps must be given the same frame.
    pub(crate) fn new(frame: &Frame, is_raw: bool, bytes: usize) -> Self {
        let kind = EventData::of(frame, is_raw).kind;
        // Room for all lines at once: an event of many megabytes is not moved while it grows.
        let mut event = Vec::with_capacity(bytes);
        event.extend_from_slice(kind);
        event.extend_from_slice(DATA);
        Self {
            is_raw,
            body_at: event.len() as u8,
            event,
            taken: 0,
            lines: DataLines::default(),
        }
    }

    /// Takes at most `bytes_max` bytes of the data, a multiple of three, so that base64 pads only the last part.
    /// Returns false once all are taken.
    pub(crate) fn step(&mut self, frame: &Frame, bytes_max: usize) -> bool {
        debug_assert!(
            bytes_max.is_multiple_of(3),
            "no base64 within the data ends"
        );
        let data = EventData::of(frame, self.is_raw);
        if let Some(part) = next_part(data.text, self.taken, bytes_max) {
            self.lines.append(part, &mut self.event);
            self.taken += part.len();
            return true;
        }
        let taken = self.taken - data.text_bytes();
        let Some(part) = next_part([data.bytes, b"", b""], taken, bytes_max) else {
            return false;
        };
        let at = self.event.len();
        self.event.resize(at + base64_bytes(part.len()), 0);
        let encoded = BASE64_STANDARD.encode_slice(part, &mut self.event[at..]);
        debug_assert!(encoded.is_ok(), "room for all");
        self.taken += part.len();
        true
    }

    /// Ends the event, after all steps.
    pub(crate) fn finish(mut self, frame: &Frame) -> Encoded {
        response::end_event(&mut self.event, frame.position());
        self.event.shrink_to_fit();
        // An event has no room before it: it begins at 0.
        Encoded::new(self.event, 0, self.body_at)
    }

    fn whole(mut self, frame: &Frame) -> Encoded {
        // No limit: the highest multiple of three.
        while self.step(frame, usize::MAX / 3 * 3) {}
        self.finish(frame)
    }
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

/// The state of a client of an event stream.
#[derive(Debug)]
pub(crate) struct EventStream {
    /// Messages of the query, not yet handled.
    messages: vec::IntoIter<String>,
    ignored_bytes: usize,
    /// The random part of the time after which this client reconnects.
    retry_spread_ms: u64,
}

impl EventStream {
    /// Returns the next message of the query. Input is discarded, because an event stream takes none. When it first
    /// exceeds [`IGNORED_BYTES_MAX`], that is a violation.
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

    /// Writes the event `close` with code and reason. If the client is to wait, a line `retry` comes before it.
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
        DataLines::default().append(object.finish().as_bytes(), out);
        response::end_event(out, b"");
    }
}
