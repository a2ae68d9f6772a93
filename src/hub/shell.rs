//! The seam between the core and the shell, which owns the sockets: what has to be done to them,
//! and how bytes go out.

use std::io;
use std::sync::Arc;

use super::{Ended, SessionKey};
use crate::admission::AddressPlace;

/// What the shell has to do to a socket.
#[derive(Debug)]
pub enum Effect {
    /// The socket's sending side is done: shut it down, go on reading until the peer ends.
    HalfClose(SessionKey),
    /// End the socket, then call [`Hub::handle_released`](super::Hub::handle_released).
    Release {
        /// Whose socket.
        key: SessionKey,
        /// Drop what the kernel still holds (a client that does not read), instead of letting it
        /// drain.
        reset: bool,
        /// For the log line.
        ended: Ended,
    },
    /// Hand the socket to the HTTP side with the bytes read so far, then call
    /// [`Hub::handle_released`](super::Hub::handle_released).
    ToHttp {
        /// Whose socket.
        key: SessionKey,
        /// What was read, from the request line on.
        read: Vec<u8>,
        /// Its place in the connection limits; dropped when the connection ends.
        permit: Permit,
    },
    /// Write no more than so many bytes a second to this client; `None`: as much as the kernel takes.
    Pace {
        /// Whose socket.
        key: SessionKey,
        /// The bytes.
        bytes_per_second: Option<u32>,
    },
    /// Reading was paused and goes on: what the kernel holds comes with no new event.
    Resume(SessionKey),
}

/// A place in the connection limits, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    /// Held for its count alone.
    _place: Arc<()>,
    /// Among the connections of its address, once that is known.
    _of_address: Option<AddressPlace>,
}

impl Permit {
    /// Takes one of `places`.
    pub fn new(places: &Arc<()>) -> Self {
        Self {
            _place: Arc::clone(places),
            _of_address: None,
        }
    }

    /// Counts it for an address; for the one before no more.
    pub(super) fn hold(&mut self, place: Option<AddressPlace>) {
        self._of_address = place;
    }

    /// How many are out. `places` itself is one holder.
    pub fn taken(places: &Arc<()>) -> usize {
        Arc::strong_count(places) - 1
    }
}

/// One write: slices that go to one client, in order.
#[derive(Debug)]
pub struct Write<'a> {
    /// Whose socket.
    pub key: SessionKey,
    /// At least one, none empty.
    pub slices: &'a [io::IoSlice<'a>],
}

/// Takes batches of writes to the sockets. Returns only when no buffer is in use any more.
pub trait Transmit {
    /// Tries each write once and says in `wrote`, in the same order, how many bytes were taken.
    /// `WouldBlock`: none now; the socket will become writable again. Another error: the socket is
    /// dead.
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>);

    /// `false` ends the flush for now: the other clients have their writes in the next one. Asked
    /// between batches; by default there is always time.
    fn has_time(&self) -> bool {
        true
    }
}
