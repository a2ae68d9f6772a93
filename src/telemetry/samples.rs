//! Samples in the OpenMetrics text, from the values of a metric; and the text format 0.0.4 of Prometheus, made from this
//! text for readers without OpenMetrics.
//!
//! The encoder's own histogram and families lock, so the values are plain numbers here.

use std::fmt;
use std::iter::zip;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};

use super::names::{MetricKind, MetricName};

/// Upper bounds of the buckets of a duration, microseconds; the last bucket has no bound.
const DURATION_BOUNDS_US: [u64; 17] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// Buckets of a distribution of durations.
const BUCKETS: usize = DURATION_BOUNDS_US.len() + 1;

fn bucket(us: u64) -> usize {
    DURATION_BOUNDS_US.partition_point(|&bound| bound < us)
}

/// A distribution of durations in fixed buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationCounts {
    buckets: [u64; BUCKETS],
    sum_us: u64,
}

impl DurationCounts {
    /// Adds one duration, in microseconds.
    pub fn observe_us(&mut self, us: u64) {
        self.buckets[bucket(us)] += 1;
        self.sum_us = self.sum_us.wrapping_add(us);
    }

    /// Returns the sum of the durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// A distribution of durations for reading by other threads while being written.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Durations {
    /// Adds one duration, in microseconds.
    pub fn observe_us(&self, us: u64) {
        self.buckets[bucket(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Returns the present counts.
    pub fn counts(&self) -> DurationCounts {
        DurationCounts {
            buckets: self.buckets.each_ref().map(|count| count.load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

/// The values of a metric.
pub(super) trait Samples: Sized {
    /// Whether not even name and help are written.
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
        let bounds = DURATION_BOUNDS_US.map(|us| us as f64 / 1e6);
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = zip(bounds, self.buckets).collect();
        let sum = self.sum_us as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, self.count(), &buckets, None)
    }
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

/// The value of a metric's label, or the values of all its labels.
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

/// The labels of an info metric, whose value is always 1.
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

/// The content type of the text format 0.0.4.
pub const PROMETHEUS_TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Turns OpenMetrics text, as [`Telemetry`](super::Telemetry) writes it, into the text format 0.0.4.
///
/// A family has the name of its samples (`_total` of a counter, `_info` of an info), an info is a gauge, and there are
/// no units and no end mark (Prometheus, "Exposition formats"). Samples have neither time stamps nor exemplars, which
/// the two formats write differently.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("# HELP ") {
            // Waits for the type on the next line.
            help = words.split_once(' ').map(|(_, words)| words);
        } else if let Some((name, kind)) = family_type(line) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                push_line(&mut out, &["# HELP ", name, suffix, " ", help]);
            }
            push_line(&mut out, &["# TYPE ", name, suffix, " ", kind]);
        } else if !line.starts_with('#') {
            push_line(&mut out, &[line]);
        }
    }
    out
}

/// The name and type of a `# TYPE` line.
fn family_type(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

fn push_line(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_in_the_bucket_whose_bound_it_does_not_pass() {
        let (shared, mut plain) = (Durations::default(), DurationCounts::default());
        for us in [0, 10, 11, 10_000_000, 10_000_001, u32::MAX.into()] {
            shared.observe_us(us);
            plain.observe_us(us);
        }
        let [first, second, .., last_bound, unbounded] = plain.buckets;
        assert_eq!([first, second, last_bound, unbounded], [2, 1, 1, 2]);
        assert_eq!(shared.counts(), plain);
        assert_eq!(plain.count(), 6);
    }
    #[test]
    fn families_are_named_as_their_samples() {
        let open_metrics = "\
# HELP a Words of a.
# TYPE a counter
a_total{x=\"# TYPE b gauge\"} 1
# HELP b_seconds Words of b.
# TYPE b_seconds histogram
# UNIT b_seconds seconds
b_seconds_sum 0.5
b_seconds_count 1
b_seconds_bucket{le=\"+Inf\"} 1
# HELP c Words of c.
# TYPE c gauge
# HELP d Words of d.
# TYPE d info
d_info{version=\"1\"} 1
# EOF
";
        let expected = "\
# HELP a_total Words of a.
# TYPE a_total counter
a_total{x=\"# TYPE b gauge\"} 1
# HELP b_seconds Words of b.
# TYPE b_seconds histogram
b_seconds_sum 0.5
b_seconds_count 1
b_seconds_bucket{le=\"+Inf\"} 1
# HELP c Words of c.
# TYPE c gauge
# HELP d_info Words of d.
# TYPE d_info gauge
d_info{version=\"1\"} 1
";
        assert_eq!(from_open_metrics(open_metrics), expected);
    }
}
