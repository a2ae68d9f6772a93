//! A budget of log lines for a place in the code: a flood of faults does not become a flood of lines.
//!
//! Pure: the caller passes the time. Never logs anything. Used by `reactor`, `feeds`, `sources`, `gateways` and `http`.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::Now;

const SECOND_US: u64 = 1_000_000;

/// A limit on the log lines per second of one place.
#[derive(Clone, Debug)]
pub struct LogBudget {
    lines_per_second: u32,
    second_began_us: u64,
    lines: u32,
    suppressed: u64,
}

/// Permission to log one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Lines of the same place that were suppressed since the last line, for a field of this line.
    pub suppressed: u64,
}

impl Default for LogBudget {
    /// One line a second.
    fn default() -> Self {
        Self::new(1)
    }
}

impl LogBudget {
    /// A full budget.
    pub const fn new(lines_per_second: u32) -> Self {
        Self {
            lines_per_second,
            second_began_us: 0,
            lines: 0,
            suppressed: 0,
        }
    }

    /// Requests one line. Returns `None`, and counts a suppressed line, if the lines of this second are used
    /// up.
    pub fn line(&mut self, now: Now) -> Option<LogLine> {
        if self.second_is_over(now) {
            self.second_began_us = now.mono_us;
            self.lines = 0;
        }
        if self.lines >= self.lines_per_second {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(LogLine {
            suppressed: std::mem::take(&mut self.suppressed),
        })
    }

    /// Returns the number of suppressed lines once their second is over. A place that calls this periodically logs the
    /// number even if no line follows.
    pub fn left_out(&mut self, now: Now) -> Option<u64> {
        if self.suppressed == 0 || !self.second_is_over(now) {
            return None;
        }
        self.left_out_at_end()
    }

    /// Returns the number of suppressed lines at once, for a place that ends.
    pub fn left_out_at_end(&mut self) -> Option<u64> {
        let lines = std::mem::take(&mut self.suppressed);
        (lines > 0).then_some(lines)
    }

    fn second_is_over(&self, now: Now) -> bool {
        now.mono_us.saturating_sub(self.second_began_us) >= SECOND_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now {
        mono_us: 5_000_000,
        unix_us: 0,
    };

    #[test]
    fn lines_beyond_the_budget_are_told_with_the_next_one() {
        let mut budget = LogBudget::new(2);
        let whole = Some(LogLine { suppressed: 0 });
        assert_eq!(budget.line(START), whole);
        assert_eq!(budget.line(START.plus_us(10)), whole);
        for us in [20, 500_000, 999_999] {
            assert_eq!(budget.line(START.plus_us(us)), None);
        }
        let next = Some(LogLine { suppressed: 3 });
        assert_eq!(budget.line(START.plus_us(1_000_000)), next);
        assert_eq!(budget.line(START.plus_us(1_000_001)), whole);
        assert_eq!(budget.line(START.plus_us(1_000_002)), None);
    }

    #[test]
    fn lines_left_out_are_told_without_a_next_one() {
        let mut budget = LogBudget::new(1);
        assert_eq!(budget.left_out(START), None);
        for us in 0..4 {
            budget.line(START.plus_us(us));
        }
        assert_eq!(budget.left_out(START.plus_us(999_999)), None);
        assert_eq!(budget.left_out(START.plus_us(1_000_000)), Some(3));
        assert_eq!(budget.left_out(START.plus_us(1_000_000)), None);
        let next = Some(LogLine { suppressed: 0 });
        assert_eq!(budget.line(START.plus_us(1_000_001)), next);
        assert_eq!(budget.line(START.plus_us(1_000_002)), None);
        assert_eq!(budget.left_out_at_end(), Some(1));
        assert_eq!(budget.left_out_at_end(), None);
    }

    #[test]
    fn a_budget_of_nothing_logs_nothing() {
        let mut budget = LogBudget::new(0);
        assert_eq!(budget.line(START), None);
        assert_eq!(budget.line(START.plus_us(9_000_000)), None);
    }
}
