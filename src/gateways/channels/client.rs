//! One client: its role, what it may send, and the answers that it has not got.

use super::super::access::{RequestRate, TokenEnd};
use super::shares::Patterns;
use super::waiting::Answers;

/// What the gateway keeps of a client. The names that the client holds are its topics in the hub.
#[derive(Debug)]
pub struct Client {
    pub(super) role: String,
    pub(super) token_end: TokenEnd,
    /// Patterns among its names.
    pub(super) patterns: Patterns,
    pub(super) requests: RequestRate,
    pub(super) answers: Answers,
    /// The first answer resumes names, and waits for its turn.
    pub(super) is_in_line: bool,
}
