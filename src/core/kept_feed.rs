//! The kept feed: its publications enter the history, get their positions, and are rendered for their receivers. The bus's
//! side is `bus/kept.rs`: it counts the messages, or reads their ids.

use std::sync::Arc;

use super::core::Core;
use super::publication::Delivery;
use super::topics::TopicKey;
use super::{
    Body, BusNotice, Content, CopyFor, FeedNotice, Frame, Mark, NotKept, NotRecovered, Outcome,
    Place, Point, Position, Publication, Render, Retain, SessionKey, StoredId, TopicName, Wanted,
};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::NamePatterns;

/// The random bits of a mark.
const NONCE_MASK: u64 = (1 << 48) - 1;

impl Core {
    /// Whether messages of the feed are kept, and have positions.
    pub fn has_history(&self) -> bool {
        self.history.is_some()
    }

    /// The newest position for a client whose send queue has all messages: that of the newest message or, while it is not
    /// known whether messages before it were lost, of an older one. `None` without a history, while the feed has no
    /// positions, or while the history is being filled.
    pub fn position(&self) -> Option<Position> {
        let history = self.history.as_ref().filter(|_| !self.is_filling);
        history?.position()
    }

    /// The position of the newest message that was read, which is no client's position: messages before it may be lost.
    /// `None` as of [`position`](Self::position).
    pub fn newest_read(&self) -> Option<Position> {
        let history = self.history.as_ref().filter(|_| !self.is_filling);
        history?.newest_read()
    }

    /// Whether the history is being filled from the stream.
    pub fn is_filling(&self) -> bool {
        self.is_filling
    }

    /// Keeps a publication with a place in the feed.
    pub fn keep(&mut self, publication: &Publication) {
        if let Some(position) = publication.place.position()
            && let Some(history) = &mut self.history
        {
            let is_left_out = matches!(publication.place, Place::LeftOut(_));
            // A stored message that no client gets live. The filling ends when the bus is up.
            self.is_filling |= !publication.deliver && !is_left_out;
            let body = Some(&publication.body).filter(|_| !is_left_out);
            history.keep(self.now, position, &publication.topic, body);
            self.count_history();
        }
    }

    /// Keeps a publication that is the newest of its topic and older than what the history has, for a client of this address
    /// that asks for the newest messages. `forgotten`: how many the history had forgotten when the stream was asked
    /// ([`newest_forgotten_count`](Self::newest_forgotten_count)).
    ///
    /// # Errors
    /// The message is not kept.
    pub fn keep_newest(
        &mut self,
        publication: &Publication,
        client: ClientAddr,
        forgotten: u64,
    ) -> Result<(), NotKept> {
        let (Some(position), Some(history)) = (publication.place.position(), &mut self.history)
        else {
            return Err(NotKept::NoRoom);
        };
        let (topic, body) = (&publication.topic, &publication.body);
        let kept = history.keep_newest(self.now, position, topic, body, client, forgotten);
        self.count_history();
        kept
    }

    /// Forgets a message that was [kept](Self::keep_newest) for an address that has no clients any more: others have no room.
    /// Returns false if none was found.
    pub fn forget_newest_of_gone(&mut self, has_clients: impl Fn(ClientAddr) -> bool) -> bool {
        let history = self.history.as_mut();
        let is_forgotten = history.is_some_and(|history| history.forget_read_for_gone(has_clients));
        self.count_history();
        is_forgotten
    }

    /// Whether a message of the stream that is the feed was read, or is older than what was read: it does not come any more.
    pub fn has_read(&self, id: StoredId) -> bool {
        let history = self.history.as_ref();
        history.is_some_and(|history| history.has_read(id))
    }

    /// Checks whether a position of a client may be one of the feed.
    ///
    /// # Errors
    /// There is no history; it is one of another feed; or it may be one from before a loss of the stream, although a message
    /// with its id was read since.
    pub fn check_feed(&self, position: Position) -> Outcome {
        let history = self.history.as_ref().ok_or(NotRecovered::Off)?;
        history.check_feed(position)
    }

    /// Handles names that the feed has got: what was published of them before did not come.
    pub fn note_new_names(&mut self, names: NamePatterns) {
        if let Some(history) = &mut self.history {
            history.note_new_names(names);
        }
    }

