//! A client: role, rate, waiting answers and names.

use super::super::access::{RequestRate, TokenEnd};
use super::answer::Answers;
use super::names::Held;
use crate::auth::Rights;

/// The gateway's state of a client.
#[derive(Debug)]
pub struct Client {
    pub(super) rights: Rights,
    /// The number of the table that the rights are of.
    pub(super) table: u64,
    /// The names that a new token has to be judged for.
    pub(super) again: Option<Box<Again>>,
    pub(super) token_end: TokenEnd,
    /// When the client last sent a new token, microseconds of the monotonic clock.
    pub(super) authenticated_us: Option<u64>,
    /// The names that the client holds: its topics in the hub, and those that it joins with an answer.
    pub(super) held: Held,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
    /// Answers to an event stream go out together: a position is good for all of its names.
    pub(super) is_stream: bool,
    /// Of an event stream that comes back.
    pub(super) last_event_id: Option<Box<str>>,
}

/// The names of a client with a new token that are not judged yet, and the answer to the token.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// In the reverse order of the answer.
    pub(super) names: Vec<String>,
    pub(super) revoked: Vec<String>,
    pub(super) request_id: String,
}
