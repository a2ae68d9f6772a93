//! Work that becomes due for a session without an event: pings, pongs, stalls, closes.

use std::num::NonZeroU64;

use super::phase::{Phase, Ping};
use super::throttle::Throttle;
use super::{Cold, Session, Timers};
use crate::deadlines::Timer;
use crate::{CloseReason, Limits, Now, SocketEnd};
use weirgate_wire::admission::Peer;

/// The most time that bytes in a proxy add to the stall limit, as a multiple of the limit: 90 s by default.
const PROXY_STALLS_MAX: u64 = 3;

/// A piece of work that is due; afterwards the session is armed again for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The time for the request head is over. The rest of the head may be in the socket, which is to be read once more.
    LastRead,
    /// The session ends.
    End {
        reason: CloseReason,
        socket_end: SocketEnd,
    },
    /// No pong arrived in time: the client is to be closed.
    PongTimeout,
    /// A close that waited long enough is queued: the session is to start closing.
    CloseWritten(CloseReason),
    /// The client's moment to be closed has come: in a stop, or because an operator moves it.
    Close,
    /// A ping is queued.
    Ping,
    /// The client's throttle opens.
    Throttle,
    /// A pong is late: the client is behind deep buffers, and gets a gate.
    Gate,
}

impl Session {
    /// Returns the time of the session's entry in the deadlines, and the earlier time to which the entry has to move;
    /// `None` if it need not move.
    pub(crate) fn arm(&mut self, now: Now, limits: &Limits) -> Option<(Option<u64>, u64)> {
        // `armed_at` cannot be 0: for `NonZeroU64` that means no entry.
        let at = self.next_deadline(now, limits)?.max(1);
        let armed_at = self.cold.armed_at.map(NonZeroU64::get);
        if armed_at.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.cold.armed_at = NonZeroU64::new(at);
        Some((armed_at, at))
    }

    /// Returns the time of the session's entry in the deadlines and forgets it, because the caller removes the entry.
    pub(crate) fn disarm(&mut self) -> Option<u64> {
        self.cold.armed_at.take().map(NonZeroU64::get)
    }

    /// The next moment at which something is due without an event.
    fn next_deadline(&self, now: Now, limits: &Limits) -> Option<u64> {
        let cold = &self.cold;
        let pong = match &cold.phase {
            Phase::Open(open) => open.ping.pong_due(),
            Phase::Head(_) | Phase::Closing(_) => None,
            Phase::Gone => return None,
        };
        let soft = self.queue.over_soft_since();
        // A microsecond more, because only then the time is over (`soft_limit_due`).
        let soft = soft.map(|since| since + limits.send_queue.soft_for_us + 1);
        let throttle = self.throttle().and_then(Throttle::due_us);
        let gate = self.gate_due(now, limits);
        let all = [
            cold.timers.next(),
            pong,
            self.stall_due(limits),
            soft,
            throttle,
            gate,
        ];
        all.into_iter().flatten().min()
    }

    /// The moment to drop a client that takes none of the waiting bytes.
    fn stall_due(&self, limits: &Limits) -> Option<u64> {
        let stall_us = limits.send_queue.stall_us;
        let waits = !self.queue.is_empty() && !self.is_gathered();
        waits.then(|| self.queue.progress_at() + stall_us + self.in_proxy_us(limits))
    }

    /// The time that a proxy needs to pass bytes on before it reads more. Linux lets a program write again only when a
    /// third of the socket's buffer is free, and the buffer to a slow client may have megabytes.
    fn in_proxy_us(&self, limits: &Limits) -> u64 {
        let Phase::Open(open) = &self.cold.phase else {
            return 0;
        };
        let under_way_us = open.under_way_us(self.queue.bytes_out());
        let peer = self.peer();
        let has_proxy = || {
            matches!(peer, Peer::Proxied(_) | Peer::Unnamed(_))
                || limits.trusted_proxies.trusts_peer(&peer)
        };
        if under_way_us == 0 || !has_proxy() {
            return 0;
        }
        under_way_us.min(PROXY_STALLS_MAX * limits.send_queue.stall_us)
    }

