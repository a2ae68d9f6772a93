//! What the bus answers to a question: pages, values that are too large, the end. Without an answer, the clients of the
//! question wait for another one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::leaving::DropLater;
use super::Retained;
use super::client::ValuesState;
use super::questions::{EndedQuestion, LeftMembers, Member};
use weirgate_core::{PageCursor, RetainedCut, SessionKey, TopicName};

impl Retained {
    /// Handles the bus going away: open questions get no response, and their clients wait for others.
    pub(in crate::gateways::channels) fn down(&mut self, to_drop: &mut DropLater) {
        self.is_up = false;
        self.unanswered.clear(to_drop);
        for left in self.questions.end_all(None) {
            self.requeue(left);
        }
    }

    /// Handles the refusal of a name's subscription: a value would be of a name that its clients do not hold. They wait
    /// until the bus accepts the name and [`Self::client_up`] queues them again.
    pub(in crate::gateways::channels) fn refused(&mut self, name: &TopicName) {
        self.unanswered.forget(name);
        for left in self.questions.end_all(Some(name)) {
            self.requeue(left);
        }
    }

    /// Handles the end of a page of the question `number`: its clients take the values. The bus has read up to `cursor`;
    /// if it has ended the question, another goes on from there.
    pub(in crate::gateways::channels) fn paged(
        &mut self,
        number: u64,
        cursor: &Arc<PageCursor>,
        is_open: bool,
        now_us: u64,
    ) {
        let start = self.questions.start_of(number);
        let read = Arc::clone(cursor);
        let left = match is_open {
            true => self.questions.paged(number, read, now_us),
            false => self.questions.stopped(number, read),
        };
        let Some(left) = left else {
            return;
        };
        if let Some(cut) = cursor.cut {
            self.note_cut(&left.name, number, &left.clients, cut, None);
        }
        self.unanswered.answered(&left.name);
        match is_open {
            true => self.take_page(number, left),
            false => self.requeue(left),
        }
        if let Some(start) = start {
            self.ask_next(&start);
        }
    }

    /// Handles a question for last values that the bus did not answer in time, or cannot answer for now. Returns the name,
    /// and the clients that do not know yet.
    pub(in crate::gateways::channels) fn not_answered(
        &mut self,
        number: u64,
        cursor: &Arc<PageCursor>,
        now_us: u64,
    ) -> Option<(TopicName, Vec<SessionKey>)> {
        let start = self.questions.start_of(number);
        let left = self.questions.stopped(number, Arc::clone(cursor))?;
        let notified = self.unanswered(left, now_us);
        if let Some(start) = start {
            self.ask_next(&start);
        }
        Some(notified)
    }

    /// Handles a message that a question should have brought: it is too large.
    pub(in crate::gateways::channels) fn value_skipped(&mut self, number: u64, subject: &str) {
        let Some(name) = self.questions.name_of(number).cloned() else {
            return;
        };
        let members = self.questions.members(&name, number);
        let members = members.cloned().unwrap_or_default();
        let cut = RetainedCut::Large;
        self.note_cut(&name, number, &members, cut, Some(subject));
    }

    /// Notes that a value is too large for a client.
    pub(in crate::gateways::channels) fn value_too_large(
        &mut self,
        name: &TopicName,
        key: SessionKey,
    ) {
        let waiter = self.clients.get_mut(&key);
        if let Some(wanted) = waiter.and_then(|waiter| waiter.names.get_mut(name)) {
            wanted.cut.get_or_insert(RetainedCut::Large);
        }
    }

    /// Notes why clients do not get all that a question is about; with a subject, the message that is missing.
    fn note_cut(
        &mut self,
        name: &TopicName,
        number: u64,
        clients: &BTreeSet<SessionKey>,
        cut: RetainedCut,
        subject: Option<&str>,
    ) {
        for key in clients {
            let waiter = self.clients.get_mut(key);
            let Some(waiter) = waiter.filter(|waiter| waiter.is_asked(name, number)) else {
                continue;
            };
            match waiter.names.get_mut(name) {
                Some(wanted) if wanted.cursor.reads_all() => {
                    waiter.replays.note_cut(name, cut, subject);
                }
                Some(wanted) => drop(wanted.cut.get_or_insert(cut)),
                None => {}
            }
        }
    }

    /// Lets the clients of a question take a page.
    fn take_page(&mut self, number: u64, members: LeftMembers) {
        let LeftMembers {
            name,
            clients,
            cursor,
        } = members;
        for key in clients {
            let waiter = self.clients.get_mut(&key);
            match waiter.filter(|waiter| waiter.is_asked(&name, number)) {
                Some(waiter) => {
                    waiter.taking.insert(name.clone());
                    waiter.replays.page_ended(&name);
                    if let Some(wanted) = waiter.names.get_mut(&name) {
                        wanted.state = ValuesState::Takes(number);
                    }
                    self.unasked(key);
                }
                None => {
                    // It does not wait for this question any more.
                    let questions = &mut self.questions;
                    drop(questions.leave(&name, &cursor, number, key, Member::Takes));
                }
            }
        }
    }

    /// Queues clients whose question does not go on with them for another one, from this cursor.
    pub(super) fn requeue(&mut self, left: LeftMembers) {
        for key in left.clients {
            self.wait_again(&left.name, key, Some(left.cursor.clone()));
        }
    }

    /// Handles the end of the question `number`, with or without a value before; `cut` is the reason why values are
    /// missing. Returns the clients that have waited.
    pub(in crate::gateways::channels) fn ended(
        &mut self,
        name: &TopicName,
        number: u64,
        cut: Option<RetainedCut>,
    ) -> Vec<SessionKey> {
        let start = self.questions.start_of(number);
        if start.as_ref().is_none_or(|start| start.name != *name) {
            return Vec::new();
        }
        let Some(EndedQuestion { left, had_page }) = self.questions.ended(number) else {
            return Vec::new();
        };
        let LeftMembers {
            clients, cursor, ..
        } = left;
        let has_waited = |key: &SessionKey| {
            let waiter = self.clients.get(key);
            waiter.is_some_and(|waiter| waiter.is_asked(name, number))
        };
        let clients: Vec<SessionKey> = clients.into_iter().filter(has_waited).collect();
        let reads_all = cursor.reads_all();
        if !reads_all {
            self.unanswered.answered(name);
        }
        for key in &clients {
            match reads_all {
                true => self.end_question_of_replays(name, *key, cut, cursor.clone(), had_page),
                false => self.end(name, *key, cut),
            }
        }
        if let Some(start) = start {
            self.ask_next(&start);
        }
        match reads_all {
            true => Vec::new(),
            false => clients,
        }
    }
}
