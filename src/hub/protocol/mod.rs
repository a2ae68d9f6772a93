//! The protocol of a client: the response to the accepted request, the meaning of the client's bytes,
//! keep-alive and close, and the wire format of frames.
//!
//! The send queue, conflation, limits, drain and metrics are the same for all protocols. A gateway
//! chooses a client's protocol by the request ([`Gateway::speaks`](super::Gateway::speaks)).
//!
//! A frame is made as a WebSocket frame; the first client that needs the encoding of another protocol
//! makes that encoding, once per frame.

pub(super) mod event_stream;
pub(super) mod websocket;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use websocket::WebSocket;

use super::encodings::CodecId;
use super::{CloseCode, CloseReason, Encoded, Frame, Limits};
use crate::wire::deflate::{DeflateParams, InflateWindows};
use crate::wire::frame_reader::FrameScratch;
use crate::wire::head::RequestHead;

pub use tungstenite::{Bytes, Utf8Bytes};

/// The protocol state of a client, from the response to the request on.
///
/// Methods append whole control frames to `out`: control frames go out before waiting messages, never
/// inside a message.
pub trait Protocol: fmt::Debug + Send {
    /// Reads the next bytes of `input` up to a step, and leaves the rest; `None` when all bytes are
    /// used up. A response, such as a pong, is appended to `out`. `scratch` is room for one message,
    /// shared by all clients.
    ///
    /// Each step takes input, except a violation and a message that [`holds_messages`](Self::holds_messages) has
    /// announced. The hub relies on no protocol for this: behind another step without input, the rest of `input` is
    /// discarded. A violation is the last step: the hub reads no further, even if the close waits for queued
    /// messages.
    fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        scratch: &mut FrameScratch,
    ) -> Option<Step>;

    /// Whether the next [`read`](Self::read) may return a message without input. By default every
    /// message comes as bytes.
    fn holds_messages(&self) -> bool {
        false
    }

    /// Memory of what the client has sent of an unfinished message, for the limit over all clients. By
    /// default nothing is kept between two reads.
    fn unfinished_bytes(&self) -> usize {
        0
    }

    /// Appends a sign of life. Returns true if the client responds with a [`Step::Pong`]; without a
    /// pong in time the client is closed.
    fn keep_alive(&mut self, out: &mut Vec<u8>) -> bool;

    /// Appends the last control bytes, with the code and the text if the protocol has room for both.
    fn close(&mut self, out: &mut Vec<u8>, code: CloseCode);

    /// Reads and discards input behind the hub's last control bytes. Returns whether the client's close
    /// has come; until then the hub's side of the connection stays open. By default no close is awaited.
    fn reads_last_words(&mut self, input: &[u8]) -> bool {
        let _ = input;
        true
    }

    /// Handles the end of the peer's side of the connection, in order. Returns whether the peer may
    /// still read, so that the client stays; the method may append a probe to `out`. By default the
    /// client is gone.
    fn peer_ended(&mut self, out: &mut Vec<u8>) -> bool {
        let _ = out;
        false
    }
}

/// The result of reading the next bytes of a client.
#[derive(Debug)]
pub enum Step {
    /// A whole message.
    Message(Message),
    /// The client asked for a sign of life, which is in the control part: one at a time, so that the
    /// limit of the control part holds for each.
    Ping,
    /// The client responded to [`Protocol::keep_alive`].
    Pong,
    /// The client closes, with the code of its close frame; the response is in the control part.
    PeerClosed(Option<u16>),
    /// The client broke the protocol and is closed with this code.
    Violation(CloseCode, CloseReason),
}

/// A whole message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text, checked to be UTF-8.
    Text(Utf8Bytes),
    /// Any bytes.
    Binary(Bytes),
}

impl Message {
    /// Returns the message for a gateway.
    pub fn incoming(&self) -> Incoming<'_> {
        match self {
            Self::Text(text) => Incoming::Text(text),
            Self::Binary(bytes) => Incoming::Binary(bytes),
        }
    }

    /// Bytes of the payload.
    pub(super) fn payload_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// A message for a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Text, checked to be UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

