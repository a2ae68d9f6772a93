//! How late the measurement itself was, and which percentiles that leaves standing.
//!
//! Two loops of ours add to a latency: the publisher, which may send after the intended time, and the
//! clients' loop, which may wait for a CPU while messages lie in its sockets. A percentile is refused
//! where either was late by more than a tenth of it: it would describe loadtest, not the server.

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::tally::{LATENCY_US_MAX, Latency};
use crate::clock;

/// A percentile stands while our own loops were late by at most this share of it.
pub(crate) const LATE_SHARE_MAX: f64 = 0.1;

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("these bounds are allowed")
}

/// Latency figures, milliseconds; `None`: refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// Half are below.
    pub(crate) p50_ms: Option<f64>,
    /// 99 % are below.
    pub(crate) p99_ms: Option<f64>,
    /// 99.9 % are below.
    pub(crate) p999_ms: Option<f64>,
    /// The largest.
    pub(crate) max_ms: Option<f64>,
}

impl Percentiles {
    /// The figures of a latency, each refused where one of `late` is more than a tenth of it at the
    /// same percentile.
    pub(crate) fn judged(latency: &Histogram<u64>, late: &[&Histogram<u64>]) -> Self {
        if latency.is_empty() {
            return Self::default();
        }
        let seen = Latency::of(latency);
        let late: Vec<Latency> = late.iter().map(|h| Latency::of(h)).collect();
        let stands = |of: fn(&Latency) -> f64| {
            let worst = late.iter().map(of).fold(0.0, f64::max);
            let value = of(&seen);
            (worst <= value * LATE_SHARE_MAX).then_some(value)
        };
        Self {
            p50_ms: stands(|l| l.p50_ms),
            p99_ms: stands(|l| l.p99_ms),
            p999_ms: stands(|l| l.p999_ms),
            max_ms: stands(|l| l.max_ms),
        }
    }
}

/// Times one turn of a loop that never waits: what passed beyond its own CPU time, it waited for a CPU.
pub(super) struct TurnTimer {
    wall_us: u64,
    cpu_us: u64,
}

impl TurnTimer {
    /// Begins, on the thread of the loop.
    pub(super) fn start() -> Self {
        Self {
            wall_us: clock::now_us(),
            cpu_us: thread_cpu_us(),
        }
    }

    /// How long the loop could not run since the start, microseconds.
    pub(super) fn late_us(&self) -> u64 {
        let cpu_us = thread_cpu_us() - self.cpu_us;
        (clock::now_us() - self.wall_us).saturating_sub(cpu_us)
    }
}

/// CPU time of the calling thread, microseconds (clock_gettime(2)).
fn thread_cpu_us() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec.cast_unsigned() * 1_000_000 + t.tv_nsec.cast_unsigned() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(u64, u64)]) -> Histogram<u64> {
        let mut h = histogram();
        for (value_us, count) in values {
            h.saturating_record_n(*value_us, *count);
        }
        h
    }

    #[test]
    fn a_percentile_is_refused_where_a_loop_was_late_by_more_than_a_tenth_of_it() {
        let latency = of(&[(1_000, 985), (50_000, 15)]);
        let punctual = of(&[(20, 1_000)]);
        let all = Percentiles::judged(&latency, &[&punctual]);
        assert!(
            all.p50_ms.is_some() && all.max_ms.is_some() && all.p999_ms.is_some(),
            "{all:?}"
        );
        // 300 us of 1 ms are too much, of 50 ms they are not.
        let late = of(&[(300, 1_000)]);
        let tail = Percentiles::judged(&latency, &[&punctual, &late]);
        assert_eq!(tail.p50_ms, None);
        assert_eq!((tail.p99_ms, tail.max_ms), (all.p99_ms, all.max_ms));
        // Late only in the tail: the median stands.
        let rarely = of(&[(20, 980), (9_000, 20)]);
        let median = Percentiles::judged(&latency, &[&rarely]);
        assert_eq!((median.p50_ms, median.p99_ms), (all.p50_ms, None));
        assert_eq!(
            Percentiles::judged(&histogram(), &[]),
            Percentiles::default()
        );
    }

    #[test]
    fn time_without_a_cpu_is_late_and_work_is_not() {
        let timer = TurnTimer::start();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(timer.late_us() >= 19_000);
        // Work between two readings of this thread's CPU time: at most what others took is late.
        let timer = TurnTimer::start();
        let from = thread_cpu_us();
        while thread_cpu_us() < from + 5_000 {}
        let wall_us = clock::now_us() - timer.wall_us;
        assert!(timer.late_us() <= wall_us.saturating_sub(5_000) + 1_000);
    }
}
