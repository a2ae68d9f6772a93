//! Whether the kernel takes bytes for a socket.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether the kernel takes more bytes for this socket now: over TCP, half of `--tcp-notsent-lowat-bytes` at least. If not, a
/// poll for room that waits for an edge reports it later, as after a refused write. True also for a broken connection, which
/// shows itself at the write.
pub(crate) fn takes_more(socket: impl AsFd) -> bool {
    let mut room = [PollFd::new(&socket, PollFlags::OUT)];
    // A timeout of zero, so the poll does not wait. `Ok(0)`: there is no room.
    poll(&mut room, Some(&Timespec::default())) != Ok(0)
}
