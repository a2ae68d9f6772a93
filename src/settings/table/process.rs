//! Logs, readiness and stop.

use super::super::kind::{Kind, Unit};
use super::super::setting::{Heading, Part, Setting, Shows};
use super::HOUR_MS;
use crate::hub::CloseReason;
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::LOGS,
        "log-format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Lines for people, or one JSON object a line; on standard output",
    ),
    Setting::new(
        Heading::LOGS,
        "log-filter",
        Kind::LogFilter,
        "info",
        "Which lines: error, warn, info, debug, trace, off, or directives",
    )
    .more("Directives have commas between them, such as info,weirgate::http=debug.")
    .original_env(&["RUST_LOG"]),
    Setting::ms(
        Heading::LIFECYCLE,
        "ready-bus-grace-ms",
        (0, 24 * HOUR_MS),
        "30000",
        "How long the bus may be away while /ready stays 200",
    )
    .limit(
        "`/ready` is 503; clients stay, and get the feed once it is back",
        Shows::Metric(names::BUS_CONNECTED),
        "tests/blackbox/test_broker_away.py::test_clients_stay_and_the_feed_returns",
    )
    .part(Part::Bus),
    Setting::new(
        Heading::LIFECYCLE,
        "bus-away-exit-s",
        Kind::number(Unit::Seconds, (0, 24 * 60 * 60)),
        "0",
        "How long the bus may be away before the process ends with status 1; 0: for ever",
    )
    .more("It stops as at a signal. For those whose supervisor is to start it again.")
    .part(Part::Bus),
    Setting::ms(
        Heading::LIFECYCLE,
        "loop-stall-ms",
        (10, HOUR_MS),
        "2000",
        "Age of the last turn of the loop up to which /ready stays 200",
    )
    .limit(
        "`/ready` is 503",
        Shows::Metric(names::LOOP_LAST_TURN),
        "src/http/readiness.rs::a_loop_that_does_not_turn_is_told",
    ),
    Setting::ms(
        Heading::LIFECYCLE,
        "drain-delay-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: how long to go on accepting while /ready says 503",
    )
    .more("Time for a load balancer to notice. Then newcomers get 503."),
    Setting::ms(
        Heading::LIFECYCLE,
        "drain-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: spread the closes over this time",
    )
    .more("So that clients do not all come back to the next instance in one moment."),
    Setting::ms(
        Heading::LIFECYCLE,
        "stop-timeout-ms",
        (100, HOUR_MS),
        "5000",
        "At a stop: the longest time for it, --drain-delay-ms and --drain-ms apart",
    )
    .more("A second signal cuts at once.")
    .limit(
        "who is still connected is cut",
        Shows::Reason(CloseReason::ShuttingDown),
        "tests/blackbox/test_stop.py::test_a_client_that_never_reads_does_not_delay_the_stop",
    ),
];
