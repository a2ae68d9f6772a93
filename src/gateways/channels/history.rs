//! The newest messages of each topic, for clients that resume: how messages are numbered, which messages are
//! kept, and for how long a topic without members stays subscribed on the bus.
//!
//! A topic has a history while every message of the bus comes: from the confirmation of the bus to the first
//! moment after which a message may be missing. The epoch, a random number, names that time: an offset of one
//! epoch means nothing in another. Pure: knows no client.

mod kept;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::quality::RandomState;
use slab::Slab;

use self::kept::{Kept, bytes_of};
use super::ChannelsStats;
use crate::hub::{Frame, FrameBytes, Publication, TopicName};

/// The most messages given up when a message is published. A large message may need the room of more small
/// messages: the next turns give up the rest.
const GIVEN_UP_PER_MESSAGE_MAX: usize = 64;

/// Messages end this much late, so that many end together.
const LATE_US: u64 = 100_000;

/// Limits of the history, over all topics.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Messages of a topic.
    pub messages: usize,
    /// Bytes of all messages: of the frames without compression, and 256 for each.
    pub bytes_max: usize,
    /// Topics with a history.
    pub names_max: usize,
    /// How long a message is kept, and how long a topic without members stays subscribed, microseconds.
    pub keep_us: u64,
}

/// A position among the messages of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: Epoch,
    /// The offset of the last message; 0 before the first.
    pub(super) offset: u64,
}

/// A time in which every message of a topic comes. `None`: not an epoch of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(Option<u64>);

impl Epoch {
    pub(super) fn new(random: u64) -> Self {
        Self(Some(random))
    }

    /// Parses the text from a client.
    pub(super) fn parse(text: &str) -> Self {
        let number = u64::from_str_radix(text, 16).ok();
        let epoch = Self(number);
        match epoch.text() == text {
            true => epoch,
            false => Self(None),
        }
    }

    /// Returns the text for clients.
    pub(super) fn text(self) -> String {
        format!("{:016x}", self.0.unwrap_or_default())
    }
}

/// Why a client gets no missed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotRecovered {
    /// The position is of another epoch, or the topic has no history.
    Epoch,
    /// The first missed message is no longer kept.
    Window,
    /// The missed messages do not fit in the client's send queue.
    Queue,
}

#[derive(Debug)]
struct Topic {
    name: TopicName,
    is_pattern: bool,
    position: Position,
    /// Keys of the newest messages, in order and without a gap.
    window: VecDeque<u32>,
    /// The end of the time without members.
    lingers_until: Option<u64>,
}

/// The topics and their messages.
#[derive(Debug, Default)]
pub(super) struct History {
    limits: Option<HistoryLimits>,
    topics: Slab<Topic>,
    by_name: HashMap<TopicName, u32, RandomState>,
    kept: Kept,
    /// Topics without members by the end of their time: exact names, then patterns.
    lingering: [BTreeSet<(u64, u32)>; 2],
}

