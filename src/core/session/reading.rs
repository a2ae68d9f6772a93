//! How a session is read: the next step of its input, the pauses of reading, and the input that was read before a pause.

use std::num::NonZeroU32;

use super::Session;
use super::phase::Phase;
use crate::protocol::ClientStep;
use crate::reason::labelled;
use crate::stats::PhaseKind;
use crate::{Limits, Now};
use weirgate_wire::FrameScratch;

labelled! {
    /// A reason not to read a session for now. Reading continues when no reason is left.
    pub(crate) enum Pause {
        /// Too many pongs or answers wait.
        Control = "pongs",
        /// The gateway has paused the client.
        Gateway = "unanswered",
        /// The client had its share of this turn: a few compressed bytes can be a lot of work.
        Turn = "turn",
        /// The client is to be closed, at a stop or a move, and the gateway is still busy with it.
        Stop = "stop",
        /// The gateway has no room for a message of this client's address.
        Room = "room",
    }
}

impl Pause {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The reasons against reading a session at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pauses(u8);

impl Pauses {
    pub(crate) fn holds(self, why: Pause) -> bool {
        self.0 & why.bit() != 0
    }

    /// Whether there is no reason, or the client only waits for its share of the next turn.
    pub(crate) fn end_soon(self) -> bool {
        self.0 & !Pause::Turn.bit() == 0
    }
}

/// The reasons not to read, and the input that was read before the pause.
#[derive(Debug, Default)]
pub(super) struct InputPause {
    paused: Pauses,
    /// Since when any of these reasons has held, microseconds.
    since: u64,
    /// Read before the pause, not yet handled. A slice: every client has one, and few keep anything.
    held: Box<[u8]>,
}

impl InputPause {
    /// Adds a reason; returns false if the reason was present already.
    pub(super) fn pause(&mut self, why: Pause, now: Now) -> bool {
        let before = self.paused;
        if !self.is_paused() {
            self.since = now.mono_us;
        }
        self.paused.0 |= why.bit();
        before != self.paused
    }

    /// Removes a reason. If no reason is left, returns the length of the pause, microseconds.
    pub(super) fn resume(&mut self, why: Pause, now: Now) -> Option<u64> {
        let before = self.paused;
        self.paused.0 &= !why.bit();
        let reads = before != self.paused && !self.is_paused();
        reads.then(|| now.mono_us.saturating_sub(self.since))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused != Pauses::default()
    }

    pub(super) fn pauses(&self) -> Pauses {
        self.paused
    }

    /// Keeps input until reading continues.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        let mut held = self.take_held();
        held.extend_from_slice(bytes);
        self.held = held.into_boxed_slice();
    }

    /// Memory of the kept input.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held).into_vec()
    }
}

impl Session {
    pub(crate) fn wants_read(&self) -> bool {
        !self.cold.reading.is_paused() && self.phase() != PhaseKind::Gone
    }

    pub(crate) fn pauses(&self) -> Pauses {
        self.cold.reading.pauses()
    }

    /// Whether the next read may return a message for the gateway.
    pub(crate) fn may_bring_message(&self, input: &[u8]) -> bool {
        let is_open = matches!(self.cold.phase, Phase::Open(_));
        let comes = !input.is_empty() || self.holds_messages() || self.is_inflating();
        is_open && comes && self.takes_data() && self.wants_read()
    }

    /// Whether the next read goes on with a compressed message of which a part is inflated.
    pub(crate) fn is_inflating(&self) -> bool {
        match &self.cold.phase {
            Phase::Open(open) => !open.is_broken && open.protocol.is_inflating(),
            _ => false,
        }
    }

    /// Whether messages of an open client are kept, for later reads: the rest of the query of an event stream.
    pub(crate) fn holds_messages(&self) -> bool {
        match &self.cold.phase {
            Phase::Open(open) => open.protocol.holds_messages(),
            _ => false,
        }
    }

    /// Reads the next bytes of `input` up to a step; `None`: no step for now. While reading is paused, while more than
    /// `control_bytes_max` wait in the control part, and while the client has to take its answers, the input is kept for
    /// later. Input after a violation is discarded.
    pub(crate) fn read(
        &mut self,
        now: Now,
        input: &mut &[u8],
        control_bytes_max: usize,
        scratch: &mut FrameScratch,
    ) -> Option<ClientStep> {
        let has_to_take_answers = self.note_unread_answers();
        let cold = &mut *self.cold;
        if let Phase::Open(open) = &cold.phase
            && open.is_broken
        {
            *input = &[];
            return None;
        }
        if has_to_take_answers || self.queue.control_bytes() > control_bytes_max {
            cold.reading.pause(Pause::Control, now);
        }
        if cold.reading.is_paused() {
            cold.reading.hold(input);
            return None;
        }
        let Phase::Open(open) = &mut cold.phase else {
            return None;
        };
        let control = self.queue.control(now);
        let step = open.protocol.read(input, control, scratch);
        match step {
            Some(ClientStep::Pong) => self.handle_pong(now),
            Some(ClientStep::PeerClosed(code)) => cold.record.code = code,
            Some(ClientStep::Violation(..)) => open.is_broken = true,
            _ => {}
        }
        step
    }

    /// Pauses reading for this reason. Returns false if it was paused for this reason already.
    pub(crate) fn pause(&mut self, why: Pause, now: Now) -> bool {
        self.cold.reading.pause(why, now)
    }

    /// Removes a reason against reading. Returns true if it was the last one. The awaited pong may be behind input that
    /// was not read, so its deadline moves by the time of the pause, but at most to a whole timeout from now: the ping
    /// may have left during the pause.
    pub(crate) fn resume(&mut self, why: Pause, now: Now, limits: &Limits) -> bool {
        let paused_us = self.cold.reading.resume(why, now);
        if let (Some(paused_us), Phase::Open(open)) = (paused_us, &mut self.cold.phase)
            && let Some(due) = open.ping.pong_due()
        {
            let latest = now.mono_us + limits.pong_timeout_us;
            open.ping.allow_until(latest.min(due + paused_us));
        }
        paused_us.is_some()
    }

    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        self.cold.reading.take_held()
    }

    /// Notes that the gateway goes on with the client's request later, and how much it keeps of the request.
    pub(crate) fn set_rest(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.cold.rest_bytes = Some(NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN));
    }

    /// Whether the gateway goes on with the client's request later.
    pub(crate) fn has_rest(&self) -> bool {
        self.cold.rest_bytes.is_some()
    }

    /// Takes the note that the gateway goes on with the client's request later, as it does so now. Returns whether there was
    /// one, and the client still takes data.
    pub(crate) fn take_rest(&mut self) -> bool {
        self.cold.rest_bytes.take().is_some() && self.takes_data()
    }
}

#[cfg(test)]
mod tests {
    use super::{InputPause, Now, Pause};

    #[test]
    fn reading_goes_on_with_the_last_reason() {
        let at = |mono_us| Now {
            mono_us,
            ..Now::default()
        };
        let mut reading = InputPause::default();
        assert_eq!(reading.resume(Pause::Turn, at(1)), None, "not paused");
        reading.pause(Pause::Control, at(2));
        reading.pause(Pause::Gateway, at(3));
        reading.hold(b"a");
        reading.hold(b"b");
        assert_eq!(reading.resume(Pause::Gateway, at(4)), None);
        assert!(reading.is_paused() && reading.pauses().holds(Pause::Control));
        assert_eq!(reading.resume(Pause::Control, at(7)), Some(5));
        assert_eq!(reading.take_held(), b"ab");
        assert_eq!(reading.take_held(), b"");
    }
}
