//! How each kind of value of a metric is written.
//!
//! The histogram and the families of the encoder's library use locks, so the values here are plain numbers and atomics.

use std::fmt;
use std::iter::zip;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NativeHistogram,
    NativeHistogramBuckets, NoLabelSet,
};

use weirgate_runtime::DurationCounts;

use super::names::{MetricKind, MetricName};

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

/// Writes one value, as a counter, or for a metric of any other kind as a gauge.
fn number<N>(metric: &MetricName, mut encoder: MetricEncoder<'_>, value: N) -> fmt::Result
where
    N: EncodeCounterValue + EncodeGaugeValue,
{
    match metric.kind {
        // `None`: without an exemplar.
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
        let buckets = self.native_buckets();
        let (spans, deltas) = spans(buckets.first_index, &buckets.counts);
        let positive = NativeHistogramBuckets {
            spans: &spans,
            deltas: &deltas,
        };
        let native = NativeHistogram {
            schema: buckets.schema,
            zero_threshold: buckets.zero_threshold_s,
            zero_count: buckets.zero_count,
            negative: NativeHistogramBuckets {
                spans: &[],
                deltas: &[],
            },
            positive,
            // When the counts began is not written.
            created: None,
        };
        let sum = self.sum_us() as f64 / 1e6;
        // The text formats have only the classic buckets.
        encoder.encode_histogram_with_native::<NoLabelSet>(
            sum,
            self.count(),
            &self.classic_buckets(),
            // No exemplars.
            None,
            native,
        )
    }
}

/// The native buckets after the zero bucket, as the format encodes them. A span is a run of buckets with durations: the
/// number of empty buckets before it, and its length. A delta is the difference of a bucket to the last one that is not
/// empty.
fn spans(first_index: i32, counts: &[u64]) -> (Vec<(i32, u32)>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
    // The first span is counted from the bucket with the index 0, which ends at one second.
    let mut empty = first_index;
    let (mut before, mut is_run) = (0, false);
    for &count in counts {
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
    /// Writes a metric with its description. Without samples, it writes nothing.
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

    #[test]
    fn native_buckets_are_runs_with_differences() {
        let counts = [0, 0, 0, 5, 7, 0, 0, 0, 2];
        let expected = (vec![(-79 + 3, 2), (3, 1)], vec![5, 2, -5]);
        assert_eq!(spans(-79, &counts), expected);
        assert_eq!(spans(-79, &[0, 0, 0]), (vec![(0, 0)], vec![]));
    }
}
