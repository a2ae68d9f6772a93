//! Ends a wait of epoll at an exact time: the timeout of epoll counts whole milliseconds, so
//! scheduled sends would be late by as much.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::fault::{Fault, Tried};

/// A timer on the clock of [`crate::clock::now_us`].
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    /// An unset alarm; events have this token.
    pub(crate) fn new(registry: &Registry, token: Token) -> Result<Self, Fault> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
        let timer = timer.map_err(Into::into).tried("timerfd_create")?;
        let fd = timer.as_raw_fd();
        registry
            .register(&mut SourceFd(&fd), token, Interest::READABLE)
            .tried("epoll_ctl")?;
        Ok(Self(timer))
    }

    /// Sets the alarm to `at_us`, once; a point in the past triggers immediately.
    pub(crate) fn set(&self, at_us: u64) -> Result<(), Fault> {
        let at = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: (at_us / 1_000_000).cast_signed(),
                // All zero would switch the timer off.
                tv_nsec: (at_us % 1_000_000 * 1_000).cast_signed().max(1),
            },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &at)
            .map(drop)
            .map_err(Into::into)
            .tried("timerfd_settime")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::clock;

    #[test]
    fn it_comes_once_each_time_it_is_set_and_not_before() {
        let mut poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        let mut events = Events::with_capacity(4);
        for wait_us in [0, 1_500, 700] {
            let at_us = clock::now_us() + wait_us;
            alarm.set(at_us).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert!(clock::now_us() >= at_us);
            let tokens: Vec<_> = events.iter().map(|event| event.token()).collect();
            assert_eq!(tokens, [Token(7)]);
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            assert!(events.is_empty());
        }
    }
}
