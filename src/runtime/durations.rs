//! Counts durations in cells. Each bucket of a histogram of Prometheus, classic or native, is a sum of cells.

use std::iter::zip;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The upper bounds of the classic buckets, microseconds. A last bucket without a bound follows.
const CLASSIC_BOUNDS_US: [u64; 17] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// The schema of the native buckets: each doubling has 2 to this power of them, so each upper bound is 19 % above the
/// one before.
const NATIVE_SCHEMA: i32 = 2;
/// The buckets of each doubling.
const PER_DOUBLING: usize = 1 << NATIVE_SCHEMA;
/// The zero bucket ends at 2 to this power, seconds: just below a microsecond.
const ZERO_POWER: i32 = -20;
/// The last native bucket ends at 2 to this power, seconds: a day and a half. Longer durations are counted in it too.
const LAST_POWER: i32 = 17;
const NATIVE_BOUNDS: usize = (LAST_POWER - ZERO_POWER) as usize * PER_DOUBLING + 1;

/// The upper bounds of the native buckets, in whole microseconds as durations are, rounded down.
const NATIVE_BOUNDS_US: [u64; NATIVE_BOUNDS] = {
    // 2 to the power of 0, 1/4, 2/4 and 3/4.
    let roots = [
        1.0,
        1.189_207_115_002_721,
        std::f64::consts::SQRT_2,
        1.681_792_830_507_429,
    ];
    let zero_us = 1e6 / (1_u64 << -ZERO_POWER) as f64;
    let (mut bounds, mut i) = ([0; NATIVE_BOUNDS], 0);
    while i < NATIVE_BOUNDS {
        let doubled = (1_u64 << (i / PER_DOUBLING)) as f64;
        bounds[i] = (zero_us * doubled * roots[i % PER_DOUBLING]) as u64;
        i += 1;
    }
    bounds
};

const BOUNDS: usize = NATIVE_BOUNDS + CLASSIC_BOUNDS_US.len();

/// The upper bounds of the cells in which durations are counted. They are those of both kinds of buckets, so that each
/// bucket is a sum of cells.
const BOUNDS_US: [u64; BOUNDS] = {
    let (mut bounds, mut native, mut classic) = ([0; BOUNDS], 0, 0);
    while native + classic < BOUNDS {
        let is_native = classic == CLASSIC_BOUNDS_US.len()
            || native < NATIVE_BOUNDS && NATIVE_BOUNDS_US[native] <= CLASSIC_BOUNDS_US[classic];
        if is_native {
            bounds[native + classic] = NATIVE_BOUNDS_US[native];
            native += 1;
        } else {
            bounds[native + classic] = CLASSIC_BOUNDS_US[classic];
            classic += 1;
        }
    }
    bounds
};

/// For each integer logarithm to base 2, the first cell that a duration with this logarithm can be in.
const FIRST_CELLS: [usize; u64::BITS as usize] = {
    let (mut first, mut cell, mut digits) = ([0; u64::BITS as usize], 0, 0);
    while digits < first.len() {
        while cell < BOUNDS && BOUNDS_US[cell] < 1 << digits {
            cell += 1;
        }
        first[digits] = cell;
        digits += 1;
    }
    first
};

/// The cell of a duration: the first one with a bound that the duration does not pass, or the last one.
fn cell(us: u64) -> usize {
    let mut cell = us
        .checked_ilog2()
        .map_or(0, |digits| FIRST_CELLS[digits as usize]);
    while cell < BOUNDS && BOUNDS_US[cell] < us {
        cell += 1;
    }
    cell
}

/// A distribution of durations at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationCounts {
    cells: [u64; BOUNDS + 1],
    sum_us: u64,
}

impl DurationCounts {
    /// Returns the sum of the durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Returns the durations after an earlier moment.
    pub fn since(&self, before: &Self) -> Self {
        let cell_since = |cell: usize| self.cells[cell].wrapping_sub(before.cells[cell]);
        Self {
            cells: std::array::from_fn(cell_since),
            sum_us: self.sum_us.wrapping_sub(before.sum_us),
        }
    }

