//! What a client speaks: how its accepted request is answered, what its bytes mean, how it is kept
//! alive and closed, and how frames look on its wire.
//!
//! The send queue, conflation, limits, drain and metrics are the same for all protocols. A gateway
//! chooses the protocol of a client by its request ([`Gateway::speaks`](super::Gateway::speaks)).
//!
//! A frame is made as a WebSocket frame; the encoding of another protocol is made at most once per
//! frame, by the first client that needs it.

mod event_stream;
pub(super) mod websocket;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use websocket::WebSocket;

use super::{CloseCode, CloseReason, Encoded, Frame, Limits};
use crate::wire::deflate::{DeflateParams, InflateWindows};
use crate::wire::frame_reader::FrameScratch;
use crate::wire::head::RequestHead;

pub use tungstenite::{Bytes, Utf8Bytes};

/// One client's side of the protocol that it speaks, from the answer to its request on.
///
/// What a method appends to `out` is whole control frames: they go out before waiting messages,
/// never inside one.
pub trait Protocol: fmt::Debug + Send {
    /// Takes what the next bytes of `input` come to, and leaves the rest; `None` when all are used
    /// up. An answer, as a pong, is appended to `out`. `scratch` is room for one message that all
    /// clients share.
    fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        scratch: &mut FrameScratch,
    ) -> Option<Step>;

    /// Whether the next [`read`](Self::read) may find a message without input. By default every message
    /// comes as bytes.
    fn holds_messages(&self) -> bool {
        false
    }

    /// Appends a sign of life. `true`: the client answers with a [`Step::Pong`], and is closed
    /// when none comes in time.
    fn keep_alive(&mut self, out: &mut Vec<u8>) -> bool;

    /// Appends the last words, with the code and its text where the protocol has room for them.
    fn close(&mut self, out: &mut Vec<u8>, code: CloseCode);

    /// Takes what came behind our last words, and keeps none of it. Returns whether the client's last
    /// words have come; until then our side of the connection stays open. By default none come.
    fn reads_last_words(&mut self, input: &[u8]) -> bool {
        let _ = input;
        true
    }

    /// The peer has ended its side of the connection, in order. Returns whether the peer may still
    /// read, so that the client stays; something may be appended to `out` to find out. By default
    /// the client is gone.
    fn peer_ended(&mut self, out: &mut Vec<u8>) -> bool {
        let _ = out;
        false
    }
}

/// What the next bytes of a client came to.
#[derive(Debug)]
pub enum Step {
    /// A whole message.
    Message(Message),
    /// The client asked for a sign of life, which stands in the control part: one at a time, so
    /// that their limit holds for each.
    Ping,
    /// The client answered [`Protocol::keep_alive`].
    Pong,
    /// The client closes, with the code of its close frame; the answer stands in the control part.
    PeerClosed(Option<u16>),
    /// The client broke the protocol: it is closed with this code.
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
    /// As gateways get it.
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

/// A message as a gateway gets it.
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
    /// Drawn for this client, to spread what clients do later.
    pub random: u64,
    /// What the messages of all clients may refer to.
    pub inflate_windows: &'a InflateWindows,
}

/// A protocol that clients may speak, as far as requests are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Speaks {
    /// Why a request is not one for this protocol, asked before the gateway is.
    pub check: fn(head: &RequestHead<'_>, limits: &Limits) -> Result<(), Refusal>,
    /// Answers a request that the gateway has accepted by appending to `out`. If the request cannot
    /// be answered, appends nothing.
    pub greet: fn(request: &Request<'_>, out: &mut Vec<u8>) -> Result<Greeted, Refusal>,
}

impl Speaks {
    /// RFC 6455, with RFC 7692 where the client offers it and the limits allow it.
    pub const WEBSOCKET: Self = Self {
        check: websocket::check,
        greet: websocket::greet,
    };

    /// Server-Sent Events (WHATWG HTML §9.2): the hub takes such clients where the limits allow it
    /// ([`Limits::event_stream`]).
    pub(super) const EVENT_STREAM: Self = Self {
        check: event_stream::check,
        greet: event_stream::greet,
    };
}

/// The protocol of one client. WebSockets, which most clients speak, stand in the session itself;
/// any other protocol is behind a pointer.
#[derive(Debug)]
pub(super) enum Spoken {
    WebSocket(WebSocket),
    Other(Box<dyn Protocol>),
}

impl Spoken {
    fn protocol(&mut self) -> &mut dyn Protocol {
        match self {
            Self::WebSocket(websocket) => websocket,
            Self::Other(other) => &mut **other,
        }
    }
}

impl Protocol for Spoken {
    fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        scratch: &mut FrameScratch,
    ) -> Option<Step> {
        self.protocol().read(input, out, scratch)
    }

    fn holds_messages(&self) -> bool {
        match self {
            Self::WebSocket(websocket) => websocket.holds_messages(),
            Self::Other(other) => other.holds_messages(),
        }
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) -> bool {
        self.protocol().keep_alive(out)
    }

    fn close(&mut self, out: &mut Vec<u8>, code: CloseCode) {
        self.protocol().close(out, code);
    }

    fn reads_last_words(&mut self, input: &[u8]) -> bool {
        self.protocol().reads_last_words(input)
    }

    fn peer_ended(&mut self, out: &mut Vec<u8>) -> bool {
        self.protocol().peer_ended(out)
    }
}

