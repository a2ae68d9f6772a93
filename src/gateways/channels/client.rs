//! One client: who it is, what it holds, what it is owed.

use std::collections::BTreeSet;

use super::super::access::{RequestRate, TokenEnd};
use super::waiting::Answers;
use crate::hub::{Now, TopicName};

#[derive(Debug)]
pub(super) struct Client {
    pub(super) role: String,
    pub(super) token_end: TokenEnd,
    pub(super) names: BTreeSet<TopicName>,
    pub(super) patterns: usize,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
}

impl Client {
    /// When it wants to be looked at, microseconds of the monotonic clock.
    pub(super) fn due_us(&self, now: Now) -> Option<u64> {
        let end = self.token_end.due_us(now);
        self.answers.due_us().into_iter().chain(end).min()
    }
}
