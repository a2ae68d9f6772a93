//! One connection as the core sees it: head, open, closing.
//!
//! The hot part is what a publish and a flush touch; everything else is behind one pointer. The
//! border is a type boundary, not a promise of speed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::deadlines::NEVER;
use super::send_queue::SendQueue;
use super::shell::Permit;
use super::{CloseCode, CloseReason, Closing, Ended, Limits, Now};
use crate::auth::TokenBucket;
use crate::wire::encode::{FIN, OPCODE_PING};
use crate::wire::frame_reader::{FrameError, FrameReader, FrameScratch};
use crate::wire::head::HeadScanner;

/// Frames above this leave a buffer in the protocol context that never shrinks: the context is
/// made anew behind them.
const SMALL_FRAME_BYTES: usize = 4096;

/// What is kept of a request's path: enough to tell who it was.
pub(super) const PATH_CHARS_MAX: usize = 128;

/// Why a session is not read for now. Reading goes on when no reason is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pause {
    /// Too many pongs wait.
    Control = 1,
    /// The gateway asked for it.
    Gateway = 2,
    /// It had its share of this turn: a few compressed bytes can be a lot of work.
    Turn = 4,
    /// The process stops, and the gateway is still busy with it.
    Stop = 8,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) generation: u32,
    pub(super) queue: SendQueue,
    pub(super) flags: Flags,
    pub(super) cold: Box<Cold>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// Open and not about to close: new data is taken.
    pub(super) takes_data: bool,
    /// In the list of the next flush.
    pub(super) dirty: bool,
    /// The kernel takes nothing until it says so.
    pub(super) blocked: bool,
    /// A token bucket stands before the queue.
    pub(super) rate_limited: bool,
    /// In the list of those to be dropped.
    pub(super) over: bool,
}

#[derive(Debug)]
pub(super) struct Cold {
    pub(super) peer: SocketAddr,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub(super) client: IpAddr,
    /// Path of the request, cut to [`PATH_CHARS_MAX`]; for the log.
    pub(super) path: Box<str>,
    /// Who it is, where the gateway told.
    pub(super) user: Option<Box<str>>,
    pub(super) accepted: Now,
    pub(super) phase: Phase,
    pub(super) permit: Option<Permit>,
    /// The earliest entry in the heap of deadlines.
    pub(super) armed_at: u64,
    pub(super) ping_at: u64,
    /// A ping is under way; its pong is due at `pong_due` once it has left.
    pub(super) ping_sent: bool,
    pub(super) pong_due: u64,
    pub(super) gateway_due: u64,
    /// When a graceful or spread close stops waiting.
    pub(super) close_due: u64,
    pub(super) paused: u8,
    /// Read before the pause, not yet looked at.
    pub(super) pending: Vec<u8>,
    pub(super) rate: Option<TokenBucket>,
    pub(super) peer_ended: bool,
    /// Why it ends.
    pub(super) reason: Option<CloseReason>,
    /// The code of the first close frame, or the status that refused the handshake.
    pub(super) code: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) messages_in: u64,
    pub(super) messages_conflated: u64,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the session's cold part is boxed, and nearly all are open"
)]
#[derive(Debug)]
pub(super) enum Phase {
    /// The request head is on its way.
    Head { read: Vec<u8>, scanner: HeadScanner },
    /// A WebSocket.
    Open(Open),
    /// Our last bytes are on their way; the peer's are discarded.
    Closing { due: u64, half_closed: bool },
    /// The shell was told to end it.
    Gone,
}

#[derive(Debug)]
pub(super) struct Open {
    reader: FrameReader,
    ws: WebSocketContext,
    message_bytes_max: usize,
    /// A close waits for data to go out: all of it, or what the kernel takes at once.
    pub(super) close: Option<PendingClose>,
}

/// A close that was decided and not yet sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingClose {
    pub(super) code: CloseCode,
    pub(super) reason: CloseReason,
    pub(super) how: Closing,
}