    /// Whether the history has a message of a topic.
    pub fn has_kept(&self, topic: &TopicName) -> bool {
        let history = self.history.as_ref();
        history.is_some_and(|history| history.has_messages(topic))
    }

    /// How many messages the history has forgotten that were the newest of their topics.
    pub fn newest_forgotten_count(&self) -> u64 {
        let history = self.history.as_ref();
        history.map_or(0, |history| history.newest_forgotten_count())
    }

    /// A number that each loss of messages of the feed changes: newest messages that were found before it are not whole.
    pub fn newest_loss(&self) -> u64 {
        let history = self.history.as_ref();
        history.map_or(0, |history| history.newest_loss())
    }

    /// Whether the history has forgotten the newest message of a topic that a name matches since it had forgotten so
    /// many ([`newest_forgotten_count`](Self::newest_forgotten_count)), and has no newer one: then a client that was
    /// promised the message does not get it.
    pub fn has_forgotten(&self, wanted: &Wanted, forgotten: u64) -> bool {
        let history = self.history.as_ref();
        history.is_some_and(|history| history.has_forgotten(wanted, forgotten))
    }

    /// Renders a message of the feed for clients of its own name, or of a pattern, that get this kind of content, with the
    /// position that they are given.
    pub fn render(
        &self,
        publication: &Publication,
        pattern: Option<&TopicName>,
        content: Content,
        position: Option<Position>,
    ) -> Arc<Frame> {
        match &publication.body {
            Body::Frame(frame) => Arc::clone(frame),
            Body::Message(message) => {
                let copy = publication.copy_for(message, pattern, content);
                (self.render)(&CopyFor { position, ..copy }, self.frame_bytes())
            }
        }
    }

    /// Publishes to the members of the publication's topic, or of a pattern: its frame, or the frames that the gateway
    /// renders of its message.
    pub fn publish_copy(&mut self, publication: &Publication, pattern: Option<&TopicName>) {
        let topic = pattern.unwrap_or(&publication.topic);
        let message = match &publication.body {
            Body::Message(message) => message,
            Body::Frame(frame) => {
                return self.publish_frame(Delivery {
                    topic,
                    frame,
                    deliver: publication.deliver,
                    retain: publication.retain,
                    place: publication.place,
                });
            }
        };
        let Some(key) = self.topics.key(topic) else {
            return;
        };
        let counts = self.topics.counts(key);
        for (content, members) in Content::ALL.into_iter().zip(counts) {
            if members > 0 && message.is_for(content) {
                let copy = publication.copy_for(message, pattern, content);
                self.publish_rendered(key, topic, publication, copy);
            } else if members > 0 && message.is_too_large_for(content) && publication.deliver {
                self.skip_copy(key, content);
            }
        }
    }

    /// Renders a copy of a message and puts it in the queues of the members of `topic`: without its position if that is not
    /// certain, and for clients that are ahead of the feed.
    fn publish_rendered(
        &mut self,
        key: TopicKey,
        topic: &TopicName,
        publication: &Publication,
        copy: CopyFor<'_>,
    ) {
        let kept = copy.position.and_then(|position| {
            let history = self.history.as_mut()?;
            history.copy_of_newest(position, copy.pattern, copy.content)
        });
        let is_in_doubt = self.may_have_lost();
        let frame = kept.unwrap_or_else(|| {
            let position = copy.position.filter(|_| !is_in_doubt);
            (self.render)(&CopyFor { position, ..copy }, self.frame_bytes())
        });
        let delivery = Delivery {
            topic,
            frame: &frame,
            deliver: publication.deliver,
            // Only a publication that is a frame itself is retained.
            retain: Retain::Keep,
            // The frame itself says whether it is of the feed.
            place: Place::Outside,
        };
        if !self.hold_back(delivery) {
            self.publish_to(key, delivery);
        }
        if !self.clients.ahead.is_empty() {
            let position = None;
            let bare = (self.render)(&CopyFor { position, ..copy }, self.frame_bytes());
            for key in std::mem::take(&mut self.clients.ahead) {
                self.clients.deliver(self.now, &self.limits, key, &bare);
            }
        }
    }

