//! The channel between the supervisor and one of its processes: a pair of sockets, of which the process has one as its
//! standard input. So there is no path, which a cleaning of `/tmp` or the end of a login would remove, and no address that
//! anybody else could use.
//!
//! | who | says or gives | when |
//! | --- | --- | --- |
//! | process | [`LIVES`] | each second, from a thread that does nothing else but watch the loop: so the supervisor knows that the process lives, however much its HTTP thread has to do |
//! | process | [`BEGINS`] | once, before it serves the connections of the supervisor |
//! | supervisor | a file with the list of those whom operators have cut off | once, in answer to [`BEGINS`] |
//! | supervisor | connections for HTTP | from then on |

use std::fs::File;
use std::io::{self, ErrorKind, Write, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::unconstrained;

use super::children::has_supervisor;
use crate::listening::handed::{hand_over, take_handed};

/// The process lives.
const LIVES: u8 = b'.';
/// The process has read its settings, and takes what the supervisor hands over.
const BEGINS: u8 = b'+';

/// How long a process waits for the first thing that the supervisor hands over.
const FIRST_MAX: Duration = Duration::from_secs(30);

/// The end of the supervisor. Clones are the same end.
#[derive(Clone, Debug)]
pub(super) struct Channel(Arc<SupervisorEnd>);

#[derive(Debug)]
struct SupervisorEnd {
    stream: UnixStream,
    /// Whether the process takes connections.
    is_open: AtomicBool,
    /// Held by the [turn](Turn) that has come.
    turns: Arc<Mutex<()>>,
}

/// A turn to change something at a process. The turns of a process come one after the other: each change is a connection of its
/// own, and these could overtake each other. A turn ends when it is dropped.
pub(super) struct Turn {
    /// Waits in the line of the turns.
    lock: Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>,
    /// `None` until the turn has come.
    held: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// Waits until the turn has come.
    pub(super) async fn come(&mut self) {
        if self.held.is_none() {
            self.held = Some(self.lock.as_mut().await);
        }
    }
}

/// What a process has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Lives,
    Begins,
}

impl Channel {
    /// Makes a channel. Returns the other end too, for the process. Neither end makes anybody wait.
    ///
    /// # Errors
    /// The system refuses a pair of sockets.
    pub(super) fn new() -> io::Result<(Self, Stdio)> {
        let (own, other) = pair()?;
        let end = SupervisorEnd {
            stream: UnixStream::from_std(own)?,
            is_open: AtomicBool::new(false),
            turns: Arc::default(),
        };
        Ok((Self(Arc::new(end)), OwnedFd::from(other).into()))
    }

    /// Waits until the process has said something.
    ///
    /// # Errors
    /// The process has ended.
    pub(super) async fn heard(&self) -> io::Result<Heard> {
        let mut bytes = [0; 64];
        loop {
            self.0.stream.ready(Interest::READABLE).await?;
            match self.0.stream.try_read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) if bytes[..count].contains(&BEGINS) => return Ok(Heard::Begins),
                Ok(_) => return Ok(Heard::Lives),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands the first file over. From now on the process takes connections.
    ///
    /// # Errors
    /// The process has ended.
    pub(super) fn open(&self, first: &File) -> io::Result<()> {
        hand_over(&self.0.stream, first.as_fd())?;
        self.0.is_open.store(true, SeqCst);
        Ok(())
    }

    /// Whether both are the same channel.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes the next turn to change something. The turns come in the order of these calls.
    pub(super) fn next_turn(&self) -> Turn {
        let mut lock = Box::pin(unconstrained(Arc::clone(&self.0.turns).lock_owned()));
        // With the first poll, the future takes its place in the line.
        let held = match lock.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held),
            Poll::Pending => None,
        };
        Turn { lock, held }
    }

    /// Makes a connection to the process.
    ///
    /// # Errors
    /// [`ErrorKind::NotConnected`]: the process takes none yet. Others: it has ended, or has not taken earlier ones.
    pub(super) fn connect(&self) -> io::Result<StdUnixStream> {
        if !self.0.is_open.load(SeqCst) {
            return Err(ErrorKind::NotConnected.into());
        }
        let (own, other) = pair()?;
        hand_over(&self.0.stream, other.as_fd())?;
        Ok(own)
    }
}

fn pair() -> io::Result<(StdUnixStream, StdUnixStream)> {
    let (own, other) = StdUnixStream::pair()?;
    own.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((own, other))
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

    /// Says that the process takes what the supervisor hands over, and waits for the first file.
    ///
    /// # Errors
    /// The supervisor has ended, or hands nothing over.
    pub(super) fn begin(&self) -> io::Result<File> {
        (&self.0).write_all(&[BEGINS])?;
        let limit = Timespec::try_from(FIRST_MAX).map_err(io::Error::other)?;
        let mut readable = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut readable, Some(&limit))? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(take_handed(&self.0)?.into())
    }

    /// The socket over which connections come.
    pub(crate) fn into_stream(self) -> StdUnixStream {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::runtime;

    use super::*;

    #[test]
    fn turns_come_in_their_order_also_behind_one_that_is_given_up() {
        let runtime = runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime").block_on(async {
            let (channel, _process) = Channel::new().expect("a channel");
            let (mut first, given_up) = (channel.next_turn(), channel.clone().next_turn());
            let mut last = channel.next_turn();
            let mut waits = pin!(last.come());
            let mut has_come =
                async || poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx).is_ready())).await;
            assert!(!has_come().await);
            drop(given_up);
            first.come().await;
            assert!(!has_come().await);
            drop(first);
            assert!(has_come().await);
        });
    }
}
