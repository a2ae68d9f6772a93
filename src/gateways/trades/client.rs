//! One client: what it holds, how long, how much it may send, and who it is for the log.

use url::form_urlencoded;

use super::super::access::{AccessStats, Rated, RequestRate, TokenEnd, shown_user};
use super::symbols::Held;
use crate::hub::Now;
use crate::wire::head::RequestHead;

#[derive(Debug)]
pub struct Client {
    pub(super) held: Held,
    pub(super) token_end: TokenEnd,
    /// `None` where no rate is set.
    pub(super) requests: Option<Box<RequestRate>>,
}

impl Client {
    /// Judges a message by the client's rate.
    pub(super) fn judge_rate(&mut self, now: Now, stats: &AccessStats) -> Rated {
        let requests = self.requests.as_mut();
        requests.map_or(Rated::Taken, |requests| requests.judge(now, stats))
    }
}

/// Who the log says a client was: the token's user, else what it calls itself in `?userId=`.
pub(super) fn user_for_log(of_token: Option<&str>, head: &RequestHead<'_>) -> Option<Box<str>> {
    if let Some(user) = of_token {
        return Some(shown_user(user));
    }
    form_urlencoded::parse(head.query()?.as_bytes())
        .find(|(name, user)| name == "userId" && !user.is_empty())
        .map(|(_, user)| shown_user(&user))
}
