//! What events of the poll say about a socket: bytes that may be unread, and the end of the peer's side.

use mio::Interest;
use mio::event::Event;

use weirgate_core::PeerEnd;

/// Whether a socket may have unread input. Later bytes always cause a new edge, also bytes that come between the last
/// poll and a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unread {
    /// None: the socket was read empty.
    Nothing,
    /// No event has reported bytes yet: the first read, just after the accept, is made in the hope of some.
    Hoped,
    /// There may be bytes. A read that does not fill its buffer has emptied the socket.
    Bytes,
    /// There may be input even after a short read: the peer's end, an error, bytes after urgent data. Only a read that
    /// would block, or an end, shows that nothing is left.
    End,
}

impl Unread {
    /// Returns what an event says about the input. An end counts more than bytes, because it makes reads go on after
    /// the last byte.
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

/// The end of the peer's side in an event: EPOLLRDHUP, EPOLLHUP and EPOLLERR come also for a socket that is not being
/// read.
pub(super) fn peer_end(event: &Event) -> Option<PeerEnd> {
    if event.is_error() {
        Some(PeerEnd::Failed)
    } else {
        event.is_read_closed().then_some(PeerEnd::Closed)
    }
}

/// Urgent data cuts a read short though more bytes follow, so the poll has to report urgent data.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const READABLE: Interest = Interest::READABLE.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const READABLE: Interest = Interest::READABLE;
