//! The limits of what is kept: messages that are too old or take too much memory are forgotten, the oldest first, and
//! before them the copies that can be made again. For a large message very many small ones may have to go, so this is
//! spread over turns.

use super::History;
use super::message::{KeptMessage, time_of};
use super::numbers::KnownId;
use super::topics::TopicIndex;
use crate::ShortHistory;
use crate::turn::Turn;

/// Memory of an entry beside its frame: the entry, the index of its topic, the id. Twice, because the nodes of the tree of
/// [`newest_only`](super::newest_only) may be half empty; the list of all messages takes less.
pub(super) const ENTRY_BYTES: usize =
    2 * (size_of::<KeptMessage>() + size_of::<TopicIndex>() + size_of::<KnownId>());
/// While copies have more than one `COPIES_SHARE`th of the bytes, copies are dropped before messages are forgotten.
const COPIES_SHARE: usize = 4;
/// The most steps of forgetting for one new message: some 0.2 ms. If the message has more bytes than so many older
/// ones, [`handle_timeout`](History::handle_timeout) forgets the rest.
pub(super) const FORGOTTEN_AT_ONCE: usize = 256;
/// Messages exceed the limit by up to one `EXCESS_SHARE`th of it while older ones are being forgotten.
pub(super) const EXCESS_SHARE: usize = 4;
/// How much longer a message is kept, so that messages are forgotten many at a time.
const LATE_US: u64 = 200_000;

impl History {
    /// The time at which the oldest message is too old; at once while older messages are yet to be forgotten for newer ones.
    pub(crate) fn due_us(&self) -> Option<u64> {
        if self.is_over {
            return Some(0);
        }
        let of_list = self.list.entries.front().map(|entry| entry.kept_us);
        let kept_us = of_list
            .into_iter()
            .chain(self.newest_only.kept_us())
            .min()?;
        Some(kept_us.saturating_add(self.limits.keep_us + LATE_US))
    }

    /// Whether older messages are yet to be forgotten for what has come last.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Forgets the oldest messages over the limit of memory, and those that are too old, as many as there is time for.
    pub(crate) fn handle_timeout(&mut self, now_us: u64, turn: &mut Turn) {
        let keep_us = self.limits.keep_us;
        let is_old = |entry: &KeptMessage| entry.kept_us + keep_us <= now_us;
        self.is_over = false;
        while self.forget_one(self.limits.bytes_max) {
            if !turn.has_time() {
                self.is_over = true;
                break;
            }
        }
        while let Some(topic) = self.newest_only.older_than(now_us.saturating_sub(keep_us)) {
            self.forget_newest_only(topic);
            if !turn.has_time() {
                break;
            }
        }
        while self.list.entries.front().is_some_and(is_old) {
            self.forget_oldest(ShortHistory::Start);
            if !turn.has_time() {
                break;
            }
        }
    }

    /// Memory of the messages and the topics.
    pub(super) fn memory(&self) -> usize {
        let messages = self.list.entries.len() + self.newest_only.count();
        let beside = ENTRY_BYTES * messages + self.newest_only.places_bytes();
        let kept = self.renderer.messages_memory();
        kept + beside + self.renderer.copies_memory() + self.known_topics.bytes()
    }

    /// Forgets messages because a newer one needs their memory: at once down to the limit and its excess, then only
    /// some of those above the limit, because a large message may displace very many small ones.
    pub(super) fn forget_excess(&mut self) {
        let bytes_max = self.limits.bytes_max;
        while self.forget_one(bytes_max + bytes_max / EXCESS_SHARE) {}
        let mut steps = 0..FORGOTTEN_AT_ONCE;
        self.is_over = steps.all(|_| self.forget_one(bytes_max));
    }

