//! The messages that the stream brings: which copies of one a client gets, and their frames. Clients that get the same copy
//! share its frame.

use std::sync::Arc;

use super::super::ChannelsGateway;
use super::super::retained::RetainedClient;
use super::state::Replay;
use weirgate_core::{
    Content, CopyRank, Core, Frame, KeptHead, Point, Position, Publication, RetainedCut,
    SessionKey, StoredId, TopicName,
};

/// A message that a question for all messages has brought.
struct StoredMessage<'a> {
    value: &'a Publication,
    position: Position,
    id: StoredId,
    copies: MadeCopies,
}

impl<'a> StoredMessage<'a> {
    /// `None` for a message that has no position in a stream.
    fn new(value: &'a Publication) -> Option<Self> {
        let position = value.place.position()?;
        let Point::Stored { id, .. } = position.point else {
            return None;
        };
        Some(Self {
            value,
            position,
            id,
            copies: MadeCopies::default(),
        })
    }

    /// Sends a client the copies that it has not got yet: one for each name of the replay that matches.
    fn send(
        &mut self,
        core: &mut Core,
        (key, waiter): (SessionKey, &mut RetainedClient),
        replay: &mut Replay,
        head: KeptHead,
    ) {
        let (value, content) = (self.value, core.content(key));
        let given = Some(self.position).filter(|_| !replay.may_lack(head));
        let has = replay.has_read();
        let is_new = |copy: CopyRank| has.is_none_or(|has| has < (self.id, copy));
        let names = replay.names.iter_for_mut(value.topic.as_str());
        for name in names.filter(|name| is_new(name.rank())) {
            if value.body.is_too_large_for(content) {
                replay.cut.note(RetainedCut::Large);
            }
            if !value.body.is_for(content) {
                continue;
            }
            let copies = &mut self.copies;
            let frame = copies.find_or_make(core, value, name.pattern(), content, given);
            waiter.take_room_in_page(frame.queue_bytes());
            core.replay(key, &value.topic, &frame);
            name.add(1);
        }
        if is_new(CopyRank::LAST) {
            replay.read(self.position);
        }
    }
}

impl ChannelsGateway {
    /// Sends a message of the stream to the clients of a question for all messages.
    pub(in super::super) fn replay_stored(
        &mut self,
        core: &mut Core,
        scope: &TopicName,
        value: &Publication,
    ) {
        let Some(mut message) = StoredMessage::new(value) else {
            return;
        };
        let number = value.request.unwrap_or_default();
        let questions = &mut self.retained.questions;
        let receivers = questions.receivers(number, value.topic.as_str());
        questions.brought(number, message.position);
        let head = core.kept_head();
        for (key, replay_key) in receivers {
            let waiter = self.retained.clients.get_mut(&key);
            let Some(waiter) = waiter.filter(|waiter| waiter.is_asked(scope, number)) else {
                continue;
            };
            // Taken out, because the waiter counts the bytes that are sent to it.
            if let Some((replay_key, mut replay)) = waiter.replays.take_asked(replay_key) {
                message.send(core, (key, waiter), &mut replay, head);
                waiter.replays.put_back(replay_key, replay);
            }
        }
    }
}

/// The copies of a message that clients got so far.
#[derive(Debug, Default)]
struct MadeCopies(Vec<MadeCopy>);

#[derive(Debug)]
struct MadeCopy {
    pattern: Option<TopicName>,
    content: Content,
    position: Option<Position>,
    frame: Arc<Frame>,
}

impl MadeCopies {
    /// The copy for clients of the topic's own name, or of a pattern, with the position that they are given.
    fn find_or_make(
        &mut self,
        core: &Core,
        value: &Publication,
        pattern: Option<&TopicName>,
        content: Content,
        position: Option<Position>,
    ) -> Arc<Frame> {
        let is_it = |copy: &&MadeCopy| {
            copy.pattern.as_ref() == pattern && (copy.content, copy.position) == (content, position)
        };
        if let Some(copy) = self.0.iter().find(is_it) {
            return Arc::clone(&copy.frame);
        }
        let frame = core.render(value, pattern, content, position);
        self.0.push(MadeCopy {
            pattern: pattern.cloned(),
            content,
            position,
            frame: Arc::clone(&frame),
        });
        frame
    }
}
