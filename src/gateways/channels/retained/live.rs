//! The live messages of names that clients wait for. A live message is newer than the value in the stream: the value
//! does not go to clients that waited when the message came.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::Retained;
use weirgate_core::{RetainedCut, SessionKey, TopicName};
use weirgate_wire::base::ExtendibleMap;

/// The most memory for the subjects of patterns that are live while clients wait, over all patterns, and at most a
/// quarter of the bytes of last values. With more subjects the gateway could not tell older values from newer messages,
/// so the waiting clients get no more values.
const LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The memory of a subject in a map that has just grown.
const LIVE_ENTRY_BYTES: usize = 40;

/// The subjects with live messages on this connection, of patterns whose values clients wait for.
#[derive(Debug, Default)]
pub(super) struct LiveSubjects {
    /// The number of the newest live message of each subject, by a hash of the subject, which takes less memory than the
    /// text.
    by_pattern: ExtendibleMap<TopicName, ExtendibleMap<u64, u64>>,
    hasher: RandomState,
    /// The number of the newest live message of a pattern.
    newest: u64,
    /// The subjects of all patterns.
    count: usize,
}

/// Whether there was room to remember a live message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    Remembered,
    NoRoom,
}

impl LiveSubjects {
    /// The number of the newest live message of a pattern.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// How many subjects are remembered.
    #[cfg(test)]
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Remembers a live message, if there are fewer than `subjects_max` subjects. A pattern may have as many as are free for
    /// all patterns, so that others have room.
    fn note(&mut self, pattern: &TopicName, subject: &Arc<str>, subjects_max: usize) -> Noted {
        self.newest += 1;
        let subject = self.hasher.hash_one(subject);
        let live = self.by_pattern.get_or_insert_default(pattern.clone());
        if let Some(newest) = live.get_mut(&subject) {
            *newest = self.newest;
            return Noted::Remembered;
        }
        if live.len() < subjects_max.saturating_sub(self.count) {
            self.count += 1;
            live.insert(subject, self.newest);
            return Noted::Remembered;
        }
        Noted::NoRoom
    }

    /// The number of the newest live message of a subject of a pattern; 0: none has come.
    fn newest_of(&self, pattern: &TopicName, subject: &Arc<str>) -> u64 {
        let live = self.by_pattern.get(pattern);
        let live = live.and_then(|live| live.get(&self.hasher.hash_one(subject)));
        live.copied().unwrap_or(0)
    }

    /// Forgets the subjects of a pattern that nobody waits for any more.
    pub(super) fn forget(&mut self, pattern: &TopicName) {
        let live = self.by_pattern.remove(pattern);
        self.count -= live.map_or(0, |live| live.len());
    }

    /// Forgets all subjects.
    fn clear(&mut self) {
        (self.by_pattern, self.count) = (ExtendibleMap::default(), 0);
    }
}

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
        let Some(waiting) = self.waiting.of(name) else {
            return false;
        };
        if let Some(subject) = subject {
            let subjects_max = self.live_subjects_max();
            match self.live.note(name, subject, subjects_max) {
                Noted::Remembered => return false,
                Noted::NoRoom => self.given_up += waiting.len() as u64,
            }
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
        let live = subject.map_or(0, |subject| self.live.newest_of(name, subject));
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
        self.live.clear();
    }
}
