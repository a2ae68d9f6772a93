//! Metrics and the log.
//!
//! Owns the published numbers of the process. Decides nothing, and never blocks the threads that count: the loop copies
//! its numbers once a turn ([`EventLoop`]), other threads store atomics, and the text of `/metrics` is made by the
//! thread that serves the page. Surveys of clients and topics for the operator's page are made only on request
//! ([`Surveys`]).

mod event_loop;
mod last_minute;
pub mod logging;
pub mod names;
mod process;
mod samples;
mod terminal;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_protobuf, prometheus_text, text};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

pub(crate) use event_loop::{Budget, Slot, Stage};
pub use event_loop::{EventLoop, LoopDurations, LoopNumbers, LoopTimes, Phase, ShellStats};
pub(crate) use last_minute::{LastMinute, RecentLatency};
pub use process::{ProcessStats, memory_limit_bytes};
pub use prometheus_text::CONTENT_TYPE as PROMETHEUS_TEXT_CONTENT_TYPE;

use names::MetricName;
use samples::{ByLabel, Samples, Writer};
use weirgate_bus::runtime::{DurationCounts, Durations, SpinCounts};
use weirgate_bus::status::{BusStatus, ConsumerStatus};
use weirgate_core::{Ended, FeedStats, Found, Now, Search, SubjectStats, Survey};

/// The content type of [`Telemetry::open_metrics`] (OpenMetrics 1.0).
pub(crate) const OPEN_METRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The content type of [`Telemetry::prometheus_protobuf`].
pub(crate) const PROMETHEUS_PROTOBUF_CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// The running program, for `weirgate_build_info` and `/stats`.
#[derive(Clone, Debug)]
pub struct Build {
    /// The program's version.
    pub version: &'static str,
    /// The commit of the build, or `unknown`.
    pub commit: &'static str,
    /// The gateway of this process: the subcommand.
    pub gateway: &'static str,
    /// The supported buses, with commas.
    pub features: String,
}

/// All published numbers of the process, shared by its threads.
#[derive(Debug)]
pub struct Telemetry {
    /// The numbers of the event loop.
    pub event_loop: EventLoop,
    /// The surveys of clients and topics on the operator's page.
    pub surveys: Surveys,
    build: Build,
    bus: Option<Arc<BusStatus>>,
    gateway: OnceLock<Vec<GatewayMetric>>,
    awaits_keys: OnceLock<Arc<AtomicBool>>,
    started: Now,
}

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
    /// A number that `read` returns from `of`, each time that a page is made.
    pub fn number<T: Send + Sync + 'static>(
        name: &'static MetricName,
        of: &Arc<T>,
        read: fn(&T) -> u64,
    ) -> Self {
        let of = Arc::clone(of);
        Self::Number(name, Box::new(move || read(&of)))
    }

    /// A constant number, such as a limit.
    pub fn fixed(name: &'static MetricName, number: usize) -> Self {
        Self::Number(name, Box::new(move || number as u64))
    }

    /// A number for each value of the metric's label. `read` returns them from `of`, each time that a page is made.
    pub fn by_label<T: Send + Sync + 'static>(
        name: &'static MetricName,
        of: &Arc<T>,
        read: fn(&T) -> Vec<(&'static str, u64)>,
    ) -> Self {
        let of = Arc::clone(of);
        Self::ByLabel(name, Box::new(move || read(&of)))
    }

    fn name(&self) -> &'static MetricName {
        let (Self::Number(name, _)
        | Self::ByLabel(name, _)
        | Self::ByTwoLabels(name, _)
        | Self::Durations(name, _)) = self;
        name
    }

    /// Returns the present values, each with the value of its label; `""` for a metric without a label. Returns none
    /// for a metric with two labels, and for durations.
    fn values(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Number(_, value) => vec![("", value())],
            Self::ByLabel(_, values) => values(),
            Self::ByTwoLabels(..) | Self::Durations(..) => Vec::new(),
        }
    }

    fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
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

