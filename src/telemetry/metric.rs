//! A metric: its name, kind, labels and help text, and how its values are written.

use std::fmt;

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::Reading;
use super::samples::Writer;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
    /// Labels with the value 1.
    Info,
}

/// A metric as written to pages.
#[derive(Clone, Copy, Debug)]
pub struct MetricName {
    /// The full name, as in queries (histograms: without `_bucket`, `_sum`, `_count`).
    pub name: &'static str,
    /// Counter, gauge or histogram: the `# TYPE` line.
    pub kind: MetricKind,
    /// Label names, in the order of writing.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
    /// Writes the metric; `None`: the values come from a gateway ([`super::GatewayMetric`]).
    pub(super) write: Option<Write>,
}

/// Writes a metric with the values of a reading.
pub(super) type Write = fn(&MetricName, &Reading<'_>, &mut Writer<'_>) -> fmt::Result;

impl MetricName {
    /// Returns the family's name without its unit and its kind's suffix, and the unit: the encoder adds both.
    pub(super) fn stem(&self) -> (&'static str, Option<Unit>) {
        let family = match self.kind {
            MetricKind::Counter => self.name.strip_suffix("_total"),
            MetricKind::Info => self.name.strip_suffix("_info"),
            MetricKind::Gauge | MetricKind::Histogram => None,
        }
        .unwrap_or(self.name);
        if let Some(stem) = family.strip_suffix("_seconds") {
            (stem, Some(Unit::Seconds))
        } else if let Some(stem) = family.strip_suffix("_bytes") {
            (stem, Some(Unit::Bytes))
        } else {
            (family, None)
        }
    }

    /// Returns the kind in the encoder's terms.
    pub(super) fn metric_type(&self) -> MetricType {
        match self.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
            MetricKind::Info => MetricType::Info,
        }
    }
}
