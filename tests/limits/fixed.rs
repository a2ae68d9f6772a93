//! Limits that are no settings: named constants, with the line of code that says so.

use weirgate::hub::CloseReason;
use weirgate::settings::Shows;
use weirgate::telemetry::names;

/// One limit that is no setting.
pub(crate) struct Fixed {
    pub(crate) what: &'static str,
    pub(crate) value: &'static str,
    pub(crate) beyond: &'static str,
    pub(crate) shows: Shows,
    /// File, and a piece of it.
    pub(crate) code: (&'static str, &'static str),
    pub(crate) test: &'static str,
}

pub(crate) const FIXED: &[Fixed] = &[
    Fixed {
        what: "Payload of a ping, a pong or a close (RFC 6455 §5.5)",
        value: "125 bytes",
        beyond: "close 1002",
        shows: Shows::Reason(CloseReason::ProtocolError),
        code: (
            "src/wire/encode.rs",
            "CONTROL_PAYLOAD_BYTES_MAX: usize = 125;",
        ),
        test: "src/wire/frame_reader/tests.rs::violations_are_refused",
    },
    Fixed {
        what: "Window of the compression towards clients",
        value: "4 KiB",
        beyond: "older bytes are not referred to; a client that asked for a smaller window gets \
                 larger messages plain",
        shows: Shows::Metric(names::DEFLATED_FRAMES),
        code: ("src/wire/deflate.rs", "WINDOW_BITS: u8 = 12;"),
        test: "src/wire/deflate/tests.rs::deflated_bodies_fit_the_windows_that_were_promised",
    },
    Fixed {
        what: "Inflated bytes that are kept between messages, for all clients together",
        value: "64 KiB",
        beyond: "the buffer is given back after the message",
        shows: Shows::Metric(names::PROCESS_RESIDENT_MEMORY),
        code: (
            "src/wire/frame_reader/scratch.rs",
            "SCRATCH_BYTES_KEPT: usize = 64 * 1024;",
        ),
        test: "src/wire/frame_reader/tests.rs::an_idle_reader_is_small_and_keeps_nothing",
    },
    Fixed {
        what: "Frames in one write to one client",
        value: "256",
        beyond: "the rest goes with the next flush",
        shows: Shows::Metric(names::MESSAGES_WAITING),
        code: ("src/hub/send_queue.rs", "FRAMES_MAX: usize = 256;"),
        test: "tests/hub_rules/queue.rs::a_long_queue_goes_out_in_writes_of_so_many_frames",
    },
    Fixed {
        what: "Known addresses before those that are idle are forgotten, where addresses are limited",
        value: "1,024, then twice those that are not idle",
        beyond: "idle ones are forgotten",
        shows: Shows::Metric(names::ADDRESSES),
        code: (
            "src/auth/address_limits.rs",
            "SWEEP_ADDRESSES_MIN: usize = 1024;",
        ),
        test: "src/auth/address_limits.rs::addresses_that_went_are_forgotten_and_others_are_not",
    },
    Fixed {
        what: "A token (JWT or key)",
        value: "8 KiB",
        beyond: "refused",
        shows: Shows::Metric(names::AUTH_REFUSALS),
        code: ("src/auth/verify.rs", "TOKEN_BYTES_MAX: usize = 8 * 1024;"),
        test: "src/auth/verify/tests.rs::what_is_no_token_is_refused_before_anything_is_read",
    },
    Fixed {
        what: "Keys that tokens are checked with",
        value: "64",
        beyond: "the start ends with status 2; a changed file is not taken",
        shows: Shows::Elsewhere("the log"),
        code: ("src/auth/keys.rs", "KEYS_MAX: usize = 64;"),
        test: "src/auth/keys/tests.rs::a_set_is_read_for_what_it_is_good_for",
    },
    Fixed {
        what: "Steps of the question whether a role may subscribe to a pattern",
        value: "4,000",
        beyond: "the pattern is refused",
        shows: Shows::Elsewhere("`errors` of `subscribed`"),
        code: ("src/auth/glob.rs", "STEPS_MAX: usize = 4_000;"),
        test: "src/auth/glob/tests.rs::a_pattern_made_to_take_for_ever_does_not",
    },
    Fixed {
        what: "Entries of one request of a channels client",
        value: "1,000, or twice what it may hold",
        beyond: "an error, and none is looked at",
        shows: Shows::Elsewhere("the client's `error`"),
        code: (
            "src/gateways/channels/mod.rs",
            "ENTRIES_MAX: usize = 1_000;",
        ),
        test: "tests/channels_gateway/requests.rs::a_request_with_very_many_entries_is_refused_whole",
    },
    Fixed {
        what: "Symbols in a request to subscribe",
        value: "5",
        beyond: "an error, and the request adds nothing",
        shows: Shows::Elsewhere("the client's `error`"),
        code: (
            "src/gateways/trades/request.rs",
            "SYMBOLS_PER_REQUEST_MAX: usize = 5;",
        ),
        test: "src/gateways/trades/request.rs::what_is_wrong_is_said_with_its_place",
    },
    Fixed {
        what: "Length of a symbol",
        value: "10 UTF-16 units",
        beyond: "an error, and the request changes nothing",
        shows: Shows::Elsewhere("the client's `error`"),
        code: (
            "src/gateways/trades/request.rs",
            "SYMBOL_UNITS_MAX: usize = 10;",
        ),
        test: "src/gateways/trades/request.rs::what_is_wrong_is_said_with_its_place",
    },
    Fixed {
        what: "A user's name in the log",
        value: "64 characters",
        beyond: "cut",
        shows: Shows::Elsewhere("the log line"),
        code: (
            "src/gateways/trades/client.rs",
            "USER_CHARS_MAX: usize = 64;",
        ),
        test: "tests/blackbox/test_trades.py::test_the_log_tells_who_it_was",
    },
    Fixed {
        what: "Wait of `subscribed` for Redis",
        value: "1 s",
        beyond: "sent all the same",
        shows: Shows::Elsewhere("nothing: the contract says so"),
        code: (
            "src/gateways/channels/waiting.rs",
            "WAIT_US: u64 = 1_000_000;",
        ),
        test: "tests/channels_gateway/waiting.rs::nobody_waits_longer_than_a_second",
    },
    Fixed {
        what: "Answers of one channels client that wait for Redis",
        value: "64, and 64 KiB",
        beyond: "the client is not read until some have gone out",
        shows: Shows::Elsewhere("nothing: it lasts a second at the most"),
        code: (
            "src/gateways/channels/waiting.rs",
            "ANSWERS_MAX: usize = 64;",
        ),
        test: "tests/channels_gateway/waiting.rs::a_client_with_many_answers_waiting_is_not_read",
    },
    Fixed {
        what: "Open files: connections, and a few more",
        value: "what `ulimit -Hn` says",
        beyond: "newcomers wait; who is connected is served",
        shows: Shows::Metric(names::PROCESS_OPEN_FDS),
        code: (
            "src/run/process.rs",
            "rlimit::increase_nofile_limit(u64::MAX)",
        ),
        test: "tests/blackbox/test_descriptors.py::test_running_out_of_descriptors_is_survived",
    },
    Fixed {
        what: "Pause after an accept that failed, for want of descriptors for example",
        value: "10 to 500 ms, doubling",
        beyond: "newcomers wait; one log line a second",
        shows: Shows::Metric(names::ACCEPT_ERRORS),
        code: ("src/reactor/listener.rs", "RETRY_MAX_US: u64 = 500_000;"),
        test: "tests/blackbox/test_descriptors.py::test_running_out_of_descriptors_is_survived",
    },
    Fixed {
        what: "Log lines about ended connections",
        value: "10 a second",
        beyond: "counted, and said as `lines_left_out` by the next",
        shows: Shows::Metric(names::CLIENT_CLOSES),
        code: ("src/reactor/turn.rs", "END_LINES_PER_SECOND: u32 = 10;"),
        test: "tests/blackbox/test_limits_logs.py::test_a_flood_of_ends_is_no_flood_of_lines",
    },
    Fixed {
        what: "Log lines that wait for standard output",
        value: "4,096",
        beyond: "left out, counted, and said once there is room; nobody waits",
        shows: Shows::Metric(names::LOG_LINES_LEFT_OUT),
        code: (
            "src/telemetry/log_lines.rs",
            "WAITING_LINES_MAX: usize = 4096;",
        ),
        test: "src/telemetry/log_lines.rs::what_does_not_fit_is_left_out_and_told_of",
    },
    Fixed {
        what: "A request's path in a log line",
        value: "128 characters",
        beyond: "cut",
        shows: Shows::Elsewhere("the line"),
        code: ("src/hub/session.rs", "PATH_CHARS_MAX: usize = 128;"),
        test: "tests/blackbox/test_limits_logs.py::test_one_line_says_how_a_connection_ended",
    },
    Fixed {
        what: "Log lines about bad messages from the bus",
        value: "5 a second",
        beyond: "counted, and said by the next",
        shows: Shows::Metric(names::BUS_MESSAGES_BAD),
        code: ("src/feeds/bad_log.rs", "LINES_PER_SECOND: u32 = 5;"),
        test: "src/feeds/bad_log.rs::the_rate_is_bounded_and_what_was_left_out_is_said",
    },
    Fixed {
        what: "Messages of JetStream on their way to us without an acknowledgement, per consumer",
        value: "512",
        beyond: "the server waits; the stream keeps the rest",
        shows: Shows::Metric(names::CONSUMER_LAG),
        code: (
            "src/sources/nats/consumers.rs",
            "ACK_PENDING_MAX: i64 = 512;",
        ),
        test: "tests/nats_source/outages.rs::a_full_channel_leaves_the_rest_with_the_server",
    },
    Fixed {
        what: "Plain HTTP: a connection without a request",
        value: "75 s",
        beyond: "it ends",
        shows: Shows::Metric(names::CONNECTIONS),
        code: ("src/http/plane.rs", "idle_timeout_ms: 75_000,"),
        test: "tests/http_plane/limits.rs::an_idle_connection_ends_and_a_busy_one_does_not",
    },
    Fixed {
        what: "Plain HTTP: from our end of a connection to the client's",
        value: "1 s",
        beyond: "it is cut",
        shows: Shows::Metric(names::CONNECTIONS),
        code: ("src/http/plane.rs", "linger_ms: 1_000,"),
        test: "tests/http_plane/limits.rs::a_body_that_never_comes_does_not_hold_the_connection",
    },
    Fixed {
        what: "Plain HTTP: bytes that are read after our end of a connection",
        value: "256 KiB",
        beyond: "it is cut",
        shows: Shows::Metric(names::CONNECTIONS),
        code: ("src/http/plane.rs", "linger_bytes_max: 256 * 1024,"),
        test: "tests/http_plane/limits.rs::a_head_without_end_is_cut_early",
    },
    Fixed {
        what: "Plain HTTP at a stop: from the loop's end to that of the last answer",
        value: "200 ms",
        beyond: "it is cut",
        shows: Shows::Elsewhere("the client's side"),
        code: (
            "src/run/gateway.rs",
            "HTTP_STOP: Duration = Duration::from_millis(200);",
        ),
        test: "tests/http_plane/main.rs::stopping_ends_what_does_not_end_itself_at_the_deadline",
    },
    Fixed {
        what: "`weirgate health`: bytes of an answer that are looked at",
        value: "1 KiB",
        beyond: "not read; the status line stands in the first of them",
        shows: Shows::Elsewhere("nowhere"),
        code: ("src/health_check.rs", "ANSWER_BYTES_MAX: usize = 1024;"),
        test: "src/health_check.rs::only_200_is_healthy",
    },
];
