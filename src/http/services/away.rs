//! Which services do not answer: named on pages, logged when that begins and when it ends.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Service;
use crate::base::{Clock, LogBudget, LogLine};
use crate::telemetry::{GatewayMetric, names};
use crate::wire::object_writer::ObjectWriter;

/// Lines a second about one service whose answers come and go.
const LINES_PER_SECOND: u32 = 5;

/// Whether one service answers: what its calls and its proxied requests have seen last.
#[derive(Debug)]
pub(super) struct Answering {
    service: &'static str,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The first failure since the last answer, microseconds of the clock.
    away_since_us: Option<u64>,
    lines: LogBudget,
}

impl Answering {
    /// A service that was not asked yet counts as one that answers.
    pub(super) fn new(service: &'static str) -> Self {
        Self {
            service,
            clock: Clock::start(),
            state: Mutex::new(State {
                away_since_us: None,
                lines: LogBudget::new(LINES_PER_SECOND),
            }),
        }
    }

    /// The head of an answer came, whatever it says.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        let Some(since_us) = state.away_since_us.take() else {
            return;
        };
        let now = self.clock.now();
        if let Some(LogLine { suppressed }) = state.lines.line(now) {
            tracing::info!(
                service = self.service,
                away_ms = now.mono_us.saturating_sub(since_us) / 1_000,
                lines_left_out = suppressed,
                "a service answers again"
            );
        }
    }

    /// A request got no answer.
    pub(super) fn failed(&self, cause: &dyn Display) {
        let mut state = self.state();
        if state.away_since_us.is_some() {
            return;
        }
        let now = self.clock.now();
        state.away_since_us = Some(now.mono_us);
        if let Some(LogLine { suppressed }) = state.lines.line(now) {
            tracing::warn!(
                service = self.service,
                %cause,
                lines_left_out = suppressed,
                "a service does not answer"
            );
        }
    }

    fn away_ms(&self) -> Option<u64> {
        let since_us = self.state().away_since_us?;
        Some(self.clock.now().mono_us.saturating_sub(since_us) / 1_000)
    }

    /// No holder of this lock can panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The services of a gateway, for the pages that name those without an answer.
#[derive(Clone, Debug)]
pub struct ServicesAway(Vec<Arc<Answering>>);

impl ServicesAway {
    /// Looks at these services from here on.
    pub fn of(services: &[Service]) -> Self {
        let states = services.iter().map(|service| &service.answering);
        Self(states.map(Arc::clone).collect())
    }

    /// Writes `"services_away":{NAME:MILLISECONDS}`: the services that did not answer when they
    /// were asked last, and for how long. A service that nobody asks is not looked at.
    pub fn write(&self, object: &mut ObjectWriter) {
        let mut away = ObjectWriter::new();
        for service in &self.0 {
            if let Some(ms) = service.away_ms() {
                away.number(service.service, ms);
            }
        }
        object.object("services_away", away);
    }

    /// What `/metrics` shows of them.
    pub fn metric(&self) -> GatewayMetric {
        let services = self.clone();
        let each = move || {
            let away = |service: &Arc<Answering>| {
                (service.service, u64::from(service.away_ms().is_some()))
            };
            services.0.iter().map(away).collect()
        };
        GatewayMetric::ByLabel(&names::SERVICE_AWAY, Box::new(each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_away_from_its_first_failure_to_its_next_answer() {
        let [one, other] = ["one", "other"].map(|name| Arc::new(Answering::new(name)));
        let away = ServicesAway(vec![Arc::clone(&one), Arc::clone(&other)]);
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
}