impl History {
    pub(super) fn new(limits: HistoryLimits) -> Self {
        Self {
            limits: Some(limits),
            ..Self::default()
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.limits.is_some()
    }

    /// Returns true if there is no room for another topic.
    pub(super) fn is_full(&self) -> bool {
        self.limits
            .is_none_or(|limits| self.topics.len() >= limits.names_max)
    }

    /// Begins an epoch: every message of the topic comes from here on. The kept messages of a topic with a
    /// history are forgotten. The caller has made room.
    pub(super) fn begin(&mut self, name: &TopicName, is_pattern: bool, epoch: Epoch) {
        let position = Position { epoch, offset: 0 };
        if let Some(topic) = self.topic_mut(name) {
            topic.position = position;
            topic.window = VecDeque::new();
            return;
        }
        let id = self.topics.insert(Topic {
            name: name.clone(),
            is_pattern,
            position,
            window: VecDeque::new(),
            lingers_until: None,
        });
        self.by_name.insert(name.clone(), id as u32);
    }

    /// Ends the history of a topic: a message may be missing from here on. [`Self::forget`] removes the
    /// messages step by step.
    pub(super) fn end(&mut self, name: &TopicName) {
        if let Some(id) = self.by_name.remove(name) {
            self.stop_lingering(id);
            self.topics.remove(id as usize);
        }
    }

    /// Ends the history of all topics. Returns the topics without members.
    pub(super) fn end_all(&mut self) -> Vec<TopicName> {
        let topics = std::mem::take(&mut self.topics);
        self.by_name = HashMap::default();
        self.lingering = Default::default();
        let empty = topics.into_iter().map(|(_, topic)| topic);
        let empty = empty.filter(|topic| topic.lingers_until.is_some());
        empty.map(|topic| topic.name).collect()
    }

    /// The position of the topic; `None` without a history.
    pub(super) fn position(&self, name: &TopicName) -> Option<Position> {
        Some(self.topic(name)?.position)
    }

    /// Gives a message its offset, and keeps the message. Returns the publication for the members; `None` if
    /// the topic has no history.
    pub(super) fn number(
        &mut self,
        publication: &Publication,
        alive: &FrameBytes,
        now_us: u64,
    ) -> Option<Publication> {
        let limits = self.limits?;
        let id = *self.by_name.get(&publication.topic)?;
        let topic = self.topics.get_mut(id as usize)?;
        topic.position.offset += 1;
        let frame = numbered(&publication.frame, topic.position, alive);
        if bytes_of(&frame) > limits.bytes_max {
            // A window without the newest message is useless.
            topic.window = VecDeque::new();
        } else {
            let key = self.kept.push(Arc::clone(&frame), id, now_us);
            topic.window.push_back(key);
            if topic.window.len() > limits.messages
                && let Some(oldest) = topic.window.pop_front()
            {
                self.kept.remove(oldest);
            }
            self.forget(now_us, GIVEN_UP_PER_MESSAGE_MAX);
        }
        Some(Publication {
            topic: publication.topic.clone(),
            frame,
            ..*publication
        })
    }

    /// The messages behind a position, oldest first, each with its number among those of all topics.
    ///
    /// # Errors
    /// Not all missed messages are kept.
    pub(super) fn missed(
        &self,
        name: &TopicName,
        since: Position,
    ) -> Result<impl Iterator<Item = (u64, &Arc<Frame>)>, NotRecovered> {
        let topic = self.topic(name).ok_or(NotRecovered::Epoch)?;
        let now = topic.position;
        if now.epoch != since.epoch || since.offset > now.offset {
            return Err(NotRecovered::Epoch);
        }
        let missed = now.offset - since.offset;
        let kept = topic.window.len();
        let passed_over = usize::try_from(missed)
            .ok()
            .and_then(|missed| kept.checked_sub(missed));
        let keys = topic
            .window
            .range(passed_over.ok_or(NotRecovered::Window)?..);
        let entries = keys.filter_map(|key| self.kept.get(*key));
        Ok(entries.map(|entry| (entry.number, &entry.frame)))
    }

    /// Handles the loss of a topic's last member. Returns false if the topic need not stay subscribed.
    pub(super) fn linger(&mut self, name: &TopicName, now_us: u64) -> bool {
        let (Some(limits), Some(&id)) = (self.limits, self.by_name.get(name)) else {
            return false;
        };
        self.stop_lingering(id);
        let topic = &mut self.topics[id as usize];
        let until = now_us.saturating_add(limits.keep_us);
        topic.lingers_until = Some(until);
        self.lingering[usize::from(topic.is_pattern)].insert((until, id));
        true
    }

    /// Handles the first member of a topic.
    pub(super) fn hold(&mut self, name: &TopicName) {
        if let Some(&id) = self.by_name.get(name) {
            self.stop_lingering(id);
        }
    }

    /// The topic without members for the longest time, among patterns only or among all.
    pub(super) fn oldest_lingering(&self, only_patterns: bool) -> Option<TopicName> {
        let [exact, patterns] = self.lingering.each_ref().map(BTreeSet::first);
        let exact = exact.filter(|_| !only_patterns);
        let (_, id) = exact.into_iter().chain(patterns).min()?;
        Some(self.topics[*id as usize].name.clone())
    }

    /// A topic whose time without members has ended.
    pub(super) fn lapsed(&self, now_us: u64) -> Option<TopicName> {
        let first = self.lingering.iter().filter_map(BTreeSet::first);
        let (_, id) = first.filter(|(until, _)| *until <= now_us).min()?;
        Some(self.topics[*id as usize].name.clone())
    }

    /// Forgets messages, oldest first, that are too old, without a topic or over a limit: at most `most`.
    pub(super) fn forget(&mut self, now_us: u64, most: usize) {
        for _ in 0..most {
            let Some((key, due_us)) = self.next_end() else {
                return;
            };
            // A message that could stay for a moment is forgotten together with the others.
            if due_us.saturating_sub(LATE_US) > now_us {
                return;
            }
            if let Some(topic) = self.topic_of(key) {
                self.topics[topic as usize].window.pop_front();
            }
            self.kept.remove(key);
        }
    }

    /// The next time at which a message is forgotten, or a topic without members given up.
    pub(super) fn due_us(&self) -> Option<u64> {
        let message = self.next_end().map(|(_, due_us)| due_us);
        let topics = self.lingering.iter().filter_map(BTreeSet::first);
        let topics = topics.map(|(until, _)| *until);
        message.into_iter().chain(topics).min()
    }

    /// Updates the counts of kept messages.
    pub(super) fn store(&self, stats: &ChannelsStats) {
        stats.store_history(self.topics.len(), self.kept.len(), self.kept.bytes());
    }

    /// The oldest message, and the time of its end.
    fn next_end(&self) -> Option<(u32, u64)> {
        let limits = self.limits?;
        let (key, entry) = self.kept.oldest()?;
        let is_over = self.kept.bytes() > limits.bytes_max || self.topic_of(key).is_none();
        let due_us = match is_over {
            true => 0,
            false => entry.at_us.saturating_add(limits.keep_us + LATE_US),
        };
        Some((key, due_us))
    }

    /// The topic whose window begins with the message. The oldest message of all is the first of its topic,
    /// unless the topic has forgotten the message.
    fn topic_of(&self, key: u32) -> Option<u32> {
        let id = self.kept.get(key)?.topic;
        let topic = self.topics.get(id as usize)?;
        (topic.window.front() == Some(&key)).then_some(id)
    }

    fn topic(&self, name: &TopicName) -> Option<&Topic> {
        self.topics.get(*self.by_name.get(name)? as usize)
    }

    fn topic_mut(&mut self, name: &TopicName) -> Option<&mut Topic> {
        self.topics.get_mut(*self.by_name.get(name)? as usize)
    }

    fn stop_lingering(&mut self, id: u32) {
        let Some(topic) = self.topics.get_mut(id as usize) else {
            return;
        };
        if let Some(until) = topic.lingers_until.take() {
            self.lingering[usize::from(topic.is_pattern)].remove(&(until, id));
        }
    }
}

/// Returns the frame with `"offset":n` behind its other members, and on the first of an epoch with the epoch:
/// earlier members learn the new epoch there. Copies the body, because the feed that made the frame does not
/// know which topics have a history.
fn numbered(frame: &Frame, position: Position, alive: &FrameBytes) -> Arc<Frame> {
    let Position { epoch, offset } = position;
    let mut builder = Frame::text(alive)
        .with_capacity(frame.body().len() + 60)
        .lead(frame.lead())
        .received(frame.received());
    if let Some(key) = frame.key() {
        builder = builder.key(key);
    }
    let body = builder.payload();
    let open = frame
        .body()
        .strip_suffix(b"}")
        .unwrap_or_else(|| frame.body());
    body.extend_from_slice(open);
    body.extend_from_slice(format!(",\"offset\":{offset}").as_bytes());
    if offset == 1 {
        body.extend_from_slice(format!(",\"epoch\":\"{}\"", epoch.text()).as_bytes());
    }
    body.push(b'}');
    builder.finish()
}

#[cfg(test)]
mod tests;
