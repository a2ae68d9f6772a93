//! A proxied request from arrival to end. Counts it once, for metrics and pages; logs failures, at most a few lines a
//! second. Never logs a path, a query, a header or a body.

use std::error::Error;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use tokio::time::Instant;
use tracing::warn;

use crate::gateways::events::metrics;
use crate::services::{
    ByService, FailureReason, NoPermit, RequestMetrics, RequestStats, Service, numbers,
};
use weirgate_runtime::Clock;
use weirgate_server::http::Progress;
use weirgate_server::telemetry::{GatewayMetric, MetricName};
use weirgate_wire::admission::Peer;
use weirgate_wire::base::LogBudget;

/// The most log lines a second of one kind, for one service. Further lines are counted, and a later line has their
/// number.
const LINES_PER_SECOND: u32 = 5;

/// The log and the counters of a service's requests.
#[derive(Debug)]
pub(super) struct ServiceWatch {
    service: &'static str,
    /// Host and port, for the log.
    upstream: String,
    pub(super) stats: Arc<ServiceStats>,
    clock: Clock,
    /// Lines about failures of the service.
    failures: Mutex<LogBudget>,
    /// Lines about clients. They have a separate budget, so that many refusals do not suppress lines about failures.
    refusals: Mutex<LogBudget>,
}

impl ServiceWatch {
    pub(super) fn new(service: &Service, clock: Clock) -> Self {
        let authority = service.upstream.authority.to_str();
        let budget = || Mutex::new(LogBudget::new(LINES_PER_SECOND));
        Self {
            service: service.name(),
            upstream: authority.unwrap_or_default().to_owned(),
            stats: Arc::new(ServiceStats::new()),
            clock,
            failures: budget(),
            refusals: budget(),
        }
    }

    fn line(&self, budget: &Mutex<LogBudget>) -> Option<u64> {
        // No holder of this lock can panic.
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.line(self.clock.now())
    }
}

/// A request. It is counted when this is dropped: as `ClientGone`, unless another outcome was recorded.
#[derive(Debug)]
pub(super) struct ProxiedRequest {
    watch: Arc<ServiceWatch>,
    peer: Peer,
    begun: Instant,
    status: StatusCode,
    outcome: Option<ProxyOutcome>,
}

impl ProxiedRequest {
    pub(super) fn begin(watch: &Arc<ServiceWatch>, peer: Peer) -> Self {
        watch.stats.requests.begin();
        Self {
            watch: Arc::clone(watch),
            peer,
            begun: Instant::now(),
            status: StatusCode::OK,
            outcome: None,
        }
    }

    /// Records the head of the service's answer.
    pub(super) fn note_head(&mut self, status: StatusCode) {
        self.status = status;
        self.watch.stats.requests.observe(self.begun.elapsed());
    }

    /// Records the end of the service's answer.
    pub(super) fn note_end(&mut self) {
        let outcome = match self.status.as_u16() {
            ..400 => ProxyOutcome::Answered,
            _ => ProxyOutcome::Refused,
        };
        self.outcome.get_or_insert(outcome);
    }

    /// Records and logs a request that is not passed on.
    pub(super) fn refuse(&mut self, outcome: ProxyOutcome) {
        self.outcome = Some(outcome);
        let Some(suppressed) = self.watch.line(&self.watch.refusals) else {
            return;
        };
        warn!(
            service = self.watch.service,
            outcome = outcome.label(),
            peer = %self.peer.client(),
            suppressed,
            "proxied request refused"
        );
    }

    /// Records and logs a failure of the service.
    pub(super) fn fail(&mut self, outcome: ProxyOutcome, cause: &(dyn Error + 'static)) {
        self.outcome = Some(outcome);
        let Some(suppressed) = self.watch.line(&self.watch.failures) else {
            return;
        };
        warn!(
            service = self.watch.service,
            upstream = self.watch.upstream,
            outcome = outcome.label(),
            cause = with_causes(cause),
            after_ms = self.begun.elapsed().as_millis() as u64,
            suppressed,
            "proxied request failed"
        );
    }
}

impl Drop for ProxiedRequest {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(ProxyOutcome::ClientGone);
        self.watch.stats.requests.end(outcome as usize);
    }
}

