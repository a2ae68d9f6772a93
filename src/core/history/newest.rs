//! The newest messages of topics, for clients that ask for these: which are there, which were forgotten, and which are
//! outdated because messages were lost after them. What the history lacks may be read from the stream.

use super::History;
use super::copies::Copies;
use super::message::{KeptMessage, time_of};
use super::missing::Loss;
use super::topics::TopicIndex;
use super::wanted::Wanted;
use crate::{Body, Content, Point, Position, StoredId, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::MatchBudget;
use weirgate_wire::base::Now;

/// The most steps of matching to find out whether a name matches topics whose newest messages were forgotten: some 20 µs.
const FORGOTTEN_STEPS_MAX: usize = 10_000;

/// Why the newest message of a topic is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// There is no room for messages of the client's address, or no history.
    NoRoom,
    /// The stream was not read as far as the message: it comes later.
    Unread(StoredId),
    /// The history has had a newer message of the topic since the question was asked, and has forgotten it.
    Forgotten,
}

impl History {
    /// Whether a message of a topic is kept that may be its newest.
    pub(crate) fn has_messages(&self, topic: &TopicName) -> bool {
        let Some(index) = self.known_topics.index(topic) else {
            return false;
        };
        let newest_only = self.newest_only.get(index);
        // What is kept from before a loss may have a newer message after it.
        let is_there = match (self.lost_and_asked(), newest_only) {
            (None, _) => true,
            (Some(lost), Some(entry)) => !lost.is_after(entry),
            (Some(lost), None) => self.known_topics.newest(index) >= lost.number,
        };
        is_there && self.known_topics.has_messages(topic)
    }

    /// How many newest messages of topics were forgotten, also messages that were left out.
    pub(crate) fn newest_forgotten_count(&self) -> u64 {
        self.newest_forgotten.count()
    }

    /// The newest loss, if the stream is asked for newest messages. What is kept from before is nobody's newest message then:
    /// the stream may have newer ones, or have lost those that were read. Without anybody to ask, it is the best that is known.
    pub(super) fn lost_and_asked(&self) -> Option<Loss> {
        self.missing.loss().filter(|_| self.asks_for_newest)
    }

    /// Whether a message that these clients get as one of the newest may be outdated, because messages were lost after it.
    pub(super) fn is_outdated(&self, entry: &KeptMessage, content: Content) -> bool {
        let is_lost_after = self.missing.loss().is_some_and(|lost| lost.is_after(entry));
        is_lost_after && entry.body_for(content).is_some()
    }

    /// Counts the newest message of a topic as forgotten.
    pub(super) fn note_newest_forgotten(&mut self, topic: TopicIndex) {
        let number = self.newest_forgotten.add(self.known_topics.topic(topic));
        self.known_topics.note_newest_forgotten(topic, number);
    }

    /// Whether the newest message of a topic that a name matches was forgotten since so many were forgotten
    /// ([`newest_forgotten_count`](Self::newest_forgotten_count)), and no newer message has come. Returns true also if that
    /// takes too long to find out.
    pub(crate) fn has_forgotten(&self, wanted: &Wanted, count: u64) -> bool {
        if self.newest_forgotten.count() <= count {
            return false;
        }
        let Some(patterns) = &wanted.patterns else {
            return self.last_forgotten(&wanted.name) > count && !self.has_messages(&wanted.name);
        };
        let Some(mut topics) = self.newest_forgotten.after(count) else {
            return true;
        };
        let mut budget = MatchBudget::new(FORGOTTEN_STEPS_MAX);
        topics.any(|topic| {
            let matches = patterns.matches_within(topic.as_str(), &mut budget);
            matches.unwrap_or(true) && !self.has_messages(topic)
        })
    }

    /// The number of the last newest message of a topic that was forgotten. After a loss all were.
    fn last_forgotten(&self, topic: &TopicName) -> u64 {
        let forgotten = self.known_topics.newest_forgotten_of(topic);
        forgotten.max(self.newest_forgotten.at_loss())
    }

    /// Keeps the newest message of a topic of which the history has no message, for a client of this address. It is
    /// older than the messages of the list, so it stays alone ([`newest_only`](super::newest_only)), without a number.
    /// `forgotten`: how many newest messages the history had forgotten when the stream was asked.
    ///
    /// # Errors
    /// The message is not kept.
    pub(crate) fn keep_newest(
        &mut self,
        now: Now,
        position: Position,
        topic: &TopicName,
        body: &Body,
        client: ClientAddr,
        forgotten: u64,
    ) -> Result<(), NotKept> {
        // It is there already, or a newer one.
        if self.has_messages(topic) {
            return Ok(());
        }
        if self.last_forgotten(topic) > forgotten {
            return Err(NotKept::Forgotten);
        }
        if let Point::Stored { id, .. } = position.point
            && !self.has_read(id)
        {
            return Err(NotKept::Unread(id));
        }
        let entry = KeptMessage {
            number: 0,
            kept_us: now.mono_us,
            position,
            body: Some(body.clone()),
            copies: Copies::default(),
        };
        if !self.newest_only.has_room_for(client, topic, &entry) {
            return Err(NotKept::NoRoom);
        }
        body.keep();
        let index = self
            .known_topics
            .add(topic, time_of(body).unwrap_or(now.unix_us));
        // One from before a loss.
        self.remove_newest_only(index);
        self.newest_only.add_read(client, index, topic, entry);
        self.forget_excess();
        Ok(())
    }

    /// Forgets a newest message that was read from the stream for an address without clients. Returns false if none was
    /// found.
    pub(crate) fn forget_read_for_gone(
        &mut self,
        has_clients: impl Fn(ClientAddr) -> bool,
    ) -> bool {
        let Some(topic) = self.newest_only.read_for_gone(has_clients) else {
            return false;
        };
        self.forget_newest_only(topic);
        true
    }
}
