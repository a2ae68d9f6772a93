//! The memory of what clients have sent and the hub cannot handle yet: unfinished heads and messages, input of paused
//! clients, what the gateway keeps of a request that takes several turns, and pongs for clients that do not read. All
//! clients share one [`Quota`]: if its limit is exceeded, clients that hold much without progress are dropped. Also the
//! most bytes of one read, which bounds what is kept of a client that is paused.
//!
//! Progress is each doubling of a message's memory (so that a client cannot look busy with single bytes), each further
//! message, and each change of the input that waits after a pause.

use std::task::Waker;

use super::Session;
use super::phase::Phase;
use crate::{Limits, Now, SessionKey};
use weirgate_wire::admission::{Chosen, ClientAddr, Permit, Quota};

/// The sum over all clients, and the clients chosen for eviction.
#[derive(Debug)]
pub(crate) struct Received {
    held: Quota,
    chosen: Chosen<SessionKey>,
}

impl Received {
    /// An empty sum, of at most `bytes_max` bytes of all clients.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            held: Quota::new("received_bytes", bytes_max),
            // Needs no waker: the hub looks at the list after each read that added bytes.
            chosen: Chosen::new(Waker::noop().clone()),
        }
    }

    /// If more is held than the limit allows, chooses clients to be evicted. Returns them.
    pub(crate) fn make_room(&self, now: Now) -> Vec<SessionKey> {
        self.held.make_room(now.mono_us);
        self.chosen.take()
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.held
    }

    /// Charges the first bytes of a client.
    fn charge(&self, key: SessionKey, client: ClientAddr, bytes: u64, now: Now) -> Permit {
        let permit = self.held.hold(client, bytes, now.mono_us);
        permit.wake_with(&self.chosen.waker(key));
        permit
    }
}

/// The progress of a client since its input was counted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputProgress {
    /// No message was finished.
    None,
    /// A message was finished, or a part of a request that takes several turns.
    Message,
}

/// The most bytes of one read of a request head, so that most of what follows the head of plain HTTP stays in the
/// socket, for the HTTP thread.
const HEAD_READ_BYTES: usize = 2 * 1024;

/// This much of the control part counts with the connection: the answer to a handshake, a ping, some pongs.
const CONTROL_BYTES_FREE: usize = 512;

/// The most bytes of one read of a client that has begun no message.
const READ_BYTES: usize = 4 * 1024;

impl Session {
    /// Memory of the client's unfinished request head or message.
    fn unfinished_bytes(&self) -> usize {
        match &self.cold.phase {
            Phase::Head(head) => head.read.capacity(),
            Phase::Open(open) => open.protocol.unfinished_bytes(),
            Phase::Closing(_) | Phase::Gone => 0,
        }
    }

    /// Memory of the client's input that is kept, and of the pongs that it does not take.
    fn received_bytes(&self) -> usize {
        let control = match self.queue.control_room_bytes() {
            small if small <= CONTROL_BYTES_FREE => 0,
            bytes => bytes,
        };
        let rest = self.cold.rest_bytes.map_or(0, |bytes| bytes.get() as usize);
        self.unfinished_bytes() + self.cold.reading.held_bytes() + rest + control
    }

    /// The most bytes for one read of the socket. If a client is paused after its next message, weirgate keeps the
    /// bytes that it has read by then; bytes left in the socket slow down only the client. So a read takes few bytes,
    /// but for a large message as many again as are kept of it.
    pub(crate) fn read_bytes_max(&self) -> usize {
        match self.cold.phase {
            Phase::Head(_) => HEAD_READ_BYTES,
            _ => READ_BYTES.max(self.unfinished_bytes()),
        }
    }

    /// Counts the bytes that are kept of the client's input after a read. Returns whether more bytes are kept than before.
    pub(crate) fn count_received(
        &mut self,
        key: SessionKey,
        now: Now,
        progress: InputProgress,
        received: &Received,
        limits: &Limits,
    ) -> bool {
        let unfinished_bytes = self.unfinished_bytes();
        // The awaited pong may come after the rest of the message.
        if unfinished_bytes > 0 {
            self.cold.note_life(now, limits.pong_timeout_us);
        }
        let bytes = self.received_bytes() as u64;
        let client = self.client_addr();
        let permit = &mut self.cold.received;
        let before = permit.as_ref().map_or(0, |permit| permit.amount());
        match permit {
            _ if bytes == 0 => *permit = None,
            None => *permit = Some(Box::new(received.charge(key, client, bytes, now))),
            Some(permit) => {
                permit.set(bytes, now.mono_us);
                if bytes != before || progress == InputProgress::Message {
                    permit.progress(now.mono_us);
                }
            }
        }
        bytes > before
    }
}
