//! What the poll tells of a socket's input: what may be unread, and whether the peer has ended.

use mio::Interest;
use mio::event::Event;

/// What a socket may hold that was not read. A new edge comes for all that arrives later, also
/// between the last poll and a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unread {
    /// Nothing: it was read empty.
    Nothing,
    /// No event told of bytes yet: a first read just after the accept.
    Hoped,
    /// Bytes, perhaps: a read that fills less than its buffer empties it.
    Bytes,
    /// Also what a short read does not reach: the peer's end, an error, bytes behind urgent data.
    /// Only a read that would block, or an end, tells that nothing is left.
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

/// How a peer's side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// In order: the peer may still read.
    Closed,
    /// By an error.
    Failed,
}

impl End {
    /// EPOLLRDHUP and EPOLLHUP, EPOLLERR: edges that come also where nobody reads.
    pub(super) fn of(event: &Event) -> Option<Self> {
        if event.is_error() {
            Some(Self::Failed)
        } else {
            event.is_read_closed().then_some(Self::Closed)
        }
    }
}

/// Urgent data cuts a read short though more bytes follow, so the poll has to tell of it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const READABLE: Interest = Interest::READABLE.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const READABLE: Interest = Interest::READABLE;
