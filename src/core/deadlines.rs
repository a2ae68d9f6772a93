//! Deadlines: the timers of a session, and the next time at which the core has to run without an event.
//!
//! A session has one entry, for its earliest deadline. If that deadline moves later, the entry stays, fires early,
//! and the session is armed again. So pushing back a deadline, which happens at every pong, costs nothing.

use std::collections::BTreeSet;

use super::SessionKey;

/// The purpose of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Timer {
    /// The request head has to be whole.
    Handshake,
    /// The next ping.
    Ping,
    /// The deadline that the gateway has set.
    Gateway,
    /// A graceful close waits no longer, or the client's turn in a stop has come.
    Close,
    /// A session that closes ends, whether the peer has ended or not.
    End,
}

impl Timer {
    const COUNT: usize = Self::End as usize + 1;
}

/// The value of a timer that is not set, later than any deadline. An `Option` would take eight bytes more for each
/// timer of each client.
const NEVER: u64 = u64::MAX;

/// One moment for each [`Timer`], microseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    at_us: [u64; Timer::COUNT],
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            at_us: [NEVER; Timer::COUNT],
        }
    }
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at_us: u64) {
        self.at_us[timer as usize] = at_us;
    }

    /// Sets the timer, unless an earlier time is set.
    pub(super) fn set_earlier(&mut self, timer: Timer, at_us: u64) {
        let slot = &mut self.at_us[timer as usize];
        *slot = at_us.min(*slot);
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.at_us[timer as usize] = NEVER;
    }

    pub(super) fn is_due(&self, timer: Timer, now_us: u64) -> bool {
        self.at_us[timer as usize] <= now_us
    }

    /// Stops the timer if due; returns whether the timer was due.
    pub(super) fn take_due(&mut self, timer: Timer, now_us: u64) -> bool {
        let due = self.is_due(timer, now_us);
        if due {
            self.stop(timer);
        }
        due
    }

    /// If a timer is due, moves it by multiples of `interval_us` to the first moment after now. So timers that one long
    /// turn has delayed do not all fire together from then on. Returns whether the timer was due.
    pub(super) fn skip_missed(&mut self, timer: Timer, now_us: u64, interval_us: u64) -> bool {
        if !self.is_due(timer, now_us) {
            return false;
        }
        let at_us = &mut self.at_us[timer as usize];
        let missed = (now_us - *at_us) / interval_us.max(1);
        *at_us += (missed + 1) * interval_us.max(1);
        true
    }

    /// The earliest time of all timers.
    pub(super) fn next(&self) -> Option<u64> {
        let earliest = self.at_us.iter().copied().min();
        earliest.filter(|at_us| *at_us != NEVER)
    }
}

/// The earliest of some times; `None` if none is set. Called in each turn; an iterator with `flatten` costs ten times
/// the instructions.
pub fn earliest<const N: usize>(times_us: [Option<u64>; N]) -> Option<u64> {
    let mut earliest = u64::MAX;
    for time_us in times_us {
        earliest = earliest.min(time_us.unwrap_or(u64::MAX));
    }
    (earliest < u64::MAX).then_some(earliest)
}

/// The entries of all sessions, by time. A session remembers the time of its entry, by which the entry is found.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(u64, SessionKey)>);

impl Deadlines {
    /// Moves the session's entry from `before_us` to an earlier time, or makes the entry.
    pub(super) fn arm(&mut self, session: SessionKey, before_us: Option<u64>, at_us: u64) {
        self.disarm(session, before_us);
        self.0.insert((at_us, session));
    }

    /// Removes the session's entry, if there is one.
    pub(super) fn disarm(&mut self, session: SessionKey, at_us: Option<u64>) {
        let entry = at_us.map(|at_us| (at_us, session));
        let is_there = entry.is_none_or(|entry| self.0.remove(&entry));
        debug_assert!(is_there, "the entry of {session:?}");
    }

    /// Entries: one for each session with a deadline.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time of the earliest entry.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.first().map(|(at_us, _)| *at_us)
    }

    /// Removes an entry that is due, and returns its session; the caller arms it again.
    pub(super) fn pop_due(&mut self, now_us: u64) -> Option<SessionKey> {
        let due = self.next().is_some_and(|at_us| at_us <= now_us);
        due.then(|| self.0.pop_first())?.map(|(_, session)| session)
    }
}

#[cfg(test)]
mod tests {
    use super::{Timer, Timers};

    #[test]
    fn each_timer_is_its_own() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        timers.set(Timer::Ping, 20);
        timers.set_earlier(Timer::Close, 10);
        timers.set_earlier(Timer::Close, 15);
        assert_eq!(timers.next(), Some(10));
        assert!(!timers.take_due(Timer::Close, 9));
        assert!(timers.take_due(Timer::Close, 10));
        assert!(!timers.take_due(Timer::Close, 10));
        assert!(timers.is_due(Timer::Ping, 20));
        timers.stop(Timer::Ping);
        assert_eq!(timers.next(), None);
    }
}
