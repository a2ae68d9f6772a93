//! The input of clients that the hub cannot handle yet: unfinished heads and messages, and input of paused clients. All
//! clients share one [`Holding`]: if its limit is exceeded, clients that hold much without progress are dropped.
//!
//! Progress is each doubling of a message's memory (so that a client cannot look busy with single bytes), each further
//! message, and each change of the input that waits after a pause.

use std::task::Waker;

use super::{Now, SessionKey};
use crate::admission::{Charge, Chosen, ClientAddr, Holding};

/// The sum over all clients, and the clients chosen to give way.
#[derive(Debug)]
pub(super) struct Received {
    held: Holding,
    chosen: Chosen<SessionKey>,
}

impl Received {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            held: Holding::new("received_bytes", bytes_max),
            // Needs no waker: the hub looks at the list after each read that added bytes.
            chosen: Chosen::new(Waker::noop().clone()),
        }
    }

    /// If more is held than the limit allows, chooses clients to give way. Returns them.
    pub(super) fn make_room(&self, now: Now) -> Vec<SessionKey> {
        self.held.make_room(now.mono_us);
        self.chosen.take()
    }

    pub(super) fn holding(&self) -> &Holding {
        &self.held
    }

    /// Charges the first bytes of a client.
    pub(super) fn charge(
        &self,
        key: SessionKey,
        client: ClientAddr,
        bytes: u64,
        now: Now,
    ) -> Charge {
        let charge = self.held.hold(client, bytes, now.mono_us);
        charge.wake_with(&self.chosen.waker(key));
        charge
    }
}
