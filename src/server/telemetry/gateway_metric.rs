//! Metrics that not every process has: those of one gateway, and those of a supervisor, which has no loop.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::names::MetricName;
use super::samples::{ByLabel, Writer};
use weirgate_runtime::Durations;

/// A metric that not every gateway has, with the function that reads its values.
pub enum GatewayMetric {
    /// One number.
    Number(&'static MetricName, Box<dyn Fn() -> u64 + Send + Sync>),
    /// A number for each value of the metric's label.
    ByLabel(&'static MetricName, LabelledNumbers),
    /// A number for each pair of values of the metric's two labels.
    ByTwoLabels(&'static MetricName, TwiceLabelledNumbers),
    /// A distribution for each value of the metric's label.
    Durations(&'static MetricName, LabelledDurations),
}

/// Reads label values with their numbers.
pub(crate) type LabelledNumbers = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// Reads pairs of label values with their numbers.
pub(crate) type TwiceLabelledNumbers = Box<dyn Fn() -> Vec<([&'static str; 2], u64)> + Send + Sync>;

/// Label values with their distributions.
pub(crate) type LabelledDurations = Vec<(&'static str, Arc<Durations>)>;

impl GatewayMetric {
    /// A number that `read` returns from `stats`, each time that a page is made.
    pub fn number<T: Send + Sync + 'static>(
        name: &'static MetricName,
        stats: &Arc<T>,
        read: fn(&T) -> u64,
    ) -> Self {
        let stats = Arc::clone(stats);
        Self::Number(name, Box::new(move || read(&stats)))
    }

    /// A constant number, such as a limit.
    pub fn fixed(name: &'static MetricName, number: usize) -> Self {
        Self::Number(name, Box::new(move || number as u64))
    }

    /// A number for each value of the metric's label. `read` returns them from `stats`, each time that a page is made.
    pub fn by_label<T: Send + Sync + 'static>(
        name: &'static MetricName,
        stats: &Arc<T>,
        read: fn(&T) -> Vec<(&'static str, u64)>,
    ) -> Self {
        let stats = Arc::clone(stats);
        Self::ByLabel(name, Box::new(move || read(&stats)))
    }

    pub(super) fn name(&self) -> &'static MetricName {
        let (Self::Number(name, _)
        | Self::ByLabel(name, _)
        | Self::ByTwoLabels(name, _)
        | Self::Durations(name, _)) = self;
        name
    }

    /// Returns the present values, each with the value of its label; `""` for a metric without a label. Returns none
    /// for a metric with two labels, and for durations.
    pub(super) fn values(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Number(_, value) => vec![("", value())],
            Self::ByLabel(_, values) => values(),
            Self::ByTwoLabels(..) | Self::Durations(..) => Vec::new(),
        }
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
        match self {
            Self::Number(name, value) => out.write(name, value()),
            Self::ByLabel(name, values) => out.write(name, ByLabel(values().into_iter())),
            Self::ByTwoLabels(name, values) => out.write(name, ByLabel(values().into_iter())),
            Self::Durations(name, values) => {
                let each = values
                    .iter()
                    .map(|(label, durations)| (*label, durations.counts()));
                out.write(name, ByLabel(each))
            }
        }
    }
}

impl fmt::Debug for GatewayMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().name)
    }
}

/// Metrics of a process without a loop.
#[derive(Debug)]
pub(crate) struct OwnMetrics(pub Vec<GatewayMetric>);

impl OwnMetrics {
    /// Returns the metrics as OpenMetrics text.
    pub(crate) fn open_metrics(self) -> String {
        self.text(text::encode)
    }

    /// Returns the same metrics in the text format 0.0.4 of Prometheus.
    pub(crate) fn prometheus_text(self) -> String {
        self.text(prometheus_text::encode)
    }

    /// Writes the metrics in a format of the library.
    fn text(self, encode: fn(&mut String, &Registry) -> fmt::Result) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut out, &registry);
        out
    }
}

impl Collector for OwnMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        self.0.iter().try_for_each(|metric| metric.write(&mut out))
    }
}
