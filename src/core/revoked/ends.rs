//! When a refusal ends: for every token, and for tokens from before the refusal.

use super::Cut;
use weirgate_wire::auth::TokenMarks;

/// A refusal without an end lasts this long. Unless the cut has an end, tokens from before the refusal stay refused for
/// at least this long.
pub(super) const REFUSED_MS: i64 = 24 * 60 * 60 * 1000;

/// When a refusal ends, Unix milliseconds. The ends follow from the request alone, so that the same request has the same
/// ends on every instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// When the refusal began.
    pub(super) since: i64,
    /// When it ends for every token, whenever the token was issued.
    pub(super) all: i64,
    /// When it ends for tokens from before the refusal, and for those that do not say when they were made.
    pub(super) old: i64,
}

impl Ends {
    /// The ends of a request: a day after it began, if it names no end.
    pub(super) fn of_call(cut: &Cut, now: i64) -> Self {
        let since = cut.since.map_or(now, unix_ms);
        Self::new(cut, since, since.saturating_add(REFUSED_MS))
    }

    /// The ends of a line of the file: without an end, it holds while the file has it.
    pub(super) fn of_line(cut: &Cut, now: i64) -> Self {
        Self::new(cut, cut.since.map_or(now, unix_ms), i64::MAX)
    }

    /// `since`: when the refusal began. `by_default`: when it ends if the cut does not say. With an end and no
    /// beginning, it ends for old tokens at the same time as for all.
    fn new(cut: &Cut, since: i64, by_default: i64) -> Self {
        let all = cut.until.map_or(by_default, unix_ms);
        let old = match cut.until.is_some() && cut.since.is_none() {
            true => all,
            false => all.max(since.saturating_add(REFUSED_MS)),
        };
        Self { since, all, old }
    }

    /// The ends of two refusals with the same conditions: each at its latest.
    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            since: self.since.max(other.since),
            all: self.all.max(other.all),
            old: self.old.max(other.old),
        }
    }

    /// Whether a connection with these marks is refused at `now`.
    pub(super) fn refuse(&self, marks: Option<&TokenMarks>, now: i64) -> bool {
        let issued = marks.and_then(|marks| marks.issued_unix_ms);
        // An unknown age may be from before.
        now < self.all || now < self.old && issued.is_none_or(|at| at <= self.since)
    }
}

/// Unix seconds as milliseconds.
const fn unix_ms(seconds: i64) -> i64 {
    seconds.saturating_mul(1000)
}