impl Telemetry {
    /// Starts with all numbers at 0. `feed` names the subjects; `bus` is `None` for a gateway without a bus.
    pub fn new(build: Build, feed: FeedStats, bus: Option<Arc<BusStatus>>, now: Now) -> Arc<Self> {
        Arc::new(Self {
            event_loop: EventLoop::new(feed, now),
            surveys: Surveys::default(),
            build,
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

    /// Returns the running program.
    pub fn build(&self) -> &Build {
        &self.build
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

impl Collector for Telemetry {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        let reading = Reading::now(self);
        for metric in names::ALL {
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
pub struct Reading<'a> {
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

impl<'a> Reading<'a> {
    /// Reads the numbers of the loop, the kernel and the survey. The others are read when a page asks for them.
    pub fn now(telemetry: &'a Telemetry) -> Self {
        Self {
            turn: telemetry.event_loop.numbers(),
            process: ProcessStats::read(),
            surveyed: telemetry.surveys.newest(),
            log_lines_left_out: logging::left_out(),
            telemetry,
        }
    }

    /// Returns the gateway's own metric of this name. Such a metric has no value in the table of [`names`].
    fn gateway_metric(&self, name: &MetricName) -> Option<&'a GatewayMetric> {
        let mut metrics = self.telemetry.gateway.get()?.iter();
        metrics.find(|metric| metric.name().name == name.name)
    }

    /// Returns the values of a metric of the gateway, each with the value of its label; none if the gateway
    /// lacks the metric.
    pub fn values(&self, name: &MetricName) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let metric = self.gateway_metric(name);
        metric.map(GatewayMetric::values).into_iter().flatten()
    }

    /// Returns the sum of the values of a metric of the gateway; `None` without values.
    pub fn sum(&self, name: &MetricName) -> Option<u64> {
        self.values(name)
            .map(|(_, value)| value)
            .reduce(|a, b| a + b)
    }

    /// Returns the amount that is held for clients, in bytes or places. `of` is a label of [`names::HELD`].
    pub fn held(&self, of: &str) -> Option<u64> {
        let mut all = self.values(&names::HELD);
        all.find(|(name, _)| *name == of).map(|(_, held)| held)
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
    pub fn durations(&self) -> &'a LoopDurations {
        &self.telemetry.event_loop.durations
    }

    /// Version, commit, gateway, features.
    fn build_labels(&self) -> [&'a str; 4] {
        let build = &self.telemetry.build;
        [build.version, build.commit, build.gateway, &build.features]
    }
}

/// The limit that has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitLimit {
    /// What operators change to change the limit.
    pub of: LimitOf,
    /// The number in force.
    pub max: u64,
}

/// What a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// A flag, without dashes.
    Flag(&'static str),
    /// A fixed share of `--memory-max`.
    Share(&'static str),
    /// The system, or a constant.
    Other(&'static str),
}

impl fmt::Display for HitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max;
        match self.of {
            LimitOf::Flag(flag) => write!(f, "--{flag} {max}"),
            LimitOf::Share(name) => write!(f, "{name} {max} (a share of --memory-max)"),
            LimitOf::Other(name) => write!(f, "{name} {max}"),
        }
    }
}

/// A connection that has ended, for the operator's page.
#[derive(Clone, Debug)]
pub struct EndedAt {
    /// The time of the end, microseconds of the monotonic clock.
    pub at_us: u64,
    /// The limit that is behind the reason, if there is one.
    pub limit: Option<HitLimit>,
    /// The data of the log line.
    pub ended: Ended,
}

/// A survey, and the connections that had ended last when it was complete.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Clients and topics.
    pub survey: Survey,
    /// The newest first.
    pub ends: Vec<EndedAt>,
}

/// The most searches that wait for the next survey, which carries out all of them.
pub(crate) const SEARCHES_MAX: usize = 16;

/// The result of a search, with the survey that made it.
pub type Sought = (Found, Arc<Surveyed>);

/// A search that waits for the next survey.
#[derive(Debug)]
pub struct Wanted {
    /// What an operator looks for.
    pub search: Search,
    /// Takes the result.
    pub tell: oneshot::Sender<Sought>,
}

/// The newest survey, whether another one is requested, and the searches that wait for it.
#[derive(Debug)]
pub struct Surveys {
    asked: AtomicBool,
    made: AtomicU64,
    newest: Slot<Option<Arc<Surveyed>>>,
    wanted: (Sender<Wanted>, Receiver<Wanted>),
}

impl Default for Surveys {
    fn default() -> Self {
        Self {
            asked: AtomicBool::default(),
            made: AtomicU64::default(),
            newest: Slot::default(),
            wanted: bounded(SEARCHES_MAX),
        }
    }
}

impl Surveys {
    /// Requests a survey.
    pub fn ask(&self) {
        self.asked.store(true, Relaxed);
    }

    /// Requests a search, which the next survey carries out. The caller wakes the loop. Returns `None` if
    /// [`SEARCHES_MAX`] searches wait already.
    pub fn search(&self, search: Search) -> Option<oneshot::Receiver<Sought>> {
        let (tell, result) = oneshot::channel();
        self.wanted.0.try_send(Wanted { search, tell }).ok()?;
        self.ask();
        Some(result)
    }

    /// Loop: takes the next search that waits. Searches whose operator has left are dropped.
    pub(crate) fn next_search(&self) -> Option<Wanted> {
        let mut wanted = self.wanted.1.try_iter();
        wanted.find(|wanted| !wanted.tell.is_closed())
    }

    /// Returns the newest survey; `None` before the first.
    pub fn newest(&self) -> Option<Arc<Surveyed>> {
        self.newest.read(Option::clone)
    }

    /// Returns the number of surveys made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Loop: returns whether a survey was requested since the last one began.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Loop: records that a survey begins.
    pub fn begun(&self) {
        self.asked.store(false, Relaxed);
    }

    /// Loop: publishes a survey. If a reader is just copying the last one, this survey is dropped; the next one follows
    /// within a second.
    pub fn put(&self, surveyed: Arc<Surveyed>) {
        self.made.fetch_add(1, Relaxed);
        self.newest.try_write(|newest| *newest = Some(surveyed));
    }
}

#[cfg(test)]
mod tests;
