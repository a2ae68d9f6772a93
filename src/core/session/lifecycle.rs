//! From one phase to the next: the request head, the 101, the close, the end.

use std::sync::Arc;

use super::phase::{AfterWrite, ClosingState, Open, PartialHead, PendingClose, Phase, Ping};
use super::throttle::Throttle;
use super::{Intake, Pause, Pauses, Sending, Session};
use crate::deadlines::{Timer, Timers};
use crate::protocol::{Encoding, Protocol};
use crate::send_queue::SendQueue;
use crate::stats::Moved;
use crate::{
    CloseCode, CloseReason, Closing, Ended, Limits, MaxRate, Now, PeerEnd, RequestRefusal,
};
use weirgate_wire::HeadError;
use weirgate_wire::admission::{ConnectionPermit, TokenBucket};
use weirgate_wire::auth::TokenMarks;

/// What a gateway sets for a client that it accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// `Sec-WebSocket-Protocol` of the response: an offered protocol.
    pub protocol: Option<String>,
    /// Outbound messages a second; data above the limit is shed. `None`: no limit.
    pub outbound_per_second: Option<u32>,
    /// The client's own rate: frames with a conflation key wait until the throttle opens. `None`: all
    /// frames leave at once.
    pub max_rate: Option<MaxRate>,
    /// The user, for the log line when the client ends.
    pub user: Option<Box<str>>,
    /// Whether the client itself has chosen `user`, without a token; then the name in a certificate is shown.
    pub is_own_name: bool,
    /// The marks of the client's token.
    pub marks: Option<Arc<TokenMarks>>,
    /// Memory that the gateway keeps for this client in addition to what it keeps for every client, such as the names
    /// in its token, bytes.
    pub client_bytes: usize,
    /// The reason if the client is to be closed at once, for the same log line; also the label of a metric.
    pub refusal: Option<&'static str>,
}

/// The result of a requested close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseBegun {
    /// The session is not open, or closes already.
    Ignored,
    /// The close waits for data to go out; from here on no new data is taken.
    Waits,
    /// The close frame is queued: the session is to start closing.
    Written,
}

/// Counts and notices from a session that closes or ends.
#[must_use]
pub(crate) struct Departed {
    pub(crate) moved: Moved,
    pub(crate) reason: CloseReason,
    /// Whether the reason is to be counted: only the first reason counts.
    pub(crate) is_first: bool,
    /// The session was open, now or before closing.
    pub(crate) was_open: bool,
    /// Frames dropped.
    pub(crate) frames: u32,
    /// Queue bytes of these frames.
    pub(crate) bytes: usize,
    /// The reasons why the session was not read until then.
    pub(crate) pauses: Pauses,
    /// The time for which the client has had a gate until then, microseconds.
    pub(crate) gated_us: Option<u64>,
}

impl Session {
    /// Refuses the request of a connection for which there is no room, once its head has come.
    pub(crate) fn refuse_later(&mut self, refusal: RequestRefusal, reason: CloseReason) {
        if let Phase::Head(head) = &mut self.cold.phase {
            head.refusal = Some((refusal, reason));
        }
    }

    /// The refusal of a connection for which there is no room.
    pub(crate) fn later_refusal(&self) -> Option<(RequestRefusal, CloseReason)> {
        match &self.cold.phase {
            Phase::Head(head) => head.refusal,
            _ => None,
        }
    }

