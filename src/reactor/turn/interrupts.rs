//! What comes over the whole process: signals to stop, and a time in which the process stood still.
//!
//! A process stands still if a signal stops it, its container is paused, it moves to another machine, or
//! the machine is busy for long. Meanwhile deadlines pass, and what clients did in time lies in the kernel.
//! So after such a time nothing is judged by the clock until a poll says that nothing is left.

use std::io;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

/// The loop looks at the clock at least once in [`super::IDLE_TURN_US`]; this much more is a freeze.
const LATE_US: u64 = 1_000_000;

/// Clients that never stop sending hold up the clock for so long.
const CATCH_UP_US_MAX: u64 = 1_000_000;

/// When the loop looked at the clock last, and whether it catches up with a freeze.
#[derive(Debug, Default)]
pub(super) struct Freeze {
    looked_us: Option<u64>,
    catch_up: Option<CatchUp>,
}

#[derive(Debug)]
struct CatchUp {
    until_us: u64,
    /// A poll has come since.
    polled: bool,
}

impl Freeze {
    /// The loop looks at the clock: at the beginning of a turn, and before it judges.
    pub(super) fn look(&mut self, now_us: u64) {
        let before = self.looked_us.replace(now_us).unwrap_or(now_us);
        if now_us.saturating_sub(before) > super::IDLE_TURN_US + LATE_US {
            self.catch_up = Some(CatchUp {
                until_us: now_us + CATCH_UP_US_MAX,
                polled: false,
            });
        }
    }

    /// Events are to be taken, without a wait, until there are none.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// Whether deadlines may be judged at the end of a turn. `is_quiet`: its poll had no events, and
    /// no client waits.
    pub(super) fn may_judge(&mut self, now_us: u64, is_quiet: bool) -> bool {
        let Some(catch_up) = &mut self.catch_up else {
            return true;
        };
        let polled = std::mem::replace(&mut catch_up.polled, true);
        if !(polled && is_quiet) && now_us < catch_up.until_us {
            return false;
        }
        self.catch_up = None;
        true
    }
}

/// What the process was asked to do since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StopRequests(pub(super) u32);

pub(super) struct StopSignals {
    inner: Signals,
}

impl StopSignals {
    pub(super) fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let mut inner = Signals::new([SIGTERM, SIGINT])?;
        registry.register(&mut inner, token, Interest::READABLE)?;
        Ok(Self { inner })
    }

    /// How many stop signals came.
    pub(super) fn pending(&mut self) -> StopRequests {
        StopRequests(self.inner.pending().count() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_loop_in_time_judges_at_once() {
        let mut freeze = Freeze::default();
        for turn in 1..100 {
            freeze.look(turn * 3 * SECOND / 2);
            assert!(freeze.may_judge(turn * 3 * SECOND / 2, false));
        }
    }

    #[test]
    fn after_a_freeze_a_quiet_poll_comes_first() {
        let mut freeze = Freeze::default();
        freeze.look(SECOND);
        freeze.look(5 * SECOND);
        // The wait for events may have been interrupted: that it brought none says nothing.
        assert!(!freeze.may_judge(5 * SECOND, true));
        assert!(freeze.is_catching_up());
        assert!(!freeze.may_judge(5 * SECOND + 1, false));
        assert!(freeze.may_judge(5 * SECOND + 2, true));
        assert!(!freeze.is_catching_up() && freeze.may_judge(5 * SECOND + 3, false));
    }

    #[test]
    fn clients_that_never_stop_do_not_stop_the_clock() {
        let mut freeze = Freeze::default();
        freeze.look(SECOND);
        freeze.look(5 * SECOND);
        assert!(!freeze.may_judge(6 * SECOND - 1, false));
        assert!(freeze.may_judge(6 * SECOND, false));
    }
}
