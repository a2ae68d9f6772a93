//! The health check.

use super::super::limit::Shows;
use super::super::setting::{Heading, Part, Setting};
use super::MINUTE_MS;

pub(super) static ROWS: &[Setting] = &[Setting::ms(
    Heading::HEALTH,
    "health-timeout-ms",
    (1, MINUTE_MS),
    "2000",
    "How long the answer may take",
)
.limit(
    "the check fails",
    Shows::Elsewhere("exit status 1"),
    "src/commands/health.rs::silence_and_a_closed_port_end_in_time",
)
.part(Part::Health)];