    /// Forgets messages because copies that clients needed take memory. `before`: the memory without these copies; if
    /// it was over the limit already, [`handle_timeout`](Self::handle_timeout) brings it below.
    pub(super) fn forget_made(&mut self, before: usize) {
        let bytes_max = self.limits.bytes_max.max(before);
        while self.forget_one(bytes_max) {}
    }

    /// If messages and copies need more memory: drops the oldest copy, which can be made again, as long as copies have more
    /// than their share ([`copies`](super::copies)); forgets a newest message that stays, if these have more than theirs;
    /// otherwise forgets the oldest message. So no client can displace messages by asking for many patterns. Returns false
    /// if nothing was forgotten.
    fn forget_one(&mut self, bytes_max: usize) -> bool {
        let copies_max = self.limits.bytes_max / COPIES_SHARE;
        if self.memory() <= bytes_max {
            return false;
        }
        if self.renderer.copies_memory() > copies_max && self.drop_copies() {
            return true;
        }
        match self.newest_only.over() {
            Some(topic) => self.forget_newest_only(topic),
            None => return self.forget_oldest(ShortHistory::Bytes),
        }
        true
    }

    /// Lends the copies of the oldest message with kept copies; if there is none, forgets those of the oldest message with
    /// lent copies. Returns false if there is none either.
    pub(super) fn drop_copies(&mut self) -> bool {
        self.lend_oldest() || self.forget_oldest_lent()
    }

    pub(super) fn lend_oldest(&mut self) -> bool {
        let beside = &mut self.renderer.beside;
        self.newest_only.lend_copies(beside) || self.list.lend_copies(beside)
    }

    fn forget_oldest_lent(&mut self) -> bool {
        let beside = &mut self.renderer.beside;
        self.newest_only.forget_lent(beside) || self.list.forget_lent(beside)
    }

    /// Takes the oldest message off the list. A message that goes for its memory, and is the only one of its topic,
    /// stays as its newest if there is room. Returns false if the list is empty. `short`: why nothing older is there
    /// from here on.
    pub(super) fn forget_oldest(&mut self, short: ShortHistory) -> bool {
        let Some((topic, mut entry)) = self.list.pop() else {
            return false;
        };
        entry.copies.forget(&mut self.renderer.beside);
        let number = entry.number;
        let gone_us = entry.body.as_ref().and_then(time_of);
        self.missing.forget(number);
        self.whole_since.forget(gone_us, short);
        self.numbers.forgot(number);
        let is_kept = short == ShortHistory::Bytes
            && entry.body.is_some()
            && self.known_topics.has_only_newest(topic);
        let name = self.known_topics.topic(topic);
        if is_kept && self.newest_only.has_room(name, &entry) {
            self.newest_only.add(topic, name, entry);
            self.known_topics.keep_newest_only(topic, number);
            return true;
        }
        // Also if the message was left out: from now on only the stream can say that it is too large.
        if self.known_topics.has_only_newest(topic) {
            self.note_newest_forgotten(topic);
        }
        self.release(&entry);
        self.known_topics.forget_message(topic, number);
        true
    }

    /// Forgets the newest message of a topic that stays.
    pub(super) fn forget_newest_only(&mut self, topic: TopicIndex) {
        self.note_newest_forgotten(topic);
        self.remove_newest_only(topic);
    }

    /// Removes the message of a topic that stays, because a newer one has come, or it is forgotten.
    pub(super) fn remove_newest_only(&mut self, topic: TopicIndex) {
        if let Some(mut entry) = self.newest_only.remove(topic) {
            entry.copies.forget(&mut self.renderer.beside);
            self.release(&entry);
            self.known_topics.forget_message(topic, entry.number);
        }
    }

    /// Keeps the frame of a forgotten message no longer. Several messages in a row may share a frame, which is kept
    /// until the last of these messages is forgotten.
    fn release(&self, entry: &KeptMessage) {
        let next = self.list.entries.front();
        if let Some(body) = &entry.body
            && next.is_none_or(|next| !next.has(body))
        {
            body.release();
        }
    }
}
