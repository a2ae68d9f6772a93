//! The topics of kept messages. A topic is remembered for longer than its messages, so for a quiet topic the
//! history knows that nothing was missed, however old a position is.

use crate::TopicName;
use weirgate_wire::base::{ChunkedSlab, ExtendibleMap};

/// The most topics that are remembered without a kept message.
pub(super) const QUIET_MAX: usize = 65_536;
/// Memory of a name beside its text, which is stored twice.
const NAME_BYTES: usize = 128;

/// The index of a topic in [`KnownTopics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TopicIndex(u32);

impl TopicIndex {
    /// The index as one of a list with [`KnownTopics::slots`] entries.
    #[inline]
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }
}

/// A topic of the feed.
#[derive(Debug)]
pub(super) struct KnownTopic {
    topic: TopicName,
    /// The number of the newest message no longer kept.
    pub(super) forgotten: u64,
    /// The number of the newest message that was left out, and when it was, Unix microseconds.
    pub(super) left_out: u64,
    pub(super) left_out_us: i64,
    /// The newest message was left out: what is kept of the topic is older.
    is_newest_left_out: bool,
    /// The number of the newest message.
    newest: u64,
    /// If newest messages of the topic were forgotten: the number of the last of them, among the forgotten newest
    /// messages of all topics. Otherwise 0.
    newest_forgotten: u64,
    /// When the newest message arrived, or was stored in the stream, Unix microseconds.
    pub(super) newest_unix_us: i64,
    /// Kept messages.
    kept: u32,
    /// The neighbours in the list of quiet topics.
    before: Option<TopicIndex>,
    after: Option<TopicIndex>,
}

/// All remembered topics.
#[derive(Debug, Default)]
pub(super) struct KnownTopics {
    table: ChunkedSlab<KnownTopic>,
    by_topic: ExtendibleMap<TopicName, TopicIndex>,
    quiet: QuietTopics,
    bytes: usize,
    bytes_max: usize,
    /// The highest [`KnownTopic::forgotten`] of the topics that are no longer remembered.
    forgotten_of_gone: u64,
    /// The highest [`KnownTopic::newest_forgotten`] of them.
    newest_forgotten_of_gone: u64,
    /// How many topics are no longer remembered: others may have their indices.
    pub(super) gone: u64,
}

impl KnownTopics {
    /// An empty table; quiet topics are forgotten above `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// Handles a new message of a topic, which arrived or was stored at `unix_us`. Returns the topic's index.
    pub(super) fn add(&mut self, topic: &TopicName, unix_us: i64) -> TopicIndex {
        let index = match self.by_topic.get(topic) {
            Some(&index) => index,
            None => self.insert(topic),
        };
        let known = &mut self.table[index.0];
        known.newest_unix_us = unix_us;
        known.is_newest_left_out = false;
        known.kept += 1;
        if known.kept == 1 {
            self.quiet.remove(&mut self.table, index);
        }
        index
    }

    /// Notes that the oldest message of a topic, which has this number, is no longer kept.
    pub(super) fn forget_message(&mut self, index: TopicIndex, number: u64) {
        let known = &mut self.table[index.0];
        known.forgotten = known.forgotten.max(number);
        known.kept -= 1;
        if known.kept == 0 {
            self.quiet.push_back(&mut self.table, index);
        }
        self.forget_quiet();
    }

    /// Whether a message of a topic is kept.
    pub(super) fn has_messages(&self, topic: &TopicName) -> bool {
        self.get(topic).is_some_and(|known| known.kept > 0)
    }

    /// How many messages of a topic are kept.
    pub(super) fn kept(&self, index: TopicIndex) -> u32 {
        self.table[index.0].kept
    }

    /// Whether only one message of a topic is kept: the newest.
    pub(super) fn has_only_newest(&self, index: TopicIndex) -> bool {
        self.table[index.0].kept == 1
    }

    /// Notes that the newest message of a topic, which has this number, stays alone: the messages up to it are no longer
    /// there for a resume.
    pub(super) fn keep_newest_only(&mut self, index: TopicIndex, number: u64) {
        self.table[index.0].forgotten = number;
    }

    /// Notes that the newest message of a topic, which has this number, was left out.
    pub(super) fn left_out(&mut self, index: TopicIndex, number: u64, unix_us: i64) {
        let known = &mut self.table[index.0];
        (known.left_out, known.left_out_us) = (number, unix_us);
        known.is_newest_left_out = true;
    }

    /// The number of the newest message of a topic, if it was left out.
    pub(super) fn newest_left_out(&self, index: TopicIndex) -> Option<u64> {
        let known = &self.table[index.0];
        known.is_newest_left_out.then_some(known.left_out)
    }

    /// Notes the number of the newest message of a topic.
    pub(super) fn note_newest(&mut self, index: TopicIndex, number: u64) {
        self.table[index.0].newest = number;
    }

    /// Notes that the newest message of a topic is forgotten, the one with this number of those of all topics.
    pub(super) fn note_newest_forgotten(&mut self, index: TopicIndex, number: u64) {
        self.table[index.0].newest_forgotten = number;
    }