    /// Returns a duration that this share of the durations did not pass, at most 19 % too long, in microseconds; 0
    /// without durations.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let rank = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut passed = 0;
        let found = self.cells.iter().position(|count| {
            passed += count;
            passed >= rank
        });
        found.map_or(0, |cell| BOUNDS_US[cell.min(BOUNDS - 1)])
    }

    /// Returns the classic buckets: upper bounds in seconds, the last one infinite, each with the count of its bucket
    /// alone.
    pub fn classic_buckets(&self) -> Vec<(f64, u64)> {
        let bounds = CLASSIC_BOUNDS_US.map(|us| us as f64 / 1e6);
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        zip(bounds, self.buckets(&CLASSIC_BOUNDS_US)).collect()
    }

    /// Returns the native buckets.
    pub fn native_buckets(&self) -> NativeBuckets {
        let mut counts = self.buckets(&NATIVE_BOUNDS_US);
        // Durations beyond the last bound are counted in the last bucket.
        let beyond = counts.pop().unwrap_or_default();
        if let Some(last) = counts.last_mut() {
            *last += beyond;
        }
        NativeBuckets {
            schema: NATIVE_SCHEMA,
            zero_threshold_s: f64::from(ZERO_POWER).exp2(),
            zero_count: counts.remove(0),
            first_index: ZERO_POWER * PER_DOUBLING as i32 + 1,
            counts,
        }
    }

    /// Returns the counts of the buckets with these upper bounds, and at the end that of a bucket without a bound.
    fn buckets(&self, bounds_us: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds_us.len() + 1];
        let uppers = BOUNDS_US.into_iter().chain([u64::MAX]);
        for (upper_us, count) in zip(uppers, self.cells) {
            counts[bounds_us.partition_point(|&bound_us| bound_us < upper_us)] += count;
        }
        counts
    }
}

/// The native buckets of a distribution. An upper bound is 2 to the power of its index, divided by 2 to the power of the
/// schema, in seconds.
pub struct NativeBuckets {
    /// The buckets of each doubling are 2 to this power.
    pub schema: i32,
    /// The upper bound of the zero bucket, seconds.
    pub zero_threshold_s: f64,
    /// The durations in the zero bucket.
    pub zero_count: u64,
    /// The index of the first bucket after the zero bucket.
    pub first_index: i32,
    /// The durations in each bucket after the zero bucket.
    pub counts: Vec<u64>,
}

/// A distribution of durations. Only one thread may add to it; any thread may read it.
#[derive(Debug)]
pub struct Durations {
    cells: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            cells: [const { AtomicU64::new(0) }; BOUNDS + 1],
            sum_us: AtomicU64::new(0),
        }
    }
}

impl Durations {
    /// Adds one duration, in microseconds.
    pub fn observe_us(&self, us: u64) {
        // Only one thread adds, so a load and a store suffice.
        let add =
            |to: &AtomicU64, more: u64| to.store(to.load(Relaxed).wrapping_add(more), Relaxed);
        add(&self.cells[cell(us)], 1);
        add(&self.sum_us, us);
    }

    /// Returns the present counts.
    pub fn counts(&self) -> DurationCounts {
        DurationCounts {
            cells: self.cells.each_ref().map(|count| count.load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all_us: &[u64]) -> DurationCounts {
        let durations = Durations::default();
        all_us.iter().for_each(|&us| durations.observe_us(us));
        durations.counts()
    }

    #[test]
    fn a_duration_falls_in_the_bucket_whose_bound_it_does_not_pass() {
        let all = [0, 10, 11, 10_000_000, 10_000_001, u32::MAX.into()];
        let counts = counts(&all);
        let classic = counts.buckets(&CLASSIC_BOUNDS_US);
        let [first, second, .., last_bound, unbounded] = classic[..] else {
            panic!("{classic:?}")
        };
        assert_eq!([first, second, last_bound, unbounded], [2, 1, 1, 2]);
        assert_eq!((counts.count(), counts.sum_us()), (6, all.iter().sum()));
    }

    #[test]
    fn the_bounds_are_those_of_the_formats() {
        assert!(BOUNDS_US.is_sorted());
        for (i, &bound_us) in NATIVE_BOUNDS_US.iter().enumerate() {
            let power = f64::from(ZERO_POWER) + i as f64 / PER_DOUBLING as f64;
            assert_eq!(bound_us, (power.exp2() * 1e6 + 1e-9) as u64, "{i}");
        }
        let around = |us: u64| [us.saturating_sub(1), us, us + 1];
        for us in BOUNDS_US.into_iter().flat_map(around).chain([u64::MAX]) {
            let expected = BOUNDS_US.partition_point(|&bound_us| bound_us < us);
            assert_eq!(cell(us), expected, "{us}");
        }
    }
}