/// A request that the gateway has accepted.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The whole head.
    pub head: &'a RequestHead<'a>,
    /// The subprotocol that the gateway chose, if any.
    pub subprotocol: Option<&'a str>,
    /// The limits in force.
    pub limits: &'a Limits,
    /// A random number for this client, to spread the later actions of clients.
    pub random: u64,
    /// The inflate windows of all clients.
    pub inflate_windows: &'a InflateWindows,
}

/// The request side of a protocol that clients may speak.
#[derive(Clone, Copy, Debug)]
pub struct Speaks {
    /// Returns an error if a request is invalid in this protocol. Called before the gateway.
    pub check: fn(head: &RequestHead<'_>, limits: &Limits) -> Result<(), RequestRefusal>,
    /// Appends the response to an accepted request to `out`. Appends nothing if the request has no
    /// valid response.
    pub greet: fn(request: &Request<'_>, out: &mut Vec<u8>) -> Result<Greeted, RequestRefusal>,
}

impl Speaks {
    /// RFC 6455, with RFC 7692 if the client offers compression and the limits allow compression.
    pub const WEBSOCKET: Self = Self {
        check: websocket::check,
        greet: websocket::greet,
    };

    /// Server-Sent Events (WHATWG HTML §9.2), if the limits allow event streams
    /// ([`Limits::event_stream`]).
    pub(super) const EVENT_STREAM: Self = Self {
        check: event_stream::check,
        greet: event_stream::greet,
    };
}

/// The protocol of one client. The WebSocket state, which most clients have, is in the session; any
/// other protocol is behind a pointer.
#[derive(Debug)]
pub(super) enum Spoken {
    WebSocket(WebSocket),
    Other(Box<dyn Protocol>),
}

impl Deref for Spoken {
    type Target = dyn Protocol;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::WebSocket(websocket) => websocket,
            Self::Other(other) => &**other,
        }
    }
}

impl DerefMut for Spoken {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::WebSocket(websocket) => websocket,
            Self::Other(other) => &mut **other,
        }
    }
}

/// A client after the response to the request.
#[derive(Debug)]
pub struct Greeted {
    pub(super) protocol: Spoken,
    pub(super) encoding: Encoding,
    /// The codec of [`Encoding::Coded`].
    pub(super) codec: Option<&'static Codec>,
}

impl Greeted {
    /// Returns a client whose frames are encoded by `codec`.
    pub fn new(protocol: Box<dyn Protocol>, codec: &'static Codec) -> Self {
        Self {
            protocol: Spoken::Other(protocol),
            encoding: Encoding::Coded(codec.id()),
            codec: Some(codec),
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

    /// Returns a refusal that passes, with 503 or 429: the client may come back, but not at once. The
    /// second is that of [`event_stream::RETRY_MS`].
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

/// The encoding of a client's frames: small, because every send queue has an `Encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::hub) enum Encoding {
    /// As made.
    #[default]
    Plain,
    /// With permessage-deflate, as agreed on.
    Deflate(DeflateParams),
    /// As made by a [`Codec`].
    Coded(CodecId),
}

/// The wire format of a protocol's frames.
#[derive(Debug)]
pub struct Codec {
    prefix: &'static [u8],
    encode: fn(&Frame, &mut Vec<u8>),
    id: OnceLock<CodecId>,
}

impl Codec {
    /// `prefix` comes before each frame, also before the lead, and has at most 255 bytes. `encode`
    /// appends the frame's body and terminator.
    pub const fn new(prefix: &'static [u8], encode: fn(&Frame, &mut Vec<u8>)) -> Self {
        assert!(prefix.len() <= u8::MAX as usize, "a prefix is short");
        Self {
            prefix,
            encode,
            id: OnceLock::new(),
        }
    }

    pub(super) fn id(&self) -> CodecId {
        *self.id.get_or_init(CodecId::next)
    }

    pub(super) fn encode(&self, frame: &Frame) -> Encoded {
        let mut bytes = self.prefix.to_vec();
        (self.encode)(frame, &mut bytes);
        Encoded::new(bytes, 0, self.prefix.len() as u8)
    }
}
