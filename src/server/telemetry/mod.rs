//! Metrics and the log.
//!
//! Owns the published numbers of the process. Decides nothing, and never blocks the threads that count: the loop copies
//! its numbers once a turn (`EventLoop`), other threads store atomics, and the text of `/metrics` is made by the
//! thread that serves the page. Surveys of clients and topics for the operator's page are made only on request
//! (`Surveys`).
//!
//! | file | owns |
//! | --- | --- |
//! | `names`, `samples`, `gateway_metric` | the metrics: names, values as text, those that not every process has |
//! | `event_loop`, `surveys`, `hit_limit` | the numbers of the loop; surveys of clients; why a connection ended |
//! | `process`, `last_minute` | what the kernel says about the process; the latency of the last minute |
//! | `logging`, `log_queue`, `terminal` | the log, its thread, its form on a terminal |

mod event_loop;
mod gateway_metric;
mod hit_limit;
mod last_minute;
mod log_queue;
pub(crate) mod logging;
mod names;
mod process;
mod samples;
mod surveys;
mod terminal;

use crate::build_info::BuildInfo;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_protobuf, prometheus_text, text};
use prometheus_client::registry::Registry;

pub(crate) use event_loop::Phase;
pub(crate) use event_loop::{Budget, EventLoop, LoopTimes, ShellStats, Stage};
pub(crate) use event_loop::{LoopDurations, LoopNumbers};
pub use gateway_metric::GatewayMetric;
pub(crate) use gateway_metric::OwnMetrics;
pub(crate) use hit_limit::{HitLimit, LimitOf};
pub(crate) use last_minute::{LastMinute, RecentLatency};
pub(crate) use logging::LogFormat;
pub use names::{MetricKind, MetricName};
pub(crate) use process::ProcessStats;
pub(crate) use process::memory_limit_bytes;
pub(crate) use prometheus_text::CONTENT_TYPE as PROMETHEUS_TEXT_CONTENT_TYPE;
pub(crate) use surveys::{EndedAt, PendingSearch, SEARCHES_MAX, SearchResult, Surveyed, Surveys};

use samples::{ByLabel, Samples, Writer};
use weirgate_core::{FeedStats, SubjectStats};
use weirgate_runtime::{BusStatus, ConsumerStatus, DurationCounts, SpinCounts};
use weirgate_wire::base::Now;

/// The content type of [`Telemetry::open_metrics`] (OpenMetrics 1.0).
pub(crate) const OPEN_METRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The content type of [`Telemetry::prometheus_protobuf`].
pub(crate) const PROMETHEUS_PROTOBUF_CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// All published numbers of the process, shared by its threads.
#[derive(Debug)]
pub struct Telemetry {
    /// The numbers of the event loop.
    pub event_loop: EventLoop,
    /// The surveys of clients and topics on the operator's page.
    pub(crate) surveys: Surveys,
    build: BuildInfo,
    gateway_name: &'static str,
    bus: Option<Arc<BusStatus>>,
    gateway: OnceLock<Vec<GatewayMetric>>,
    awaits_keys: OnceLock<Arc<AtomicBool>>,
    started: Now,
}

impl Telemetry {
    /// Starts with all numbers at 0. `gateway` is the subcommand; `feed` names the subjects; `bus` is `None` for a gateway
    /// without a bus.
    pub fn new(
        build: BuildInfo,
        gateway: &'static str,
        feed: FeedStats,
        bus: Option<Arc<BusStatus>>,
        now: Now,
    ) -> Arc<Self> {
        Arc::new(Self {
            event_loop: EventLoop::new(feed, now),
            surveys: Surveys::default(),
            build,
            gateway_name: gateway,
            bus,
            gateway: OnceLock::new(),
            awaits_keys: OnceLock::new(),
            started: now,
        })
    }

    /// Adds the gateway's own metrics. Called once, before the first page.
    pub fn add_gateway(&self, metrics: Vec<GatewayMetric>) {
        let is_free = |metric: &GatewayMetric| metric.name().write.is_none();
        debug_assert!(metrics.iter().all(is_free), "the table has a value");
        let added = self.gateway.set(metrics);
        debug_assert!(added.is_ok(), "a process has one gateway");
    }

    /// Sets the flag that is true until the gateway has a key for the tokens of clients.
    pub(crate) fn set_awaits_keys(&self, awaits_keys: Arc<AtomicBool>) {
        let set = self.awaits_keys.set(awaits_keys);
        debug_assert!(set.is_ok(), "a process has one gateway");
    }

    /// Whether no client can log in, because the keys for tokens were not fetched yet.
    pub fn awaits_keys(&self) -> bool {
        self.awaits_keys
            .get()
            .is_some_and(|awaits| awaits.load(Relaxed))
    }

