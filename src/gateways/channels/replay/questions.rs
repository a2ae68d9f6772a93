//! The questions to the stream: which replays of a client one is for, and what its pages and its end mean for them.
//!
//! JetStream is asked for one name at a time. Redis reads the whole stream for any name, so there a question has a
//! *scope*: all names of all clients. Those of a client that have come equally far share one reading, and so do clients
//! that begin together ([`super::super::retained`]); a name that is asked for meanwhile waits for the next.

use super::super::retained::{QuestionCursor, Retained};
use super::client::ClientReplays;
use super::state::Replay;
use weirgate_core::{KeptHead, PageCursor, RetainedCut, SessionKey, TopicName};

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
                if (begins.after, begins.hash) == (own.after, own.hash) {
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
