//! Counters of requests to services, for metrics and pages. Each has a single writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::telemetry::names::MetricName;
use crate::telemetry::{Durations, GatewayMetric};

/// A value for each service, with the service's name.
pub(in crate::http) type ByService<T> = Vec<(&'static str, Arc<T>)>;

/// The requests to a service.
#[derive(Debug)]
pub(in crate::http) struct RequestStats {
    begun: AtomicU64,
    ended: Vec<(&'static str, AtomicU64)>,
    durations: Arc<Durations>,
}

impl RequestStats {
    /// Counters without a request. A request ends with one of these `outcomes`, as named in metrics.
    pub(in crate::http) fn new(outcomes: impl IntoIterator<Item = &'static str>) -> Self {
        let zero = |outcome| (outcome, AtomicU64::new(0));
        Self {
            begun: AtomicU64::new(0),
            ended: outcomes.into_iter().map(zero).collect(),
            durations: Arc::default(),
        }
    }

    pub(in crate::http) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Counts the end of a request, with the outcome at this index.
    pub(in crate::http) fn end(&self, outcome: usize) {
        if let Some((_, count)) = self.ended.get(outcome) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(in crate::http) fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.durations.observe_us(took_us);
    }

    /// Requests that have ended, by outcome.
    pub(in crate::http) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let ended = self.ended.iter();
        let counted = ended.map(|(outcome, count)| (*outcome, count.load(Relaxed)));
        counted.collect()
    }

    /// Requests in flight.
    pub(in crate::http) fn in_flight(&self) -> u64 {
        let ended = self.ended.iter().map(|(_, count)| count.load(Relaxed));
        let ended: u64 = ended.sum();
        self.begun.load(Relaxed).saturating_sub(ended)
    }
}

/// The metric names of [`RequestStats`].
pub(in crate::http) struct RequestMetrics {
    /// Requests that have ended, by outcome.
    pub(in crate::http) outcomes: &'static MetricName,
    /// The durations of requests.
    pub(in crate::http) durations: &'static MetricName,
    /// Requests in flight.
    pub(in crate::http) in_flight: &'static MetricName,
}

impl RequestMetrics {
    /// The metrics of `services`.
    pub(in crate::http) fn of(self, services: &ByService<RequestStats>) -> Vec<GatewayMetric> {
        let durations = services.iter();
        let durations = durations.map(|(name, stats)| (*name, Arc::clone(&stats.durations)));
        vec![
            pairs(self.outcomes, services, RequestStats::outcomes),
            GatewayMetric::Durations(self.durations, durations.collect()),
            numbers(self.in_flight, services, RequestStats::in_flight),
        ]
    }
}

/// A metric with a number for each service.
pub(in crate::http) fn numbers<T: Send + Sync + 'static>(
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

/// A metric with several numbers for each service, each with its label.
pub(in crate::http) fn pairs<T: Send + Sync + 'static>(
    name: &'static MetricName,
    services: &ByService<T>,
    numbers: impl Fn(&T) -> Vec<(&'static str, u64)> + Send + Sync + 'static,
) -> GatewayMetric {
    let services = services.clone();
    let pairs = move || {
        let of = |(name, stats): &(&'static str, Arc<T>)| {
            let name = *name;
            let numbers = numbers(stats).into_iter();
            numbers.map(move |(label, number)| ([name, label], number))
        };
        services.iter().flat_map(of).collect()
    };
    GatewayMetric::ByTwoLabels(name, Box::new(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

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
