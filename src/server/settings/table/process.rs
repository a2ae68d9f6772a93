//! The settings of every process, whatever it serves: logs, readiness and stop, memory, the wait of the loop.
//!
//! `share` is in thousandths of `--memory-max`; operators cannot set such a row. `limit` has the effect beyond the
//! limit, where an operator sees it, and a test that exceeds it. A pair of numbers is the range of a value.
//! `field!(us …)` is a field in microseconds, for a row in milliseconds.

use super::super::field::With;
use super::super::groups::{BusSettings, ProcessSettings, RESUME_BYTES, StreamSettings};
use super::super::kind::{Form, Kind, RefusedValue, Unit};
use super::super::setting::{Heading, Setting, Shows, TablePart};
use super::{GIB, HOUR_MS, KIB, MIB};
use crate::field;
use crate::telemetry::{LogFormat, MetricName};
use weirgate_core::{CloseReason, Limits};
use weirgate_wire::admission::Quota;

pub(super) static LOGS: &[Setting] = &Heading::LOGS.of([
    Setting::new(
        "log-format",
        Kind::Choice(&["text", "json"]),
        &With::<ProcessSettings, String> {
            set: |process, word| {
                process.log_format = match word.as_str() {
                    "json" => LogFormat::Json,
                    _ => LogFormat::Text,
                }
            },
            get: |process| {
                let is_json = process.log_format == LogFormat::Json;
                (if is_json { "json" } else { "text" }).to_owned()
            },
        },
        "Log lines as text or as JSON objects",
    )
    .more(
        "They go to standard output. In a terminal, text is short, and coloured unless NO_COLOR is set.",
    )
    .in_short_help(),
    Setting::new(
        "log-filter",
        Kind::LogFilter,
        field!(ProcessSettings, log_filter),
        "Level of log lines, such as warn, or directives",
    )
    .more(
        "Levels are error, warn, info, debug, trace and off. Directives set a level for each part, such as \
         info,weirgate_server::http=debug.",
    )
    .original_env(&["RUST_LOG"])
    .in_short_help(),
    Setting::new(
        "log-filter-file",
        Kind::Path,
        field!(ProcessSettings, log_filter_file),
        "File with the log filter, read again at SIGHUP; overrides --log-filter",
    )
    .more("A line that begins with # is a comment."),
]);

pub(super) static LIFECYCLE: &[Setting] = &Heading::LIFECYCLE.of([
    Setting::ms(
        "ready-bus-grace-ms",
        (0, 24 * HOUR_MS),
        field!(BusSettings, ready_grace_ms),
        "How long the bus may be away while /ready stays 200",
    )
    .limit(
        "`/ready` is 503; clients stay connected",
        Shows::Metric(MetricName::BUS_CONNECTED),
        "tests/blackbox/test_broker_away.py::test_clients_stay_and_the_feed_returns",
    )
    .part(TablePart::Bus),
    Setting::new(
        "bus-away-exit-s",
        Kind::number(Unit::Seconds, (0, 24 * 60 * 60)),
        field!(BusSettings, away_exit_s),
        "How long the bus may be away before the process exits with 1; 0: for any time",
    )
    .more("The process stops as after a signal, so that systemd or Kubernetes can restart it.")
    .part(TablePart::Bus),
    Setting::ms(
        "drain-delay-ms",
        (0, HOUR_MS),
        field!(us ProcessSettings, drain.delay_us),
        "At a stop: how long new clients are still accepted while /ready is 503",
    )
    .more(
        "This gives a load balancer time to notice the stop. After this time, new clients get 503.",
    ),
    Setting::ms(
        "drain-ms",
        (0, HOUR_MS),
        field!(us ProcessSettings, drain.spread_us),
        "At a stop: spread the closes over this time",
    )
    .more("So the clients do not all reconnect at the same moment.")
    .in_short_help(),
    Setting::new(
        "stop-code",
        Kind::Choice(&["1012", "1001"]),
        &With::<Limits, String> {
            set: |limits, word| limits.stop_code = if word == "1001" { 1001 } else { 1012 },
            get: |limits| limits.stop_code.to_string(),
        },
        "At a stop: the close code of clients, 1012 (restart) or 1001 (going away)",
    )
    .more("Use 1001 if clients have a library that rejects 1012, such as OkHttp 3.")
    .part(TablePart::StopCode),
    Setting::ms(
        "close-retry-after-ms",
        (0, 300_000),
        field!(Limits, close_retry_after_ms),
        "At a stop: how long clients are asked to wait before they reconnect; 0 for none",
    ),
    Setting::ms(
        "stop-timeout-ms",
        (100, HOUR_MS),
        field!(us ProcessSettings, stop_timeout_us),
        "At a stop: time limit after --drain-delay-ms and --drain-ms",
    )
    .more("A second signal ends the process immediately.")
    .limit(
        "connections that are still open are cut",
        Shows::Reason(CloseReason::ShuttingDown),
        "tests/blackbox/test_stop.py::test_a_client_that_never_reads_does_not_delay_the_stop",
    ),
]);

