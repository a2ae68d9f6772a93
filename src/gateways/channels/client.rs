//! One client: its role, what it may send, and the answers that it has not got.

use std::collections::BTreeSet;

use super::super::access::{RequestRate, TokenEnd};
use super::answer::Answer;
use super::waiting::Answers;
use crate::hub::{Core, SessionKey, TopicName};

/// What the gateway keeps of a client. The names that the client holds are its topics in the hub.
#[derive(Debug)]
pub struct Client {
    pub(super) role: String,
    pub(super) token_end: TokenEnd,
    /// Patterns among its names.
    pub(super) patterns: usize,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
}

impl Client {
    /// Sends an answer, or has it wait: for these names, and behind the answers that wait already.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        answer: Answer,
        names: BTreeSet<TopicName>,
    ) {
        self.answers.push(answer, names, core.now().mono_us);
        self.send_ready(core, key);
        if self.answers.are_too_many() {
            core.pause_reading(key);
        }
    }

    /// Sends what waits no longer, and sets the next deadline.
    pub(super) fn send_ready(&mut self, core: &mut Core, key: SessionKey) {
        let now = core.now();
        while let Some(answer) = self.answers.pop(now.mono_us) {
            let frame = answer.frame(core);
            core.send(key, &frame);
        }
        if !self.answers.are_too_many() {
            core.resume_reading(key);
        }
        let end = self.token_end.due_us(now);
        core.set_deadline(key, self.answers.due_us().into_iter().chain(end).min());
    }
}
