//! What the stream brings for replays: which replays a question is for, the messages that it brings, and its end.
//!
//! A question has a *scope*, the name of the replays that it is for, or an empty name for those of all names. It is for
//! the replays of its scope that have come equally far.

use super::super::ChannelsGateway;
use super::super::retained::{QuestionCursor, Retained, RetainedClient};
use super::copies::MadeCopies;
use super::of_client::ClientReplays;
use super::state::Replay;
use weirgate_core::{
    CopyRank, Core, KeptHead, PageCursor, Point, Position, Publication, RetainedCut, SessionKey,
    StoredId, TopicName,
};

impl ClientReplays {
    /// The replays that a question with this name is for, as far as the client has it or goes on with it.
    pub(in super::super) fn asked(
        &self,
        scope: &TopicName,
    ) -> impl Iterator<Item = (&TopicName, &Replay)> {
        self.in_scope(scope).filter(|(_, replay)| replay.is_asked())
    }

    fn asked_mut(&mut self, scope: &TopicName) -> impl Iterator<Item = &mut Replay> {
        self.in_scope_mut(scope).filter(|replay| replay.is_asked())
    }

    /// Whether a question with this name may be asked now.
    pub(in super::super) fn may_ask_bus(&self, scope: &TopicName) -> bool {
        self.in_scope(scope).any(|(_, replay)| replay.asks_bus())
    }

    /// Chooses what the next question is for: the same as the one before that has not come to its end; or names of
    /// which the client has come equally far. Returns from where another one reads; `None`: the one before goes on, or
    /// there is nothing to ask for.
    pub(in super::super) fn begin_question(
        &mut self,
        scope: &TopicName,
        head: KeptHead,
    ) -> Option<PageCursor> {
        let mut begins: Option<PageCursor> = None;
        let is_same = self.asked(scope).next().is_some();
        if !is_same {
            let replays = self.in_scope_mut(scope);
            for replay in replays.filter(|replay| replay.asks_bus()) {
                let own = replay.begins();
                let begins = begins.get_or_insert_with(|| own.clone());
                if begins.after == own.after {
                    replay.join_question();
                    begins.repeats |= own.repeats;
                }
            }
        }
        for replay in self.asked_mut(scope) {
            replay.cursor.ask(head, is_same);
        }
        begins
    }

    /// This instance has lost messages of the stream before the question of these replays was asked.
    fn note_loss_before_asked(&mut self, scope: &TopicName, head: KeptHead) {
        for replay in self.asked_mut(scope) {
            replay.cursor.ask(head, true);
        }
    }

    /// A page of a question has ended.
    pub(in super::super) fn page_ended(&mut self, scope: &TopicName) {
        self.asked_mut(scope).for_each(Replay::page_ended);
    }

    /// Notes why messages are missing, in the replays that the question with this name is for; with `subject`, only in those
    /// of that subject.
    pub(in super::super) fn note_cut(
        &mut self,
        scope: &TopicName,
        cut: RetainedCut,
        subject: Option<&str>,
    ) {
        let is_for =
            |replay: &&mut Replay| subject.is_none_or(|subject| replay.names.is_for(subject));
        for replay in self.asked_mut(scope).filter(is_for) {
            replay.cut.note(cut);
        }
    }
}

impl Retained {
    /// The bus gives all messages of the stream that is the kept feed.
    pub(in super::super) fn read_pages(&mut self, bytes_max: usize) {
        self.has_pages = true;
        self.set_bytes_max(bytes_max);
    }

    /// This instance has lost messages of the stream. What the questions that still wait for their turn bring comes behind
    /// that, whatever stream it is by now.
    pub(in super::super) fn stream_lost(&mut self, head: KeptHead) {
        for (scope, members) in self.questions.not_asked() {
            for key in members {
                if let Some(waiter) = self.clients.get_mut(key) {
                    waiter.replays.note_loss_before_asked(scope, head);
                }
            }
        }
    }

    /// The name of a question for all messages.
    pub(in super::super) fn scope_of(&self, number: u64) -> Option<TopicName> {
        self.questions.scope_of(number).cloned()
    }

    /// Handles the end of a client's question for all messages: the rest is in the history. `cursor`: up to where the
    /// question has read; `had_page`: whether a page had ended before.
    pub(in super::super) fn end_question_of_replays(
        &mut self,
        scope: &TopicName,
        key: SessionKey,
        cut: Option<RetainedCut>,
        cursor: QuestionCursor,
        had_page: bool,
    ) {
        if let Some(waiter) = self.clients.get_mut(&key) {
            for replay in waiter.replays.asked_mut(scope) {
                replay.question_ended(cut, !had_page);
            }
        }
        self.wait_again(scope, key, Some(cursor));
    }
}

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
        let Point::Stored(id) = position.point else {
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
        questions.brought(number, message.id);
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