pub(super) static MEMORY: &[Setting] = &Heading::MEMORY.of([
    Setting::bytes(
        "memory-max",
        (0, 1024 * GIB),
        field!(ProcessSettings, memory_max),
        "Memory that all limits of bytes share; 0: three quarters of the memory limit",
    )
    .more(
        "The memory limit is that of the container, of the systemd unit or of the process (ulimit -v, -d); without \
         one, each limit keeps its default. --check prints the parts.",
    )
    .limit(
        "the limit whose part is used up applies",
        Shows::Elsewhere("as in the row of that limit; `--check` prints the parts"),
        "src/server/settings/memory_share.rs::a_limit_that_nobody_has_set_has_its_part",
    ),
    Setting::bytes(
        "connection-bytes",
        (MIB, 1024 * GIB),
        field!(Limits, connection_bytes_max),
        "Memory of all connections, HTTP included",
    )
    .more(
        "A WebSocket or an event stream counts with 1.25 KiB, a connection of plain HTTP with 14 KiB, TLS with 5 KiB more, a \
         token with its text. An address gets more only while it holds less than is left free.",
    )
    .share(150)
    .limit(
        "an idle connection of plain HTTP ends, or the new one gets [503](#connections-and-memory)",
        Shows::Reason(CloseReason::ConnectionMemory),
        "tests/hub_rules/connections.rs::connections_are_refused_over_their_memory_and_an_address_has_a_share",
    ),
    Setting::bytes(
        "unfinished-bytes",
        (64 * KIB, 1024 * GIB),
        field!(Limits, unfinished_bytes_max),
        "Bytes from clients that weirgate cannot process yet, such as unfinished messages",
    )
    .more(
        "What has arrived of heads and messages that are not whole yet, of the input of paused clients, and pongs that a \
         client does not take. At least --message-bytes-max; a client alone may always finish.",
    )
    .share(60)
    .limit(
        "weirgate drops the clients that [held the most for the longest](#shares)",
        Shows::Reason(CloseReason::MessageMemory),
        "tests/hub_rules/unfinished.rs::past_the_limit_of_all_clients_those_go_that_hold_most_for_longest",
    ),
    Setting::bytes(
        "inflate-window-bytes",
        (0, 1024 * GIB),
        field!(Limits, inflate_windows_bytes_max),
        "Bytes of earlier text that compressed messages from clients may refer to",
    )
    .more(
        "A client that may refer to its earlier messages counts with its whole window, 32 KiB or less \
            as offered, and needs as much as it has sent: a few short messages, some hundred bytes.",
    )
    .share(60)
    .limit(
        "further clients get `client_no_context_takeover`: their messages refer to no earlier ones",
        Shows::Metric(MetricName::INFLATE_WINDOWS_REFUSED),
        "tests/hub_rules/inflate.rs::over_the_limit_of_all_clients_the_answer_changes_and_nobody_is_closed",
    ),
    Setting::bytes(
        "http-bytes",
        (64 * KIB, 32 * MIB),
        &With::<Limits, u64> {
            set: |limits, bytes| limits.http_held = Quota::new("http_bytes", bytes),
            get: |limits| limits.http_held.max(),
        },
        "Plain HTTP: bytes of requests and responses that wait to be processed or sent",
    )
    .more(
        "Behind a head, behind a request that is being answered, and small request bodies for services by their announced \
         length. An address gets more only while it has less than is free. Of answers what a client does not take, twice: a \
         buffer that grows has so much room. While a service still answers, its connection has a charge of its own.",
    )
    .share(40)
    .limit(
        "further requests are not read; small bodies are passed on in pieces; weirgate ends the connections that [held \
         the most for the longest](#shares)",
        Shows::Reason(CloseReason::HttpMemory),
        "src/server/http/tests/limits.rs::over_their_limit_bytes_that_came_with_connections_give_way",
    ),
    Setting::bytes(
        "resumed-bytes",
        (RESUME_BYTES, 64 * MIB),
        &With::<Limits, u64> {
            set: |limits, bytes| limits.resume_messages_max = bytes / RESUME_BYTES,
            get: |limits| limits.resume_messages_max * RESUME_BYTES,
        },
        "Missed messages that wait to be sent to clients that resumed: 16 bytes for each",
    )
    .more("Their texts are kept once, with --history-ms.")
    .share(30)
    .limit(
        "the response to the resume says `large` ([shares](#shares))",
        Shows::Metric(MetricName::RESUMES),
        "tests/trades_gateway/resume_limits.rs::no_more_is_sent_again_to_an_address_that_holds_what_is_left",
    ),
    Setting::bytes(
        "bus-queue-bytes",
        (KIB, 1024 * GIB),
        field!(BusSettings, queue_bytes_max),
        "Bytes of the messages read from the bus that wait for the event loop",
    )
    .more("One message of any size always has room.")
    .share(60)
    .limit(
        "weirgate stops reading from the bus; JetStream keeps the rest",
        Shows::Metric(MetricName::BUS_QUEUE_BYTES),
        "src/runtime/source.rs::large_messages_wait_at_the_bus_and_not_in_memory",
    )
    .part(TablePart::Bus),
    Setting::bytes(
        "stream-answer-bytes",
        (KIB, 1024 * GIB),
        field!(StreamSettings, answer_bytes_max),
        "Bytes of the messages in an answer of a Redis stream that is not checked yet",
    )
    .more("One message of any size always has room.")
    .share(30)
    .limit(
        "weirgate requests fewer messages at a time",
        // An operator sees it nowhere.
        Shows::Elsewhere("–"),
        "src/bus/redis/stream/reader/tests.rs::answers_stay_within_their_bytes",
    )
    .part(TablePart::Stream),
]);

