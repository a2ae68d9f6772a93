//! Remembered verdicts on patterns. All clients of a role ask for the same few patterns, and an answer depends only on the
//! role's table.

use super::remembered::Remembered;

/// The most remembered patterns for each role of the table.
const VERDICTS_MAX: usize = 1_024;

/// The longest remembered pattern.
const PATTERN_BYTES_MAX: usize = 255;

/// Whether a role grants a name or pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    Denied,
    /// To decide takes more steps than any pattern may take.
    TooManySteps,
}

impl Verdict {
    /// The verdict of an answer.
    pub(super) fn of(is_granted: bool) -> Self {
        match is_granted {
            true => Self::Granted,
            false => Self::Denied,
        }
    }
}

/// Remembered answers.
#[derive(Clone, Debug)]
pub(super) struct Verdicts(Remembered<Verdict>);

impl Default for Verdicts {
    fn default() -> Self {
        Self(Remembered::new(VERDICTS_MAX))
    }
}

impl Verdicts {
    /// The remembered answer for this pattern.
    pub(super) fn get(&mut self, pattern: &str) -> Option<Verdict> {
        self.0.get(pattern).copied()
    }

    /// Remembers an answer.
    pub(super) fn keep(&mut self, pattern: &str, verdict: Verdict) {
        if pattern.len() <= PATTERN_BYTES_MAX {
            // Each weighs 1, so the limit is on their number.
            self.0.put(pattern, verdict, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_kept_and_the_rest_is_bounded() {
        use Verdict::{Denied, Granted};

        let mut verdicts = Verdicts::default();
        verdicts.keep("popular", Granted);
        for n in 0..100_000 {
            verdicts.keep(&format!("{n}*"), Denied);
            assert_eq!(verdicts.get("popular"), Some(Granted), "{n}");
        }
        assert_eq!(verdicts.get("1*"), None);
        assert_eq!(verdicts.get("99999*"), Some(Denied));
        let known = verdicts.0.weight();
        assert!(known <= VERDICTS_MAX, "{known}");
        let mut verdicts = Verdicts::default();
        let verdict = |n| Verdict::of(n % 2 == 0);
        (0..VERDICTS_MAX / 2).for_each(|n| verdicts.keep(&format!("{n}*"), verdict(n)));
        for n in 0..VERDICTS_MAX / 2 {
            assert_eq!(verdicts.get(&format!("{n}*")), Some(verdict(n)));
        }
        let long = "x".repeat(PATTERN_BYTES_MAX + 1);
        verdicts.keep(&long, Granted);
        assert_eq!(verdicts.get(&long), None);
        verdicts.keep(&long[1..], Granted);
        assert_eq!(verdicts.get(&long[1..]), Some(Granted));
    }
}
