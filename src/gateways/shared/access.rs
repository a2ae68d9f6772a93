//! Shared by the gateways that check tokens and limit rates: the close for a refused token, the end of a token, the
//! rate of requests, and the counters of both.

use std::num::NonZeroU64;

use super::counts::{Count, labelled};
use crate::auth::Identity;
use weirgate_core::{CloseCode, CloseReason, Closing, Core, SessionKey};
use weirgate_wire::admission::TokenBucket;
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::Now;

/// The close for a refused token and for an expired token.
const AUTHENTICATION_FAILED: CloseCode =
    CloseCode::new(Refusal::CLOSE_CODE, "Authentication failed");

/// The close for a refused token. After close code 1013 clients try again by themselves.
pub(in crate::gateways) fn close_of(refusal: Refusal) -> CloseCode {
    let later = |text, retry_after_ms| CloseCode {
        retry_after_ms,
        ..CloseCode::new(Refusal::LATER_CODE, text)
    };
    match refusal {
        Refusal::KeysDue { wait_ms } => later("Keys of tokens are due", wait_ms),
        Refusal::BeginsSoon { wait_ms } => later("Token is not valid yet", wait_ms),
        Refusal::Revoked => CloseCode::REVOKED,
        _ => AUTHENTICATION_FAILED,
    }
}

/// The error for a client that exceeds its rate.
pub(in crate::gateways) const RATE_LIMIT_EXCEEDED: &str = "Rate limit exceeded";

/// The most searches in a second that a client's rate allows if all of them find too many missed messages.
const SEARCHES_PER_SECOND: u64 = 64;

/// A client over its rate gets at most one error in this time.
const TELL_LIMITED_EVERY_US: u64 = 1_000_000;

/// How often the end of a token is checked, because the wall clock may be set meanwhile.
const LOOK_AT_END_EVERY_MS: i64 = 60_000;

/// The time at which a client's token ends, Unix milliseconds; `None` if the token has no end.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gateways) struct TokenEnd(Option<i64>);

impl TokenEnd {
    /// Returns the end of the token after this identity.
    pub(in crate::gateways) fn of(identity: &Identity) -> Self {
        Self(identity.expires_unix_ms)
    }

    /// Returns when to check again, microseconds of the monotonic clock: at the end of the token, or after
    /// [`LOOK_AT_END_EVERY_MS`] if that is earlier. `None` if the token has no end.
    pub(in crate::gateways) fn due_us(self, now: Now) -> Option<u64> {
        self.0.map(|at| {
            let left_ms = at
                .saturating_sub(now.unix_ms())
                .clamp(0, LOOK_AT_END_EVERY_MS);
            now.mono_us + left_ms.unsigned_abs() * 1000
        })
    }

    /// Returns whether the token has ended at `now`; a token without an end never ends.
    pub(in crate::gateways) fn has_come(self, now: Now) -> bool {
        self.0.is_some_and(|at| at <= now.unix_ms())
    }

    /// Closes the client if the token has ended. Returns whether it has.
    pub(in crate::gateways) fn close(self, core: &mut Core, key: SessionKey) -> bool {
        let has_come = self.has_come(core.now());
        if has_come {
            core.set_refusal(key, Refusal::Expired.label());
            core.close(
                key,
                AUTHENTICATION_FAILED,
                CloseReason::Policy,
                Closing::Now,
            );
        }
        has_come
    }
}

/// The rate of the messages that a client may send.
#[derive(Debug)]
pub(in crate::gateways) struct RequestRate {
    bucket: TokenBucket,
    /// When the client last got an error, microseconds of the monotonic clock. `None`: it has got none.
    reported_us: Option<NonZeroU64>,
}

/// The verdict on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateways) enum Rated {
    /// The message is within the rate.
    Taken,
    /// The message is dropped, and the client gets an error.
    DroppedWithError,
    /// The message is dropped; the client got an error a moment ago.
    Dropped,
}

