//! The phases of a session, the data of each phase, and the allowed changes of phase.
//!
//! docs/contributing/lifecycle.md has a picture of the phases.

use crate::protocol::Protocol;
use crate::stats::{Moved, PhaseKind};
use crate::{CloseCode, CloseReason, Closing, Dropped, RequestRefusal};
use weirgate_wire::HeadScanner;

/// The allowed changes of phase.
const EDGES: [(PhaseKind, PhaseKind); 6] = [
    (PhaseKind::Head, PhaseKind::Open),
    (PhaseKind::Head, PhaseKind::Closing),
    (PhaseKind::Head, PhaseKind::Gone),
    (PhaseKind::Open, PhaseKind::Closing),
    (PhaseKind::Open, PhaseKind::Gone),
    (PhaseKind::Closing, PhaseKind::Gone),
];

/// As [`PhaseKind`], with the data of each phase.
#[derive(Debug)]
pub(super) enum Phase {
    Head(PartialHead),
    Open(Open),
    Closing(ClosingState),
    Gone,
}

/// The request head so far.
#[derive(Debug, Default)]
pub(super) struct PartialHead {
    pub(super) read: Vec<u8>,
    pub(super) scanner: HeadScanner,
    /// The refusal of a connection for which there is no room.
    pub(super) refusal: Option<(RequestRefusal, CloseReason)>,
}

/// A client that gets messages.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) protocol: Protocol,
    pub(super) ping: Ping,
    /// Bytes that the kernel had taken when the last answered ping left: the client has read these.
    pub(super) bytes_read: u64,
    /// Time from the ping to the pong that was just read, microseconds.
    pub(super) pong_us: Option<u32>,
    /// A close waits for data to go out: all data, or as much as the kernel takes at once. Boxed: most clients have none.
    pub(super) close: Option<Box<PendingClose>>,
    /// The peer has ended its side, and may still read.
    pub(super) is_half_closed: bool,
    /// The client broke the protocol: nothing more is read, though the close may wait for data to go out.
    pub(super) is_broken: bool,
}

/// The slowest line for which the deadlines of pongs and stalls leave time.
const SLOW_BYTES_PER_SECOND: u64 = 20_000;

impl Open {
    /// The time that a slow line needs for the bytes that the kernel has taken since the last answered ping. In
    /// whole seconds, so a few bytes take no time.
    pub(super) fn under_way_us(&self, bytes_out: u64) -> u64 {
        (bytes_out - self.bytes_read) / SLOW_BYTES_PER_SECOND * 1_000_000
    }
}

/// The consequence of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterWrite {
    Nothing,
    /// The waiting close is queued: the session is to start closing.
    CloseWritten(CloseReason),
    /// Everything is out and the client's close has come: the hub's side of the socket is done.
    HalfClose,
    /// Everything is out, and the peer had ended before.
    End(CloseReason),
}

/// The state of a session that closes.
#[derive(Debug)]
pub(super) struct ClosingState {
    /// The reason of the end: later events change nothing.
    pub(super) reason: CloseReason,
    /// The session was open before: a stop waits for the session's end.
    pub(super) was_open: bool,
    /// Reads until the client's close; `None` if the close has come, or if none is awaited.
    pub(super) listening: Option<Protocol>,
    /// All is out, and the hub's side of the socket is shut down.
    pub(super) half_closed: bool,
    /// The peer has ended its side.
    pub(super) peer_ended: bool,
    /// The frames that waited when the session began to close.
    pub(super) waited: Dropped,
}

impl ClosingState {
    pub(super) fn new(reason: CloseReason) -> Self {
        Self {
            reason,
            was_open: false,
            listening: None,
            half_closed: false,
            peer_ended: false,
            waited: Dropped::default(),
        }
    }

    /// Adds the state of the open session; `held` is unhandled input.
    pub(super) fn take_open(&mut self, open: Open, held: &[u8]) {
        self.was_open = true;
        self.peer_ended = open.is_half_closed;
        self.listening = Some(open.protocol);
        self.read(held);
    }

    /// Handles input after the hub's last control bytes.
    pub(super) fn read(&mut self, input: &[u8]) {
        self.listening
            .take_if(|protocol| protocol.skip_to_close(input));
    }

    /// The next action once all is out.
    pub(super) fn all_is_out(&mut self) -> AfterWrite {
        if self.peer_ended {
            return AfterWrite::End(self.reason);
        }
        if self.listening.is_some() || self.half_closed {
            return AfterWrite::Nothing;
        }
        self.half_closed = true;
        AfterWrite::HalfClose
    }
}

