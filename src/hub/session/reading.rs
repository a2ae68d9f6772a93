//! Pauses of reading, and input that was read before a pause.

use crate::hub::Now;

/// A reason not to read a session for now. Reading continues when no reason is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::hub) enum Pause {
    /// Too many pongs wait.
    Control = 1,
    /// The gateway has paused the client.
    Gateway = 2,
    /// The client had its share of this turn: a few compressed bytes can be a lot of work.
    Turn = 4,
    /// The process stops, and the gateway is still busy with the client.
    Stop = 8,
    /// The gateway has no room for a message of this client's address.
    Room = 16,
}

impl Pause {
    /// All reasons, in the order of the gauges.
    pub(in crate::hub) const ALL: [Self; 5] = [
        Self::Control,
        Self::Gateway,
        Self::Turn,
        Self::Stop,
        Self::Room,
    ];

    pub(in crate::hub) const fn index(self) -> usize {
        (self as u8).trailing_zeros() as usize
    }

    /// Label of a metric.
    pub(in crate::hub) const fn label(self) -> &'static str {
        match self {
            Self::Control => "pongs",
            Self::Gateway => "unanswered",
            Self::Turn => "turn",
            Self::Stop => "stop",
            Self::Room => "room",
        }
    }
}

/// The reasons against reading a session at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::hub) struct Pauses(u8);

impl Pauses {
    pub(in crate::hub) fn holds(self, why: Pause) -> bool {
        self.0 & why as u8 != 0
    }

    /// Whether there is no reason, or only the wait for the client's next share of a turn.
    pub(in crate::hub) fn end_soon(self) -> bool {
        self.0 & !(Pause::Turn as u8) == 0
    }
}

/// The reasons against reading, and the input that came all the same.
#[derive(Debug, Default)]
pub(super) struct Reading {
    paused: Pauses,
    /// The time at which the first of these reasons came, microseconds.
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
        self.paused.0 |= why as u8;
        before != self.paused
    }

    /// Removes a reason. If no reason is left, returns the length of the pause, microseconds.
    pub(super) fn resume(&mut self, why: Pause, now: Now) -> Option<u64> {
        let before = self.paused;
        self.paused.0 &= !(why as u8);
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