impl RequestRate {
    /// Allows `per_second` messages a second, and the same number in a burst.
    pub(in crate::gateways) fn new(per_second: u32, now: Now) -> Self {
        Self {
            bucket: TokenBucket::new(per_second, now.mono_us),
            reported_us: None,
        }
    }

    /// Takes a message into the rate. Counts one that has to be dropped.
    pub(in crate::gateways) fn take(&mut self, now: Now, stats: &AccessStats) -> Rated {
        if self.bucket.take(now.mono_us) {
            return Rated::Taken;
        }
        stats.requests_limited.add(1);
        let is_recent =
            |at: NonZeroU64| now.mono_us.saturating_sub(at.get()) < TELL_LIMITED_EVERY_US;
        if self.reported_us.is_some_and(is_recent) {
            return Rated::Dropped;
        }
        // At least 1: 0 would be `None`, no error yet.
        self.reported_us = NonZeroU64::new(now.mono_us.max(1));
        Rated::DroppedWithError
    }

    /// Charges the client 1/64 of its rate for a search that found too many missed messages: such a search costs as
    /// much as many messages.
    pub(in crate::gateways) fn charge_search(&mut self, now: Now) {
        self.bucket.take_part(SEARCHES_PER_SECOND, now.mono_us);
    }
}

/// Counters of tokens and rates.
#[derive(Debug, Default)]
pub struct AccessStats {
    /// Messages of clients, dropped for their rate.
    pub requests_limited: Count,
    /// Clients admitted with the default role, because their token lacks the claim that the settings name.
    pub without_role: Count,
    refusals: [Count; Refusal::ALL.len()],
}

impl AccessStats {
    /// Clients refused for their token, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(Refusal::ALL.map(Refusal::label), &self.refusals)
    }

    /// Counts a client whose token lacks the claim with the role. Only the first such client is logged.
    pub(in crate::gateways) fn count_without_role(&self) {
        let is_first = self.without_role.get() == 0;
        self.without_role.add(1);
        if is_first {
            tracing::warn!(
                "a token has no claim named by --jwt-role-claim: its client gets the default role \
                 (weirgate token inspect shows a token's role; weirgate_tokens_without_role_total \
                 counts further clients)"
            );
        }
    }

    pub(in crate::gateways) fn count_refusal(&self, refusal: Refusal) {
        let is_same = |one: &Refusal| one.label() == refusal.label();
        if let Some(number) = Refusal::ALL.iter().position(is_same) {
            self.refusals[number].add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now {
            mono_us,
            unix_us: 1_700_000_000_000 * 1_000,
        }
    }

    #[test]
    fn who_sends_too_much_is_told_once_a_second() {
        let stats = AccessStats::default();
        let mut rate = RequestRate::new(1, at(0));
        assert_eq!(rate.take(at(0), &stats), Rated::Taken);
        assert_eq!(rate.take(at(0), &stats), Rated::DroppedWithError);
        assert_eq!(rate.take(at(999_999), &stats), Rated::Dropped);
        assert_eq!(rate.take(at(1_000_000), &stats), Rated::Taken);
        assert_eq!(rate.take(at(1_000_001), &stats), Rated::DroppedWithError);
        assert_eq!(stats.requests_limited.get(), 3);
    }

    #[test]
    fn the_end_of_a_token_is_looked_at_again_each_minute() {
        let end = |ms: i64| TokenEnd(Some(1_700_000_000_000 + ms));
        assert_eq!(TokenEnd::default().due_us(at(5)), None);
        assert_eq!(end(10).due_us(at(5)), Some(10_005));
        assert_eq!(end(3_600_000).due_us(at(5)), Some(60_000_005));
        assert_eq!(end(-10).due_us(at(5)), Some(5));
        assert!(end(0).has_come(at(5)) && !end(1).has_come(at(5)));
    }
}
