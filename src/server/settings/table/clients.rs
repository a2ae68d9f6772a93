//! The limits of a client: its connection, its messages, its send queue.
//!
//! A pair of numbers is the range of a value. `limit` has the effect beyond the limit, where an operator sees it, and a
//! test that exceeds it. `field!(us …)` is a field in microseconds, for a row in milliseconds. `memory_thousandths` is
//! the part of `--memory-max`.

use super::super::field::With;
use super::super::groups::ProcessSettings;
use super::super::kind::Kind;
use super::super::listen::ListenSettings;
use super::super::setting::{Heading, Setting, Shows};
use super::{GIB, HOUR_MS, KIB, MIB};
use crate::field;
use crate::telemetry::MetricName;
use weirgate_core::{CloseReason, Limits, Revoked};

pub(super) static CLIENTS: &[Setting] = &Heading::CLIENTS.of([
    Setting::new(
        "allowed-origins",
        Kind::Origins,
        field!(ListenSettings, allowed_origins),
        "Origins of web pages that may connect; empty or * for any",
    )
    .more("Several are separated by commas: https://example.com,http://a:8080.")
    .in_short_help(),
    Setting::count(
        "connections-max",
        (0, 10_000_000),
        &With::<Limits, Option<usize>> {
            set: |limits, most| limits.connections_max = most.unwrap_or(usize::MAX),
            get: |limits| Some(limits.connections_max).filter(|most| *most < usize::MAX),
        },
        "Open connections, HTTP included; 0 for no limit",
    )
    .more(
        "It is never more than the limit on open files and --memory-max allow.",
    )
    .counts_all()
    .limit(
        "an idle connection of plain HTTP ends, or the new one gets [503](#connections-and-memory)",
        Shows::Reason(CloseReason::ConnectionLimit),
        "tests/hub_rules/closing.rs::refused_connections_give_their_places_back",
    )
    .in_short_help(),
    Setting::count(
        "connections-per-ip-max",
        (0, 10_000_000),
        field!(Limits, per_ip.connections_max),
        "Open connections of one address, HTTP included; 0 for no limit",
    )
    .more("An IPv6 /64 counts as one address.")
    .counts_address()
    .limit(
        "503 with `Retry-After`",
        Shows::Reason(CloseReason::ConnectionsPerIp),
        "tests/blackbox/test_limits_by_ip.py::test_an_address_has_so_many_connections",
    ),
    Setting::count(
        "connection-rate-per-ip",
        (0, 1_000_000),
        field!(Limits, per_ip.connections_per_second),
        "New connections a second of one address; 0 for no limit",
    )
    .counts_address()
    .limit(
        "429 with `Retry-After`",
        Shows::Reason(CloseReason::ConnectionRatePerIp),
        "tests/blackbox/test_limits_by_ip.py::test_an_address_opens_so_many_connections_a_second",
    ),
    Setting::new(
        "trusted-proxies",
        Kind::Networks,
        field!(Limits, trusted_proxies),
        "Proxies with a trusted X-Forwarded-For",
    )
    .more(
        "Addresses, networks and unix (for unix sockets), separated by commas: 10.0.0.7,10.1.0.0/16. The client's \
         address, for limits, the log and services, is then the right-most address in X-Forwarded-For that is not in \
         this list. With * it is the right-most of all; use * only if no other program can reach the port.",
    )
    .original_env(&["FORWARDED_ALLOW_IPS"])
    .in_short_help(),
    Setting::new(
        "proxy-protocol",
        Kind::Switch,
        field!(ListenSettings, proxy_protocol),
        "Connections of --trusted-proxies begin with a header of the PROXY protocol",
    )
    .more(
        "This is for TCP load balancers that send version 1 or 2.",
    ),
    Setting::new(
        "revoked-file",
        Kind::Path,
        field!(ProcessSettings, revoked_file),
        "File with users, tokens and addresses to refuse, read again at SIGHUP",
    )
    .more(
        "Each line is a JSON object as for POST /operator/disconnect: {\"user\": \"ann\", \"until\": 1790000000}. \
         Connected clients that a changed file refuses are closed with 1008.",
    ),
    Setting::count(
        "revoked",
        (1, 1_000_000),
        &With::<Limits, u64> {
            set: |limits, max| limits.revoked = Revoked::new(usize::try_from(max).unwrap_or(usize::MAX)),
            get: |limits| limits.revoked.max() as u64,
        },
        "Entries in the list of refused users, tokens and addresses",
    )
    .more("From --revoked-file and from POST /operator/disconnect together. Entries that have ended make room.")
    .constant()
    .limit(
        "the request gets 507: the clients are disconnected but may reconnect; a file with more entries is not used",
        Shows::Elsewhere("`revoked` of `/operator/state`"),
        "src/core/revoked/tests.rs::a_full_list_refuses_and_forgets_nobody",
    ),
    Setting::ms(
        "handshake-timeout-ms",
        (100, HOUR_MS),
        field!(us Limits, handshake_us),
        "Time from the accept of a connection to the end of the request head",
    )
    .limit(
        "408",
        Shows::Reason(CloseReason::HandshakeTimeout),
        "tests/hub_rules/deadlines.rs::a_head_has_its_time_whatever_dribbles_in",
    ),
    Setting::bytes(
        "head-bytes-max",
        (256, MIB),
        field!(Limits, head_bytes_max),
        "Bytes of a request head",
    )
    .limit(
        "431, or 414 if the first line alone is over the limit",
        Shows::Reason(CloseReason::BadRequest),
        "tests/hub_rules/reading.rs::a_head_may_be_as_large_as_its_limit_and_no_larger",
    ),
    Setting::new(
        "event-stream",
        Kind::Switch,
        field!(Limits, event_stream),
        "Clients may get messages as Server-Sent Events instead of a WebSocket",
    )
    .more("Event streams are for networks that break WebSockets, and for curl."),
    Setting::bytes(
        "message-bytes-max",
        (125, 64 * MIB),
        field!(Limits, message_bytes_max),
        "Bytes of one message from a client: all its fragments, decompressed",
    )
    .limit(
        "close 1009",
        Shows::Reason(CloseReason::MessageTooBig),
        "tests/blackbox/test_limits_turns.py::test_a_message_over_its_limit_is_closed_with_1009",
    ),
]);

