//! The protocol of a client: the response to the accepted request, the meaning of the client's bytes,
//! keep-alive and close, and the wire format of frames.
//!
//! The send queue, conflation, limits, drain and metrics are the same for both protocols.
//!
//! A frame is made as a WebSocket frame; the first event stream that needs it makes the other encoding,
//! once per frame.

pub(super) mod event_stream;
pub(super) mod websocket;

use event_stream::EventStream;
use websocket::WebSocket;

use super::{CloseCode, CloseReason, Limits};
use weirgate_wire::deflate::{DeflateParams, InflateWindows};
use weirgate_wire::{FrameScratch, RequestHead};

use tungstenite::{Bytes, Utf8Bytes};

/// The protocol state of a client, from the response to the request on. The state of a WebSocket, which most
/// clients have, is in the session; the other is behind a pointer.
///
/// Methods append whole control frames to `out`: control frames go out before waiting messages, never
/// inside a message.
#[derive(Debug)]
pub(super) enum Protocol {
    WebSocket(WebSocket),
    EventStream(Box<EventStream>),
}

impl Protocol {
    /// Reads the next bytes of `input` up to a step, and leaves the rest; `None` when all bytes are used up, or while a
    /// compressed message takes more time ([`is_inflating`](Self::is_inflating)). A response, such as a pong, is appended
    /// to `out`. `scratch` is room for one message, shared by all clients.
    ///
    /// Each step takes input, except a violation, and a message that [`holds_messages`](Self::holds_messages) or
    /// [`is_inflating`](Self::is_inflating) has announced. The hub does not rely on this: after any other step that
    /// takes no input, the rest of `input` is discarded. A violation is the last step: the hub reads no further, even
    /// if the close waits for queued messages.
    pub(super) fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        scratch: &mut FrameScratch,
    ) -> Option<ClientStep> {
        match self {
            Self::WebSocket(websocket) => websocket.read(input, out, scratch),
            Self::EventStream(stream) => stream.read(input),
        }
    }

    /// Whether the next [`read`](Self::read) may return a message without input.
    pub(super) fn holds_messages(&self) -> bool {
        matches!(self, Self::EventStream(stream) if stream.holds_messages())
    }

    /// Whether the next [`read`](Self::read) goes on with a compressed message, for about a millisecond at most.
    pub(super) fn is_inflating(&self) -> bool {
        matches!(self, Self::WebSocket(websocket) if websocket.is_inflating())
    }

    /// Memory of the client's unfinished message, for the limit over all clients.
    pub(super) fn unfinished_bytes(&self) -> usize {
        match self {
            Self::WebSocket(websocket) => websocket.unfinished_bytes(),
            Self::EventStream(stream) => stream.unfinished_bytes(),
        }
    }

    /// Appends a sign of life. Returns true if the client responds with a [`ClientStep::Pong`]; without a
    /// pong in time the client is closed.
    pub(super) fn keep_alive(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Self::WebSocket(_) => websocket::ping(out),
            Self::EventStream(_) => event_stream::comment(out),
        }
        matches!(self, Self::WebSocket(_))
    }

    /// Appends the last control bytes, with the code and the text.
    pub(super) fn close(&mut self, out: &mut Vec<u8>, code: CloseCode) {
        match self {
            Self::WebSocket(websocket) => websocket.close(out, code),
            Self::EventStream(stream) => stream.close(out, code),
        }
    }

    /// Reads and discards input after the hub's last control bytes. Returns whether the client's close
    /// has come; until then the hub's side of the connection stays open. No close of an event stream is
    /// awaited.
    pub(super) fn skip_to_close(&mut self, input: &[u8]) -> bool {
        match self {
            Self::WebSocket(websocket) => websocket.skip_to_close(input),
            Self::EventStream(_) => true,
        }
    }

    /// Whether a peer that has ended its side of the connection in order may still read, so that the client stays. A
    /// client of an event stream may end its side after the request, and some proxies do so.
    pub(super) const fn may_read_on(&self) -> bool {
        matches!(self, Self::EventStream(_))
    }

    /// Appends a probe for such a peer to `out`. A client that is gone responds to the comment with a reset.
    pub(super) fn probe(&self, out: &mut Vec<u8>) {
        event_stream::comment(out);
    }
}

