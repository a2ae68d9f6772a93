//! Messages from before a client's subscription, such as last values, in the send queues. A gateway may wait until they
//! are drained: the kernel has taken them.
//!
//! A replayed frame is in the send queue among the others, so later frames stay after the replayed frame. A replayed
//! frame counts for no limit of the queue, takes no token of the client's rate and is never conflated: a client that
//! reads gets all replayed frames, however slowly. The stall limit still drops a client that takes nothing.

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
        self.release_to(key, topic);
        self.clients.open_throttle(self.now, &self.limits, key);
        self.clients.replay(self.now, key, [Arc::clone(frame)]);
        self.is_open(key)
    }

    /// Sends the end of a topic's messages from before: a client concludes from it which of them there are, so it comes
    /// after everything of the topic that waits outside of the queue.
    pub fn send_end(&mut self, key: SessionKey, topic: &TopicName, end: &Arc<Frame>) {
        self.release_to(key, topic);
        self.send(key, end);
    }

    /// Requests one call of [`Gateway::handle_drained`], at the end of this input or after a later flush: as soon as the
    /// kernel has taken everything that waits for the client. For a client that skips to the newest messages, whose
    /// queue may never be empty, it is enough that all replayed frames are out.
    pub fn request_drained(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.await_drained();
            self.note_drained(key);
        }
    }

    /// Whether the client has to take its answers before the gateway handles its next message: answers wait, in a send
    /// queue of more than `bytes_max`. If so, requests one call of [`Gateway::handle_drained`] as soon as the kernel has
    /// taken the last of them.
    pub fn has_to_take_answers(&mut self, key: SessionKey, bytes_max: usize) -> bool {
        let session = self.clients.session_mut(key);
        session.is_some_and(|session| session.await_answers_taken(bytes_max))
    }

    /// Notes that the queue of a client has become shorter: it may be drained.
    pub(super) fn note_drained(&mut self, key: SessionKey) {
        let session = self.clients.session_mut(key);
        if session.is_some_and(|session| session.take_drained()) {
            self.drained.push(key);
        }
    }
}

impl<G: Gateway> Hub<G> {
    /// Calls the gateway for a client whose queue is drained, or that has taken its answers, as requested.
    pub(super) fn report_drained(&mut self, key: SessionKey) {
        if self.core.is_open(key)
            && let Some(client) = self.clients.get_mut(key)
        {
            self.gateway.handle_drained(&mut self.core, key, client);
        }
    }
}
