//! Pauses of reading, and input that was read before a pause.

use crate::Now;
use crate::reason::labelled;

labelled! {
    /// A reason not to read a session for now. Reading continues when no reason is left.
    pub(crate) enum Pause {
        /// Too many pongs wait.
        Control = "pongs",
        /// The gateway has paused the client.
        Gateway = "unanswered",
        /// The client had its share of this turn: a few compressed bytes can be a lot of work.
        Turn = "turn",
        /// The process stops, and the gateway is still busy with the client.
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
pub(super) struct Reading {
    paused: Pauses,
    /// Since when any of these reasons has held, microseconds.
    since: u64,
    /// Read before the pause, not yet handled.
    held: Vec<u8>,
}

impl Reading {
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
        self.held.extend_from_slice(bytes);
    }

    /// Memory of the kept input.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::{Now, Pause, Reading};

    #[test]
    fn reading_goes_on_with_the_last_reason() {
        let at = |mono_us| Now {
            mono_us,
            ..Now::default()
        };
        let mut reading = Reading::default();
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