/// The result of reading the next bytes of a client.
#[derive(Debug)]
pub(super) enum ClientStep {
    /// A whole message.
    Message(ClientMessage),
    /// The client has sent a ping, and the pong is in the control part. A step for each ping, so that the limit of
    /// the control part is checked after each.
    Ping,
    /// The client responded to [`Protocol::keep_alive`].
    Pong,
    /// The client closes, with the code of its close frame, if that has one; the response is in the control part.
    PeerClosed(Option<u16>),
    /// The client broke the protocol and is closed with this code.
    Violation(CloseCode, CloseReason),
}

/// A whole message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClientMessage {
    /// Text, checked to be UTF-8.
    Text(Utf8Bytes),
    /// Any bytes.
    Binary(Bytes),
}

impl ClientMessage {
    /// Returns the message for a gateway.
    pub(super) fn incoming(&self) -> Incoming<'_> {
        match self {
            Self::Text(text) => Incoming::Text(text),
            Self::Binary(bytes) => Incoming::Binary(bytes),
        }
    }
}

/// A message of a client, for the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Text, checked to be UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

/// A request that the gateway has accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// The whole head.
    pub(super) head: &'a RequestHead<'a>,
    /// The subprotocol that the gateway chose, if any.
    pub(super) subprotocol: Option<&'a str>,
    /// The limits in force.
    pub(super) limits: &'a Limits,
    /// A random number for this client, to spread the later actions of clients.
    pub(super) random: u64,
    /// The inflate windows of all clients.
    pub(super) inflate_windows: &'a InflateWindows,
}

/// The protocol that a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speaks {
    /// RFC 6455, with RFC 7692 if the client offers compression and the limits allow compression.
    WebSocket,
    /// Server-Sent Events (WHATWG HTML §9.2), if the limits allow event streams
    /// ([`Limits::event_stream`]).
    EventStream,
}

impl Speaks {
    /// Returns an error if the request is invalid in this protocol. Called before the gateway.
    pub(super) fn check(
        self,
        head: &RequestHead<'_>,
        limits: &Limits,
    ) -> Result<(), RequestRefusal> {
        match self {
            Self::WebSocket => Ok(head.upgrade().map(drop)?),
            Self::EventStream => event_stream::check(head, limits),
        }
    }

    /// Appends the response to an accepted request to `out`. Appends nothing if the request has no
    /// valid response.
    pub(super) fn greet(
        self,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(Protocol, Encoding), RequestRefusal> {
        match self {
            Self::WebSocket => websocket::greet(request, out),
            Self::EventStream => Ok(event_stream::greet(request, out)),
        }
    }
}

/// The refusal of a request that is invalid in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRefusal {
    /// HTTP status.
    pub status: u16,
    /// Headers of the response.
    pub headers: &'static [(&'static str, &'static str)],
    /// The fault, for the client to read.
    pub detail: &'static str,
}

impl RequestRefusal {
    /// Returns a refusal that is final.
    pub(super) const fn new(status: u16, detail: &'static str) -> Self {
        Self {
            status,
            headers: &[],
            detail,
        }
    }

    /// Returns a temporary refusal, with 503 or 429: the client may try again, but not at once. The time to wait is
    /// that of `event_stream::RETRY_MS`.
    pub(super) const fn for_now(status: u16, detail: &'static str) -> Self {
        Self {
            headers: &[("Retry-After", "1")],
            ..Self::new(status, detail)
        }
    }

    /// Whether the same request may succeed later.
    pub(super) const fn passes(self) -> bool {
        matches!(self.status, 429 | 503)
    }
}

/// The encoding of a client's frames. It is small, because every send queue has an `Encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As made.
    #[default]
    Plain,
    /// With permessage-deflate, as negotiated.
    Deflate(DeflateParams),
    /// As an event of an event stream.
    Event,
    /// As an event with the payload alone, as `?payload=raw` asks for it.
    RawEvent,
}
