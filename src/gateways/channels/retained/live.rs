//! The live messages of names that clients wait for. A live message is newer than the value in the stream: the value
//! does not go to clients that waited when the message came.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::Retained;
use weirgate_core::{RetainedCut, SessionKey, TopicName};
use weirgate_wire::base::ExtendibleMap;

/// The most memory for the subjects of patterns that are live while clients wait, over all patterns, and at most a
/// quarter of the bytes of last values. With more subjects the gateway could not tell older values from newer messages,
/// so the waiting clients get no more values.
const LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The memory of a subject in a map that has just grown.
const LIVE_ENTRY_BYTES: usize = 40;

impl Retained {
    /// The most live subjects of all patterns together.
    pub(super) fn live_subjects_max(&self) -> usize {
        LIVE_BYTES_MAX.min((self.bytes.max() / 4) as usize) / LIVE_ENTRY_BYTES
    }

    /// Handles a live message, which is newer than the subject's value in a stream; `subject` is given if the name is a
    /// pattern. Returns true if clients stopped waiting.
    pub(in crate::gateways::channels) fn note_live(
        &mut self,
        name: &TopicName,
        subject: Option<&Arc<str>>,
    ) -> bool {
        let Some(waiting) = self.waiting.get(name) else {
            return false;
        };
        if let Some(subject) = subject {
            self.newest_live += 1;
            let subjects_max = self.live_subjects_max();
            let subject = self.hasher.hash_one(subject);
            let live = self.live.get_or_insert_default(name.clone());
            if let Some(newest) = live.get_mut(&subject) {
                *newest = self.newest_live;
                return false;
            }
            // A pattern may have as many subjects as are free for all patterns, so that others have room.
            if live.len() < subjects_max.saturating_sub(self.live_subjects) {
                self.live_subjects += 1;
                live.insert(subject, self.newest_live);
                return false;
            }
            self.given_up += waiting.len() as u64;
        }
        let clients: Vec<SessionKey> = waiting.iter().copied().collect();
        // The message is newer than the value of an exact name, whose last values are whole with it.
        let cut = subject.map(|_| RetainedCut::Live);
        clients.into_iter().for_each(|key| self.end(name, key, cut));
        true
    }

    /// Returns the clients that get the last value that has just come; `bytes_for` gives its size for a client.
    /// `subject` is given if the name is a pattern.
    pub(super) fn receivers(
        &mut self,
        name: &TopicName,
        subject: Option<&Arc<str>>,
        number: u64,
        mut bytes_for: impl FnMut(SessionKey) -> usize,
    ) -> Vec<SessionKey> {
        let Some(clients) = self.questions.members(name, number) else {
            return Vec::new();
        };
        let live = subject.and_then(|subject| {
            let live = self.live.get(name)?;
            live.get(&self.hasher.hash_one(subject))
        });
        // 0: no live message of this subject has come.
        let live = live.map_or(0, |live| *live);
        let (mut receivers, mut without_room) = (Vec::new(), Vec::new());
        for key in clients {
            if let Some(waiter) = self.clients.get_mut(key)
                && waiter.is_asked(name, number)
                // A live message after the client's request is newer than the value.
                && live <= waiter.names[name].since
            {
                let has_room = match subject {
                    // The values of a page come together and may use the whole share.
                    Some(_) => {
                        waiter.take_room_in_page(bytes_for(*key));
                        true
                    }
                    None => waiter.take_room(bytes_for(*key)),
                };
                if !has_room {
                    without_room.push(*key);
                    continue;
                }
                receivers.push(*key);
                if let Some(wanted) = waiter.names.get_mut(name) {
                    wanted.count += 1;
                }
            }
        }
        let without_room = without_room.into_iter();
        without_room.for_each(|key| self.leave_question(name, key));
        if subject.is_none() {
            // An exact name has only this value. Who has waited is of interest only after a refusal.
            let _ = self.ended(name, number, None);
        }
        receivers
    }

    /// Handles the loss of a connection. Forgets the live messages, because no value from the next connection is older.
    pub(in crate::gateways::channels) fn lost(&mut self) {
        self.live = ExtendibleMap::default();
        self.live_subjects = 0;
    }
}