    /// Handles one piece of due work, and returns what the core has to do for it. The gateway's deadline is not handled
    /// here. `ping_us` is the time from a ping to the next.
    pub(crate) fn due(&mut self, now: Now, limits: &Limits, ping_us: u64) -> Due {
        let due = |timers: &Timers, timer| timers.is_due(timer, now.mono_us);
        let stalled = self.stall_due(limits).is_some_and(|at| at <= now.mono_us);
        let cold = &self.cold;
        match &cold.phase {
            Phase::Head(_) if due(&cold.timers, Timer::Handshake) => {
                self.cold.timers.stop(Timer::Handshake);
                Due::LastRead
            }
            Phase::Open(_) if stalled => Due::End {
                reason: CloseReason::SendStalled,
                socket_end: SocketEnd::Reset,
            },
            Phase::Open(_) => self.open_due(now, limits, ping_us),
            Phase::Closing(closing) if stalled || due(&cold.timers, Timer::End) => Due::End {
                reason: closing.reason,
                socket_end: match self.queue.is_empty() {
                    true => SocketEnd::Close,
                    false => SocketEnd::Reset,
                },
            },
            Phase::Head(_) | Phase::Closing(_) | Phase::Gone => Due::Nothing,
        }
    }

    /// As [`Self::due`], for an open session.
    fn open_due(&mut self, now: Now, limits: &Limits, ping_us: u64) -> Due {
        if self.pong_due(now, limits) {
            return Due::PongTimeout;
        }
        if self.cold.timers.take_due(Timer::Close, now.mono_us) {
            return self.close_due(now);
        }
        if self.soft_limit_due(now, limits) {
            return Due::End {
                reason: CloseReason::SendQueueSoft,
                socket_end: SocketEnd::Reset,
            };
        }
        let gate_us = self.gate_due(now, limits);
        if gate_us.is_some_and(|at| at <= now.mono_us) {
            return Due::Gate;
        }
        let throttle_us = self.throttle().and_then(Throttle::due_us);
        if throttle_us.is_some_and(|at| at <= now.mono_us) {
            return Due::Throttle;
        }
        let timers = &mut self.cold.timers;
        if timers.skip_missed(Timer::Ping, now.mono_us, ping_us) {
            self.ping(now);
            return Due::Ping;
        }
        Due::Nothing
    }

    /// Whether the awaited pong is overdue. Extends its deadline if the client may have sent it, or only reads slowly.
    fn pong_due(&mut self, now: Now, limits: &Limits) -> bool {
        // While the kernel takes no more bytes for the client, the stall limit decides, not the pong: the client may
        // only read slowly.
        let reads_until_us = self.stall_due(limits).filter(|_| self.is_blocked());
        let cold = &mut *self.cold;
        let Phase::Open(open) = &mut cold.phase else {
            return false;
        };
        if open.ping.pong_due().is_none_or(|due| now.mono_us < due) {
            return false;
        }
        if cold.reading.is_paused() {
            // The pong may be in the kernel: a client that is not read cannot be late.
            open.ping.allow_until(now.mono_us + limits.pong_timeout_us);
            return false;
        }
        if let Some(at_us) = reads_until_us.filter(|at_us| now.mono_us < *at_us) {
            open.ping.allow_until(at_us);
            return false;
        }
        open.ping = Ping::Missed;
        true
    }

    /// Handles the close timer. Writes a close that has waited long enough. Without such a close the process is stopping,
    /// or the client was chosen to leave, and its moment to be closed has come: the moments of several clients are spread.
    fn close_due(&mut self, now: Now) -> Due {
        let close = match &self.cold.phase {
            Phase::Open(open) => open.close.as_deref().copied(),
            _ => None,
        };
        let Some(close) = close else {
            return Due::Close;
        };
        self.write_close(now, close.code);
        Due::CloseWritten(close.reason)
    }

    /// Whether the queue stayed above the soft limit for too long. If the queue is below the limit, its clock stops.
    fn soft_limit_due(&mut self, now: Now, limits: &Limits) -> bool {
        let limits = &limits.send_queue;
        let since = self.queue.over_soft_since();
        if since.is_none_or(|since| now.mono_us <= since + limits.soft_for_us) {
            return false;
        }
        self.queue.stays_over_soft(limits)
    }

