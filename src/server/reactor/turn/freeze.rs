//! Freezes of the process.
//!
//! A process freezes if a signal stops it, its container is paused, it moves to another machine, or the
//! machine is busy for long. Meanwhile deadlines pass, and timely input of clients waits in the kernel. So
//! after a freeze no deadline is judged until a poll finds no more events.

use std::time::Duration;

/// The loop reads the clock at least once in [`super::IDLE_TURN_US`]; a gap that is longer by more than this is a freeze.
const LATE_US: u64 = 1_000_000;

/// The longest time for which clients that never stop sending can delay deadlines.
const CATCH_UP_US_MAX: u64 = 1_000_000;

/// Detects that the process was frozen, and whether the loop still catches up.
#[derive(Debug, Default)]
pub(super) struct Freeze {
    /// The last time that the loop read from the clock.
    last_us: Option<u64>,
    /// The latest end of the present sleep.
    sleeps_until_us: Option<u64>,
    catch_up: Option<CatchUp>,
}

#[derive(Debug)]
struct CatchUp {
    /// When deadlines are judged even if clients still send.
    until_us: u64,
    /// The loop has polled since the freeze.
    polled: bool,
}

impl Freeze {
    /// Records the time, at the beginning of a turn and before deadlines are judged. After too long a gap the process was
    /// frozen, and the loop begins to catch up.
    pub(super) fn note_time(&mut self, now_us: u64) {
        let before = self.last_us.replace(now_us).unwrap_or(now_us);
        if now_us.saturating_sub(before) > super::IDLE_TURN_US + LATE_US {
            self.catch_up = Some(CatchUp {
                until_us: now_us + CATCH_UP_US_MAX,
                polled: false,
            });
        }
    }

    /// Records the latest end of a sleep.
    pub(super) fn note_sleep(&mut self, now_us: u64, timeout: Duration) {
        let timeout_us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        self.sleeps_until_us = Some(now_us.saturating_add(timeout_us));
    }

    /// Records the beginning of a turn. Returns how late it is, microseconds: the process was stopped, or had no CPU.
    pub(super) fn note_wake(&mut self, now_us: u64) -> u64 {
        self.note_time(now_us);
        let slept_until_us = self.sleeps_until_us.take();
        slept_until_us.map_or(0, |at| now_us.saturating_sub(at))
    }

    /// Whether the loop has to take events without waiting, until there are none.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// Records the end of a turn. Returns whether deadlines may be judged then. `is_quiet`: the poll of the turn had no
    /// events, and no client waits.
    pub(super) fn note_turn_end(&mut self, now_us: u64, is_quiet: bool) -> bool {
        let Some(catch_up) = &mut self.catch_up else {
            return true;
        };
        // The poll of this turn may have been before the freeze.
        let polled = std::mem::replace(&mut catch_up.polled, true);
        if !(polled && is_quiet) && now_us < catch_up.until_us {
            return false;
        }
        self.catch_up = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_turn_is_late_by_what_it_comes_after_the_end_of_its_sleep() {
        let mut freeze = Freeze::default();
        freeze.note_sleep(SECOND, Duration::from_millis(250));
        assert_eq!(freeze.note_wake(SECOND + 250_000), 0);
        assert_eq!(freeze.note_wake(3 * SECOND), 0, "without a sleep before");
        freeze.note_sleep(3 * SECOND, Duration::from_millis(250));
        assert_eq!(freeze.note_wake(3 * SECOND + 550_000), 300_000);
    }

    #[test]
    fn a_loop_in_time_judges_at_once() {
        let mut freeze = Freeze::default();
        for turn in 1..100 {
            freeze.note_time(turn * 3 * SECOND / 2);
            assert!(freeze.note_turn_end(turn * 3 * SECOND / 2, false));
        }
    }

    #[test]
    fn after_a_freeze_a_quiet_poll_comes_first() {
        let mut freeze = Freeze::default();
        freeze.note_time(SECOND);
        freeze.note_time(5 * SECOND);
        // A signal may have interrupted the wait for events, so an empty result proves nothing.
        assert!(!freeze.note_turn_end(5 * SECOND, true));
        assert!(freeze.is_catching_up());
        assert!(!freeze.note_turn_end(5 * SECOND + 1, false));
        assert!(freeze.note_turn_end(5 * SECOND + 2, true));
        assert!(!freeze.is_catching_up() && freeze.note_turn_end(5 * SECOND + 3, false));
    }

    #[test]
    fn clients_that_never_stop_do_not_stop_the_clock() {
        let mut freeze = Freeze::default();
        freeze.note_time(SECOND);
        freeze.note_time(5 * SECOND);
        assert!(!freeze.note_turn_end(6 * SECOND - 1, false));
        assert!(freeze.note_turn_end(6 * SECOND, false));
    }
}
