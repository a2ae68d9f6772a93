//! The services behind a gateway: their addresses, their availability, the connections to them, and the counters of
//! their requests.
//!
//! Nothing here depends on a contract: names, URLs and paths are parameters. The calls and the proxy of events have
//! separate pools for the same service, because they run on separate threads and have separate limits.
//!
//! | file | has |
//! | --- | --- |
//! | `fetch` | a single blocking `GET`, without a pool |
//! | `redirects` | the targets of redirects, for people |
//! | `connect` | a new connection |
//! | `activity` | when bytes moved on a connection |
//! | `open` | the limit on open connections; the end of idle ones |
//! | `pool` | the connections to a service, kept for reuse |
//! | `permits` | permits for requests to use a connection |

mod activity;
mod connect;
pub(crate) mod fetch;
mod open;
mod permits;
mod pool;
pub(crate) mod redirects;

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

use weirgate_runtime::{Clock, Durations, FailedAddresses};
use weirgate_server::telemetry::{GatewayMetric, MetricName};
use weirgate_wire::base::LogBudget;
use weirgate_wire::json::ObjectWriter;

pub(crate) use self::activity::Activity;
pub(crate) use self::connect::Writing;
pub(crate) use self::open::{
    ANSWER_HEAD_BYTES_MAX, ANSWER_HEADERS_MAX, CALL_CONNECTION_BYTES, OpenConnections,
};
pub(crate) use self::permits::{CONNECTION_BYTES, NoPermit, ServicePermit, ServicePermits};
pub(crate) use self::pool::{Ended, Failure, FailureReason, Lease, Policy, Pool, RepeatableBody};

/// The name of this program in requests.
pub(crate) const USER_AGENT: &str = concat!("weirgate/", env!("CARGO_PKG_VERSION"));

/// A service behind the gateway.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    /// The address of the service.
    pub upstream: Upstream,
    /// Present if the service is at `https://`.
    tls: Option<TlsConnector>,
    /// Both shared by all clones.
    answering: Arc<Answering>,
    failed_addresses: SharedFailedAddresses,
}

/// Orders the addresses of the host, so that one that failed is tried last.
type SharedFailedAddresses = Arc<Mutex<FailedAddresses>>;

/// Locks a mutex. It is never poisoned, because no holder of a lock of this module can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name and the address.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service {} at {}", self.name, self.upstream)
    }
}

impl Service {
    /// A service named `name` in metrics and logs. `tls` is used for `https://`.
    pub fn new(name: &'static str, upstream: Upstream, tls: Option<Arc<ClientConfig>>) -> Self {
        let tls = tls.filter(|_| upstream.wants_tls());
        Self {
            name,
            upstream,
            tls: tls.map(TlsConnector::from),
            answering: Arc::new(Answering::new(name)),
            failed_addresses: SharedFailedAddresses::default(),
        }
    }

    /// The value of the label `service` in metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The base URL of a service behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    tls: bool,
    /// The name or the IP address; IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The value of `Host`. Has the port only if it is not the default of the scheme.
    pub authority: HeaderValue,
    /// The prefix of all request paths, without a slash at the end.
    pub base_path: String,
}

impl Upstream {
    /// Whether the service is at `https://`.
    pub fn wants_tls(&self) -> bool {
        self.tls
    }

    /// Returns path, query and fragment of a URL of this service, without the base path; `None` for any other URL.
    /// `http` and `https` both match, because a service behind a TLS proxy often writes its own URLs with `http`.
    pub fn path_of(&self, url: &str) -> Option<String> {
        let with_scheme = url.strip_prefix("//").map(|rest| format!("http://{rest}"));
        let url = Url::parse(with_scheme.as_deref().unwrap_or(url)).ok()?;
        let authority = self.authority.to_str().ok()?;
        let is_own =
            Self::parse(&format!("{}://{}", url.scheme(), url.authority())).is_some_and(|own| {
                own.authority == authority || (own.host == self.host && own.port == self.port)
            });
        let rest = url[Position::BeforePath..].strip_prefix(&self.base_path)?;
        match rest.chars().next() {
            _ if !is_own => None,
            None | Some('?' | '#') => Some(format!("/{rest}")),
            Some('/') => Some(rest.to_owned()),
            // A longer name than the last one of the base path.
            Some(_) => None,
        }
    }

