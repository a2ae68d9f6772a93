//! Metric names, histograms, log set-up.
//!
//! Owns what the process tells of itself. Decides nothing, and nothing here makes a writer wait:
//! the loop and the sources store plain atomics; whoever asks for `/metrics` pays for the text.

mod bus_status;
mod log_lines;
pub mod logging;
mod loop_metrics;
pub mod names;
mod process;
mod values;

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

pub use bus_status::{BusStatus, ConsumerStatus};
pub use loop_metrics::{LoopLabels, LoopMetrics, Phase, Stage};
pub use process::ProcessStats;
pub use values::{Durations, Stored, StoredByLabel};

use crate::hub::Now;
use names::MetricName;
use values::Writer;

/// The content type of [`Telemetry::open_metrics`] (OpenMetrics 1.0).
pub const OPEN_METRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The program that runs, for `weirgate_build_info` and `/stats`.
#[derive(Clone, Debug)]
pub struct Build {
    /// The program's version.
    pub version: &'static str,
    /// The gateway that was started: the subcommand.
    pub gateway: &'static str,
    /// Cargo features built in, with commas.
    pub features: String,
}

/// Everything that the process tells of itself, shared by its threads.
#[derive(Debug)]
pub struct Telemetry {
    /// What the event loop stores.
    pub event_loop: LoopMetrics,
    build: Build,
    bus: Option<Arc<BusStatus>>,
    gateway: OnceLock<Vec<GatewayMetric>>,
    started: Now,
}

/// A metric that only some gateways have, and where its values come from when somebody asks.
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

/// Label values with their numbers, when somebody asks.
pub type LabelledNumbers = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// Pairs of label values with their numbers, when somebody asks.
pub type TwiceLabelledNumbers = Box<dyn Fn() -> Vec<([&'static str; 2], u64)> + Send + Sync>;

/// Label values with their distributions.
pub type LabelledDurations = Vec<(&'static str, Arc<Durations>)>;

impl fmt::Debug for GatewayMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Number(metric, _)
        | Self::ByLabel(metric, _)
        | Self::ByTwoLabels(metric, _)
        | Self::Durations(metric, _)) = self;
        f.write_str(metric.name)
    }
}

impl Telemetry {
    /// All at 0; `bus` is absent where a gateway has none.
    pub fn new(
        build: Build,
        labels: &LoopLabels,
        bus: Option<Arc<BusStatus>>,
        now: Now,
    ) -> Arc<Self> {
        Arc::new(Self {
            event_loop: LoopMetrics::new(labels, now),
            build,
            bus,
            gateway: OnceLock::new(),
            started: now,
        })
    }

    /// Adds what the gateway counts itself; once, before anyone asks.
    pub fn add_gateway(&self, metrics: Vec<GatewayMetric>) {
        let added = self.gateway.set(metrics);
        debug_assert!(added.is_ok(), "a process has one gateway");
    }

    fn write_gateway(&self, out: &mut Writer<'_>) -> fmt::Result {
        for metric in self.gateway.get().into_iter().flatten() {
            match metric {
                GatewayMetric::Number(name, value) => out.number(name, value())?,
                GatewayMetric::ByLabel(name, values) => {
                    out.by_label(name, values().into_iter())?;
                }
                GatewayMetric::ByTwoLabels(name, values) => out.by_two_labels(name, &values())?,
                GatewayMetric::Durations(name, values) => {
                    let each = values
                        .iter()
                        .map(|(label, durations)| (*label, &**durations));
                    out.durations(name, each)?;
                }
            }
        }
        Ok(())
    }

    /// The program that runs.
    pub fn build(&self) -> &Build {
        &self.build
    }

    /// The bus, where the gateway has one.
    pub fn bus(&self) -> Option<&BusStatus> {
        self.bus.as_deref()
    }

    /// Whole seconds since the start.
    pub fn uptime_seconds(&self, now: Now) -> u64 {
        now.mono_us.saturating_sub(self.started.mono_us) / 1_000_000
    }

    /// All metrics as OpenMetrics text.
    pub fn open_metrics(self: &Arc<Self>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &registry);
        out
    }

    fn write_bus(&self, out: &mut Writer<'_>) -> fmt::Result {
        let Some(bus) = self.bus() else {
            return Ok(());
        };
        out.number(&names::BUS_CONNECTED, bus.connected().into())?;
        out.number(&names::BUS_SUBSCRIBED, bus.subscribed().into())?;
        out.number(&names::BUS_RECONNECTS, bus.reconnects())?;
        out.number(&names::BUS_REFUSED, bus.refused())?;
        let lag = |consumer| ConsumerStatus::lag(consumer).map(|lag| (consumer.name(), lag));
        out.by_label(&names::CONSUMER_LAG, bus.consumers().iter().filter_map(lag))
    }
}

impl Collector for Telemetry {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        self.event_loop.write(&mut out)?;
        self.write_bus(&mut out)?;
        self.write_gateway(&mut out)?;
        out.number(&names::LOG_LINES_LEFT_OUT, log_lines::left_out())?;
        let Build {
            version,
            gateway,
            features,
        } = &self.build;
        out.info(&names::BUILD, &[version, gateway, features])?;
        write_process(&mut out, &ProcessStats::read())
    }
}

fn write_process(out: &mut Writer<'_>, process: &ProcessStats) -> fmt::Result {
    out.seconds(&names::PROCESS_CPU, process.cpu_seconds)?;
    for (metric, value) in [
        (names::PROCESS_RESIDENT_MEMORY, process.resident_bytes),
        (names::PROCESS_OPEN_FDS, process.open_fds),
        (names::PROCESS_MAX_FDS, process.max_fds),
    ] {
        out.maybe_number(&metric, value)?;
    }
    out.seconds(&names::PROCESS_START_TIME, process.start_time_seconds)
}

#[cfg(test)]
mod tests;
