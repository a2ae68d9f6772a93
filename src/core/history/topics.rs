//! The topics of kept messages. A topic is remembered for longer than its messages, so for a quiet topic the
//! history knows that nothing was missed, however old a position is.

use std::mem::take;

use super::Outcome;
use crate::{NotRecovered, TopicName};
use weirgate_wire::base::{ChunkedQueue, ChunkedSlab, ExtendibleMap};

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
    /// The number of the newest message.
    newest: u64,
    /// When the newest message arrived, or was stored in the stream, Unix microseconds.
    pub(super) newest_unix_us: i64,
    /// Kept messages.
    kept: u32,
}

/// All remembered topics.
#[derive(Debug, Default)]
pub(super) struct KnownTopics {
    table: ChunkedSlab<KnownTopic>,
    by_topic: ExtendibleMap<TopicName, TopicIndex>,
    /// Topics without a kept message, each with the number of its newest message at the time. If the topic has another
    /// number by now, it had messages since. The topic that has been quiet for the longest time is first.
    quiet: ChunkedQueue<(TopicIndex, u64)>,
    quiet_count: usize,
    bytes: usize,
    bytes_max: usize,
    /// The highest number of a forgotten message of a topic that is no longer remembered.
    forgotten: u64,
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
        let name = &mut self.table[index.0];
        name.newest_unix_us = unix_us;
        if name.kept == 0 {
            self.quiet_count -= 1;
        }
        name.kept += 1;
        index
    }

    /// Notes that the oldest message of a topic, which has this number, is no longer kept.
    pub(super) fn forget_message(&mut self, index: TopicIndex, number: u64) {
        let name = &mut self.table[index.0];
        name.forgotten = name.forgotten.max(number);
        name.kept -= 1;
        if name.kept == 0 {
            // A message from before the name was known has no number.
            self.quiet.push_back((index, name.forgotten));
            self.quiet_count += 1;
        }
        self.forget_quiet();
    }

    /// Whether a message of a topic is kept.
    pub(super) fn has_messages(&self, topic: &TopicName) -> bool {
        self.get(topic).is_some_and(|name| name.kept > 0)
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
        let name = &mut self.table[index.0];
        (name.left_out, name.left_out_us) = (number, unix_us);
    }

    /// Notes the number of the newest message of a topic.
    pub(super) fn note_newest(&mut self, index: TopicIndex, number: u64) {
        self.table[index.0].newest = number;
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

    /// Whether it is certain that an unknown topic had no message after a number.
    pub(super) fn knows_since(&self, since: u64) -> Outcome {
        match since < self.forgotten {
            true => Err(NotRecovered::Window),
            false => Ok(()),
        }
    }

    /// Entries in the list of quiet topics.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.quiet.len()
    }

    /// Memory of the topics.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a quiet topic. A message of it may have been forgotten together with the topic, so it starts with the
    /// highest number of all forgotten topics.
    fn insert(&mut self, topic: &TopicName) -> TopicIndex {
        let index = TopicIndex(self.table.insert(KnownTopic {
            topic: topic.clone(),
            forgotten: self.forgotten,
            left_out: 0,
            left_out_us: 0,
            newest: 0,
            newest_unix_us: 0,
            kept: 0,
        }));
        self.by_topic.insert(topic.clone(), index);
        self.bytes += bytes_of(topic);
        self.quiet_count += 1;
        index
    }

    /// Forgets quiet topics while they are too many.
    fn forget_quiet(&mut self) {
        while (self.quiet_count > QUIET_MAX || self.bytes > self.bytes_max)
            && let Some((index, number)) = self.quiet.pop_front()
        {
            if is_quiet(&self.table, index, number) {
                let gone = self.table.remove(index.0);
                self.by_topic.remove(&gone.topic);
                self.forgotten = self.forgotten.max(gone.forgotten);
                self.bytes -= bytes_of(&gone.topic);
                self.quiet_count -= 1;
            }
        }
        // Topics with a message now and then leave stale entries in the list.
        if self.quiet.len() > 2 * self.quiet_count + 64 {
            let mut all = take(&mut self.quiet);
            while let Some((index, number)) = all.pop_front() {
                if is_quiet(&self.table, index, number) {
                    self.quiet.push_back((index, number));
                }
            }
        }
    }
}

fn is_quiet(table: &ChunkedSlab<KnownTopic>, index: TopicIndex, number: u64) -> bool {
    let name = table.get(index.0);
    name.is_some_and(|name| name.kept == 0 && name.forgotten == number)
}

fn bytes_of(topic: &TopicName) -> usize {
    NAME_BYTES + 2 * topic.as_str().len()
}