    /// Whether the client has given no sign of life since [`Session::probe`].
    pub(crate) fn is_silent(&self) -> bool {
        self.cold.is_silent
    }

    /// Handles a message, ping or pong of the client. Returns true if a sign of life was awaited.
    pub(crate) fn note_sign_of_life(&mut self) -> bool {
        std::mem::take(&mut self.cold.is_silent)
    }

    /// Puts a ping in the control part, unless a ping is under way, and waits for any sign of life. Returns false if
    /// the client cannot answer.
    pub(crate) fn probe(&mut self, now: Now) -> bool {
        let takes_data = self.takes_data();
        self.ping(now);
        let cold = &mut *self.cold;
        cold.is_silent = match &cold.phase {
            Phase::Open(open) => takes_data && open.ping != Ping::Queued { answered: false },
            _ => false,
        };
        cold.is_silent
    }

    /// Puts a ping in the control part, unless an earlier ping is under way.
    pub(super) fn ping(&mut self, now: Now) {
        if let Phase::Open(open) = &mut self.cold.phase
            && open.ping == Ping::Idle
        {
            let answered = open.protocol.keep_alive(self.queue.control(now));
            open.ping = Ping::Queued { answered };
        }
    }

    /// Sets or stops the deadline of [`Session::take_gateway_due`].
    pub(crate) fn set_gateway_deadline(&mut self, at_us: Option<u64>) {
        let timers = &mut self.cold.timers;
        match (at_us, &self.cold.phase) {
            (Some(at), Phase::Head(_) | Phase::Open(_)) => timers.set(Timer::Gateway, at),
            _ => timers.stop(Timer::Gateway),
        }
    }

    /// Whether the gateway's deadline has passed. Stops the deadline, also for a client that is about to be closed, for
    /// which the result is false.
    pub(crate) fn take_gateway_due(&mut self, now: Now) -> bool {
        self.cold.timers.take_due(Timer::Gateway, now.mono_us) && self.takes_data()
    }

    /// Takes the time from a ping to the pong that was just read, microseconds.
    pub(crate) fn take_pong_us(&mut self) -> Option<u32> {
        match &mut self.cold.phase {
            Phase::Open(open) => open.pong_us.take(),
            _ => None,
        }
    }

    /// Queues a first ping after the bytes so far, unless a ping was answered already or pings are switched off.
    pub(crate) fn ping_early(&mut self, now: Now, limits: &Limits) {
        let is_first = matches!(&self.cold.phase, Phase::Open(open) if open.bytes_read == 0);
        if is_first && limits.ping_interval_us > 0 {
            self.ping(now);
        }
    }

    /// Handles a pong: the client has got all bytes that were sent before the ping.
    pub(super) fn handle_pong(&mut self, now: Now) {
        if let Phase::Open(open) = &mut self.cold.phase
            && let Some((bytes_read, after_us)) = open.ping.answered(now.mono_us)
        {
            let answered = bytes_read - open.bytes_read;
            (open.bytes_read, open.pong_us) = (bytes_read, Some(after_us));
            let under_way = self.under_way();
            if let Some(gate) = self.gate_mut() {
                gate.answered(after_us, answered, under_way);
            }
        }
    }

    /// Bytes that wait in the queue or are in flight: all bytes after the last ping that the client answered.
    pub(super) fn under_way(&self) -> u64 {
        let bytes_read = match &self.cold.phase {
            Phase::Open(open) => open.bytes_read,
            _ => 0,
        };
        self.queue.bytes_out() - bytes_read + self.queue.bytes() as u64
    }
}

impl Cold {
    /// Notes a sign of life, and extends the deadline of the awaited pong to at least `next_us` from now: the pong may
    /// come after other bytes.
    pub(super) fn note_life(&mut self, now: Now, next_us: u64) {
        self.is_silent = false;
        if let Phase::Open(open) = &mut self.phase {
            open.ping.allow_until(now.mono_us + next_us);
        }
    }

    /// Notes that the client has read bytes. From then on the stall limit decides how long it may pause.
    pub(super) fn note_reading(&mut self, now: Now, limits: &Limits) {
        let next_us = limits.pong_timeout_us.max(limits.send_queue.stall_us);
        self.note_life(now, next_us);
    }
}
