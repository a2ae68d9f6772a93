//! How durations are counted, and how each kind of value of a metric is written.
//!
//! The histogram and the families of the encoder's library use locks, so the values here are plain numbers and atomics.

use std::collections::VecDeque;
use std::fmt;
use std::iter::zip;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NativeHistogram,
    NativeHistogramBuckets, NoLabelSet,
};

use super::names::{MetricKind, MetricName};

/// The upper bounds of the classic buckets, microseconds. A last bucket without a bound follows.
const CLASSIC_BOUNDS_US: [u64; 17] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// The schema of the native buckets: each doubling has 2 to this power of them, so each upper bound is 19 % above the
/// one before.
const NATIVE_SCHEMA: i32 = 2;
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
    fn since(&self, before: &Self) -> Self {
        let of = |cell: usize| self.cells[cell].wrapping_sub(before.cells[cell]);
        Self {
            cells: std::array::from_fn(of),
            sum_us: self.sum_us.wrapping_sub(before.sum_us),
        }
    }

    /// Returns a duration that this share of the durations did not pass, at most 19 % too long, in microseconds.
    fn quantile_us(&self, share: f64) -> u64 {
        let rank = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut passed = 0;
        let found = self.cells.iter().position(|count| {
            passed += count;
            passed >= rank
        });
        found.map_or(0, |cell| BOUNDS_US[cell.min(BOUNDS - 1)])
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

/// The longest part of a minute, microseconds: the counts are remembered at the start of each part.
const PART_US: u64 = 10_000_000;
const MINUTE_US: u64 = 60_000_000;
/// Time between two summaries, microseconds.
const EVERY_US: u64 = 1_000_000;

/// The last minute of durations whose counts only grow. A part of the minute before may count too.
#[derive(Debug, Default)]
pub struct LastMinute {
    /// The counts at the starts of the parts, the oldest first: one from before the minute, if the process is old enough.
    before: VecDeque<(u64, DurationCounts)>,
    summed_us: u64,
    summary: RecentLatency,
}

impl LastMinute {
    /// Returns the summary, made anew once a second.
    pub fn summary(&mut self, durations: &Durations, now_us: u64) -> RecentLatency {
        if now_us >= self.summed_us + EVERY_US {
            self.summed_us = now_us;
            self.summary = self.sum(durations.counts(), now_us);
        }
        self.summary
    }

    fn sum(&mut self, counts: DurationCounts, now_us: u64) -> RecentLatency {
        let is_before = |(at_us, _): &(u64, DurationCounts)| now_us >= at_us + MINUTE_US;
        while self.before.get(1).is_some_and(is_before) {
            self.before.pop_front();
        }
        let before = self.before.front().filter(|part| is_before(part));
        let recent = match before {
            Some((_, before)) => counts.since(before),
            None => counts.clone(),
        };
        let last_us = self.before.back().map(|(at_us, _)| *at_us);
        if last_us.is_none_or(|at_us| now_us >= at_us + PART_US) {
            self.before.push_back((now_us, counts));
        }
        RecentLatency {
            messages: recent.count(),
            p50_us: recent.quantile_us(0.5),
            p99_us: recent.quantile_us(0.99),
            p999_us: recent.quantile_us(0.999),
        }
    }
}

/// The values of a metric.
pub(super) trait Samples: Sized {
    /// Whether nothing is written, not even name and help.
    fn is_absent(&self) -> bool {
        false
    }

    fn encode(self, metric: &MetricName, encoder: MetricEncoder<'_>) -> fmt::Result;
}

impl Samples for u64 {
    fn encode(self, metric: &MetricName, encoder: MetricEncoder<'_>) -> fmt::Result {
        number(metric, encoder, self)
    }
}

/// Seconds.
impl Samples for f64 {
    fn encode(self, metric: &MetricName, encoder: MetricEncoder<'_>) -> fmt::Result {
        number(metric, encoder, self)
    }
}

fn number<N>(metric: &MetricName, mut encoder: MetricEncoder<'_>, value: N) -> fmt::Result
where
    N: EncodeCounterValue + EncodeGaugeValue,
{
    match metric.kind {
        MetricKind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}

/// 1 or 0.
impl Samples for bool {
    fn encode(self, metric: &MetricName, encoder: MetricEncoder<'_>) -> fmt::Result {
        u64::from(self).encode(metric, encoder)
    }
}

impl Samples for DurationCounts {
    fn encode(self, _: &MetricName, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = CLASSIC_BOUNDS_US.map(|us| us as f64 / 1e6);
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        let classic: Vec<(f64, u64)> = zip(bounds, self.buckets(&CLASSIC_BOUNDS_US)).collect();
        let [zero, native @ .., last, beyond] = &self.buckets(&NATIVE_BOUNDS_US)[..] else {
            return Err(fmt::Error);
        };
        let (spans, deltas) = spans(native.iter().copied().chain([last + beyond]));
        let positive = NativeHistogramBuckets {
            spans: &spans,
            deltas: &deltas,
        };
        let native = NativeHistogram {
            schema: NATIVE_SCHEMA,
            zero_threshold: f64::from(ZERO_POWER).exp2(),
            zero_count: *zero,
            negative: NativeHistogramBuckets {
                spans: &[],
                deltas: &[],
            },
            positive,
            created: None,
        };
        let sum = self.sum_us as f64 / 1e6;
        // The text formats have only the classic buckets.
        encoder.encode_histogram_with_native::<NoLabelSet>(
            sum,
            self.count(),
            &classic,
            None,
            native,
        )
    }
}

/// The native buckets after the zero bucket, as the format encodes them. A span is a run of buckets with durations: the
/// number of empty buckets before it, and its length. A delta is the difference of a bucket to the last one that is not
/// empty.
fn spans(counts: impl Iterator<Item = u64>) -> (Vec<(i32, u32)>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
    // Begins with the index of the first bucket: the bucket with the index 0 ends at one second.
    let mut empty = ZERO_POWER * PER_DOUBLING as i32 + 1;
    let (mut before, mut is_run) = (0, false);
    for count in counts {
        if count == 0 {
            (empty, is_run) = (empty + 1, false);
            continue;
        }
        match spans.last_mut().filter(|_| is_run) {
            Some((_, length)) => *length += 1,
            None => spans.push((std::mem::take(&mut empty), 1)),
        }
        deltas.push(count as i64 - before);
        (before, is_run) = (count as i64, true);
    }
    if spans.is_empty() {
        // Without a span, Prometheus would take the histogram for a classic one.
        spans.push((0, 0));
    }
    (spans, deltas)
}

/// Writes only name and help if the value is unknown.
impl<S: Samples> Samples for Option<S> {
    fn encode(self, metric: &MetricName, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.map_or(Ok(()), |samples| samples.encode(metric, encoder))
    }
}

/// Writes nothing at all for `None`.
pub(super) struct IfAny<S>(pub(super) Option<S>);

impl<S: Samples> Samples for IfAny<S> {
    fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    fn encode(self, metric: &MetricName, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(metric, encoder)
    }
}

/// The value of a metric's only label, or the values of all its labels.
pub(super) trait LabelValues {
    fn values(&self) -> &[&str];
}

impl LabelValues for &str {
    fn values(&self) -> &[&str] {
        std::slice::from_ref(self)
    }
}

impl<const N: usize> LabelValues for [&str; N] {
    fn values(&self) -> &[&str] {
        self
    }
}

/// Samples for each of these labels.
pub(super) struct ByLabel<I>(pub(super) I);

impl<I, L, S> Samples for ByLabel<I>
where
    I: Iterator<Item = (L, S)>,
    L: LabelValues,
    S: Samples,
{
    fn encode(self, metric: &MetricName, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (values, samples) in self.0 {
            let values = values.values().iter().copied();
            let labels: Vec<_> = zip(metric.labels.iter().copied(), values).collect();
            samples.encode(metric, encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The values of the labels of an info metric, whose own value is always 1.
pub(super) struct Info<'a, const N: usize>(pub(super) [&'a str; N]);

impl<const N: usize> Samples for Info<'_, N> {
    fn encode(self, metric: &MetricName, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let labels: Vec<_> = zip(metric.labels.iter().copied(), self.0).collect();
        encoder.encode_info(&labels)
    }
}

/// Writes metric after metric.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

impl Writer<'_> {
    pub(super) fn write(&mut self, metric: &MetricName, samples: impl Samples) -> fmt::Result {
        if samples.is_absent() {
            return Ok(());
        }
        let (stem, unit) = metric.stem();
        let encoder =
            self.0
                .encode_descriptor(stem, metric.help, unit.as_ref(), metric.metric_type())?;
        samples.encode(metric, encoder)
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
        // After a long sleep, what came since the start of the last part.
        assert_eq!(at(1_000, &[7, 7]).messages, 3);
        assert!((7..9).contains(&at(1_001, &[]).p50_us));
        assert!(minute.before.len() <= 8);
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

    #[test]
    fn native_buckets_are_runs_with_differences() {
        let none = || std::iter::repeat_n(0, 3);
        let counts = none().chain([5, 7]).chain(none()).chain([2]);
        let first = ZERO_POWER * 4 + 1 + 3;
        let expected = (vec![(first, 2), (3, 1)], vec![5, 2, -5]);
        assert_eq!(spans(counts), expected);
        assert_eq!(spans(none()), (vec![(0, 0)], vec![]));
    }
}
