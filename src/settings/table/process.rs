//! Logs, readiness and stop.

use super::super::kind::Kind;
use super::super::setting::Heading::{Lifecycle, Logs};
use super::super::setting::Setting;
use super::HOUR_MS;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Logs,
        "log-format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Lines for people, or one JSON object a line; on standard output",
    ),
    Setting::ms(
        Lifecycle,
        "ready-bus-grace-ms",
        (0, 24 * HOUR_MS),
        "30000",
        "How long the bus may be away before /ready says 503",
    ),
    Setting::ms(
        Lifecycle,
        "loop-stall-ms",
        (10, HOUR_MS),
        "2000",
        "Age of the last turn of the loop from which /ready says 503",
    ),
    Setting::ms(
        Lifecycle,
        "drain-delay-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: how long to go on accepting while /ready says 503",
    )
    .more("Time for a load balancer to notice. Then newcomers get 503."),
    Setting::ms(
        Lifecycle,
        "drain-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: spread the closes over this time",
    )
    .more("So that clients do not all come back to the next instance in one moment."),
    Setting::ms(
        Lifecycle,
        "stop-timeout-ms",
        (100, HOUR_MS),
        "5000",
        "At a stop: the longest time for it, --drain-delay-ms and --drain-ms apart",
    )
    .more("What is not closed by then is cut. A second signal cuts at once."),
];
