//! Standard input, which also ends when the user stops the command: a blocked read would go on until the next line.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::super::tail::TICK;
use super::Stop;

/// Standard input until a stop.
pub(super) struct StandardInput<'s> {
    stop: &'s Stop,
}

impl<'s> StandardInput<'s> {
    pub(super) const fn until(stop: &'s Stop) -> Self {
        Self { stop }
    }

    /// Waits until a read returns at once: there is something to read, or the input has ended, or the user stops. Returns
    /// false if that is not so by `until`.
    pub(super) fn is_ready(&self, until: Instant) -> io::Result<bool> {
        let stdin = io::stdin();
        // Cannot fail for so short a time. `None` would mean to wait without an end.
        let tick = Timespec::try_from(TICK).ok();
        while !self.stop.is_asked() {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, tick.as_ref()) {
                Ok(0) | Err(Errno::INTR) if Instant::now() >= until => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl Read for StandardInput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_ready(Instant::now() + TICK)? {}
        match self.stop.is_asked() {
            true => Ok(0),
            false => Ok(rustix::io::read(io::stdin().as_fd(), buffer)?),
        }
    }
}
