//! The latency of the last minute: a difference of counts that only grow.

use std::collections::VecDeque;

use weirgate_runtime::{DurationCounts, Durations};

/// A distribution of durations in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentLatency {
    /// Messages.
    pub messages: u64,
    /// The median, microseconds: half of the messages took no longer.
    pub p50_us: u64,
    /// 99 of 100 messages took no longer.
    pub p99_us: u64,
    /// 999 of 1,000 messages took no longer.
    pub p999_us: u64,
}

/// The least length of a part of the minute, microseconds. The counts are remembered at the start of each part.
const PART_US: u64 = 10_000_000;
const MINUTE_US: u64 = 60_000_000;
/// Time between two summaries, microseconds.
const EVERY_US: u64 = 1_000_000;

/// The last minute of durations whose counts only grow. A part of the minute before may count too.
#[derive(Debug, Default)]
pub(crate) struct LastMinute {
    /// The counts at the starts of the parts, the oldest first: one from before the minute, if the process is old enough.
    starts_of_parts: VecDeque<(u64, DurationCounts)>,
    summed_us: u64,
    summary: RecentLatency,
}

impl LastMinute {
    /// Returns the summary, made anew once a second.
    pub(crate) fn summary(&mut self, durations: &Durations, now_us: u64) -> RecentLatency {
        if now_us >= self.summed_us + EVERY_US {
            self.summed_us = now_us;
            self.summary = self.sum(durations.counts(), now_us);
        }
        self.summary
    }

    /// Summarises the counts since the start of the last part that began at least a minute ago, or all counts without
    /// such a part. Remembers the counts if a new part begins.
    fn sum(&mut self, counts: DurationCounts, now_us: u64) -> RecentLatency {
        let is_before = |(at_us, _): &(u64, DurationCounts)| now_us >= at_us + MINUTE_US;
        while self.starts_of_parts.get(1).is_some_and(is_before) {
            self.starts_of_parts.pop_front();
        }
        let oldest = self.starts_of_parts.front();
        let before = oldest.filter(|part| is_before(part));
        let recent = match before {
            Some((_, before)) => counts.since(before),
            None => counts.clone(),
        };
        let last_us = self.starts_of_parts.back().map(|(at_us, _)| *at_us);
        if last_us.is_none_or(|at_us| now_us >= at_us + PART_US) {
            self.starts_of_parts.push_back((now_us, counts));
        }
        RecentLatency {
            messages: recent.count(),
            p50_us: recent.quantile_us(0.5),
            p99_us: recent.quantile_us(0.99),
            p999_us: recent.quantile_us(0.999),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_the_last_minute() {
        let (durations, mut minute) = (Durations::default(), LastMinute::default());
        let mut at = |second: u64, all_us: &[u64]| {
            all_us.iter().for_each(|&us| durations.observe_us(us));
            minute.summary(&durations, second * 1_000_000)
        };
        let all: Vec<u64> = (0..1_000)
            .map(|n| if n < 990 { 1_000 } else { 50_000 })
            .collect();
        let now = at(10, &all);
        assert_eq!(
            (now.messages, now.p50_us, now.p99_us),
            (1_000, 1_000, 1_000)
        );
        assert_eq!(now.p999_us, 50_000);
        let mut before = at(11, &[]);
        assert_eq!(before, now);
        for second in 12..70 {
            before = at(second, &[]);
            assert_eq!(before, now, "at {second} s");
        }
        assert_eq!(at(90, &[]), RecentLatency::default());
        assert_eq!(at(91, &[7]).messages, 1);
        // After a long sleep, what arrived since the start of the last part.
        assert_eq!(at(1_000, &[7, 7]).messages, 3);
        assert!((7..9).contains(&at(1_001, &[]).p50_us));
        assert!(minute.starts_of_parts.len() <= 8);
    }
}