    /// Lets the members of a topic that get this kind of content miss a message: the `seq` of each skips a number.
    #[cold]
    fn skip_copy(&mut self, topic: TopicKey, content: Content) {
        let members: Vec<SessionKey> = self.topics.members_with(topic, content).collect();
        members.iter().for_each(|&key| self.skip_number(key));
        self.losses.copies_skipped += members.len() as u64;
    }

    /// Returns how many copies of messages members have missed since the last call, because the messages were too large
    /// for them.
    pub fn take_copies_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.losses.copies_skipped)
    }

    /// Sets how the gateway renders messages.
    pub(super) fn set_render(&mut self, render: Render) {
        self.render = render;
        if let Some(history) = &mut self.history {
            history.set_render(render);
        }
    }

    /// Keeps no newest message for longer than other messages, because clients cannot ask for it.
    pub(super) fn keep_no_newest_alone(&mut self) {
        if let Some(history) = &mut self.history {
            history.keep_no_newest_alone();
        }
    }

    /// The gateway asks the stream that is the feed for newest messages ([`Self::keep_newest`]).
    pub(super) fn ask_for_newest(&mut self) {
        if let Some(history) = &mut self.history {
            history.asks_for_newest = true;
        }
    }

    /// Handles a notice of the bus that concerns the history.
    pub(super) fn note(&mut self, notice: &BusNotice) {
        let Some(history) = &mut self.history else {
            return;
        };
        let is_word = matches!(notice, BusNotice::Feed(FeedNotice::InDoubt(_)));
        match notice {
            BusNotice::Feed(notice) => history.note(self.now, *notice),
            BusNotice::Gap => history.lose(self.now),
            BusNotice::Up => self.is_filling = false,
            BusNotice::Skipped { topic, place, .. } => {
                if let Some(position) = place.position() {
                    // No body: the message was left out.
                    history.keep(self.now, position, topic, None);
                }
            }
            _ => {}
        }
        if is_word {
            self.take_word();
        }
        self.count_history();
    }

    /// Whether the history has yet to forget older messages for what has come last.
    pub(super) fn history_is_over(&self) -> bool {
        let history = self.history.as_ref();
        history.is_some_and(|history| history.is_over())
    }

    /// The time at which the history needs the core again.
    pub(super) fn history_deadline(&self) -> Option<u64> {
        self.history.as_ref()?.due_us()
    }

    /// Does the due work of the history. Encodings that clients needed since the last message count too.
    pub(super) fn check_history(&mut self) {
        if let Some(history) = &mut self.history {
            history.handle_timeout(self.now.mono_us, &mut self.turn);
            self.count_history();
        }
    }

    fn count_history(&mut self) {
        if let Some(history) = &self.history {
            self.clients.stats.history = Some(history.stats());
            self.clients.newest_of_feed = history.newest_number();
        }
    }
}

/// Positions of a feed without a bus: the gateway publishes the messages, and this instance alone counts them,
/// after a mark that no other instance knows.
impl Core {
    /// Begins the feed: messages have positions from here on. Nothing happens without a history, or after
    /// an earlier call.
    pub fn begin_feed(&mut self) {
        if self.has_history() && self.newest_read().is_none() {
            // Random also after a loss: no earlier position may count from this mark.
            let nonce = self.random() & NONCE_MASK;
            // The nonce alone makes the mark unique, so the hash and the numbers are 0.
            let mark = Mark { nonce, counter: 0 };
            self.note(&BusNotice::Feed(FeedNotice::Mark {
                feed_hash: 0,
                mark,
                count: 0,
            }));
        }
    }

    /// Handles a loss: no earlier position is good, and messages have no position until
    /// [`begin_feed`](Self::begin_feed).
    pub fn end_feed(&mut self) {
        self.note(&BusNotice::Gap);
    }

    /// The position of the n-th message from here on (1: the next); `None` without a history, before
    /// [`begin_feed`](Self::begin_feed), or if messages are stored, with ids that nobody knows ahead.
    pub fn position_ahead(&self, messages: usize) -> Option<Position> {
        let Position { feed_hash, point } = self.newest_read()?;
        match point {
            Point::Counted { mark, count } => {
                Some(Position::counted(feed_hash, mark, count + messages as u64))
            }
            Point::Stored { .. } => None,
        }
    }
}