pub(super) static SEND_QUEUES: &[Setting] = &Heading::SEND_QUEUE.of([
    Setting::bytes(
        "send-queue-soft-bytes",
        (4 * KIB, GIB),
        field!(Limits, send_queue.soft_bytes),
        "Soft limit: bytes in a client's send queue above which the client is slow",
    )
    .limit(
        "of messages with the same conflation key only the newest stays; for messages without a key see \
         `--send-queue-soft-for-ms`",
        Shows::Metric(MetricName::MESSAGES_CONFLATED),
        "tests/hub_rules/queue.rs::only_the_newest_of_each_key_stays_and_goes_to_the_tail",
    ),
    Setting::ms(
        "send-queue-soft-for-ms",
        (0, HOUR_MS),
        field!(us Limits, send_queue.soft_for_us),
        "How long a client may stay over the soft limit",
    )
    .more("It applies only to messages that cannot be conflated (replaced by a newer one).")
    .limit(
        "the client is dropped",
        Shows::Reason(CloseReason::SendQueueSoft),
        "tests/hub_rules/queue.rs::the_soft_limit_drops_after_its_time_and_not_before",
    ),
    Setting::bytes(
        "send-queue-hard-bytes",
        (4 * KIB, GIB),
        field!(Limits, send_queue.hard_bytes),
        "Hard limit: bytes in a client's send queue, if messages cannot be conflated",
    )
    .more(
        "One message of any size fits into an empty queue. The limit also applies to messages that can be conflated, \
         if more than 64 keys wait.",
    )
    .limit(
        "the client is dropped",
        Shows::Reason(CloseReason::SendQueueHard),
        "tests/hub_rules/queue.rs::the_hard_limit_counts_what_waits_behind_the_first_frame",
    ),
    Setting::ms(
        "send-queue-conflate-after-ms",
        (1, HOUR_MS),
        field!(us Limits, send_queue.conflate_after_us),
        "Age of the oldest waiting message above which a send queue is conflated",
    )
    .limit(
        "of messages with the same conflation key only the newest stays",
        Shows::Metric(MetricName::MESSAGES_CONFLATED),
        "tests/hub_rules/queue.rs::an_old_queue_conflates_though_it_is_small",
    ),
    Setting::ms(
        "send-queue-stall-ms",
        (100, HOUR_MS),
        field!(us Limits, send_queue.stall_us),
        "How long the kernel may take no byte for a client while messages wait",
    )
    .more(
        "Then the client is dropped. Behind a trusted proxy, each 20 kB in flight add a second, up to four times this \
         limit. With less than 10000, working clients on very slow lines are dropped too.",
    )
    .limit(
        "the client is dropped",
        Shows::Reason(CloseReason::SendStalled),
        "tests/blackbox/test_slow_clients.py::test_clients_that_never_read_are_dropped_with_the_reason",
    ),
    Setting::bytes(
        "frame-bytes-max",
        (MIB, 1024 * GIB),
        field!(Limits, frame_bytes_max),
        "Memory of messages that wait for clients that read nothing",
    )
    .more(
        "A message counts once, however many clients wait for it.",
    )
    .memory_thousandths(250)
    .limit(
        "slow clients are dropped, those with the largest share of this memory first; a client of an event stream or \
         with compression misses a message over 128 KiB whose encoding is not made yet",
        Shows::Reason(CloseReason::FrameMemory),
        "tests/hub_rules/memory.rs::past_the_memory_limit_the_client_goes_whose_end_frees_most",
    ),
]);

