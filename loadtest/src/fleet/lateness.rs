//! The lateness of the measurement itself, and which percentiles are valid nevertheless.
//!
//! Two loops of loadtest add to a latency: the publisher, if a message is sent after the intended
//! time, and the clients' loop, if messages lie in the sockets while the loop waits for a CPU. A
//! percentile is refused if either loop was late by more than a tenth of the percentile: the figure
//! would describe loadtest, not the server.

use std::fs::File;
use std::os::unix::fs::FileExt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::tally::{LATENCY_US_MAX, Latency};

/// Largest share of a valid percentile by which loops of loadtest may be late.
pub(crate) const LATE_SHARE_MAX: f64 = 0.1;

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("these bounds are allowed")
}

/// Latency figures, milliseconds; `None` if refused.
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
    /// The figures of a latency. A percentile is refused if the same percentile of one of `late` is more
    /// than a tenth as large.
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

/// Time for which a thread waited for a CPU while ready to run: after a message had woken the
/// thread, or in the middle of work.
#[derive(Default)]
pub(super) struct RunDelay {
    /// Run time, time in the run queue, both in nanoseconds, and time slices (sched-stats(5)); `None`
    /// before the first call, or if the kernel keeps no such account.
    schedstat: Option<File>,
    before_us: u64,
}

impl RunDelay {
    /// The wait since the last call, microseconds; 0 at the first. All calls come from one thread.
    pub(super) fn take_us(&mut self) -> u64 {
        let first = self.schedstat.is_none();
        if first {
            self.schedstat = File::open("/proc/thread-self/schedstat").ok();
        }
        let now_us = self.schedstat.as_ref().and_then(waited_us).unwrap_or(0);
        let before_us = std::mem::replace(&mut self.before_us, now_us);
        if first {
            0
        } else {
            now_us.saturating_sub(before_us)
        }
    }
}

/// The time in the run queue of a thread, of its open `schedstat`, microseconds.
pub(crate) fn waited_us(schedstat: &File) -> Option<u64> {
    let mut text = [0; 96];
    let length = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let ns: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(ns / 1_000)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use rustix::thread::{CpuSet, sched_setaffinity};

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
        // 300 us are too much of 1 ms, but not of 50 ms.
        let late = of(&[(300, 1_000)]);
        let tail = Percentiles::judged(&latency, &[&punctual, &late]);
        assert_eq!(tail.p50_ms, None);
        assert_eq!((tail.p99_ms, tail.max_ms), (all.p99_ms, all.max_ms));
        // Late only in the tail: the median is valid.
        let rarely = of(&[(20, 980), (9_000, 20)]);
        let median = Percentiles::judged(&latency, &[&rarely]);
        assert_eq!((median.p50_ms, median.p99_ms), (all.p50_ms, None));
        assert_eq!(
            Percentiles::judged(&histogram(), &[]),
            Percentiles::default()
        );
    }

    #[test]
    fn a_thread_that_shares_its_cpu_waits_for_it() {
        let on_first_cpu = || {
            let mut cpu = CpuSet::new();
            cpu.set(0);
            sched_setaffinity(None, &cpu).unwrap();
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                on_first_cpu();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let waited = scope.spawn(|| {
                on_first_cpu();
                let mut delay = RunDelay::default();
                assert_eq!(delay.take_us(), 0);
                let (start, mut waited_us) = (Instant::now(), 0);
                while waited_us < 2_000 && start.elapsed().as_secs() < 20 {
                    waited_us += delay.take_us();
                }
                waited_us
            });
            let waited_us = waited.join().unwrap();
            stop.store(true, Ordering::Relaxed);
            assert!(waited_us >= 2_000, "{waited_us}");
        });
    }
}
