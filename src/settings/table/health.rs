//! The health check.

use super::super::setting::{Heading, Setting, Subcommand};
use super::MINUTE_MS;

pub(super) static ROWS: &[Setting] = &[Setting::ms(
    Heading::Health,
    "health-timeout-ms",
    (1, MINUTE_MS),
    "2000",
    "How long the answer may take",
)
.on(&[Subcommand::Health])];
