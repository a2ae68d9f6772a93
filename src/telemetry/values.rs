//! The values behind metrics: plain atomics with one writer each, read by whoever is asked.
//! Nothing here can make the writer wait (the encoder's own histogram and families lock).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};

use super::names::{Kind, MetricName};

/// A number that the loop stores: absolute, not added up. For a counter the source of truth only
/// grows.
#[derive(Debug, Default)]
pub struct Stored(AtomicU64);

impl Stored {
    /// Sets the value.
    pub fn store(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value stored last.
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One number per value of a label; the values are fixed at the start.
#[derive(Debug)]
pub struct StoredByLabel(Vec<(String, Stored)>);

impl StoredByLabel {
    /// All at 0, in the order given.
    pub fn new<S: AsRef<str>>(label_values: &[S]) -> Self {
        let zero = |value: &S| (value.as_ref().to_owned(), Stored::default());
        Self(label_values.iter().map(zero).collect())
    }

    /// Sets the value of the label at `index`; an index beyond the labels is not kept.
    pub fn store(&self, index: usize, value: u64) {
        debug_assert!(
            index < self.0.len(),
            "a label that was not given at the start"
        );
        if let Some((_, stored)) = self.0.get(index) {
            stored.store(value);
        }
    }

    /// The label values with their numbers, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0
            .iter()
            .map(|(label, value)| (label.as_str(), value.load()))
    }
}

/// Upper bounds of the buckets of a duration, microseconds; one more bucket has none.
const DURATION_BOUNDS_US: [u64; 17] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// A distribution of durations in fixed buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; DURATION_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    /// Adds one duration, in microseconds.
    pub fn observe_us(&self, us: u64) {
        let bucket = DURATION_BOUNDS_US.partition_point(|&bound| bound < us);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bound = |us: &u64| *us as f64 / 1e6;
        let bounds = DURATION_BOUNDS_US.iter().map(bound).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|count| count.load(Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Writes metric after metric; each call writes one whole family.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

impl Writer<'_> {
    fn family(
        &mut self,
        metric: &MetricName,
        samples: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let (stem, unit) = metric.stem();
        let encoder =
            self.0
                .encode_descriptor(stem, metric.help, unit.as_ref(), metric.metric_type())?;
        samples(encoder)
    }

    /// A counter or a gauge without labels.
    pub(super) fn number(&mut self, metric: &MetricName, value: u64) -> fmt::Result {
        self.family(metric, |encoder| one(encoder, metric.kind, value))
    }

    /// Several of them.
    pub(super) fn numbers(&mut self, metrics: &[(MetricName, &Stored)]) -> fmt::Result {
        let mut each = metrics.iter();
        each.try_for_each(|(metric, value)| self.number(metric, value.load()))
    }

    /// A gauge or counter in seconds.
    pub(super) fn seconds(&mut self, metric: &MetricName, value: Option<f64>) -> fmt::Result {
        self.family(metric, |mut encoder| match (value, metric.kind) {
            (None, _) => Ok(()),
            (Some(value), Kind::Counter) => {
                encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
            }
            (Some(value), _) => encoder.encode_gauge(&value),
        })
    }

    /// A family with one label.
    pub(super) fn by_label<'l>(
        &mut self,
        metric: &MetricName,
        samples: impl Iterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let label = metric.labels.first().copied().unwrap_or_default();
        self.family(metric, |mut encoder| {
            for (label_value, value) in samples {
                let labels = [(label, label_value)];
                one(encoder.encode_family(&labels)?, metric.kind, value)?;
            }
            Ok(())
        })
    }

    /// A family with two labels.
    pub(super) fn by_two_labels(
        &mut self,
        metric: &MetricName,
        samples: &[([&str; 2], u64)],
    ) -> fmt::Result {
        self.family(metric, |mut encoder| {
            for (values, number) in samples {
                let labels: Vec<_> = metric.labels.iter().copied().zip(*values).collect();
                one(encoder.encode_family(&labels)?, metric.kind, *number)?;
            }
            Ok(())
        })
    }

    /// A distribution without labels.
    pub(super) fn duration(&mut self, metric: &MetricName, durations: &Durations) -> fmt::Result {
        self.family(metric, |encoder| durations.encode(encoder))
    }

    /// A gauge that may have no value.
    pub(super) fn maybe_number(&mut self, metric: &MetricName, value: Option<u64>) -> fmt::Result {
        match value {
            Some(value) => self.number(metric, value),
            None => self.family(metric, |_| Ok(())),
        }
    }

    /// A family of distributions with one label.
    pub(super) fn durations<'l>(
        &mut self,
        metric: &MetricName,
        samples: impl Iterator<Item = (&'l str, &'l Durations)>,
    ) -> fmt::Result {
        let label = metric.labels.first().copied().unwrap_or_default();
        self.family(metric, |mut encoder| {
            for (label_value, durations) in samples {
                let labels = [(label, label_value)];
                durations.encode(encoder.encode_family(&labels)?)?;
            }
            Ok(())
        })
    }

    /// An info metric.
    pub(super) fn info(&mut self, metric: &MetricName, values: &[&str]) -> fmt::Result {
        let labels: Vec<(&str, &str)> = metric
            .labels
            .iter()
            .copied()
            .zip(values.iter().copied())
            .collect();
        self.family(metric, |mut encoder| encoder.encode_info(&labels))
    }
}

fn one(mut encoder: MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_in_the_bucket_whose_bound_it_does_not_pass() {
        let durations = Durations::default();
        for us in [0, 10, 11, 10_000_000, 10_000_001, u32::MAX.into()] {
            durations.observe_us(us);
        }
        let count = |bucket: usize| durations.buckets[bucket].load(Relaxed);
        assert_eq!([count(0), count(1), count(16), count(17)], [2, 1, 1, 2]);
    }

    #[test]
    fn a_label_keeps_its_own_number() {
        let stored = StoredByLabel::new(&["a", "b"]);
        stored.store(1, 7);
        assert_eq!(stored.iter().collect::<Vec<_>>(), [("a", 0), ("b", 7)]);
    }
}
