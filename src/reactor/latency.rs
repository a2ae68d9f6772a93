//! The latency of the last minute: from the arrival of a message until the write to the last client that takes bytes.
//!
//! [`Lateness`] is how late the loop is: by long turns, messages that wait for a turn, and sleeps that end too late.

use crate::telemetry::RecentLatency;

/// The length of a part of the minute.
const PART_US: u64 = 10_000_000;
/// The parts of a minute, and the part under way.
const PARTS: usize = 7;
/// Buckets for each doubling: a bucket is 9 to 12 % wide.
const PER_DOUBLING: usize = 8;
/// The buckets reach up to 67 s.
const BUCKETS: usize = 26 * PER_DOUBLING;
/// Time between two summaries.
const EVERY_US: u64 = 1_000_000;

/// Counts of the last minute.
#[derive(Debug)]
pub(super) struct Latency {
    parts: [[u32; BUCKETS]; PARTS],
    part_began_us: u64,
    summed_us: u64,
    summary: RecentLatency,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            parts: [[0; BUCKETS]; PARTS],
            part_began_us: 0,
            summed_us: 0,
            summary: RecentLatency::default(),
        }
    }
}

fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let doublings = us.ilog2() as usize;
    let eighths = (us << 3 >> doublings) as usize - PER_DOUBLING;
    (doublings * PER_DOUBLING + eighths).min(BUCKETS - 1)
}

/// The upper end of a bucket, microseconds.
fn upper_us(bucket: usize) -> u64 {
    let (doublings, eighths) = (bucket / PER_DOUBLING, bucket % PER_DOUBLING);
    ((PER_DOUBLING + eighths + 1) as u64) << doublings >> 3
}

impl Latency {
    /// Records a message.
    pub(super) fn observe_us(&mut self, us: u64) {
        self.parts[PARTS - 1][bucket(us)] += 1;
    }

    /// Returns the summary of the last minute, made anew once a second.
    pub(super) fn summary(&mut self, now_us: u64) -> RecentLatency {
        if now_us >= self.part_began_us + PART_US {
            self.part_began_us = now_us;
            self.parts.rotate_left(1);
            self.parts[PARTS - 1] = [0; BUCKETS];
        }
        if now_us >= self.summed_us + EVERY_US {
            self.summed_us = now_us;
            self.summary = self.sum();
        }
        self.summary
    }

    fn sum(&self) -> RecentLatency {
        let all = |bucket| {
            self.parts
                .iter()
                .map(|part| u64::from(part[bucket]))
                .sum::<u64>()
        };
        let counts: [u64; BUCKETS] = std::array::from_fn(all);
        let messages: u64 = counts.iter().sum();
        let below = |share: f64| {
            let rank = (messages as f64 * share).ceil() as u64;
            let mut passed = 0;
            let found = counts.iter().position(|count| {
                passed += count;
                passed >= rank.max(1)
            });
            found.map_or(0, upper_us)
        };
        RecentLatency {
            messages,
            p50_us: below(0.5),
            p99_us: below(0.99),
            p999_us: below(0.999),
        }
    }
}

/// A shorter delay does not count as lateness.
const LATE_FROM_US: u64 = 20_000;

/// The length of a window. The lateness of a window is the longest delay in it.
const WINDOW_US: u64 = 250_000;

/// The lateness of the loop.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// The longest delay in this window.
    longest_us: u64,
    window_began_us: u64,
    /// The lateness of the last windows, which are a second together.
    windows_us: [u64; 4],
    total_us: u64,
}

impl Lateness {
    /// Records a turn, or the wait of a message for its turn.
    pub(super) fn observe_us(&mut self, us: u64) {
        self.longest_us = self.longest_us.max(us);
    }

    /// Ends the window if its time is over, and returns its lateness, microseconds.
    pub(super) fn tick(&mut self, now_us: u64) -> Option<u64> {
        if now_us < self.window_began_us + WINDOW_US {
            return None;
        }
        self.window_began_us = now_us;
        let longest_us = std::mem::take(&mut self.longest_us);
        let late_us = if longest_us >= LATE_FROM_US {
            longest_us
        } else {
            0
        };
        self.windows_us.rotate_left(1);
        self.windows_us[3] = late_us;
        self.total_us += late_us;
        Some(late_us)
    }

    /// The lateness of the last second, microseconds.
    pub(super) fn last_second_us(&self) -> u64 {
        self.windows_us.iter().sum()
    }

    /// The lateness since the start, microseconds.
    pub(super) fn total_us(&self) -> u64 {
        self.total_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_durations_and_is_narrow() {
        let mut before = 0;
        for us in (0..10_000).chain([65_537, 1_000_000, 60_000_000]) {
            let upper = upper_us(bucket(us));
            assert!(
                us <= upper && upper as f64 <= us as f64 * 1.13 + 1.0,
                "{us}: {upper}"
            );
            assert!(bucket(us) >= before, "{us}");
            before = bucket(us);
        }
        assert_eq!(bucket(u64::MAX >> 3), BUCKETS - 1);
    }

    #[test]
    fn a_summary_is_of_the_last_minute() {
        let mut latency = Latency::default();
        (0..990).for_each(|_| latency.observe_us(1_000));
        (0..10).for_each(|_| latency.observe_us(50_000));
        let now = latency.summary(10_000_000);
        assert_eq!(now.messages, 1_000);
        assert!(
            (1_000..1_130).contains(&now.p50_us) && now.p99_us == now.p50_us,
            "{now:?}"
        );
        assert!((50_000..56_500).contains(&now.p999_us), "{now:?}");
        for second in 11..70 {
            assert_eq!(latency.summary(second * 1_000_000), now, "at {second} s");
        }
        assert_eq!(latency.summary(90_000_000), RecentLatency::default());
    }

    #[test]
    fn the_longest_of_each_window_counts_for_a_second() {
        let mut lateness = Lateness::default();
        let mut second = |at_ms: u64, observed_ms: &[u64]| {
            observed_ms
                .iter()
                .for_each(|ms| lateness.observe_us(ms * 1_000));
            lateness.tick(at_ms * 1_000);
            [
                lateness.last_second_us() / 1_000,
                lateness.total_us() / 1_000,
            ]
        };
        assert_eq!(second(250, &[19]), [0, 0]);
        assert_eq!(second(300, &[100, 300]), [0, 0], "the window is open");
        assert_eq!(second(500, &[20]), [300, 300]);
        assert_eq!(second(750, &[40]), [340, 340]);
        assert_eq!(second(1_000, &[]), [340, 340]);
        assert_eq!(second(1_250, &[]), [340, 340]);
        assert_eq!(second(1_500, &[]), [40, 340]);
        assert_eq!(second(1_750, &[]), [0, 340]);
    }
}