    /// Collects the request head. Returns the head once whole, with the bytes after the head left in
    /// the input; `None` until then, or if no head is awaited.
    ///
    /// # Errors
    /// The head is over `bytes_max`, or the input is a TLS handshake.
    pub(crate) fn read_head(
        &mut self,
        input: &mut &[u8],
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, HeadError> {
        let Phase::Head(PartialHead { read, scanner, .. }) = &mut self.cold.phase else {
            return Ok(None);
        };
        let before = read.len();
        // One byte more than permitted shows that the head is too large.
        let room = (bytes_max + 1).saturating_sub(before);
        read.extend_from_slice(&input[..input.len().min(room)]);
        if let Some(error) = HeadError::of_tls(read) {
            *input = &[];
            return Err(error);
        }
        match scanner.end(read) {
            Some(end) if end <= bytes_max => {
                let mut read = std::mem::take(read);
                read.truncate(end);
                *input = &input[end - before..];
                Ok(Some(read))
            }
            None if read.len() <= bytes_max => {
                *input = &[];
                Ok(None)
            }
            _ => {
                *input = &[];
                Err(HeadError::too_large(read))
            }
        }
    }

    /// The control part, to append a response to the request, or whole control frames.
    pub(crate) fn control(&mut self, now: Now) -> &mut Vec<u8> {
        self.queue.control(now)
    }

    /// Opens the session, with the response to the request queued: the client gets messages from here
    /// on. `first_ping_at` is the time of the first ping; `None`: no pings.
    pub(crate) fn open(
        &mut self,
        now: Now,
        (protocol, encoding): (Protocol, Encoding),
        accepted: Accepted,
        first_ping_at: Option<u64>,
    ) -> Moved {
        self.queue.set_encoding(encoding);
        self.intake = Intake::Open;
        let cold = &mut *self.cold;
        if let Some(per_second) = accepted.outbound_per_second {
            self.is_limited = true;
            cold.rate = Some(Box::new(TokenBucket::new(per_second, now.mono_us)));
        }
        if let Some(rate) = accepted.max_rate {
            self.is_limited = true;
            cold.throttle = Some(Box::new(Throttle::new(Some(rate))));
        }
        match accepted.is_own_name {
            true => cold.record.set_own_name(accepted.user),
            false => cold.record.set_user(accepted.user),
        }
        cold.record.marks = accepted.marks;
        if let Some(permit) = &mut cold.permit {
            permit.set_token_bytes(cold.record.token_bytes(), now.mono_us);
            permit.set_client_bytes(accepted.client_bytes, now.mono_us);
        }
        cold.record.refusal = accepted.refusal;
        cold.timers.stop(Timer::Handshake);
        if let Some(at) = first_ping_at {
            cold.timers.set(Timer::Ping, at);
        }
        let (_, moved) = cold.phase.enter(Phase::Open(Open {
            protocol,
            ping: Ping::Idle,
            bytes_read: 0,
            pong_us: None,
            close: None,
            is_half_closed: false,
            is_broken: false,
        }));
        moved
    }

    /// Passes the connection to HTTP, with the permit.
    pub(crate) fn hand_over(&mut self) -> (Moved, Option<ConnectionPermit>) {
        self.cold.timers = Timers::default();
        let (_, moved) = self.cold.phase.enter(Phase::Gone);
        (moved, self.cold.permit.take())
    }

    /// Begins a close, which waits until `due` for queued messages, as `close.how` says.
    pub(crate) fn begin_close(&mut self, now: Now, close: PendingClose, due: u64) -> CloseBegun {
        let Phase::Open(open) = &mut self.cold.phase else {
            return CloseBegun::Ignored;
        };
        // A client that was not blocked takes the messages queued in this turn.
        let waits = match close.how {
            Closing::Graceful => true,
            Closing::Now => self.sending != Sending::Blocked,
            Closing::Bare => false,
        };
        if !waits || self.queue.data_is_empty() {
            self.write_close(now, close.code);
            return CloseBegun::Written;
        }
        if self.intake != Intake::Closed {
            self.intake = Intake::Closed;
            open.close = Some(Box::new(close));
            self.cold.timers.set(Timer::Close, due);
            return CloseBegun::Waits;
        }
        if close.how == Closing::Now
            && let Some(earlier) = &mut open.close
        {
            // A close was decided again, and is urgent now: it only waits for the write of this turn.
            earlier.how = close.how;
        }
        CloseBegun::Ignored
    }

    /// Puts the close frame in the control part.
    pub(super) fn write_close(&mut self, now: Now, code: CloseCode) {
        if let Phase::Open(open) = &mut self.cold.phase {
            self.cold.record.code.get_or_insert(code.code);
            open.protocol.close(self.queue.control(now), code);
        }
    }

    /// Starts closing, with the last control bytes queued: drops all frames except a partly written frame. The session
    /// then lives until the control bytes are out and the peer has ended, or until `due`.
    pub(crate) fn start_closing(&mut self, now: Now, due: u64, reason: CloseReason) -> Departed {
        self.intake = Intake::Closed;
        let waited = self.waiting(now);
        let gated_us = self.gated_us(now);
        let held = self.drop_held();
        let queued = self.queue.discard_waiting();
        let (frames, bytes) = (held.0 + queued.0, held.1 + queued.1);
        let cold = &mut *self.cold;
        let mut reading = std::mem::take(&mut cold.reading);
        (cold.received, cold.rest_bytes) = (None, None);
        cold.timers = Timers::default();
        cold.timers.set(Timer::End, due);
        let (was, moved) = cold.phase.enter(Phase::Closing(ClosingState::new(reason)));
        let was_open = matches!(was, Phase::Open(_));
        if let (Phase::Open(open), Phase::Closing(closing)) = (was, &mut cold.phase) {
            closing.take_open(open, &reading.take_held());
            closing.waited = waited;
        }
        Departed {
            moved,
            reason,
            is_first: true,
            was_open,
            frames,
            bytes,
            pauses: reading.pauses(),
            gated_us,
        }
    }

    /// Handles input after the hub's last control bytes; returns false if the session does not close.
    pub(crate) fn read_while_closing(&mut self, input: &[u8]) -> bool {
        let Phase::Closing(closing) = &mut self.cold.phase else {
            return false;
        };
        closing.read(input);
        true
    }

    /// Handles the end of the peer's side. Returns whether the session ends: not
    /// while the peer may still read, or the last control bytes may still arrive.
    pub(crate) fn handle_peer_end(&mut self, now: Now, end: PeerEnd) -> bool {
        if end == PeerEnd::Failed {
            return true;
        }
        match &mut self.cold.phase {
            Phase::Open(open) => {
                if !open.is_half_closed && open.protocol.may_read_on() {
                    open.is_half_closed = true;
                    open.protocol.probe(self.queue.control(now));
                }
                !open.is_half_closed
            }
            Phase::Closing(closing) if !self.queue.is_empty() => {
                closing.peer_ended = true;
                false
            }
            _ => true,
        }
    }

    /// Clears the session, because the socket ends. `None` if the session has ended already.
    pub(crate) fn end(&mut self, now: Now, reason: CloseReason) -> Option<(Departed, Ended)> {
        if matches!(self.cold.phase, Phase::Gone) {
            return None;
        }
        self.intake = Intake::Closed;
        let waited = self.waiting(now);
        let gated_us = self.gated_us(now);
        let held = self.drop_held();
        let (frames, bytes) = (self.queue.frames() as u32, self.queue.bytes());
        let (frames, bytes) = (held.0 + frames, held.1 + bytes);
        let traffic = self.traffic();
        self.queue = SendQueue::default();
        let cold = &mut *self.cold;
        let pauses = std::mem::take(&mut cold.reading).pauses();
        (cold.received, cold.rest_bytes) = (None, None);
        cold.timers = Timers::default();
        let (was, moved) = cold.phase.enter(Phase::Gone);
        let (reason, is_first, was_open) = match &was {
            Phase::Closing(closing) => (closing.reason, false, closing.was_open),
            // The peer's end was seen before; the error only shows that the peer does not read either.
            Phase::Open(open) if open.is_half_closed && reason == CloseReason::SocketError => {
                (CloseReason::PeerGone, true, true)
            }
            Phase::Open(_) => (reason, true, true),
            Phase::Head(_) | Phase::Gone => (reason, true, false),
        };
        let departed = Departed {
            moved,
            reason,
            is_first,
            was_open,
            frames,
            bytes,
            pauses,
            gated_us,
        };
        let dropped = match was {
            Phase::Open(_) => Some(waited),
            Phase::Closing(closing) if closing.was_open => Some(closing.waited),
            _ => None,
        };
        let ended = cold.record.ended(now, reason, traffic, dropped);
        Some((departed, ended))
    }

    /// Returns what has to follow a write (except in the common case) or a read from a session that closes.
    /// `control_out` says that the control part has become empty.
    pub(crate) fn after_write(
        &mut self,
        now: Now,
        control_out: bool,
        limits: &Limits,
    ) -> AfterWrite {
        let blocked = self.sending == Sending::Blocked;
        let (waiting, data_out) = (!self.queue.is_empty(), self.queue.data_is_empty());
        match &mut self.cold.phase {
            Phase::Open(open) => {
                if control_out {
                    let bytes_out = self.queue.bytes_out();
                    let ahead_us = open.under_way_us(bytes_out).min(limits.send_queue.stall_us);
                    let due_us = now.mono_us + limits.pong_timeout_us + ahead_us;
                    open.ping.sent(now.mono_us, due_us, bytes_out);
                }
                let ripe = |close: &mut Box<PendingClose>| {
                    data_out || (close.how == Closing::Now && blocked)
                };
                let Some(close) = open.close.take_if(ripe) else {
                    return AfterWrite::Nothing;
                };
                self.write_close(now, close.code);
                AfterWrite::CloseWritten(close.reason)
            }
            Phase::Closing(closing) if !waiting => closing.all_is_out(),
            _ => AfterWrite::Nothing,
        }
    }

    /// Lets the close of a client, at a stop or a move, wait for the gateway's work for this client, until `until_us`
    /// at the latest.
    pub(crate) fn await_gateway(&mut self, until_us: u64) {
        self.cold.timers.set(Timer::Close, until_us);
    }

    /// Notes that the gateway is done. If a stop or a move waited for that, the client is closed now; returns true then.
    pub(crate) fn gateway_is_done(&mut self, now: Now) -> bool {
        let waited = self.takes_data() && self.pauses().holds(Pause::Stop);
        if waited {
            self.cold.timers.set(Timer::Close, now.mono_us);
        }
        waited
    }

    /// Notes that a stop or a move has chosen this client.
    pub(crate) fn set_leaving(&mut self) {
        self.cold.is_leaving = true;
    }

    /// Whether a stop or a move has chosen this client, even if its close has yet to come.
    pub(crate) fn is_leaving(&self) -> bool {
        self.cold.is_leaving
    }

    /// Has the client closed at `at_us`, unless it is to be closed earlier.
    pub(crate) fn close_at(&mut self, at_us: u64) {
        self.cold.timers.set_earlier(Timer::Close, at_us);
    }
}
