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
    client: Option<SessionKey>,
    keys: Vec<ConflationKey>,
    /// A topic remembers [`KEYS_MAX`] of its keys. One of those that the client left has so many, so frames with other keys
    /// of it may wait too.
    may_lack_keys: bool,
}

impl Core {
    /// Ends the client's membership, and removes the topic's keyed frames that wait for the client: after the last of
    /// several topics, so that its queue is walked once.
    pub fn leave(&mut self, key: SessionKey, topic: &TopicName) -> Left {
        self.notify_loss(key);
        if self.clients.session(key).is_none() {
            return Left::NoMember;
        }
        if self.left.client != Some(key) {
            self.remove_left_frames();
        }
        let keys = &mut self.left.keys;
        let Some((keys_left, is_last)) = self.topics.leave(key, topic, keys) else {
            return Left::NoMember;
        };
        if keys_left > 0 {
            self.left.client = Some(key);
            self.left.may_lack_keys |= keys_left == KEYS_MAX;
        }
        match is_last {
            true => Left::Last,
            false => Left::Others,
        }
    }

    /// Removes the keyed frames of topics that a client has left. Comes before anything that may queue a frame with one
    /// of these keys.
    #[inline]
    pub(super) fn remove_left_frames(&mut self) {
        if self.left.client.is_some() {
            self.remove_frames_with_left_keys();
        }
    }

    /// Removes the frames with the noted keys from the queue of the client; they count as conflated.
    #[cold]
    fn remove_frames_with_left_keys(&mut self) {
        let Some(key) = self.left.client.take() else {
            return;
        };
        let keys: HashSet<ConflationKey, RandomState> = self.left.keys.drain(..).collect();
        if let Some(session) = self.clients.session_mut(key) {
            let forgotten = session.forget(&keys);
            if forgotten.0 > 0 {
                self.clients.stats.count_conflated(forgotten);
                self.note_drained(key);
                self.note_wait(key);
            }
        }
        if std::mem::take(&mut self.left.may_lack_keys) {
            self.clients.open_throttle(self.now, &self.limits, key);
        }
    }

    /// Removes the frames of topics that a client has left, before it gets an answer, if some of these frames may have keys
    /// that are not known: then the throttle opens, and the client gets those frames before the answer. Otherwise they
    /// would come long after an answer that says that no message of the topic follows. With known keys only, nothing is
    /// left after [`Self::remove_left_frames`], so that can wait for the end of the call.
    #[inline]
    pub(super) fn send_unknown_left_frames(&mut self, key: SessionKey) {
        if self.left.may_lack_keys && self.left.client == Some(key) {
            self.remove_frames_with_left_keys();
        }
    }
}
