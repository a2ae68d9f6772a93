//! Reports of the poll about a socket's input: possibly unread bytes, and the end of the peer's side.

use mio::Interest;
use mio::event::Event;

/// The possibly unread input of a socket. A new edge comes for all later bytes, also for bytes between the
/// last poll and a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unread {
    /// None: the socket was read empty.
    Nothing,
    /// No event reported bytes yet: a first read just after the accept.
    Hoped,
    /// Possibly bytes: a read that fills less than its buffer empties the socket.
    Bytes,
    /// Also input after a short read: the peer's end, an error, bytes behind urgent data. Only a read that
    /// would block, or an end, shows that nothing is left.
    End,
}

impl Unread {
    pub(super) fn of(event: &Event) -> Self {
        if event.is_read_closed() || event.is_error() || event.is_priority() {
            Self::End
        } else if event.is_readable() {
            Self::Bytes
        } else {
            Self::Nothing
        }
    }
}

/// The kind of a peer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// An orderly end: the peer may still read.
    Closed,
    /// An error.
    Failed,
}

impl End {
    /// Reads EPOLLRDHUP, EPOLLHUP and EPOLLERR: these edges come also for a socket that is not being read.
    pub(super) fn of(event: &Event) -> Option<Self> {
        if event.is_error() {
            Some(Self::Failed)
        } else {
            event.is_read_closed().then_some(Self::Closed)
        }
    }
}

/// Urgent data cuts a read short though more bytes follow, so the poll has to report urgent data.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const READABLE: Interest = Interest::READABLE.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const READABLE: Interest = Interest::READABLE;
