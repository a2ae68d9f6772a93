//! Everything about clients: the addresses to listen on, TLS, the limits of clients, their send queues, pings and
//! compression, and the messages that are kept for clients that come back.

use super::super::field::With;
use super::super::groups::{ProcessSettings, StreamSettings, TlsSettings};
use super::super::kind::Kind;
use super::super::listen::{
    ADMIN, ADMIN_FIELD, LISTEN, LISTEN_FIELD, ListenSettings, MODE, MODE_FIELD, OWNER, OWNER_FIELD,
};
use super::super::processes::{PROCESSES, PROCESSES_FIELD};
use super::super::setting::{Heading, Part, Setting, Shows};
use super::{GIB, HOUR_MS, KIB, MIB};
use crate::field;
use crate::listening::tls::OldestVersion;
use crate::telemetry::names;
use weirgate_core::{CloseReason, Limits, Revoked};

pub(super) static LISTENING: &[Setting] = &Heading::LISTENING.of([
    Setting::new(
        "listen",
        Kind::Form(&LISTEN),
        &LISTEN_FIELD,
        "Address to listen on, or unix:PATH",
    )
    .more(
        "May be repeated. [::] listens on IPv6, and on IPv4 too unless the system turns this off. A unix socket is for \
         a proxy on the same machine.",
    )
    .in_short_help(),
    Setting::new(
        "port",
        Kind::PortOrOff,
        field!(ListenSettings, port),
        "Port for WebSocket and HTTP",
    )
    .more(
        "PORT is read if GATEWAY_PORT is not set. With off, clients connect over --tls-port or unix sockets only.",
    )
    .original_env(&["GATEWAY_PORT", "PORT"])
    .in_short_help(),
    Setting::new(
        "processes",
        Kind::Form(&PROCESSES),
        &PROCESSES_FIELD,
        "Processes that serve the clients, on one port; auto: one for each core",
    )
    .more(
        "A supervisor process starts them, restarts one that ends, and serves --admin-addr for all. SIGUSR2 replaces \
         all of them. A limit over all clients is divided between the processes.",
    ),
    Setting::new(
        "reuse-port",
        Kind::Switch,
        field!(ListenSettings, options.reuse_port),
        "Share the port with other processes of the same user (SO_REUSEPORT)",
    )
    .more(
        "The kernel spreads new clients over the processes. Every limit applies to each process alone.",
    ),
    Setting::new(
        "unix-socket-mode",
        Kind::Form(&MODE),
        &MODE_FIELD,
        "File mode of unix sockets; a program needs the right to write to connect",
    ),
    Setting::new(
        "unix-socket-owner",
        Kind::Form(&OWNER),
        &OWNER_FIELD,
        "Owner of unix sockets: USER, USER:GROUP or :GROUP",
    )
    .more(
        "Without root rights, only the group can be set, to one of the groups of the process.",
    ),
    Setting::new(
        "admin-addr",
        Kind::Form(&ADMIN),
        &ADMIN_FIELD,
        "Address for the operator's page, /metrics, /stats and /ready",
    )
    .more(
        "It also serves /internal/*. Examples: 127.0.0.1:9100, unix:PATH. This address responds even while the event \
         loop hangs. If unset, there is no operator's page, and the other pages are on the public port.",
    )
    .in_short_help(),
    Setting::new(
        "admin-token",
        Kind::Secret,
        field!(ListenSettings, admin_token),
        "Token for the operator's page and for disconnecting clients, on --admin-addr",
    )
    .more(
        "A request has it as Authorization: Bearer TOKEN, or as the password of any user; weirgate top and disconnect \
         send it too. If unset, everybody who reaches the address may do both.",
    )
    .original_env_only(&["WEIRGATE_ADMIN_TOKEN"]),
]);