    /// The version of the running program.
    pub(crate) fn version(&self) -> &'static str {
        self.build.version
    }

    /// The gateway of this process: the subcommand.
    pub(crate) fn gateway_name(&self) -> &'static str {
        self.gateway_name
    }

    /// Returns the state of the bus, if the gateway has a bus.
    pub fn bus(&self) -> Option<&BusStatus> {
        self.bus.as_deref()
    }

    /// Returns the whole seconds since the start.
    pub fn uptime_seconds(&self, now: Now) -> u64 {
        now.mono_us.saturating_sub(self.started.mono_us) / 1_000_000
    }

    /// Returns all metrics as OpenMetrics text.
    pub fn open_metrics(self: &Arc<Self>) -> String {
        self.text(text::encode)
    }

    /// Returns the same metrics in the text format 0.0.4 of Prometheus.
    pub fn prometheus_text(self: &Arc<Self>) -> String {
        self.text(prometheus_text::encode)
    }

    fn text(self: &Arc<Self>, encode: fn(&mut String, &Registry) -> fmt::Result) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail.
        let _ = encode(&mut out, &self.registry());
        out
    }

    /// Returns the same metrics in the protobuf format of Prometheus, with native histograms.
    pub(crate) fn prometheus_protobuf(self: &Arc<Self>) -> Vec<u8> {
        // Writing to a Vec cannot fail.
        prometheus_protobuf::encode_to_vec(&self.registry()).unwrap_or_default()
    }

    fn registry(self: &Arc<Self>) -> Registry {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        registry
    }
}

impl Collector for Telemetry {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        let reading = MetricsReading::read(self);
        for metric in MetricName::ALL {
            // A row without `write` belongs to a gateway, which brings the values below.
            if let Some(write) = metric.write {
                write(metric, &reading, &mut out)?;
            }
        }
        let mut of_gateway = self.gateway.get().into_iter().flatten();
        of_gateway.try_for_each(|metric| metric.write(&mut out))
    }
}

/// All numbers of the process at one moment.
#[derive(Debug)]
pub(crate) struct MetricsReading<'a> {
    /// The loop's numbers at the end of its last turn.
    pub turn: LoopNumbers,
    /// Numbers of the kernel.
    pub process: ProcessStats,
    /// The newest survey, if there was one.
    pub surveyed: Option<Arc<Surveyed>>,
    /// The number of log lines that were left out.
    log_lines_left_out: u64,
    /// For all other numbers, which are read one by one, and are up to date even while the loop hangs.
    telemetry: &'a Telemetry,
}

impl<'a> MetricsReading<'a> {
    /// Reads the numbers of the loop, the kernel, the survey and the log. The others are read when a page asks for them.
    pub(crate) fn read(telemetry: &'a Telemetry) -> Self {
        Self {
            turn: telemetry.event_loop.numbers(),
            process: ProcessStats::read(),
            surveyed: telemetry.surveys.newest(),
            log_lines_left_out: log_queue::left_out(),
            telemetry,
        }
    }

    /// Returns the gateway's own metric of this name. Such a metric has no value in the table of `names`.
    fn gateway_metric(&self, name: &MetricName) -> Option<&'a GatewayMetric> {
        let mut metrics = self.telemetry.gateway.get()?.iter();
        metrics.find(|metric| metric.name().name == name.name)
    }

    /// Returns the values of a metric of the gateway, each with the value of its label; none if the gateway
    /// lacks the metric.
    pub(crate) fn values(
        &self,
        name: &MetricName,
    ) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let metric = self.gateway_metric(name);
        metric.map(GatewayMetric::values).into_iter().flatten()
    }

    /// Returns the sum of the values of a metric of the gateway; `None` without values.
    pub(crate) fn sum(&self, name: &MetricName) -> Option<u64> {
        self.values(name)
            .map(|(_, value)| value)
            .reduce(|a, b| a + b)
    }

    /// Returns the amount that is held for clients, in bytes or other units. `name` is a label of [`MetricName::HELD`].
    pub(crate) fn held(&self, name: &str) -> Option<u64> {
        let mut all = self.values(&MetricName::HELD);
        all.find(|(label, _)| *label == name).map(|(_, held)| held)
    }

    /// Returns this number of each subject of the feed.
    fn subjects(&self, number: fn(&SubjectStats) -> u64) -> impl Samples {
        let each = self.turn.feed.subjects.iter();
        ByLabel(each.map(move |subject| (subject.subject.as_str(), number(subject))))
    }

    /// Returns the bus, if the gateway has a bus.
    fn bus(&self) -> Option<&'a BusStatus> {
        self.telemetry.bus()
    }

    /// Returns this number of each consumer of the bus, if the gateway has a bus.
    fn consumers(&self, number: fn(&ConsumerStatus) -> Option<u64>) -> Option<impl Samples> {
        self.bus().map(|bus| ByLabel(bus.of_consumers(number)))
    }

    /// Returns for each thread that may spin how long it has polled without sleep, and how often that found work.
    fn spins(&self) -> impl Iterator<Item = (&'static str, SpinCounts)> {
        let source = self.bus().map(|bus| ("source", bus.spin()));
        [("loop", self.turn.times.spin)].into_iter().chain(source)
    }

    /// Returns the distributions of the stages of a message; the first is from its storage at the bus until its
    /// arrival.
    fn stages(&self) -> impl Iterator<Item = (&'static str, DurationCounts)> {
        let arrivals = self.bus().map(|bus| ("bus", bus.arrivals()));
        arrivals.into_iter().chain(self.durations().stages())
    }

    /// Returns the distributions of the loop.
    pub(crate) fn durations(&self) -> &'a LoopDurations {
        &self.telemetry.event_loop.durations
    }

    /// Version, commit, gateway, features.
    fn build_labels(&self) -> [&'a str; 4] {
        let BuildInfo {
            version,
            commit,
            features,
            ..
        } = self.telemetry.build;
        [version, commit, self.telemetry.gateway_name, features]
    }
}

#[cfg(test)]
mod tests;
