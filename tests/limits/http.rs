//! Fixed limits of plain HTTP, calls of services, and the proxy.

use weirgate::hub::CloseReason;
use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const HTTP: &[Fixed] = &[
    Fixed {
        what: "Plain HTTP: bytes that are read before they are used, of all clients: behind a head, behind a request that is \
               being answered, and small request bodies for services by their announced length",
        value: "32 MiB, of which an address gets more only while it has less than is free",
        beyond: "not read; a small body is passed on in pieces, as a large one: the request takes a connection to the service \
                 first. What comes from the loop all the same makes room: those end first that have the most bytes times the \
                 time since their last progress",
        shows: Shows::Reason(CloseReason::HttpMemory),
        code: (
            "src/hub/limits.rs",
            "HTTP_BYTES_MAX: u64 = 32 * 1024 * 1024;",
        ),
        test: "tests/http_plane/limits.rs::over_their_limit_bytes_that_came_with_connections_give_way",
    },
    Fixed {
        what: "Plain HTTP: bytes of one connection read behind a request that is being answered",
        value: "256 KiB",
        beyond: "not read; a client that ends its half behind more is seen to leave once the \
                 request is answered",
        shows: Shows::Metric(names::PROCESS_RESIDENT_MEMORY),
        code: ("src/http/gate.rs", "AHEAD_BYTES_MAX: usize = 256 * 1024;"),
        test: "tests/http_proxy/faults.rs::a_client_that_goes_is_seen_behind_what_it_pipelined",
    },
    Fixed {
        what: "Proxy: bytes of one body on its way between a client and a service, in the buffers of both connections: a piece \
               that waits to be written, one on its way, one that is being read",
        value: "64 KiB each; measured: 150 KiB for a connection of which nothing is taken, so at most 115 MiB with three services and \
                the default of `--proxy-connections-max`, beside `--memory-max`",
        beyond: "the sender is not read",
        shows: Shows::Metric(names::PROCESS_RESIDENT_MEMORY),
        code: (
            "src/http/proxy/mod.rs",
            "BUFFER_BYTES_MAX: usize = 64 * 1024;",
        ),
        test: "tests/blackbox/test_proxy_memory.py::test_bodies_that_nobody_takes_stay_small_in_memory",
    },
    Fixed {
        what: "Bytes of one read while a request head is awaited",
        value: "2 KiB",
        beyond: "the rest stays in the socket until it is known who serves the request",
        shows: Shows::Metric(names::PROCESS_RESIDENT_MEMORY),
        code: (
            "src/hub/session/reading.rs",
            "HEAD_READ_BYTES: usize = 2 * 1024;",
        ),
        test: "tests/http_plane/upgrades.rs::the_loop_reads_a_head_and_a_little_of_what_http_gets",
    },
    Fixed {
        what: "How far a request body may be behind a pace of 512 bytes a second, of the time in which weirgate waits for it",
        value: "30 s; 1 s while another request waits for the connection to a service",
        beyond: "408, and the connection ends",
        shows: Shows::Metric(names::PROXY_REQUESTS),
        code: (
            "src/http/pace.rs",
            "BEHIND_MAX: Duration = Duration::from_secs(30);",
        ),
        test: "src/http/pace.rs::a_body_that_is_behind_for_too_long_is_late_while_it_is_waited_for",
    },
    Fixed {
        what: "Connections to `--admin-addr` at once",
        value: "64",
        beyond: "the connection that has been without a request for the longest ends; if all have one, new connections wait",
        shows: Shows::Elsewhere("the log"),
        code: ("src/http/plane.rs", "CONNECTIONS_MAX: usize = 64;"),
        test: "tests/http_plane/admin.rs::silent_connections_make_room_the_oldest_first",
    },
    Fixed {
        what: "Plain HTTP: a connection without a request",
        value: "75 s",
        beyond: "the connection ends",
        shows: Shows::Metric(names::CONNECTIONS),
        code: ("src/http/handover.rs", "idle_timeout_ms: 75_000,"),
        test: "tests/http_plane/limits.rs::an_idle_connection_ends_and_a_busy_one_does_not",
    },
    Fixed {
        what: "Plain HTTP: time from the end of the last response to the client's close",
        value: "1 s",
        beyond: "the connection is cut",
        shows: Shows::Metric(names::CONNECTIONS),
        code: ("src/http/handover.rs", "linger_ms: 1_000,"),
        test: "tests/http_plane/limits.rs::a_body_that_never_comes_does_not_hold_the_connection",
    },
    Fixed {
        what: "Plain HTTP: bytes read after the end of the last response",
        value: "256 KiB",
        beyond: "the connection is cut",
        shows: Shows::Metric(names::CONNECTIONS),
        code: ("src/http/handover.rs", "linger_bytes_max: 256 * 1024,"),
        test: "tests/http_plane/limits.rs::a_head_without_end_is_cut_early",
    },
    Fixed {
        what: "Plain HTTP at a stop that has reached its time limit, or after a second signal: time to the end of the last \
            response",
        value: "200 ms",
        beyond: "the connection is cut",
        shows: Shows::Elsewhere("the client's side"),
        code: (
            "src/run/gateway.rs",
            "HTTP_STOP: Duration = Duration::from_millis(200);",
        ),
        test: "tests/http_plane/main.rs::stopping_ends_what_does_not_end_itself_at_the_deadline",
    },
    Fixed {
        what: "At a stop: how long the close of a device waits for responses",
        value: "60 % of `--stop-timeout-ms`",
        beyond: "closed without the responses",
        shows: Shows::Reason(CloseReason::ShuttingDown),
        code: ("src/run/common.rs", "BUSY_PERCENT: u64 = 60;"),
        test: "tests/blackbox/test_events_stop.py::test_who_waits_for_an_answer_is_closed_all_the_same",
    },
    Fixed {
        what: "`weirgate health`: bytes read of a response",
        value: "1 KiB",
        beyond: "not read; the first bytes contain the status line",
        shows: Shows::Elsewhere("nowhere"),
        code: ("src/commands/health.rs", "ANSWER_BYTES_MAX: usize = 1024;"),
        test: "src/commands/health.rs::only_200_is_healthy",
    },
    Fixed {
        what: "Chunk extensions of one request body, and trailers of the body",
        value: "8 KiB each",
        beyond: "the body breaks off: 400 if a handler reads the body",
        shows: Shows::Elsewhere("the response"),
        code: ("src/wire/body.rs", "ANNEX_BYTES_MAX: u32 = 8 * 1024;"),
        test: "src/wire/body.rs::extensions_and_trailers_are_bounded_over_the_whole_body",
    },
    Fixed {
        what: "Header lines in the head of a service's answer",
        value: "100",
        beyond: "the proxy: 502 `Upstream answer head too large`; a call: \
                 `upstream_error`, \"Upstream unreachable\"",
        shows: Shows::Metric(names::PROXY_REQUESTS),
        code: (
            "src/http/services/pool.rs",
            "ANSWER_HEADERS_MAX: usize = 100;",
        ),
        test: "tests/http_proxy/faults.rs::an_answer_with_too_many_headers_is_told_apart",
    },
    Fixed {
        what: "Announced length of a request's body that the proxy reads whole before it takes a \
               connection to the service",
        value: "64 KiB",
        beyond: "the body is passed on piece by piece, and holds a connection meanwhile",
        shows: Shows::Metric(names::PROXY_REQUESTS_IN_FLIGHT),
        code: (
            "src/http/proxy/body.rs",
            "SMALL_BYTES_MAX: u64 = 64 * 1024;",
        ),
        test: "tests/http_proxy/faults.rs::a_small_body_is_whole_before_it_takes_a_connection",
    },
    Fixed {
        what: "Nested encodings of a proxied path",
        value: "3",
        beyond: "400",
        shows: Shows::Metric(names::PROXY_REQUESTS),
        code: ("src/http/proxy/path.rs", "DECODINGS_MAX: usize = 4;"),
        test: "src/http/proxy/path.rs::a_path_that_is_encoded_again_and_again_is_a_trick",
    },
];
