//! Resuming: what a client has missed.
//!
//! When a client resumes, its missed messages follow the answer to the request, before newer messages. In one call of the
//! gateway, the gateway finds the missed messages of a name and joins the client: no publication can come between. If the
//! request has more names than there is time for, the gateway goes on in a later turn. What comes meanwhile of the names
//! joined so far is postponed ([`Core::postpone`]), and follows with the missed messages, in the order of the feed.

use std::sync::Arc;

use super::core::Core;
use super::history::FrameBudget;
use super::history::Missed;
use super::publication::Delivery;
use super::session::Session;
use super::{
    Body, BusNotice, Content, CopyFor, CopyPosition, FeedNotice, Frame, KeptPage, Mark,
    NotRecovered, Outcome, Place, Point, Position, Publication, Render, Retain, SessionKey,
    TopicName, Wanted,
};
use weirgate_wire::admission::Quota;

/// The most bytes of missed messages for a client, over all of its requests, until the client has them.
pub const RESUME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The bytes of a page of kept messages.
const KEPT_PAGE_BYTES: usize = 256 * 1024;
/// The random bits of a mark.
const NONCE_MASK: u64 = (1 << 48) - 1;

impl Core {
    /// Whether messages of the feed are kept, and have positions.
    pub fn has_history(&self) -> bool {
        self.history.is_some()
    }

    /// The missed messages that wait for resuming clients.
    pub fn resumed_messages(&self) -> &Quota {
        &self.resumed_messages
    }

    /// The position of the newest message, for a client whose send queue has all messages up to it; `None` without a
    /// history, while the feed has no positions, or while the history is being filled.
    pub fn position(&self) -> Option<Position> {
        let history = self.history.as_ref().filter(|_| !self.is_filling);
        history?.position()
    }

    /// Finds the messages of these names after the position `since`, which is the client's text and may be no position.
    /// `beside` are the bytes of the messages found so far for the client. In the same call the gateway joins the
    /// client ([`join`](Self::join)), and sends its answer, then calls [`send_missed`](Self::send_missed); or it
    /// [postpones](Self::postpone) the newer messages of these names until it does so in a later turn.
    pub fn missed(
        &mut self,
        (key, beside): (SessionKey, usize),
        since: &str,
        wanted: &[Wanted<'_>],
    ) -> (Missed, Vec<Outcome>) {
        let found = self.find_missed((key, beside), since, wanted);
        found.unwrap_or_else(|why| (Missed::default(), vec![Err(why); wanted.len()]))
    }

    /// Makes the next frames of messages that were found; `beside` are the bytes of others.
    ///
    /// # Errors
    /// [`NotRecovered::Window`]: a message is no longer here. [`NotRecovered::Large`]: the messages are too many bytes.
    pub fn make_missed(
        &mut self,
        (key, beside): (SessionKey, usize),
        missed: &mut Missed,
    ) -> Outcome {
        let budget = self.frame_budget(key, beside);
        let history = self.history.as_mut().ok_or(NotRecovered::Off)?;
        history.make_next(missed, budget)
    }

    /// The next kept messages of these names after a position, or from the oldest on, for a client that gets all of them: at
    /// most a page, which goes out with [`send_missed`](Self::send_missed). If it is the last one, the gateway joins the client
    /// in the same call. `must_be_whole`: messages after the position may not be missing.
    ///
    /// # Errors
    /// As of [`missed`](Self::missed). [`NotRecovered::Large`]: there is no room for a page now.
    pub fn kept_page(
        &mut self,
        key: SessionKey,
        since: Option<CopyPosition>,
        (wanted, must_be_whole): (&[Wanted<'_>], bool),
    ) -> Result<KeptPage, NotRecovered> {
        let room = self.frame_budget(key, 0);
        let budget = FrameBudget {
            bytes_max: KEPT_PAGE_BYTES.min(room.bytes_max),
            ..room
        };
        let history = self.history.as_mut().filter(|history| !history.is_off);
        let history = history.ok_or(NotRecovered::Off)?;
        let page = history.page(since, (wanted, must_be_whole), budget)?;
        let messages = self.charge_messages(key, page.messages)?;
        Ok(KeptPage { messages, ..page })
    }

    /// Counts the outcomes that a client was notified of.
    pub fn count_outcomes(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Ok(()) => self.clients.stats.resumes_recovered += 1,
                Err(why) => self.count_not_recovered(*why),
            }
        }
    }

    /// Whether a client can resume from `since` now, whatever the names.
    pub fn resumes_from(&self, key: SessionKey, since: &str) -> Outcome {
        self.may_resume(key)?;
        let history = self.history.as_ref().ok_or(NotRecovered::Off)?;
        history.finds(since)
    }

    /// Whether the history is being filled from the stream.
    pub fn is_filling(&self) -> bool {
        self.is_filling
    }

    fn may_resume(&self, key: SessionKey) -> Outcome {
        let session = self.clients.session(key);
        // With a rate of its own, the newest message of a key may wait for a slot while later messages have been sent.
        let has_own_rate = session.is_none_or(Session::has_own_rate);
        let is_off = self.history.as_ref().is_none_or(|history| history.is_off);
        match self.is_filling {
            _ if has_own_rate || is_off => Err(NotRecovered::Off),
            true => Err(NotRecovered::Epoch),
            false => Ok(()),
        }
    }

    /// Postpones the messages of the kept feed that come for a client, until
    /// [`take_postponed`](Self::take_postponed): the gateway goes on with its resume in a later turn.
    pub fn postpone(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.postpone();
        }
    }