/// What the next bytes of a client came to.
pub(super) enum Step {
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

impl Session {
    pub(super) fn new(generation: u32, peer: SocketAddr, now: Now, permit: Permit) -> Self {
        let cold = Cold {
            peer,
            client: peer.ip().to_canonical(),
            path: Box::default(),
            user: None,
            accepted: now,
            phase: Phase::Head {
                read: Vec::new(),
                scanner: HeadScanner::default(),
            },
            permit: Some(permit),
            armed_at: NEVER,
            ping_at: NEVER,
            ping_sent: false,
            pong_due: NEVER,
            gateway_due: NEVER,
            close_due: NEVER,
            paused: 0,
            pending: Vec::new(),
            rate: None,
            peer_ended: false,
            reason: None,
            code: None,
            bytes_in: 0,
            messages_in: 0,
            messages_conflated: 0,
        };
        Self {
            generation,
            queue: SendQueue::new(),
            flags: Flags::default(),
            cold: Box::new(cold),
        }
    }

    /// How it looks at its end.
    pub(super) fn ended(&mut self, now: Now) -> Ended {
        let cold = &mut self.cold;
        Ended {
            peer: cold.peer,
            client: cold.client,
            user: cold.user.take(),
            path: std::mem::take(&mut cold.path),
            reason: cold.reason,
            code: cold.code,
            age_us: now.mono_us - cold.accepted.mono_us,
            bytes_in: cold.bytes_in,
            bytes_out: self.queue.bytes_out(),
            messages_in: cold.messages_in,
            messages_out: self.queue.frames_out(),
            messages_conflated: cold.messages_conflated,
        }
    }

    /// The next moment at which something is due though nothing happens.
    pub(super) fn next_deadline(&self, limits: &Limits) -> u64 {
        let cold = &self.cold;
        let own = match &cold.phase {
            Phase::Head { .. } => cold.accepted.mono_us + limits.handshake_us,
            Phase::Open(_) => cold.ping_at.min(cold.pong_due).min(cold.gateway_due),
            Phase::Closing { due, .. } => *due,
            Phase::Gone => return NEVER,
        };
        let stall = if self.queue.is_empty() {
            NEVER
        } else {
            self.queue.progress_at() + limits.send_queue.stall_us
        };
        let soft = self.queue.over_soft_since();
        let soft = soft.map_or(NEVER, |since| since + limits.send_queue.soft_for_us + 1);
        own.min(stall).min(soft).min(cold.close_due)
    }

    /// Takes what one frame of `input` comes to.
    pub(super) fn step(&mut self, now: Now, input: &mut &[u8], scratch: &mut FrameScratch) -> Step {
        let Phase::Open(open) = &mut self.cold.phase else {
            return Step::Starved;
        };
        open.step(self.queue.control(now), input, scratch)
    }

    /// Puts a ping in the control part, unless one is under way.
    pub(super) fn ping(&mut self, now: Now) {
        if !self.cold.ping_sent {
            self.queue
                .control(now)
                .extend_from_slice(&[FIN | OPCODE_PING, 0]);
            self.cold.ping_sent = true;
        }
    }

    /// Puts the close frame in the control part.
    pub(super) fn write_close(&mut self, now: Now, code: CloseCode) {
        if let Phase::Open(open) = &mut self.cold.phase {
            self.cold.code.get_or_insert(code.code);
            open.write_close(self.queue.control(now), code);
        }
    }
}

impl Open {
    pub(super) fn new(limits: &Limits, deflate: bool) -> Self {
        Self {
            reader: FrameReader::new(limits.message_bytes_max, deflate),
            ws: context(limits.message_bytes_max),
            message_bytes_max: limits.message_bytes_max,
            close: None,
        }
    }

    fn step(
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
            let outcome = self.ws.read(&mut pipe);
            debug_assert!(
                pipe.input.is_empty() || outcome.is_err(),
                "a frame is taken whole"
            );
            let step = self.judge(outcome, control);
            if frame_bytes > SMALL_FRAME_BYTES
                && self.reader.between_messages()
                && self.ws.can_write()
            {
                self.ws = context(self.message_bytes_max);
            }
            if let Some(step) = step {
                return step;
            }
        }
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
        let _ = self.ws.flush(&mut pipe);
    }

    fn write_close(&mut self, control: &mut Vec<u8>, code: CloseCode) {
        let mut pipe = Pipe {
            input: &[],
            control,
        };
        let frame = CloseFrame {
            code: code.code.into(),
            reason: code.text.into(),
        };
        let _ = self.ws.close(&mut pipe, Some(frame));
        let _ = self.ws.flush(&mut pipe);
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
