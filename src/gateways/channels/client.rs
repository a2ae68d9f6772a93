//! One client: who it is, what it holds, what it is owed.

use std::collections::BTreeSet;

use super::waiting::Answers;
use crate::auth::TokenBucket;
use crate::hub::{Core, TopicName};

/// A token's end is looked at again after this time: the clock that it is on may be set.
const LOOK_AT_END_EVERY_MS: i64 = 60_000;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) role: String,
    /// When its token ends.
    pub(super) expires_unix_ms: Option<i64>,
    pub(super) names: BTreeSet<TopicName>,
    pub(super) patterns: usize,
    pub(super) requests: TokenBucket,
    /// When it was last told that it sends too much.
    pub(super) limited_told_us: Option<u64>,
    pub(super) answers: Answers,
}

impl Client {
    /// When it wants to be looked at, microseconds of the monotonic clock.
    pub(super) fn due_us(&self, core: &Core) -> Option<u64> {
        let now = core.now();
        let end = self.expires_unix_ms.map(|at| {
            let left_ms = at
                .saturating_sub(now.unix_ms)
                .clamp(0, LOOK_AT_END_EVERY_MS);
            now.mono_us + left_ms.unsigned_abs() * 1000
        });
        self.answers.due_us().into_iter().chain(end).min()
    }

    /// Its token has ended.
    pub(super) fn has_ended(&self, core: &Core) -> bool {
        let now_ms = core.now().unix_ms;
        self.expires_unix_ms.is_some_and(|at| at <= now_ms)
    }
}