    /// The number of the last forgotten newest message of a topic, or a higher one if that is not known.
    pub(super) fn newest_forgotten_of(&self, topic: &TopicName) -> u64 {
        let known = self.get(topic);
        known.map_or(self.newest_forgotten_of_gone, |known| {
            known.newest_forgotten
        })
    }

    /// The number of the newest message of a topic.
    pub(super) fn newest(&self, index: TopicIndex) -> u64 {
        self.table[index.0].newest
    }

    /// The index of a topic.
    pub(super) fn index(&self, topic: &TopicName) -> Option<TopicIndex> {
        self.by_topic.get(topic).copied()
    }

    /// A topic.
    pub(super) fn get(&self, topic: &TopicName) -> Option<&KnownTopic> {
        Some(&self.table[self.index(topic)?.0])
    }

    /// The topic at an index.
    pub(super) fn topic(&self, index: TopicIndex) -> &TopicName {
        &self.table[index.0].topic
    }

    /// Every index is below this number.
    pub(super) fn slots(&self) -> usize {
        self.table.numbers()
    }

    /// No topic that is not remembered had a message with a higher number that is no longer kept.
    pub(super) fn forgotten_of_gone(&self) -> u64 {
        self.forgotten_of_gone
    }

    /// Memory of the topics.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a topic, which is quiet until its message counts. An older message of it may have been forgotten together with
    /// the topic, so `forgotten` starts at the highest number of all topics that are gone. `newest_forgotten` starts at 0:
    /// from now on the history has a message of the topic until its newest is forgotten, and that is noted.
    fn insert(&mut self, topic: &TopicName) -> TopicIndex {
        let index = TopicIndex(self.table.insert(KnownTopic {
            topic: topic.clone(),
            forgotten: self.forgotten_of_gone,
            left_out: 0,
            left_out_us: 0,
            is_newest_left_out: false,
            newest: 0,
            newest_forgotten: 0,
            newest_unix_us: 0,
            kept: 0,
            before: None,
            after: None,
        }));
        self.quiet.push_back(&mut self.table, index);
        self.by_topic.insert(topic.clone(), index);
        self.bytes += bytes_of(topic);
        index
    }

    /// Forgets quiet topics while they are too many.
    fn forget_quiet(&mut self) {
        while (self.quiet.count > QUIET_MAX || self.bytes > self.bytes_max)
            && let Some(index) = self.quiet.first
        {
            self.quiet.remove(&mut self.table, index);
            let gone = self.table.remove(index.0);
            self.by_topic.remove(&gone.topic);
            self.forgotten_of_gone = self.forgotten_of_gone.max(gone.forgotten);
            let newest = self.newest_forgotten_of_gone.max(gone.newest_forgotten);
            self.newest_forgotten_of_gone = newest;
            self.gone += 1;
            self.bytes -= bytes_of(&gone.topic);
        }
    }
}

/// The topics without a kept message. The one that has been quiet for the longest time is first. The list goes through the
/// topics themselves, so that one leaves it in a step, wherever it stands.
#[derive(Debug, Default)]
struct QuietTopics {
    first: Option<TopicIndex>,
    last: Option<TopicIndex>,
    count: usize,
}

impl QuietTopics {
    /// Adds a topic that is not in the list.
    fn push_back(&mut self, table: &mut ChunkedSlab<KnownTopic>, index: TopicIndex) {
        let before = self.last.replace(index);
        match before {
            Some(before) => table[before.0].after = Some(index),
            None => self.first = Some(index),
        }
        table[index.0].before = before;
        self.count += 1;
    }

    /// Removes a topic of the list.
    fn remove(&mut self, table: &mut ChunkedSlab<KnownTopic>, index: TopicIndex) {
        let topic = &mut table[index.0];
        let (before, after) = (topic.before.take(), topic.after.take());
        match before {
            Some(before) => table[before.0].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => table[after.0].before = before,
            None => self.last = before,
        }
        self.count -= 1;
    }
}

/// Memory of a remembered topic.
pub(super) fn bytes_of(topic: &TopicName) -> usize {
    NAME_BYTES + 2 * topic.as_str().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However often topics have spoken in between, and wherever they stood in the list.
    #[test]
    fn the_topic_that_was_quiet_for_the_longest_time_is_forgotten_first() {
        let names = ["a", "b", "c", "d"].map(TopicName::fixed);
        let mut topics = KnownTopics::new(4 * bytes_of(&names[0]));
        let mut number = 0;
        let mut speak = |topics: &mut KnownTopics, name: &TopicName| {
            number += 1;
            let index = topics.add(name, 0);
            topics.forget_message(index, number);
        };
        for name in [0, 1, 2, 3, 1, 0, 0, 3].map(|at| &names[at]) {
            speak(&mut topics, name);
        }
        for (new, gone) in [("e", 2), ("f", 1), ("g", 0), ("h", 3)] {
            speak(&mut topics, &TopicName::fixed(new));
            let known = names.each_ref().map(|name| topics.get(name).is_some());
            assert!(!known[gone], "{new}: {known:?}");
            let expected = 4
                - ["e", "f", "g", "h"]
                    .iter()
                    .position(|it| *it == new)
                    .unwrap()
                - 1;
            assert_eq!(known.iter().filter(|known| **known).count(), expected);
        }
        assert_eq!(topics.quiet.count, 4);
    }
}
