//! One request from its arrival to its end: counted once, and told of in the log where it failed,
//! a few lines a second. Never logs a path, a query, a header or a body.

use std::error::Error;
use std::iter;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use tokio::time::Instant;
use tracing::warn;

use super::stats::{Outcome, ServiceStats};
use crate::admission::Peer;
use crate::base::{Clock, LogBudget, LogLine};
use crate::http::services::Service;

/// Lines of one kind and one service within a second; what is over is counted and said later.
const LINES_PER_SECOND: u32 = 5;

/// What is told of one service's requests.
#[derive(Debug)]
pub(super) struct Watch {
    service: &'static str,
    /// Host and port, as the log says them.
    upstream: String,
    stats: Arc<ServiceStats>,
    clock: Clock,
    /// Of the service.
    failures: Mutex<LogBudget>,
    /// Of clients; their flood leaves room for the service's.
    refusals: Mutex<LogBudget>,
}

impl Watch {
    pub(super) fn new(service: &Service, stats: Arc<ServiceStats>, clock: Clock) -> Self {
        let authority = service.upstream().authority().to_str();
        let budget = || Mutex::new(LogBudget::new(LINES_PER_SECOND));
        Self {
            service: service.name(),
            upstream: authority.unwrap_or_default().to_owned(),
            stats,
            clock,
            failures: budget(),
            refusals: budget(),
        }
    }

    fn line(&self, budget: &Mutex<LogBudget>) -> Option<LogLine> {
        // No holder of this lock can panic.
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.line(self.clock.now())
    }
}

/// One request. It is counted when this is dropped: as one whose client left, unless something
/// else was said of it.
#[derive(Debug)]
pub(super) struct Exchange {
    watch: Arc<Watch>,
    peer: Peer,
    begun: Instant,
    status: StatusCode,
    outcome: Option<Outcome>,
}

impl Exchange {
    pub(super) fn begin(watch: &Arc<Watch>, peer: Peer) -> Self {
        watch.stats.requests.begin();
        Self {
            watch: Arc::clone(watch),
            peer,
            begun: Instant::now(),
            status: StatusCode::OK,
            outcome: None,
        }
    }

    /// The head of the service's answer is there.
    pub(super) fn has_head(&mut self, status: StatusCode) {
        self.status = status;
        self.watch.stats.requests.observe(self.begun.elapsed());
    }

    /// Bytes of the answer's body are on their way to the client.
    pub(super) fn count_answer_bytes(&self, bytes: usize) {
        self.watch.stats.count_answer_bytes(bytes);
    }

    /// All of the service's answer is there.
    pub(super) fn is_whole(&mut self) {
        let is_good = self.status.as_u16() < 400;
        let outcome = if is_good {
            Outcome::Answered
        } else {
            Outcome::Refused
        };
        self.outcome.get_or_insert(outcome);
    }

    /// The client asked for what is not passed on.
    pub(super) fn refuse(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        let Some(LogLine { suppressed }) = self.watch.line(&self.watch.refusals) else {
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

    /// The service failed.
    pub(super) fn fail(&mut self, outcome: Outcome, cause: &(dyn Error + 'static)) {
        self.outcome = Some(outcome);
        let Some(LogLine { suppressed }) = self.watch.line(&self.watch.failures) else {
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

impl Drop for Exchange {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Outcome::ClientGone);
        self.watch.stats.requests.end(outcome as usize);
    }
}

/// An error and what it comes from; libraries say little in the first.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let all = iter::successors(Some(error), |&error| error.source());
    let texts: Vec<String> = all.map(ToString::to_string).collect();
    texts.join(": ")
}