    /// Parses `http://HOST:PORT/PATH` or `https://…`, and drops trailing slashes. Returns `None` for another scheme, if
    /// there is a user, a query or a fragment, without a host, or with port 0.
    pub fn parse(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let shown = url.host_str().filter(|host| !host.is_empty() && is_plain)?;
        let authority = match url.port() {
            Some(port) => format!("{shown}:{port}"),
            None => shown.to_owned(),
        };
        Some(Self {
            tls,
            host: shown.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().filter(|&port| port != 0)?,
            authority: HeaderValue::try_from(authority).ok()?,
            base_path: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let authority = self.authority.to_str().unwrap_or_default();
        write!(f, "{scheme}://{authority}{}", self.base_path)
    }
}

/// The most log lines a second about a service that keeps failing and recovering.
const LINES_PER_SECOND: u32 = 5;

/// Whether a service answers, judged by the latest call or proxied request.
#[derive(Debug)]
pub(crate) struct Answering {
    service: &'static str,
    clock: Clock,
    state: Mutex<Outage>,
}

#[derive(Debug)]
struct Outage {
    /// The time of the first failure since the last answer, in microseconds of the clock.
    away_since_us: Option<u64>,
    lines: LogBudget,
}

impl Answering {
    /// A service without any request yet counts as answering.
    pub(crate) fn new(service: &'static str) -> Self {
        Self {
            service,
            clock: Clock::start(),
            state: Mutex::new(Outage {
                away_since_us: None,
                lines: LogBudget::new(LINES_PER_SECOND),
            }),
        }
    }

    /// Records the head of an answer, with any status.
    pub(crate) fn answered(&self) {
        let mut state = lock(&self.state);
        let Some(since_us) = state.away_since_us.take() else {
            return;
        };
        let now = self.clock.now();
        if let Some(lines_left_out) = state.lines.line(now) {
            tracing::info!(
                service = self.service,
                away_ms = now.mono_us.saturating_sub(since_us) / 1_000,
                lines_left_out,
                "a service answers again"
            );
        }
    }

    /// Records a request without an answer.
    pub(crate) fn failed(&self, cause: &dyn Display) {
        let mut state = lock(&self.state);
        if state.away_since_us.is_some() {
            return;
        }
        let now = self.clock.now();
        state.away_since_us = Some(now.mono_us);
        if let Some(lines_left_out) = state.lines.line(now) {
            tracing::warn!(
                service = self.service,
                %cause,
                lines_left_out,
                "a service does not answer"
            );
        }
    }

    fn away_ms(&self) -> Option<u64> {
        let since_us = lock(&self.state).away_since_us?;
        Some(self.clock.now().mono_us.saturating_sub(since_us) / 1_000)
    }
}

/// The services of a gateway, for the pages that list services that do not answer.
#[derive(Clone, Debug)]
pub struct ServicesAway(ByService<Answering>);

impl ServicesAway {
    /// Observes these services from here on.
    pub fn of(services: &[Service]) -> Self {
        let services = services.iter();
        let named = services.map(|service| (service.name, Arc::clone(&service.answering)));
        Self(named.collect())
    }

    /// Writes `"services_away":{NAME:MILLISECONDS}`: the services whose latest request failed, and for how long they
    /// have not answered. Services without requests are not checked.
    pub fn write(&self, object: &mut ObjectWriter) {
        let mut away = ObjectWriter::new();
        for (name, answering) in &self.0 {
            if let Some(ms) = answering.away_ms() {
                away.number(name, ms);
            }
        }
        object.object("services_away", away);
    }

    /// The metric of services without an answer.
    pub fn metric(&self) -> GatewayMetric {
        let away = |answering: &Answering| u64::from(answering.away_ms().is_some());
        numbers(&MetricName::SERVICE_AWAY, &self.0, away)
    }
}

/// A value for each service, with the service's name.
pub(crate) type ByService<T> = Vec<(&'static str, Arc<T>)>;

/// The requests to a service.
#[derive(Debug)]
pub(crate) struct RequestStats {
    begun: AtomicU64,
    ended: Vec<(&'static str, AtomicU64)>,
    durations: Arc<Durations>,
}

impl RequestStats {
    /// Makes counters at zero. Every request ends with one of these `outcomes`, which are labels of the metric.
    pub(crate) fn new(outcomes: impl IntoIterator<Item = &'static str>) -> Self {
        let zero = |outcome| (outcome, AtomicU64::new(0));
        Self {
            begun: AtomicU64::new(0),
            ended: outcomes.into_iter().map(zero).collect(),
            durations: Arc::default(),
        }
    }

    /// Counts a request that begins.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Counts the end of a request; `outcome` is an index into the outcomes.
    pub(crate) fn end(&self, outcome: usize) {
        if let Some((_, count)) = self.ended.get(outcome) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts the time that a request took.
    pub(crate) fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.durations.observe_us(took_us);
    }

    /// Requests that have ended, by outcome.
    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let ended = self.ended.iter();
        let counted = ended.map(|(outcome, count)| (*outcome, count.load(Relaxed)));
        counted.collect()
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        let ended = self.ended.iter().map(|(_, count)| count.load(Relaxed));
        let ended: u64 = ended.sum();
        self.begun.load(Relaxed).saturating_sub(ended)
    }
}

/// The metric names of [`RequestStats`].
pub(crate) struct RequestMetrics {
    /// Requests that have ended, by outcome.
    pub outcomes: &'static MetricName,
    /// The durations of requests.
    pub durations: &'static MetricName,
    /// Requests in flight.
    pub in_flight: &'static MetricName,
}

impl RequestMetrics {
    /// The metrics of `services`.
    pub(crate) fn metrics_for(self, services: &ByService<RequestStats>) -> Vec<GatewayMetric> {
        let durations_of = |(name, stats): &(&'static str, Arc<RequestStats>)| {
            (*name, Arc::clone(&stats.durations))
        };
        let durations = services.iter().map(durations_of).collect();
        let counted = services.clone();
        let outcomes = move || {
            let outcomes_of = |(name, stats): &(&'static str, Arc<RequestStats>)| {
                let name = *name;
                let outcomes = stats.outcomes().into_iter();
                outcomes.map(move |(outcome, count)| ([name, outcome], count))
            };
            counted.iter().flat_map(outcomes_of).collect()
        };
        vec![
            GatewayMetric::ByTwoLabels(self.outcomes, Box::new(outcomes)),
            GatewayMetric::Durations(self.durations, durations),
            numbers(self.in_flight, services, RequestStats::in_flight),
        ]
    }
}

/// A metric with a number for each service.
pub(crate) fn numbers<T: Send + Sync + 'static>(
    name: &'static MetricName,
    services: &ByService<T>,
    number: impl Fn(&T) -> u64 + Send + Sync + 'static,
) -> GatewayMetric {
    let services = services.clone();
    let numbers = move || {
        let each = services.iter();
        each.map(|(name, stats)| (*name, number(stats))).collect()
    };
    GatewayMetric::ByLabel(name, Box::new(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_is_kept_and_slashes_at_the_end_are_not() {
        for (url, tls, host, port, authority, base) in [
            ("http://lobby:8000", false, "lobby", 8000, "lobby:8000", ""),
            ("http://lobby:8000/", false, "lobby", 8000, "lobby:8000", ""),
            ("http://lobby", false, "lobby", 80, "lobby", ""),
            (
                "HTTPS://Lobby:443/a/b//",
                true,
                "lobby",
                443,
                "lobby",
                "/a/b",
            ),
            ("http://[::1]:9/x", false, "::1", 9, "[::1]:9", "/x"),
        ] {
            let upstream = Upstream::parse(url).expect(url);
            assert_eq!(upstream.tls, tls, "{url}");
            assert_eq!(upstream.host, host, "{url}");
            assert_eq!(upstream.port, port, "{url}");
            assert_eq!(upstream.authority, authority, "{url}");
            assert_eq!(upstream.base_path, base, "{url}");
            assert_eq!(Upstream::parse(&upstream.to_string()), Some(upstream));
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for url in [
            "",
            "lobby:8000",
            "lobby",
            "ftp://lobby",
            "http://",
            "http://u:p@lobby",
            "http://lobby?x",
            "http://lobby#x",
            "http://lobby:0",
            "http://lobby:99999",
        ] {
            assert_eq!(Upstream::parse(url), None, "{url}");
        }
    }

    #[test]
    fn a_service_is_away_from_its_first_failure_to_its_next_answer() {
        let [one, other] = ["one", "other"].map(|name| Arc::new(Answering::new(name)));
        let away = ServicesAway(vec![
            ("one", Arc::clone(&one)),
            ("other", Arc::clone(&other)),
        ]);
        let shown = || {
            let mut object = ObjectWriter::new();
            away.write(&mut object);
            object.finish()
        };
        assert_eq!(shown(), r#"{"services_away":{}}"#);
        one.answered();
        one.failed(&"refused");
        one.failed(&"refused");
        assert!(shown().starts_with(r#"{"services_away":{"one":"#));
        assert!(!shown().contains("other"));
        one.answered();
        assert_eq!(shown(), r#"{"services_away":{}}"#);
    }

    #[test]
    fn a_request_is_in_flight_until_it_is_counted_by_its_outcome() {
        let stats = RequestStats::new(["good", "bad"]);
        stats.begin();
        stats.begin();
        assert_eq!(stats.in_flight(), 2);
        stats.end(1);
        assert_eq!(stats.in_flight(), 1);
        assert_eq!(stats.outcomes(), [("good", 0), ("bad", 1)]);
    }
}
