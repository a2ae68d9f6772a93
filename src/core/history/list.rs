//! The kept messages in the order of the feed, oldest first.

use super::message::KeptMessage;
use super::topics::TopicIndex;
use weirgate_wire::base::ChunkedQueue;

/// The list of all messages but those that [stay alone](super::newest_only) of their topics.
#[derive(Debug)]
pub(super) struct MessageList {
    pub(super) entries: ChunkedQueue<KeptMessage>,
    /// The topic of each entry: most of a walk looks at nothing else, and the entries take far more memory.
    pub(super) topics: ChunkedQueue<TopicIndex>,
    /// No message with a lower number has kept copies.
    pub(super) first_kept: u64,
    /// No message with a lower number has lent copies ([`copies`](super::copies)).
    first_lent: u64,
}

impl Default for MessageList {
    fn default() -> Self {
        Self {
            entries: ChunkedQueue::default(),
            topics: ChunkedQueue::default(),
            first_kept: u64::MAX,
            first_lent: u64::MAX,
        }
    }
}

impl MessageList {
    /// Adds the newest message.
    pub(super) fn push(&mut self, topic: TopicIndex, entry: KeptMessage) {
        self.entries.push_back(entry);
        self.topics.push_back(topic);
    }

    /// Takes the oldest message out.
    pub(super) fn pop(&mut self) -> Option<(TopicIndex, KeptMessage)> {
        let oldest = self.topics.pop_front().zip(self.entries.pop_front());
        if self.entries.is_empty() {
            // New lists, which hold no memory.
            (self.entries, self.topics) = Default::default();
        }
        oldest
    }

    /// Index of the first entry with this number or a higher one.
    pub(super) fn first_entry(&self, number: u64) -> usize {
        self.entries.partition_point(|entry| entry.number < number)
    }

    /// The index of the entry with this number.
    pub(super) fn find(&self, number: u64) -> Option<usize> {
        let at = self.first_entry(number);
        let entry = self.entries.get(at)?;
        (entry.number == number).then_some(at)
    }

    /// Notes that a copy was made of the message with this number.
    pub(super) fn note_copy(&mut self, number: u64) {
        self.first_kept = self.first_kept.min(number);
    }

    /// Lends the copies of the oldest message with kept copies. Returns false if there is none.
    pub(super) fn lend_copies(&mut self, beside: &mut usize) -> bool {
        let first = self.first_entry(self.first_kept);
        let mut rest = self.entries.iter_mut_from(first);
        let Some(entry) = rest.find(|entry| entry.copies.has_kept()) else {
            self.first_kept = u64::MAX;
            return false;
        };
        self.first_kept = entry.number + 1;
        if entry.copies.lend(beside) {
            self.first_lent = self.first_lent.min(entry.number);
        }
        true
    }

    /// Forgets the lent copies of the oldest message with such copies. Returns false if there is none.
    pub(super) fn forget_lent(&mut self, beside: &mut usize) -> bool {
        let first = self.first_entry(self.first_lent);
        let mut rest = self.entries.iter_mut_from(first);
        let Some(entry) = rest.find(|entry| entry.copies.has_lent()) else {
            self.first_lent = u64::MAX;
            return false;
        };
        self.first_lent = entry.number + 1;
        entry.copies.forget_lent(beside);
        true
    }
}