const CPUS_ALLOWED: &str = "one or two numbers of CPUs, such as 2 or 2,3";

/// The form of `--cpus`.
static CPUS: Form = Form::new("LOOP,BUS", CPUS_ALLOWED, |text| match parse_cpus(text) {
    Some(_) => Ok(text.to_owned()),
    None => Err(RefusedValue::new(text, CPUS_ALLOWED)),
});

/// Parses the CPU of the loop and that of the thread of the bus: both, only the first, or none. `None`: the text has
/// more numbers, or something else.
fn parse_cpus(text: &str) -> Option<Vec<usize>> {
    let numbers = text.split(',').filter(|_| !text.is_empty());
    let cpus: Option<Vec<usize>> = numbers
        .map(|number| {
            let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse().ok().filter(|_| is_decimal)
        })
        .collect();
    cpus.filter(|cpus| cpus.len() <= 2)
}

/// How the loop waits for work.
pub(super) static LATENCY: &[Setting] = &Heading::LATENCY.of([
    Setting::new(
        "spin-us",
        Kind::number(Unit::Microseconds, (0, 1_000_000)),
        field!(ProcessSettings, spin_us),
        "How long event loop and bus thread poll before they sleep; 0: not at all",
    )
    .more("Polling saves wake-ups and costs up to a whole CPU for each of the two threads."),
    Setting::new(
        "cpus",
        Kind::Form(&CPUS),
        &With::<ProcessSettings, String> {
            set: |process, text| process.cpus = parse_cpus(&text).unwrap_or_default(),
            get: |process| {
                let cpus = process.cpus.iter().map(usize::to_string);
                cpus.collect::<Vec<_>>().join(",")
            },
        },
        "Numbers of the CPUs for the event loop and for the bus thread, such as 2,3",
    )
    .more("A single number is for the event loop."),
]);