/// The state of the ping, at most one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ping {
    /// No ping is under way.
    #[default]
    Idle,
    /// A ping waits in the control part.
    Queued {
        /// Whether a pong will follow.
        answered: bool,
    },
    /// A ping has left for the kernel.
    Sent {
        /// The client is closed if no pong has come by this time, microseconds of the monotonic clock.
        pong_due: u64,
        /// Bytes that the kernel had taken with the ping.
        bytes_out: u64,
        /// When the ping left, microseconds of the monotonic clock, cut to 32 bits. It cannot be computed from
        /// `pong_due`, which moves.
        sent_us: u32,
    },
    /// No pong arrived in time. Reported once: the close may have to wait for this turn's flush.
    Missed,
}

impl Ping {
    /// Notes that the control part went out.
    pub(super) fn sent(&mut self, now_us: u64, pong_due: u64, bytes_out: u64) {
        *self = match *self {
            Self::Queued { answered: true } => Self::Sent {
                pong_due,
                bytes_out,
                sent_us: now_us as u32,
            },
            Self::Queued { answered: false } => Self::Idle,
            other => other,
        };
    }

    /// Handles a pong, also one without a ping. Returns the number of bytes up to the ping, all of which the client has
    /// read, and the time since the ping left, microseconds.
    pub(super) fn answered(&mut self, now_us: u64) -> Option<(u64, u32)> {
        match std::mem::take(self) {
            Self::Sent {
                bytes_out, sent_us, ..
            } => Some((bytes_out, (now_us as u32).wrapping_sub(sent_us))),
            Self::Idle | Self::Queued { .. } | Self::Missed => None,
        }
    }

    /// Moves the deadline of a pending pong to `at`, unless the deadline is later.
    pub(super) fn allow_until(&mut self, at: u64) {
        if let Self::Sent { pong_due, .. } = self {
            *pong_due = at.max(*pong_due);
        }
    }

    /// When the ping left, microseconds of the monotonic clock, if a pong is awaited.
    pub(super) fn sent_at(self, now_us: u64) -> Option<u64> {
        match self {
            Self::Sent { sent_us, .. } => {
                Some(now_us - u64::from((now_us as u32).wrapping_sub(sent_us)))
            }
            Self::Idle | Self::Queued { .. } | Self::Missed => None,
        }
    }

    pub(super) fn pong_due(self) -> Option<u64> {
        match self {
            Self::Sent { pong_due, .. } => Some(pong_due),
            Self::Idle | Self::Queued { .. } | Self::Missed => None,
        }
    }
}

/// A close that was decided and not yet sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingClose {
    pub(crate) code: CloseCode,
    pub(crate) reason: CloseReason,
    pub(crate) how: Closing,
}

impl Phase {
    pub(super) fn kind(&self) -> PhaseKind {
        match self {
            Self::Head(_) => PhaseKind::Head,
            Self::Open(_) => PhaseKind::Open,
            Self::Closing(_) => PhaseKind::Closing,
            Self::Gone => PhaseKind::Gone,
        }
    }

    /// Whether the session is an open event stream.
    fn is_other(&self) -> bool {
        matches!(self, Self::Open(open) if matches!(open.protocol, Protocol::EventStream(_)))
    }

    /// Changes to phase `next`; returns the previous phase, and the change for the gauges.
    pub(super) fn enter(&mut self, next: Self) -> (Self, Moved) {
        let (from, to) = (self.kind(), next.kind());
        debug_assert!(EDGES.contains(&(from, to)), "from {from:?} to {to:?}");
        let moved = Moved {
            from,
            to,
            is_other: self.is_other() || next.is_other(),
        };
        (std::mem::replace(self, next), moved)
    }
}

#[cfg(test)]
mod tests {
    use super::Ping;

    #[test]
    fn only_a_sign_of_life_that_is_answered_has_a_deadline() {
        let mut ping = Ping::Idle;
        ping.sent(1, 5, 0);
        assert_eq!(ping, Ping::Idle);
        for (answered, pong_due) in [(true, Some(5)), (false, None)] {
            ping = Ping::Queued { answered };
            assert_eq!(ping.pong_due(), None, "it has not left");
            ping.sent(u64::from(u32::MAX), 5, 7);
            assert_eq!(ping.pong_due(), pong_due);
            let after = ping.answered(u64::from(u32::MAX) + 3);
            assert_eq!(after, answered.then_some((7, 3)));
        }
    }
}