pub(super) static TLS: &[Setting] = &Heading::TLS.of([
    Setting::new(
        "tls-port",
        Kind::PortOrOff,
        field!(ListenSettings, tls_port),
        "Port for WebSocket and HTTP over TLS, or off",
    )
    .more(
        "It is open beside --port, on the IP addresses of --listen. With --port off, clients can connect over TLS \
         only.",
    ),
    Setting::new(
        "tls-cert",
        Kind::Paths,
        field!(TlsSettings, certificates),
        "PEM file with the certificate chain, the server's first",
    )
    .more(
        "Several files are separated by commas. A client gets the certificate with the name that it asks for, or the \
         first. Changed files are read again.",
    ),
    Setting::new(
        "tls-key",
        Kind::Paths,
        field!(TlsSettings, keys),
        "PEM file with the key of --tls-cert",
    )
    .more("Give as many files as for --tls-cert, in the same order."),
    Setting::new(
        "tls-client-ca",
        Kind::Path,
        field!(TlsSettings, client_ca),
        "PEM file with authorities: each client must show a certificate of one of them",
    ),
    Setting::new(
        "tls-min",
        Kind::Choice(&["1.2", "1.3"]),
        &With::<TlsSettings, String> {
            set: |tls, word| {
                tls.oldest = match word.as_str() {
                    "1.3" => OldestVersion::Tls13,
                    _ => OldestVersion::Tls12,
                }
            },
            get: |tls| {
                let is_13 = tls.oldest == OldestVersion::Tls13;
                (if is_13 { "1.3" } else { "1.2" }).to_owned()
            },
        },
        "Oldest version of TLS that clients may speak",
    ),
    Setting::count(
        "tls-handshakes-max",
        (1, 100_000),
        field!(TlsSettings, handshakes_max),
        "TLS handshakes in progress at the same time",
    )
    .more("One address may hold at most half of them, or a third if another address is waiting.")
    .counts_all()
    .limit(
        "further clients wait, and client addresses take turns; handshakes without progress for 1 s end, the longest \
         first",
        Shows::Metric(names::TLS_HANDSHAKES_OPEN),
        "tests/blackbox/test_tls_limits.py::test_handshakes_under_way_are_bounded_and_others_wait",
    ),
    Setting::bytes(
        "tls-held-bytes-max",
        (64 * KIB, 1024 * GIB),
        field!(TlsSettings, held_bytes_max),
        "Bytes that TLS holds for all clients together",
    )
    .more(
        "They are unfinished handshakes and records, and encrypted records that the kernel has not taken yet.",
    )
    .memory_part(60)
    .limit(
        "weirgate drops the clients that [held the most for the longest](#shares)",
        Shows::Reason(CloseReason::TlsMemory),
        "tests/blackbox/test_tls_limits.py::test_what_tls_holds_for_clients_that_do_not_read_is_bounded",
    ),
]);

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
        "an idle connection of plain HTTP ends to make room; if there is none, the new connection gets \
         [503](#connections-and-memory)",
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
        "This is for TCP load balancers that send version 1 or 2. If one of these proxies sends no header, its \
         connection is closed.",
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
        "Users, tokens and addresses on the list of those to refuse",
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
        Shows::Metric(names::MESSAGES_CONFLATED),
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
        Shows::Metric(names::MESSAGES_CONFLATED),
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
    .memory_part(250)
    .limit(
        "slow clients are dropped, those with the largest share of this memory first",
        Shows::Reason(CloseReason::FrameMemory),
        "tests/hub_rules/memory.rs::past_the_memory_limit_the_client_goes_whose_end_frees_most",
    ),
]);

pub(super) static CONNECTIONS: &[Setting] = &Heading::CONNECTION.of([
    Setting::ms(
        "gather-ms",
        (0, 50),
        field!(us Limits, gather_us),
        "How long a message may wait to be sent to a client with others; 0: not at all",
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
        Shows::Metric(names::MESSAGES_WAITING),
        "tests/blackbox/test_slow_clients.py::test_a_throttled_reader_stays_and_sees_fresh_data",
    ),
]);

pub(super) static HISTORY: &[Setting] = &Heading::HISTORY.in_part(Part::History).of([
    Setting::ms(
        "history-ms",
        (0, 24 * HOUR_MS),
        field!(us Limits, history.keep_us),
        "How long messages are kept for clients that resume; 0 for none",
    )
    .more(
        "At least 20000. A client that reconnects to any instance with its last position as \"since\" gets the \
         messages that it missed.",
    )
    .limit(
        "older messages are dropped; a client that missed a dropped message is notified",
        Shows::Metric(names::RESUMES),
        "src/core/history/tests.rs::what_is_too_old_is_forgotten_and_told",
    ),
    Setting::bytes(
        "history-bytes-max",
        (64 * KIB, 16 * GIB),
        field!(Limits, history.bytes_max),
        "Memory of all kept messages; at most half of --frame-bytes-max",
    )
    .more(
        "It includes their compressed forms and the names under which they are kept.",
    )
    .memory_part(90)
    .limit(
        "the oldest messages are dropped; a client that missed a dropped message is notified",
        Shows::Metric(names::HISTORY_BYTES),
        "src/core/history/tests.rs::the_oldest_go_first_when_all_need_too_much_memory",
    ),
    Setting::new(
        "history-channel",
        Kind::Text,
        field!(StreamSettings, marks_channel),
        "Redis channel on which instances publish a mark each second",
    )
    .more(
        "Used with --history-ms. All instances count positions from these marks, so each understands the positions of \
         the others. If Redis does not let weirgate publish and subscribe there, a client can resume on its own \
         instance only.",
    )
    .part(Part::HistoryMarks),
    Setting::new(
        "stream",
        Kind::Text,
        field!(StreamSettings, name),
        "Stream to read in place of pub/sub; empty: none",
    )
    .more(
        "Needs --history-ms. It is a JetStream stream of --bus, or the key of a Redis stream, whose entries have the \
         fields channel and data. An outage loses no message of the stream. On NATS, clients can still subscribe to \
         names outside of the stream. All instances must read the same stream.",
    )
    .part(Part::Stream),
]);
