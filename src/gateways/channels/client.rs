//! One client: its role, what it may send, and the answers that it has not got.

use std::collections::BTreeSet;

use super::super::access::{RequestRate, TokenEnd};
use super::answer::Answer;
use super::shares::Patterns;
use super::waiting::{Answers, Behind};
use crate::hub::{Core, SessionKey, TopicName};

/// What the gateway keeps of a client. The names that the client holds are its topics in the hub.
#[derive(Debug)]
pub struct Client {
    pub(super) role: String,
    pub(super) token_end: TokenEnd,
    /// Patterns among its names.
    pub(super) patterns: Patterns,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
}

impl Client {
    /// Sends an answer, or has it wait: for its names, and behind the answers that wait already.
    /// Returns as [`Self::send_ready`] does.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        answer: Answer,
        behind: Behind,
    ) -> BTreeSet<TopicName> {
        self.answers.push(answer, behind, core.now().mono_us);
        let sent = self.send_ready(core, key);
        if self.answers.are_too_many() {
            core.pause_reading(key);
        }
        sent
    }

    /// Sends what waits no longer, and sets the next deadline. Returns the names whose last values go
    /// behind what was sent.
    pub(super) fn send_ready(&mut self, core: &mut Core, key: SessionKey) -> BTreeSet<TopicName> {
        let now = core.now();
        let mut sent = BTreeSet::new();
        while let Some((answer, mut retained)) = self.answers.pop(now.mono_us) {
            let frame = answer.frame(core);
            core.send(key, &frame);
            sent.append(&mut retained);
        }
        if !self.answers.are_too_many() {
            core.resume_reading(key);
        }
        let end = self.token_end.due_us(now);
        core.set_deadline(key, self.answers.due_us().into_iter().chain(end).min());
        sent
    }
}
