//! Leaving topics: the keyed frames of a topic that wait for a client go with its membership. A request may name many
//! topics, and the client's queue may be long, so the queue is walked once, after the last of them.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use super::core::Core;
use super::topics::{KEYS_MAX, Left};
use super::{ConflationKey, SessionKey, TopicName};

/// The conflation keys of topics that a client has left, until its queue is walked.
#[derive(Debug, Default)]
pub(super) struct LeftKeys {
    of: Option<SessionKey>,
    keys: Vec<ConflationKey>,
    /// One of the topics may have further keys.
    has_more: bool,
}

impl Core {
    /// Ends the client's membership, and removes the topic's keyed frames that wait for the client: after the last of
    /// several topics, so that its queue is walked once.
    pub fn leave(&mut self, key: SessionKey, topic: &TopicName) -> Left {
        self.notify_loss(key);
        if self.clients.session(key).is_none() {
            return Left::NoMember;
        }
        if self.left.of != Some(key) {
            self.forget_left();
        }
        let keys = &mut self.left.keys;
        let Some((count, last)) = self.topics.leave(key, topic, keys) else {
            return Left::NoMember;
        };
        if count > 0 {
            self.left.of = Some(key);
            // The topic may have more keys than are known.
            self.left.has_more |= count == KEYS_MAX;
        }
        match last {
            true => Left::Last,
            false => Left::Others,
        }
    }

    /// Removes the keyed frames of topics that a client has left. Comes before anything that may queue a frame with one
    /// of these keys.
    #[inline]
    pub(super) fn forget_left(&mut self) {
        if self.left.of.is_some() {
            self.forget_keys();
        }
    }

    #[cold]
    fn forget_keys(&mut self) {
        let Some(key) = self.left.of.take() else {
            return;
        };
        let keys: HashSet<ConflationKey, RandomState> = self.left.keys.drain(..).collect();
        if let Some(session) = self.clients.session_mut(key) {
            let forgotten = session.forget(&keys);
            if forgotten.0 > 0 {
                self.clients.stats.count_conflated(forgotten);
                self.note_room(key);
                self.note_wait(key);
            }
        }
        if std::mem::take(&mut self.left.has_more) {
            // The frames that wait for a slot are sent now, because one of the unknown keys would otherwise come long
            // after the client left the topic.
            self.clients.open_slot(self.now, &self.limits, key);
        }
    }
}
