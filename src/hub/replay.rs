//! Messages from before a client's subscription, such as last values: how they are sent, and how a
//! gateway finds out that a client has room for more.
//!
//! A replayed frame stands in the send queue among the others, so what is sent to the client after the
//! frame stays behind it. The frame counts for no limit of the queue, takes no token of the client's
//! rate and is never conflated: a client that reads gets all of them, however slowly. The limit of a
//! client that takes nothing holds.

use std::sync::Arc;

use super::core::Core;
use super::gateway::Gateway;
use super::hub::Hub;
use super::{Frame, SessionKey};

impl Core {
    /// Puts a frame from before the client's subscription in the client's queue. Returns `false` if
    /// the client is gone or closing. The gateway bounds how much of it waits, for each client and for
    /// all: the limits of the queue do not count the frame.
    pub fn replay(&mut self, key: SessionKey, frame: &Arc<Frame>) -> bool {
        self.clients.replay(self.now, key, frame)
    }

    /// Asks for one call of [`Gateway::handle_room`], at the end of this input or after a later flush:
    /// as soon as the kernel has taken everything that waits for the client. A client that skips to the
    /// newest messages may never get there: all replayed frames are enough of it.
    pub fn tell_room(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.want_room();
            self.note_room(key);
        }
    }

    /// The queue of a client has become shorter.
    pub(super) fn note_room(&mut self, key: SessionKey) {
        let session = self.clients.session_mut(key);
        if session.is_some_and(|session| session.finds_room()) {
            self.roomy.push(key);
        }
    }
}

impl<G: Gateway> Hub<G> {
    /// A client has room that its gateway waits for.
    pub(super) fn tell_room(&mut self, key: SessionKey) {
        if self.core.is_open(key)
            && let Some(client) = self.clients.get_mut(key)
        {
            self.gateway.handle_room(&mut self.core, key, client);
        }
    }
}
