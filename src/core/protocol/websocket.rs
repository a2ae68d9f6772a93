//! WebSockets (RFC 6455, RFC 7692): the 101, frames in, control frames out, and the header before a
//! payload. All knowledge of WebSockets in the core is here; codecs are in `wire`.

use std::io::{self, Read, Write};

use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message as Received};

use super::{ClientMessage, ClientStep, Encoding, Protocol, Request, RequestRefusal};
use crate::{CloseCode, CloseReason, Content, Encoded};
use weirgate_wire::UpgradeError;
use weirgate_wire::deflate::{Agreed, Deflater};
use weirgate_wire::{DataFrame, EMPTY_PING, FrameError, FrameReader, FrameScratch};

/// Responds with a 101.
pub(super) fn greet(
    request: &Request<'_>,
    out: &mut Vec<u8>,
) -> Result<(Protocol, Encoding), RequestRefusal> {
    let upgrade = request.head.upgrade()?;
    let limits = request.limits;
    let offers = (limits.deflate_level > 0).then(|| upgrade.negotiate_deflate());
    let mut agreed = offers.flatten();
    let bits = agreed.and_then(Agreed::client_window_bits);
    let window = bits.and_then(|bits| request.inflate_windows.grant(bits));
    if let Some(agreed) = &mut agreed {
        // There is no room for a window, or the client's messages refer to no earlier one anyway.
        if window.is_none() {
            *agreed = agreed.without_client_takeover();
        }
        agreed.to_client = agreed.to_client.with_takeover();
    }
    upgrade.accept(out, agreed.as_ref(), request.subprotocol);
    let mut reader = FrameReader::new(limits.message_bytes_max);
    if agreed.is_some() {
        reader = reader.with_deflate();
    }
    let protocol = Protocol::WebSocket(WebSocket::new(reader.with_window(window)));
    let encoding = agreed.map_or(Encoding::Plain, |agreed| {
        Encoding::Deflate(agreed.to_client)
    });
    Ok((protocol, encoding))
}

impl From<UpgradeError> for RequestRefusal {
    fn from(error: UpgradeError) -> Self {
        Self {
            status: error.status(),
            headers: error.headers(),
            detail: error.reason(),
        }
    }
}

// ---- frames out

/// Room for the header before a payload.
pub(crate) const HEADER_ROOM: usize = DataFrame::HEADER_BYTES_MAX;

/// Whether the payload of a frame is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    Deflated,
}

fn data_frame(content: Content, coding: Coding) -> DataFrame {
    DataFrame {
        is_text: content == Content::Text,
        is_deflated: coding == Coding::Deflated,
    }
}

/// Returns the frame of a payload. `bytes` has [`HEADER_ROOM`] bytes, then the payload.
pub(crate) fn encode(mut bytes: Vec<u8>, content: Content, coding: Coding) -> Encoded {
    let payload_len = (bytes.len() - HEADER_ROOM) as u64;
    let mut header = [0; DataFrame::HEADER_BYTES_MAX];
    let header_len = data_frame(content, coding).header(&mut header, payload_len);
    let start = HEADER_ROOM - header_len;
    bytes[start..HEADER_ROOM].copy_from_slice(&header[..header_len]);
    Encoded::new(bytes, start as u8, HEADER_ROOM as u8)
}

/// Returns [`HEADER_ROOM`] bytes, with capacity for a payload of `payload_bytes` after them.
pub(crate) fn room_for(payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_ROOM + payload_bytes);
    bytes.resize(HEADER_ROOM, 0);
    bytes
}

