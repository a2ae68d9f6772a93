//! Logs, readiness and stop.

use super::super::kind::{Kind, Unit};
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, HOUR_MS};
use crate::hub::CloseReason;
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::LOGS,
        "log-format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Log lines as text or as JSON objects",
    )
    .more("On standard output. Text is short and coloured in a terminal, unless NO_COLOR is set.")
    .in_short_help(),
    Setting::new(
        Heading::LOGS,
        "log-filter",
        Kind::LogFilter,
        "info",
        "Level of log lines, such as warn, or directives",
    )
    .more(
        "Levels: error, warn, info, debug, trace, off. Directives are separated by commas, such as \
         info,weirgate::http=debug.",
    )
    .original_env(&["RUST_LOG"])
    .in_short_help(),
    Setting::new(
        Heading::LOGS,
        "log-filter-file",
        Kind::Path,
        "",
        "File with the log filter, read again at SIGHUP; overrides --log-filter",
    )
    .more("Directives on one line or several. A line that begins with # is a comment."),
    Setting::ms(
        Heading::LIFECYCLE,
        "ready-bus-grace-ms",
        (0, 24 * HOUR_MS),
        "30000",
        "How long the bus may be away while /ready stays 200",
    )
    .limit(
        "`/ready` is 503; clients stay connected, and get the feed once the bus is back",
        Shows::Metric(names::BUS_CONNECTED),
        "tests/blackbox/test_broker_away.py::test_clients_stay_and_the_feed_returns",
    )
    .part(Part::Bus),
    Setting::new(
        Heading::LIFECYCLE,
        "bus-away-exit-s",
        Kind::number(Unit::Seconds, (0, 24 * 60 * 60)),
        "0",
        "How long the bus may be away before the process exits with 1; 0: without end",
    )
    .more("The process stops as after a signal. For a supervisor that restarts the process.")
    .part(Part::Bus),
    Setting::ms(
        Heading::LIFECYCLE,
        "loop-stall-ms",
        (10, HOUR_MS),
        "2000",
        "Longest time since the last turn of the event loop while /ready stays 200",
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
        "At a stop: how long new clients are still accepted while /ready is 503",
    )
    .more("A load balancer gets this time to notice. Then new clients get 503."),
    Setting::ms(
        Heading::LIFECYCLE,
        "drain-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: spread the closes over this time",
    )
    .more("Clients then do not all reconnect to the next instance in the same moment.")
    .in_short_help(),
    Setting::new(
        Heading::LIFECYCLE,
        "stop-code",
        Kind::Choice(&["1012", "1001"]),
        "1012",
        "At a stop: the close code of clients, 1012 (restart) or 1001 (going away)",
    )
    .more(
        "1001 is for clients whose library has no 1012 and shows it as 1002 or as a failure: \
         faye-websocket, Tomcat, OkHttp 3, libwebsockets 4.1.",
    )
    .part(Part::StopCode),
    Setting::ms(
        Heading::LIFECYCLE,
        "close-retry-after-ms",
        (0, 300_000),
        "0",
        "At a stop: how long clients are asked to wait before they reconnect; 0 for none",
    )
    .more(
        "The reason of the close frame then ends with retry_after_ms=N, also with close code \
            1013. The clients of weirgate wait that long, plus a random time.",
    ),
    Setting::ms(
        Heading::LIFECYCLE,
        "stop-timeout-ms",
        (100, HOUR_MS),
        "5000",
        "At a stop: time limit, in addition to --drain-delay-ms and --drain-ms",
    )
    .more("A second signal ends the process at once.")
    .limit(
        "connections that are still open are cut",
        Shows::Reason(CloseReason::ShuttingDown),
        "tests/blackbox/test_stop.py::test_a_client_that_never_reads_does_not_delay_the_stop",
    ),
    Setting::bytes(
        Heading::MEMORY,
        "memory-max",
        (0, 1024 * GIB),
        "0",
        "Memory that the limits below share; 0: three quarters of the memory limit",
    )
    .more(
        "Each limit of bytes over all clients has a fixed part of this memory, unless set by itself; --check shows the parts. \
         The rest, 15 %, is for the program and its connections. By default the memory is three quarters of the limit of the \
         control group (a container's memory limit), and lowers the limits only; without such a limit, nothing is shared.",
    )
    .limit(
        "each limit with a part of this memory applies",
        Shows::Elsewhere("`--check`; as those limits"),
        "src/settings/memory.rs::a_limit_that_nobody_has_set_has_its_part",
    ),
];
