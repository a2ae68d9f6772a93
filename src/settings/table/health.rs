//! The health check.

use super::super::limit::Shows;
use super::super::setting::{Heading, Setting, Subcommand};
use super::MINUTE_MS;

pub(super) static ROWS: &[Setting] = &[Setting::ms(
    Heading::Health,
    "health-timeout-ms",
    (1, MINUTE_MS),
    "2000",
    "How long the answer may take",
)
.limit(
    "the check fails",
    Shows::Elsewhere("exit status 1"),
    "src/health_check.rs::silence_and_a_closed_port_end_in_time",
)
.on(&[Subcommand::Health])];