    /// Whether messages are postponed for a client. They no longer are if they became too many: then the client gets
    /// no missed messages, because it has got newer ones.
    pub fn postpones(&self, key: SessionKey) -> bool {
        self.clients.session(key).is_some_and(Session::postpones)
    }

    /// Finds the newest `count` messages of each topic that these names match: for a client without a position, or
    /// for names whose missed messages are not all there. `beside` are the bytes of the messages found so far. The
    /// answer and [`send_missed`](Self::send_missed) follow as after [`missed`](Self::missed).
    ///
    /// # Errors
    /// [`NotRecovered::Large`]: the messages are too many.
    pub fn newest(
        &mut self,
        (key, beside): (SessionKey, usize),
        wanted: &[Wanted<'_>],
        count: usize,
    ) -> Result<Missed, NotRecovered> {
        let budget = self.frame_budget(key, beside);
        let history = self.history.as_mut().filter(|history| !history.is_off);
        let Some(history) = history.filter(|_| !self.is_filling) else {
            return Ok(Missed::default());
        };
        let (mut newest, found) = history.newest(wanted, count, budget);
        newest.has_newest = !newest.is_empty();
        found.and_then(|()| self.charge_messages(key, newest))
    }

    /// Ends postponing. Returns the messages of meanwhile: in the same call the gateway sends its answer, and these
    /// messages among the missed ones.
    pub fn take_postponed(&mut self, key: SessionKey) -> Missed {
        let session = self.clients.session_mut(key);
        let frames = session.map_or_else(Vec::new, Session::take_postponed);
        let history = self.history.as_ref().filter(|_| !frames.is_empty());
        history.map_or_else(Missed::default, |history| history.with_places(frames))
    }

    /// The frames that the client may still get, less the messages that wait for it, and those of `beside` bytes that were
    /// found.
    fn frame_budget(&self, key: SessionKey, beside: usize) -> FrameBudget {
        let waiting = self.clients.session(key).map(Session::replayed_bytes);
        FrameBudget {
            content: self.content(key),
            bytes_max: RESUME_BYTES_MAX.saturating_sub(waiting.unwrap_or_default() + beside),
        }
    }

    /// Charges the messages to the client's address until they have left. Live messages do not count here: they have
    /// the limits of the send queues.
    fn charge_messages(&self, key: SessionKey, mut missed: Missed) -> Result<Missed, NotRecovered> {
        if let Some(address) = self.client_addr(key).filter(|_| !missed.is_empty()) {
            let granted = self.resumed_messages.grant(address, missed.len() as u64);
            missed.charge = Some(granted.ok_or(NotRecovered::Large)?);
        }
        Ok(missed)
    }

    /// Counts a name that is not resumed because the gateway does not allow the resume.
    pub fn count_not_recovered(&mut self, why: NotRecovered) {
        self.clients.stats.resumes_refused[why as usize] += 1;
    }

    /// Puts missed messages in the client's send queue, outside of its limits. Returns true if messages of
    /// [`newest`](Self::newest) are among them: then the gateway has to send the current position next.
    pub fn send_missed(&mut self, key: SessionKey, missed: Missed) -> bool {
        let Some(session) = self.clients.session_mut(key) else {
            return false;
        };
        session.hold_resumed(missed.charge);
        self.notify_loss(key);
        if !missed.frames.is_empty() {
            // Some of these messages may be newer than the messages that wait for the client's slot.
            self.clients.open_slot(self.now, &self.limits, key);
        }
        let frames = missed.frames.into_iter().map(|(_, frame)| frame);
        self.clients.replay(self.now, key, frames);
        missed.has_newest
    }

    fn find_missed(
        &mut self,
        (key, beside): (SessionKey, usize),
        since: &str,
        wanted: &[Wanted<'_>],
    ) -> Result<(Missed, Vec<Outcome>), NotRecovered> {
        // A member of the topic already gets its live messages, and would get them twice.
        let mut held = wanted
            .iter()
            .map(|wanted| self.topics.has(key, wanted.name));
        if held.any(|is_held| is_held) {
            return Err(NotRecovered::Off);
        }
        self.may_resume(key)?;
        let budget = self.frame_budget(key, beside);
        let history = self.history.as_mut().ok_or(NotRecovered::Off)?;
        let (missed, outcomes) = history.missed(since, wanted, budget);
        Ok((self.charge_messages(key, missed)?, outcomes))
    }

    /// Keeps a publication with a place in the feed.
    pub fn keep(&mut self, publication: &Publication) {
        if let Some(position) = publication.place.position()
            && let Some(history) = &mut self.history
        {
            let is_left_out = matches!(publication.place, Place::LeftOut(_));
            self.is_filling |= !publication.deliver && !is_left_out;
            let body = Some(&publication.body).filter(|_| !is_left_out);
            history.keep(self.now, position, &publication.topic, body);
            self.count_history();
        }
    }

    /// Keeps a publication that is the newest of its topic and older than what the history has, for clients that ask for the
    /// newest messages. Returns false if there is no room.
    pub fn keep_newest(&mut self, publication: &Publication) -> bool {
        let (Some(position), Some(history)) = (publication.place.position(), &mut self.history)
        else {
            return false;
        };
        let (topic, body) = (&publication.topic, &publication.body);
        let has_room = history.keep_newest(self.now, position, topic, body);
        self.count_history();
        has_room
    }

    /// Whether the history has a message of a topic.
    pub fn has_kept(&self, topic: &TopicName) -> bool {
        let history = self.history.as_ref();
        history.is_some_and(|history| history.has_messages(topic))
    }

    /// How many messages the history has forgotten that were the newest of their topics.
    pub fn newest_forgotten(&self) -> u64 {
        let history = self.history.as_ref();
        history.map_or(0, |history| history.newest_forgotten)
    }

    /// Renders a message of the feed for clients of its own name, or of a pattern, that get this kind of content.
    pub fn render(
        &self,
        publication: &Publication,
        pattern: Option<&TopicName>,
        content: Content,
    ) -> Arc<Frame> {
        match &publication.body {
            Body::Frame(frame) => Arc::clone(frame),
            Body::Message(message) => {
                let copy = publication.copy_for(message, pattern, content);
                (self.render)(&copy, self.frame_bytes())
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
        let counts = self.topics.counts(topic);
        for (content, members) in Content::ALL.into_iter().zip(counts) {
            if members > 0 && message.is_for(content) {
                let copy = publication.copy_for(message, pattern, content);
                self.publish_rendered(topic, copy, publication.deliver);
            }
        }
    }

    fn publish_rendered(&mut self, topic: &TopicName, copy: CopyFor<'_>, deliver: bool) {
        let kept = copy.position.and_then(|position| {
            let history = self.history.as_mut()?;
            history.copy_of_newest(position, copy.pattern, copy.content)
        });
        let frame = kept.unwrap_or_else(|| (self.render)(&copy, self.frame_bytes()));
        self.publish_frame(Delivery {
            topic,
            frame: &frame,
            deliver,
            retain: Retain::Keep,
            place: Place::Outside,
        });
        if !self.clients.ahead.is_empty() {
            let position = None;
            let bare = (self.render)(&CopyFor { position, ..copy }, self.frame_bytes());
            for key in std::mem::take(&mut self.clients.ahead) {
                self.clients.deliver(self.now, &self.limits, key, &bare);
            }
        }
    }

    /// Sets how the gateway renders messages.
    pub(super) fn set_render(&mut self, render: Render) {
        self.render = render;
        if let Some(history) = &mut self.history {
            history.set_render(render);
        }
    }

    /// Handles a notice of the bus that concerns the history.
    pub(super) fn note(&mut self, notice: &BusNotice) {
        let Some(history) = &mut self.history else {
            return;
        };
        match notice {
            BusNotice::Feed(notice) => history.note(self.now, *notice),
            BusNotice::Gap => history.note(self.now, FeedNotice::Hole),
            BusNotice::Up => self.is_filling = false,
            BusNotice::Skipped { topic, place, .. } => {
                if let Some(position) = place.position() {
                    history.keep(self.now, position, topic, None);
                }
            }
            _ => {}
        }
        self.count_history();
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
        self.clients.stats.history = self.history.as_ref().map(|history| history.stats());
    }
}

/// Positions of a feed without a bus: the gateway publishes the messages, and this instance alone counts them,
/// after a mark that no other instance knows.
impl Core {
    /// Begins the feed: messages have positions from here on. Nothing happens without a history, or after
    /// an earlier call.
    pub fn begin_feed(&mut self) {
        if self.has_history() && self.position().is_none() {
            // Random also after a loss: no earlier position may count from this mark.
            let nonce = self.random() & NONCE_MASK;
            let mark = Mark { nonce, counter: 0 };
            let (names, count) = (0, 0);
            self.note(&BusNotice::Feed(FeedNotice::Mark { names, mark, count }));
        }
    }

    /// Handles a loss: no earlier position is good, and messages have no position until
    /// [`begin_feed`](Self::begin_feed).
    pub fn end_feed(&mut self) {
        self.note(&BusNotice::Gap);
    }

    /// The position of the n-th message from here on; `None` without a history, or before
    /// [`begin_feed`](Self::begin_feed).
    pub fn position_ahead(&self, messages: usize) -> Option<Position> {
        let Position { names, point } = self.position()?;
        match point {
            Point::Counted { mark, count } => {
                Some(Position::counted(names, mark, count + messages as u64))
            }
            Point::Stored(_) => None,
        }
    }
}