pub(crate) fn with_header_room(payload: &[u8]) -> Vec<u8> {
    let mut bytes = room_for(payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// Bytes of the prefix's text in the payload. In a compressed frame the text is a stored block, before
/// the deflated blocks of the body.
fn prefix_payload_bytes(text_bytes: usize, coding: Coding) -> usize {
    let stored = match coding {
        Coding::Deflated => Deflater::STORED_HEADER_BYTES,
        Coding::Plain => 0,
    };
    stored + text_bytes
}

/// Bytes of header and prefix before a body of `body_bytes`, for a prefix with a text of `text_bytes`.
#[inline]
pub(crate) fn prefix_bytes(text_bytes: usize, body_bytes: usize, coding: Coding) -> usize {
    let prefix = prefix_payload_bytes(text_bytes, coding);
    DataFrame::header_bytes((prefix + body_bytes) as u64) + prefix
}

/// Appends the bytes before the prefix's text.
#[inline]
pub(crate) fn write_prefix_header(
    out: &mut Vec<u8>,
    content: Content,
    text_bytes: usize,
    body_bytes: usize,
    coding: Coding,
) {
    let payload = prefix_payload_bytes(text_bytes, coding) + body_bytes;
    let mut header = [0; DataFrame::HEADER_BYTES_MAX];
    let len = data_frame(content, coding).header(&mut header, payload as u64);
    out.extend_from_slice(&header[..len]);
    if coding == Coding::Deflated {
        Deflater::write_stored_header(out, text_bytes as u16);
    }
}

// ---- one client

/// The state of one client's WebSocket: until one side closes, only the reader.
#[derive(Debug)]
pub(crate) struct WebSocket {
    reader: FrameReader,
    /// `None` until one side has closed. Until then a new context for each message does the same without memory,
    /// because the reader joins the fragments of a message.
    context: Option<Box<WebSocketContext>>,
}

/// Every client has a `WebSocket`.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<WebSocket>() <= 80);

impl WebSocket {
    fn new(reader: FrameReader) -> Self {
        Self {
            reader,
            context: None,
        }
    }

    /// Returns the meaning of a frame; `None` for a frame without effect.
    fn take_frame(&mut self, frame: &[u8], control: &mut Vec<u8>) -> Option<ClientStep> {
        if let Some(context) = &mut self.context {
            return read_frame(context, frame, control);
        }
        let mut context = new_context(self.reader.message_bytes_max());
        let step = read_frame(&mut context, frame, control);
        if !context.can_write() {
            self.context = Some(Box::new(context));
        }
        step
    }
}

/// Reads a whole frame. Returns the meaning of the frame; `None` for a frame without effect.
fn read_frame(
    context: &mut WebSocketContext,
    frame: &[u8],
    control: &mut Vec<u8>,
) -> Option<ClientStep> {
    let mut pipe = Pipe {
        input: frame,
        control,
    };
    let outcome = context.read(&mut pipe);
    debug_assert!(
        pipe.input.is_empty() || outcome.is_err(),
        "a frame is taken whole"
    );
    match outcome {
        Ok(Received::Text(text)) => Some(ClientStep::Message(ClientMessage::Text(text))),
        Ok(Received::Binary(bytes)) => Some(ClientStep::Message(ClientMessage::Binary(bytes))),
        Ok(Received::Ping(_)) => {
            flush(context, control);
            Some(ClientStep::Ping)
        }
        Ok(Received::Pong(_)) => Some(ClientStep::Pong),
        Ok(Received::Close(frame)) => {
            flush(context, control);
            Some(ClientStep::PeerClosed(frame.map(|frame| frame.code.into())))
        }
        Err(Error::ConnectionClosed) => {
            flush(context, control);
            Some(ClientStep::PeerClosed(None))
        }
        // The reader gives whole messages, so that nothing more is to be read.
        Err(Error::Io(_)) | Ok(Received::Frame(_)) => None,
        Err(Error::Utf8(_)) => Some(violation(FrameError::BadUtf8)),
        Err(Error::Capacity(_)) => Some(violation(FrameError::TooBig)),
        Err(_) => Some(violation(FrameError::Protocol(
            "not a frame that may come here",
        ))),
    }
}

/// Lets the context write the pong or close.
fn flush(context: &mut WebSocketContext, control: &mut Vec<u8>) {
    let mut pipe = Pipe {
        input: &[],
        control,
    };
    // The pipe never fails; after a close there may be nothing to do.
    let _ = context.flush(&mut pipe);
}

/// Appends a ping.
pub(super) fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&EMPTY_PING);
}

impl WebSocket {
    /// Reads up to the next step that the hub has to handle. Answers pings and the like in `out`; `None`: more input is
    /// needed.
    pub(super) fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        scratch: &mut FrameScratch,
    ) -> Option<ClientStep> {
        loop {
            let frame = match self.reader.read(input, scratch) {
                Ok(Some(frame)) => frame.bytes(),
                Ok(None) => return None,
                Err(error) => return Some(violation(error)),
            };
            let step = self.take_frame(frame, out);
            if step.is_some() {
                return step;
            }
        }
    }

    pub(super) fn unfinished_bytes(&self) -> usize {
        self.reader.unfinished_bytes()
    }

    /// Whether a compressed message takes more steps.
    pub(super) fn is_inflating(&self) -> bool {
        self.reader.is_inflating()
    }

    /// Writes a close frame. From here on a context is kept, because the rest of the connection depends on it.
    pub(super) fn close(&mut self, out: &mut Vec<u8>, code: CloseCode) {
        let mut pipe = Pipe {
            input: &[],
            control: out,
        };
        let frame = CloseFrame {
            code: code.code.into(),
            reason: code.reason().as_ref().into(),
        };
        let new = || Box::new(new_context(self.reader.message_bytes_max()));
        let context = self.context.get_or_insert_with(new);
        // The pipe never fails. If the client has closed before, there is nothing to send.
        let _ = context.close(&mut pipe, Some(frame));
        let _ = context.flush(&mut pipe);
    }

    /// Discards input until the client's close frame, and returns whether it has come. A client that sees the end of the
    /// connection before the close frame reports 1006 in place of the code, so the server ends the connection after both
    /// frames (RFC 6455 §7.1.1).
    pub(super) fn skip_to_close(&mut self, input: &[u8]) -> bool {
        self.context = None;
        self.reader.skip(input)
    }
}

/// Returns the step that ends the connection of a client that has broken the protocol. The close frame has no text.
fn violation(error: FrameError) -> ClientStep {
    let reason = match error {
        FrameError::TooBig => CloseReason::MessageTooBig,
        FrameError::BadUtf8 => CloseReason::BadUtf8,
        _ => CloseReason::ProtocolError,
    };
    ClientStep::Violation(CloseCode::bare(error.close_code()), reason)
}

/// Returns the library's state of a connection, which gets whole frames and so needs no buffers.
fn new_context(message_bytes_max: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        // No buffer per connection: the frame reader returns whole frames.
        .read_buffer_size(0)
        // Each frame of the context goes to the control part at once.
        .write_buffer_size(0)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
        // The frame reader has unmasked all frames, and has refused unmasked frames.
        .accept_unmasked_frames(true);
    WebSocketContext::new(Role::Server, Some(config))
}

/// The "stream" of the context: reads from one frame, writes whole frames to the control part.
struct Pipe<'a> {
    input: &'a [u8],
    control: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buf)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.control.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