/// Returns the texts of an error and its causes: the outermost error of a library often says little.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let all = iter::successors(Some(error), |&error| error.source());
    let texts: Vec<String> = all.map(ToString::to_string).collect();
    texts.join(": ")
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyOutcome {
    /// The service's answer, with a status below 400, was passed on whole.
    Answered,
    /// The service's answer, with a status of 400 or above, was passed on whole.
    Refused,
    /// 502: the service refused, broke off, or did not speak HTTP.
    Unreachable,
    /// 504: the service was silent for too long.
    Timeout,
    /// 504: no connection to the service became free in time.
    NoConnection,
    /// The service broke off or fell silent after the answer's head.
    Cut,
    /// The client left before the answer was whole.
    ClientGone,
    /// 400: in some reading the path leaves the proxied paths.
    BadPath,
    /// 404: the path is reserved for services.
    InnerPath,
    /// 400 or 501: another part of the request cannot be passed on.
    BadRequest,
    /// 502: the head of the service's answer has too many bytes or header lines.
    AnswerHeadTooLarge,
    /// 408: the body of the request arrived too slowly.
    SlowBody,
    /// 401, 403 or 503: the token of the request is refused.
    BadToken,
}

impl ProxyOutcome {
    const ALL: [Self; 13] = [
        Self::Answered,
        Self::Refused,
        Self::Unreachable,
        Self::Timeout,
        Self::NoConnection,
        Self::Cut,
        Self::ClientGone,
        Self::BadPath,
        Self::InnerPath,
        Self::BadRequest,
        Self::AnswerHeadTooLarge,
        Self::SlowBody,
        Self::BadToken,
    ];

    /// The metric label.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::NoConnection => "no_connection",
            Self::Cut => "cut",
            Self::ClientGone => "client_gone",
            Self::BadPath => "bad_path",
            Self::InnerPath => "inner_path",
            Self::BadRequest => "bad_request",
            Self::AnswerHeadTooLarge => "answer_head_too_large",
            Self::SlowBody => "slow_body",
            Self::BadToken => "bad_token",
        }
    }

    /// The outcome of a request whose body is broken.
    pub(super) fn of_broken(upload: &Progress) -> Self {
        match upload.is_too_slow() {
            true => Self::SlowBody,
            false => Self::BadRequest,
        }
    }
}

impl From<FailureReason> for ProxyOutcome {
    fn from(reason: FailureReason) -> Self {
        match reason {
            FailureReason::Unreachable => Self::Unreachable,
            FailureReason::HeadTooLarge => Self::AnswerHeadTooLarge,
            FailureReason::Timeout => Self::Timeout,
            FailureReason::NoConnection => Self::NoConnection,
            FailureReason::RequestBody => Self::BadRequest,
        }
    }
}

/// The requests for a service.
#[derive(Debug)]
pub(super) struct ServiceStats {
    /// The durations end at the answer's head.
    pub(super) requests: Arc<RequestStats>,
    waits: AtomicU64,
    address_waits: AtomicU64,
    ungathered: AtomicU64,
}

impl ServiceStats {
    pub(super) fn new() -> Self {
        let outcomes = ProxyOutcome::ALL.map(ProxyOutcome::label);
        Self {
            requests: Arc::new(RequestStats::new(outcomes)),
            waits: AtomicU64::new(0),
            address_waits: AtomicU64::new(0),
            ungathered: AtomicU64::new(0),
        }
    }

    /// Counts a request that has to wait for a connection to the service.
    pub(super) fn count_wait(&self, reason: NoPermit) {
        let waits = match reason {
            NoPermit::AddressShare => &self.address_waits,
            NoPermit::Full => &self.waits,
        };
        waits.fetch_add(1, Relaxed);
    }

    pub(super) fn count_ungathered(&self) {
        self.ungathered.fetch_add(1, Relaxed);
    }
}

/// The metrics of the requests for `services`.
pub(super) fn metrics(services: &ByService<ServiceStats>) -> Vec<GatewayMetric> {
    let requests = RequestMetrics {
        outcomes: &metrics::PROXY_REQUESTS,
        durations: &metrics::PROXY_HEAD_DURATION,
        in_flight: &MetricName::PROXY_REQUESTS_IN_FLIGHT,
    };
    let each = services.iter();
    let each = each.map(|(name, stats)| (*name, Arc::clone(&stats.requests)));
    let mut metrics = requests.metrics_for(&each.collect());
    let waits = |stats: &ServiceStats| stats.waits.load(Relaxed);
    let address_waits = |stats: &ServiceStats| stats.address_waits.load(Relaxed);
    let ungathered = |stats: &ServiceStats| stats.ungathered.load(Relaxed);
    metrics.extend([
        numbers(&metrics::PROXY_WAITS, services, waits),
        numbers(&metrics::PROXY_ADDRESS_WAITS, services, address_waits),
        numbers(&metrics::PROXY_UNGATHERED_BODIES, services, ungathered),
    ]);
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_outcome() {
        for (index, outcome) in ProxyOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            let stats = ServiceStats::new();
            stats.requests.end(outcome as usize);
            let counted = stats.requests.outcomes();
            let counted: Vec<_> = counted.into_iter().filter(|(_, n)| *n > 0).collect();
            assert_eq!(counted, [(outcome.label(), 1)]);
        }
    }
}
