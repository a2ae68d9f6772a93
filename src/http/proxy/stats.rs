//! What is counted of proxied requests, for the pages that show it. One writer, the HTTP thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::http::services::{
    ByService, FailureReason, RequestMetrics, RequestStats, numbers, pairs,
};
use crate::telemetry::{GatewayMetric, names};

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The service's answer, with a status below 400, was passed on whole.
    Answered,
    /// The same with 400 or above.
    Refused,
    /// 502: the service refused, broke off, or spoke no HTTP.
    Unreachable,
    /// 504: the service was silent for too long.
    Timeout,
    /// 504: none of the service's connections got free in time.
    NoConnection,
    /// The service broke off, or fell silent, once the answer's head was out.
    Cut,
    /// The client left before the answer was whole.
    ClientGone,
    /// 400: the path was a trick.
    BadPath,
    /// 404: the path is the service's own.
    InnerPath,
    /// 400, or 501: the rest of the request was not to be passed on.
    BadRequest,
    /// 502: the head of the service's answer has too many bytes or header lines.
    AnswerHeadTooLarge,
}

impl Outcome {
    const ALL: [Self; 11] = [
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
        }
    }
}

impl From<FailureReason> for Outcome {
    fn from(reason: FailureReason) -> Self {
        match reason {
            FailureReason::Unreachable => Self::Unreachable,
            FailureReason::HeadTooLarge => Self::AnswerHeadTooLarge,
            FailureReason::Timeout => Self::Timeout,
            FailureReason::NoConnection => Self::NoConnection,
        }
    }
}

/// The requests for one service.
#[derive(Debug)]
pub(super) struct ServiceStats {
    /// The durations are those to the answer's head.
    pub(super) requests: Arc<RequestStats>,
    waits: AtomicU64,
    address_waits: AtomicU64,
    request_bytes: AtomicU64,
    answer_bytes: AtomicU64,
}

impl ServiceStats {
    pub(super) fn new() -> Self {
        let outcomes = Outcome::ALL.map(Outcome::label);
        Self {
            requests: Arc::new(RequestStats::new(outcomes)),
            waits: AtomicU64::new(0),
            address_waits: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            answer_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn count_wait(&self) {
        self.waits.fetch_add(1, Relaxed);
    }

    pub(super) fn count_address_wait(&self) {
        self.address_waits.fetch_add(1, Relaxed);
    }

    pub(super) fn count_request_bytes(&self, bytes: usize) {
        self.request_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn count_answer_bytes(&self, bytes: usize) {
        self.answer_bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn body_bytes(&self) -> Vec<(&'static str, u64)> {
        let bytes = [&self.request_bytes, &self.answer_bytes];
        let [request, answer] = bytes.map(|bytes| bytes.load(Relaxed));
        vec![("request", request), ("answer", answer)]
    }
}

/// What `/metrics` shows of the requests for `services`.
pub(super) fn metrics(services: &ByService<ServiceStats>) -> Vec<GatewayMetric> {
    let requests = RequestMetrics {
        outcomes: &names::PROXY_REQUESTS,
        durations: &names::PROXY_HEAD_DURATION,
        in_flight: &names::PROXY_REQUESTS_IN_FLIGHT,
    };
    let each = services.iter();
    let each = each.map(|(name, stats)| (*name, Arc::clone(&stats.requests)));
    let mut metrics = requests.of(&each.collect());
    let waits = |stats: &ServiceStats| stats.waits.load(Relaxed);
    let address_waits = |stats: &ServiceStats| stats.address_waits.load(Relaxed);
    metrics.extend([
        numbers(&names::PROXY_WAITS, services, waits),
        numbers(&names::PROXY_ADDRESS_WAITS, services, address_waits),
        pairs(&names::PROXY_BODY_BYTES, services, ServiceStats::body_bytes),
    ]);
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_outcome() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            let stats = ServiceStats::new();
            stats.requests.end(outcome as usize);
            let counted = stats.requests.outcomes();
            let counted: Vec<_> = counted.into_iter().filter(|(_, n)| *n > 0).collect();
            assert_eq!(counted, [(outcome.label(), 1)]);
        }
    }
}
