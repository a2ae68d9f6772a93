//! The channel between the supervisor and one of its processes: a pair of sockets, of which the process has one as its
//! standard input.
//!
//! A process writes a byte each second from a thread that does nothing else but watch the loop. So the supervisor knows that
//! the process lives, however much its HTTP thread has to do.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::{fs::File, io::stdin};

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::children::has_supervisor;

/// What a process says: it lives.
const LIVES: u8 = b'.';

/// The end of the supervisor.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Makes a channel. Returns the other end too, for the process. Neither end makes anybody wait.
    ///
    /// # Errors
    /// The system refuses a pair of sockets.
    pub(super) fn new() -> io::Result<(Self, Stdio)> {
        let (own, other) = StdUnixStream::pair()?;
        own.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        Ok((
            Self(UnixStream::from_std(own)?),
            OwnedFd::from(other).into(),
        ))
    }

    /// Waits until the process has said something.
    ///
    /// # Errors
    /// The process has ended.
    pub(super) async fn heard(&self) -> io::Result<()> {
        loop {
            self.0.ready(Interest::READABLE).await?;
            match self.0.try_read(&mut [0; 64]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The end of a process.
#[derive(Debug)]
pub(crate) struct ToSupervisor(StdUnixStream);

impl ToSupervisor {
    /// The end of this process; `None` if no supervisor has started it.
    pub(crate) fn of_process() -> Option<Self> {
        let file = File::from(stdin().as_fd().try_clone_to_owned().ok()?);
        let is_socket = file.metadata().ok()?.file_type().is_socket();
        (is_socket && has_supervisor()).then(|| Self(OwnedFd::from(file).into()))
    }

    /// Says that the process lives.
    pub(crate) fn say_alive(&self) {
        // A supervisor that does not run misses nothing, and with its end this process ends too.
        let _ = (&self.0).write(&[LIVES]);
    }
}