pub(super) static CONNECTIONS: &[Setting] = &Heading::CONNECTION.of([
    Setting::ms(
        "gather-ms",
        (0, 50),
        field!(us Limits, gather_us),
        "How long a message may wait to be sent together with others; 0: not at all",
    )
    .more("The first message after a pause, responses, pongs and closes do not wait."),
    Setting::ms(
        "ping-interval-ms",
        (0, HOUR_MS),
        field!(us Limits, ping_interval_us),
        "Time between pings to a client; 0 sends none",
    )
    .more("With over 50,000 clients weirgate makes it longer, up to 45000."),
    Setting::ms(
        "pong-timeout-ms",
        (100, HOUR_MS),
        field!(us Limits, pong_timeout_us),
        "Time from a ping to the pong",
    )
    .more(
        "The time starts again while the client takes waiting bytes or sends parts of a message. It is longer if many \
         bytes were sent before the ping.",
    )
    .limit(
        "close 1011",
        Shows::Reason(CloseReason::PongTimeout),
        "tests/hub_rules/deadlines.rs::a_client_without_a_pong_is_closed_when_its_time_is_over",
    ),
    Setting::count(
        "deflate-level",
        (0, 9),
        field!(Limits, deflate_level),
        "Compression for clients that offer permessage-deflate; 0 for none",
    )
    .more("A message is compressed once for all clients; 1 is fastest, 9 is smallest."),
    Setting::bytes(
        "tcp-notsent-lowat-bytes",
        (0, GIB),
        field!(ListenSettings, options.notsent_lowat_bytes),
        "Unsent bytes in the kernel per client; 0 for the default of the kernel",
    )
    .more("Keep it small, because messages in the kernel cannot be replaced by newer ones.")
    .limit(
        "messages wait in the send queue",
        Shows::Metric(MetricName::MESSAGES_WAITING),
        "tests/blackbox/test_slow_clients.py::test_a_throttled_reader_stays_and_sees_fresh_data",
    ),
]);
