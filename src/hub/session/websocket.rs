//! A client's side as a WebSocket (RFC 6455): frames in, control frames out.

use std::io::{self, Read, Write};

use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use crate::hub::{CloseCode, CloseReason, Limits};
use crate::wire::encode::{FIN, OPCODE_PING};
use crate::wire::frame_reader::{FrameError, FrameReader, FrameScratch};

/// Frames above this leave a buffer in the protocol context that never shrinks: the context is
/// made anew behind them.
const SMALL_FRAME_BYTES: usize = 4096;

/// What is kept of one client's WebSocket.
#[derive(Debug)]
pub(super) struct WebSocket {
    reader: FrameReader,
    context: WebSocketContext,
    message_bytes_max: usize,
}

/// What the next bytes of a client came to.
pub(in crate::hub) enum Step {
    /// Reading is paused: the input is kept for later.
    Held,
    /// All input is used up.
    Starved,
    Message(Message),
    /// Its pong stands in the control part: one at a time, so that their limit holds for each.
    Ping,
    Pong,
    /// The answer to its close frame, with the code of it, stands in the control part.
    PeerClosed(Option<u16>),
    Violation(CloseCode, CloseReason),
}

impl WebSocket {
    pub(super) fn new(limits: &Limits, deflate: bool) -> Self {
        Self {
            reader: FrameReader::new(limits.message_bytes_max, deflate),
            context: context(limits.message_bytes_max),
            message_bytes_max: limits.message_bytes_max,
        }
    }

    /// Takes what one frame of `input` comes to; what answers it goes to `control`.
    pub(super) fn read(
        &mut self,
        control: &mut Vec<u8>,
        input: &mut &[u8],
        scratch: &mut FrameScratch,
    ) -> Step {
        loop {
            let frame = match self.reader.read(input, scratch) {
                Ok(Some(frame)) => frame.bytes(),
                Ok(None) => return Step::Starved,
                Err(error) => return violation(error),
            };
            let frame_bytes = frame.len();
            let mut pipe = Pipe {
                input: frame,
                control,
            };
            let outcome = self.context.read(&mut pipe);
            debug_assert!(
                pipe.input.is_empty() || outcome.is_err(),
                "a frame is taken whole"
            );
            let step = self.judge(outcome, control);
            if frame_bytes > SMALL_FRAME_BYTES
                && self.reader.between_messages()
                && self.context.can_write()
            {
                self.context = context(self.message_bytes_max);
            }
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// Puts a ping in `control`.
    pub(super) fn ping(&self, control: &mut Vec<u8>) {
        control.extend_from_slice(&[FIN | OPCODE_PING, 0]);
    }

    /// What reading one frame came to; `None` for one that asks for nothing.
    fn judge(&mut self, outcome: Result<Message, Error>, control: &mut Vec<u8>) -> Option<Step> {
        match outcome {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => Some(Step::Message(message)),
            Ok(Message::Ping(_)) => {
                self.flush(control);
                Some(Step::Ping)
            }
            Ok(Message::Pong(_)) => Some(Step::Pong),
            Ok(Message::Close(frame)) => {
                self.flush(control);
                Some(Step::PeerClosed(frame.map(|frame| frame.code.into())))
            }
            Err(Error::ConnectionClosed) => {
                self.flush(control);
                Some(Step::PeerClosed(None))
            }
            // A fragment: the message goes on.
            Err(Error::Io(_)) | Ok(Message::Frame(_)) => None,
            Err(Error::Utf8(_)) => Some(violation(FrameError::BadUtf8)),
            Err(Error::Capacity(_)) => Some(violation(FrameError::TooBig)),
            Err(_) => Some(violation(FrameError::Protocol(
                "not a frame that may come here",
            ))),
        }
    }

    /// Lets the context write the pong or close that it owes.
    fn flush(&mut self, control: &mut Vec<u8>) {
        let mut pipe = Pipe {
            input: &[],
            control,
        };
        // The pipe never fails; after a close there may be nothing to do.
        let _ = self.context.flush(&mut pipe);
    }

    /// Puts the close frame in `control`.
    pub(super) fn write_close(&mut self, control: &mut Vec<u8>, code: CloseCode) {
        let mut pipe = Pipe {
            input: &[],
            control,
        };
        let frame = CloseFrame {
            code: code.code.into(),
            reason: code.text.into(),
        };
        let _ = self.context.close(&mut pipe, Some(frame));
        let _ = self.context.flush(&mut pipe);
    }
}

fn violation(error: FrameError) -> Step {
    let reason = match error {
        FrameError::TooBig => CloseReason::MessageTooBig,
        FrameError::BadUtf8 => CloseReason::BadUtf8,
        _ => CloseReason::ProtocolError,
    };
    Step::Violation(CloseCode::bare(error.close_code()), reason)
}

fn context(message_bytes_max: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        // Nothing is kept per connection: the frame reader hands over whole frames.
        .read_buffer_size(0)
        // Each frame that the context makes goes to the control part at once.
        .write_buffer_size(0)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
        // The frame reader has unmasked them, and has refused those that were not masked.
        .accept_unmasked_frames(true);
    WebSocketContext::new(Role::Server, Some(config))
}

/// The context's "stream": reads from one frame, writes whole frames to the control part.
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
