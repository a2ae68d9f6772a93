//! What makes a setting a limit: something grows up to it, and something happens beyond it.

use crate::hub::CloseReason;
use crate::telemetry::names::MetricName;

/// One named limit. `docs/reference/limits.md` is made of these.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// What happens beyond it.
    pub beyond: &'static str,
    /// Where that shows.
    pub shows: Shows,
    /// The test that hits it: `FILE::FUNCTION`.
    pub test: &'static str,
}

/// Where it shows that a limit was hit.
#[derive(Clone, Copy, Debug)]
pub enum Shows {
    /// As the end of a connection: `reason` of `weirgate_client_closes_total` and in the log.
    Reason(CloseReason),
    /// In a metric.
    Metric(MetricName),
    /// Somewhere else: what to look at.
    Elsewhere(&'static str),
}
