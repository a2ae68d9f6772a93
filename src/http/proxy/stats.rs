//! What is counted of proxied requests, for the pages that show it. One writer, the HTTP thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::path::Service;
use crate::telemetry::{Durations, GatewayMetric, names};

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
}

impl Outcome {
    const ALL: [Self; 10] = [
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
        }
    }
}

/// The requests for one service.
#[derive(Debug, Default)]
pub(super) struct ServiceStats {
    begun: AtomicU64,
    ended: [AtomicU64; Outcome::ALL.len()],
    waits: AtomicU64,
    request_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    heads: Arc<Durations>,
}

impl ServiceStats {
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self, outcome: Outcome) {
        if let Some(count) = self.ended.get(outcome as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_wait(&self) {
        self.waits.fetch_add(1, Relaxed);
    }

    pub(super) fn count_request_bytes(&self, bytes: usize) {
        self.request_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn count_answer_bytes(&self, bytes: usize) {
        self.answer_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn observe_head(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.heads.observe_us(took_us);
    }

    fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.ended.iter().map(|count| count.load(Relaxed));
        Outcome::ALL.into_iter().map(Outcome::label).zip(counts)
    }

    fn in_flight(&self) -> u64 {
        let ended = self.outcomes().map(|(_, count)| count).sum();
        self.begun.load(Relaxed).saturating_sub(ended)
    }
}

/// The requests for all services.
#[derive(Clone, Debug, Default)]
pub struct ProxyStats([Arc<ServiceStats>; Service::ALL.len()]);

impl ProxyStats {
    pub(super) fn of(&self, service: Service) -> Arc<ServiceStats> {
        let [measurement, simulation] = &self.0;
        Arc::clone(match service {
            Service::Measurement => measurement,
            Service::Simulation => simulation,
        })
    }

    /// What `/metrics` shows of them.
    pub fn metrics(&self) -> Vec<GatewayMetric> {
        let each = Service::ALL.map(|service| (service.label(), self.of(service)));
        let heads = each.each_ref();
        let heads = heads.map(|(label, stats)| (*label, Arc::clone(&stats.heads)));
        let [outcomes, in_flight, waits] = [(); 3].map(|()| each.clone());
        vec![
            GatewayMetric::ByTwoLabels(
                &names::PROXY_REQUESTS,
                Box::new(move || pairs(&outcomes, |stats| stats.outcomes().collect())),
            ),
            GatewayMetric::Durations(&names::PROXY_HEAD_DURATION, heads.into()),
            GatewayMetric::ByLabel(
                &names::PROXY_REQUESTS_IN_FLIGHT,
                Box::new(move || numbers(&in_flight, ServiceStats::in_flight)),
            ),
            GatewayMetric::ByLabel(
                &names::PROXY_WAITS,
                Box::new(move || numbers(&waits, |stats| stats.waits.load(Relaxed))),
            ),
            GatewayMetric::ByTwoLabels(
                &names::PROXY_BODY_BYTES,
                Box::new(move || {
                    pairs(&each, |stats| {
                        let bytes = [&stats.request_bytes, &stats.answer_bytes];
                        let [request, answer] = bytes.map(|bytes| bytes.load(Relaxed));
                        vec![("request", request), ("answer", answer)]
                    })
                }),
            ),
        ]
    }
}

type Labelled = (&'static str, Arc<ServiceStats>);

fn numbers(
    services: &[Labelled],
    number: impl Fn(&ServiceStats) -> u64,
) -> Vec<(&'static str, u64)> {
    let each = services.iter();
    each.map(|(label, stats)| (*label, number(stats))).collect()
}

fn pairs(
    services: &[Labelled],
    numbers: impl Fn(&ServiceStats) -> Vec<(&'static str, u64)>,
) -> Vec<([&'static str; 2], u64)> {
    let of = |(service, stats): &Labelled| {
        let service = *service;
        let numbers = numbers(stats).into_iter();
        numbers.map(move |(label, number)| ([service, label], number))
    };
    services.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_flight_until_it_is_counted_by_its_outcome() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            let stats = ServiceStats::default();
            stats.begin();
            assert_eq!(stats.in_flight(), 1);
            stats.end(outcome);
            assert_eq!(stats.in_flight(), 0);
            let counted: Vec<_> = stats.outcomes().filter(|(_, n)| *n > 0).collect();
            assert_eq!(counted, [(outcome.label(), 1)]);
        }
    }
}
