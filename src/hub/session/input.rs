//! What is kept of a client's input, and how much of it one read brings.

use super::Session;
use super::phase::Phase;
use crate::admission::Charge;
use crate::hub::received::Received;
use crate::hub::{Limits, Now, SessionKey};

/// Bytes of one read of a request head: what follows the head of plain HTTP stays in the socket, for the HTTP thread.
const HEAD_READ_BYTES: usize = 2 * 1024;

/// Bytes of one read of a client that has begun no message.
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

    /// The most bytes for one read of the socket. A client may be paused after its next message, and what was
    /// read by then is kept; what is left in the socket slows the client alone. So a read brings little, and
    /// as much again as is kept of a large message.
    pub(in crate::hub) fn read_bytes_max(&self) -> usize {
        match self.cold.phase {
            Phase::Head(_) => HEAD_READ_BYTES,
            _ => READ_BYTES.max(self.unfinished_bytes()),
        }
    }

    /// Counts what is kept of the client's input, after a read; `is_new`: the client has finished another message
    /// before. Returns whether more is kept than before.
    pub(in crate::hub) fn count_received(
        &mut self,
        key: SessionKey,
        now: Now,
        is_new: bool,
        received: &Received,
        limits: &Limits,
    ) -> bool {
        let unfinished_bytes = self.unfinished_bytes();
        if unfinished_bytes > 0 {
            self.cold.note_life(now, limits.pong_timeout_us);
        }
        let bytes = (unfinished_bytes + self.cold.reading.held_bytes()) as u64;
        let client = self.client_addr();
        let charge = &mut self.cold.received;
        let before = charge.as_ref().map_or(0, Charge::amount);
        match charge {
            _ if bytes == 0 => *charge = None,
            None => *charge = Some(received.charge(key, client, bytes, now)),
            Some(charge) => {
                charge.set(bytes, now.mono_us);
                if bytes != before || is_new {
                    charge.progress(now.mono_us);
                }
            }
        }
        bytes > before
    }
}