/// A client whose request is answered.
#[derive(Debug)]
pub struct Greeted {
    pub(super) protocol: Spoken,
    pub(super) encoding: Encoding,
    /// Of [`Encoding::Coded`].
    pub(super) codec: Option<&'static Codec>,
}

impl Greeted {
    /// A client whose frames are encoded by `codec`.
    pub fn new(protocol: Box<dyn Protocol>, codec: &'static Codec) -> Self {
        Self {
            protocol: Spoken::Other(protocol),
            encoding: Encoding::Coded(codec.id()),
            codec: Some(codec),
        }
    }
}

/// Why a request is not one for the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Headers that belong to the answer.
    pub headers: &'static [(&'static str, &'static str)],
    /// What is wrong, for the client to read.
    pub detail: &'static str,
}

/// How a client wants its frames: small, because every send queue holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Encoding {
    /// As they were made.
    Plain,
    /// permessage-deflate, as it was agreed on.
    Deflate(DeflateParams),
    /// As a [`Codec`] makes them.
    Coded(CodecId),
}

/// A number that stands for a codec, the same for all hubs of the process: a reference would take
/// a send queue over its two cache lines, and so would the alignment of a `u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) struct CodecId([u8; 2]);

/// How the frames of one protocol look on its wire.
#[derive(Debug)]
pub struct Codec {
    prefix: &'static [u8],
    encode: fn(&Frame, &mut Vec<u8>),
    id: OnceLock<CodecId>,
}

impl Codec {
    /// `prefix` stands before each frame, also before its lead, and has at most 255 bytes. `encode`
    /// appends the frame's body and what ends it.
    pub const fn new(prefix: &'static [u8], encode: fn(&Frame, &mut Vec<u8>)) -> Self {
        assert!(prefix.len() <= u8::MAX as usize, "a prefix is short");
        Self {
            prefix,
            encode,
            id: OnceLock::new(),
        }
    }

    pub(super) fn id(&self) -> CodecId {
        static CODECS: AtomicU16 = AtomicU16::new(0);
        *self
            .id
            .get_or_init(|| CodecId(CODECS.fetch_add(1, Ordering::Relaxed).to_ne_bytes()))
    }
}

/// A frame in the encoding of one codec, and in those of others behind it.
#[derive(Debug)]
pub(in crate::hub) struct Coded {
    id: CodecId,
    encoded: Encoded,
    next: OnceLock<Box<Self>>,
}

impl Coded {
    fn new(codec: &Codec, frame: &Frame) -> Self {
        let mut bytes = codec.prefix.to_vec();
        (codec.encode)(frame, &mut bytes);
        Self {
            id: codec.id(),
            encoded: Encoded::new(bytes, 0, codec.prefix.len() as u8),
            next: OnceLock::new(),
        }
    }

    /// The frame as `codec` makes it, made by the first call; `made` is called with its memory, in
    /// bytes.
    pub(in crate::hub) fn get_or_make<'a>(
        mut at: &'a OnceLock<Box<Self>>,
        codec: &Codec,
        frame: &Frame,
        made: impl Fn(usize),
    ) -> &'a Encoded {
        loop {
            let coded = at.get_or_init(|| {
                let coded = Self::new(codec, frame);
                made(coded.encoded.memory_bytes());
                Box::new(coded)
            });
            if coded.id == codec.id() {
                return &coded.encoded;
            }
            at = &coded.next;
        }
    }

    /// The encoding of a codec, if it was made already.
    pub(in crate::hub) fn get(mut at: &OnceLock<Box<Self>>, id: CodecId) -> Option<&Encoded> {
        loop {
            let coded = at.get()?;
            if coded.id == id {
                return Some(&coded.encoded);
            }
            at = &coded.next;
        }
    }

    /// Memory of all encodings from here on, in bytes.
    pub(in crate::hub) fn memory_bytes(mut at: &OnceLock<Box<Self>>) -> usize {
        let mut bytes = 0;
        while let Some(coded) = at.get() {
            bytes += coded.encoded.memory_bytes();
            at = &coded.next;
        }
        bytes
    }
}
