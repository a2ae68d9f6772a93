//! How many lines one place may log, so that a flood of faults does not become a flood of lines.

use crate::hub::Now;

/// At most so many lines a second from one place. Pure: the time is handed in.
#[derive(Clone, Debug)]
pub struct LogBudget {
    lines_per_second: u32,
    second_began_us: u64,
    lines: u32,
    suppressed: u64,
}

/// Leave to log one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Lines of the same place that were left out since the last one; worth a field of the line.
    pub suppressed: u64,
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

    /// Asks for one line. `None`: this second's lines are used up, and this one is counted as
    /// suppressed.
    pub fn line(&mut self, now: Now) -> Option<LogLine> {
        if now.mono_us.saturating_sub(self.second_began_us) >= 1_000_000 {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now {
        mono_us: 5_000_000,
        unix_ms: 0,
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
    fn a_budget_of_nothing_logs_nothing() {
        let mut budget = LogBudget::new(0);
        assert_eq!(budget.line(START), None);
        assert_eq!(budget.line(START.plus_us(9_000_000)), None);
    }
}
