//! Room in the send queues, for messages from before a client's subscription, such as last values. A write makes room, and a
//! gateway may wait for it.
//!
//! A replayed frame is in the send queue among the others, so later frames stay after the replayed frame. A replayed frame
//! counts for no limit of the queue, takes no token of the client's rate and is never conflated: a client that reads gets all
//! replayed frames, however slowly. The stall limit still drops a client that takes nothing.

use std::sync::Arc;

use super::core::Core;
use super::gateway::Gateway;
use super::hub::Hub;
use super::{Frame, SessionKey, TopicName};

impl Core {
    /// Puts a frame of a topic from before the client's subscription in the client's queue, after the older frames that
    /// wait outside of the queue. Returns false if the client is gone or closing. The gateway limits the waiting replayed
    /// frames, for each client and for all: the limits of the queue do not count replayed frames.
    pub fn replay(&mut self, key: SessionKey, topic: &TopicName, frame: &Arc<Frame>) -> bool {
        self.notify_loss(key);
        if self.overload.concerns(topic) {
            self.release(topic);
        }
        self.clients.open_slot(self.now, &self.limits, key);
        self.clients.replay(self.now, key, [Arc::clone(frame)]);
        self.is_open(key)
    }

    /// Requests one call of [`Gateway::handle_room`], at the end of this input or after a later flush: as soon as the
    /// kernel has taken everything that waits for the client. For a client that skips to the newest messages, whose
    /// queue may never be empty, it is enough that all replayed frames are out.
    pub fn request_room(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.want_room();
            self.note_room(key);
        }
    }

    /// Notes that the queue of a client has become shorter.
    pub(super) fn note_room(&mut self, key: SessionKey) {
        let session = self.clients.session_mut(key);
        if session.is_some_and(|session| session.finds_room()) {
            self.with_room.push(key);
        }
    }
}

impl<G: Gateway> Hub<G> {
    /// Calls the gateway for a client with the requested room.
    pub(super) fn report_room(&mut self, key: SessionKey) {
        if self.core.is_open(key)
            && let Some(client) = self.clients.get_mut(key)
        {
            self.gateway.handle_room(&mut self.core, key, client);
        }
    }
}
