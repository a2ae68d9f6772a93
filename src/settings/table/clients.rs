//! The listen addresses of a gateway, TLS towards clients, and the limits of clients.

use super::super::field::{With, field};
use super::super::groups::{ProcessSettings, TlsSettings};
use super::super::kind::Kind;
use super::super::listen::{
    ADMIN, ADMIN_FIELD, LISTEN, LISTEN_FIELD, ListenSettings, MODE, MODE_FIELD, OWNER, OWNER_FIELD,
};
use super::super::setting::{Heading, Setting, Shows};
use super::{GIB, HOUR_MS, KIB, MIB};
use crate::hub::{CloseReason, Limits, Revoked};
use crate::listening::tls::OldestVersion;
use crate::telemetry::names;

pub(super) static LISTENING: &[Setting] = &Heading::LISTENING.of([
    Setting::new(
        "listen",
        Kind::Form(&LISTEN),
        &LISTEN_FIELD,
        "Address to listen on, or unix:PATH",
    )
    .more(
        "May be repeated. [::] listens on IPv6, and on IPv4 if the system maps IPv4 addresses. A \
         unix socket is for a proxy on the same machine: nginx or HAProxy. In the environment: \
         addresses separated by spaces or commas.",
    )
    .in_short_help(),
    Setting::new(
        "port",
        Kind::PortOrOff,
        field!(ListenSettings, port),
        "Port for WebSocket and HTTP",
    )
    .more("PORT is read when GATEWAY_PORT is not set. off: only --tls-port or unix sockets.")
    .original_env(&["GATEWAY_PORT", "PORT"])
    .in_short_help(),
    Setting::new(
        "reuse-port",
        Kind::Switch,
        field!(ListenSettings, options.reuse_port),
        "Share the port with other processes of the same user (SO_REUSEPORT)",
    )
    .more(
        "The system spreads new clients over the processes. Limits by address and all other limits \
         apply to each process.",
    ),
    Setting::new(
        "unix-socket-mode",
        Kind::Form(&MODE),
        &MODE_FIELD,
        "Mode of unix sockets: connecting needs the right to write",
    ),
    Setting::new(
        "unix-socket-owner",
        Kind::Form(&OWNER),
        &OWNER_FIELD,
        "Owner of unix sockets: USER, USER:GROUP or :GROUP",
    )
    .more(
        "Names are looked up in /etc/passwd and /etc/group. Without root rights: a group of the \
         process.",
    ),
    Setting::new(
        "admin-addr",
        Kind::Form(&ADMIN),
        &ADMIN_FIELD,
        "Address for the operator's page, /metrics, /stats and /ready",
    )
    .more(
        "And for /internal/*. This address responds even while the event loop hangs. Unset: there \
        is no operator's page, and the other pages are on the public port.",
    )
    .in_short_help(),
]);

pub(super) static TLS: &[Setting] = &Heading::TLS.of([
    Setting::new(
        "tls-port",
        Kind::PortOrOff,
        field!(ListenSettings, tls_port),
        "Port for WebSocket and HTTP over TLS, or off",
    )
    .more("Beside --port, on the IP addresses of --listen; --port off leaves TLS alone."),
    Setting::new(
        "tls-cert",
        Kind::Paths,
        field!(TlsSettings, certificates),
        "PEM file with the certificate chain, the server's first",
    )
    .more(
        "Several files are separated by commas: a client gets the certificate with the name that it \
         asks for, else the first. Changed files are read again.",
    ),
    Setting::new(
        "tls-key",
        Kind::Paths,
        field!(TlsSettings, keys),
        "PEM file with the key of --tls-cert",
    )
    .more("As many files as --tls-cert, in the same order."),
    Setting::new(
        "tls-client-ca",
        Kind::Path,
        field!(TlsSettings, client_ca),
        "PEM file with authorities: each client has to show a certificate of theirs",
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
        "Handshakes under way at once",
    )
    .more("An address gets a place only while it holds fewer than are free: half of all alone, a third beside another.")
    .limit(
        "further clients wait; addresses take turns, and for each address that waits the handshake ends that \
         has stood still for the longest, at least 1 s",
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
        "Unfinished records of clients, and records that the kernel does not take: at most a record of \
         16 KiB in each direction for a client, and four for a client that was not slow before; unfinished \
         handshakes.",
    )
    .memory_part(60)
    .limit(
        "clients are dropped, first those that have held the most for the longest without progress",
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
    .more("In the form of browsers, separated by commas: https://example.com,http://a:8080.")
    .in_short_help(),
    Setting::count(
        "connections-max",
        (0, 10_000_000),
        &With::<Limits, Option<usize>> {
            set: |limits, most| limits.connections_max = most.unwrap_or(usize::MAX),
            get: |limits| Some(limits.connections_max).filter(|most| *most < usize::MAX),
        },
        "Connections at once, HTTP included; 0 for no limit",
    )
    .more("Never more than the limit on open files has room for, beside the needs of the gateway.")
    .limit(
        "503 with `Retry-After`",
        Shows::Reason(CloseReason::ConnectionLimit),
        "tests/hub_rules/closing.rs::refused_connections_give_their_places_back",
    )
    .in_short_help(),
    Setting::count(
        "connections-per-ip-max",
        (0, 10_000_000),
        field!(Limits, per_ip.connections_max),
        "Connections of one address at once, HTTP included; 0 for no limit",
    )
    .more("All clients of an IPv6 /64 count as one address.")
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
        "Addresses and networks, separated by commas: 10.0.0.7,10.1.0.0/16. The client's \
            address, for the limits by address and in the log, is the right-most address in \
            X-Forwarded-For outside of this list. With * the client's address is the right-most \
            of all; use * only if no other program reaches the port.",
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
        "For load balancers of TCP, which can add no X-Forwarded-For. Versions 1 and 2, on every address of \
         --listen, with or without TLS. A connection of these proxies without a header is closed.",
    ),
    Setting::new(
        "revoked-file",
        Kind::Path,
        field!(ProcessSettings, revoked_file),
        "File with users, tokens and addresses to refuse, read again at SIGHUP",
    )
    .more(
        "A JSON object on each line, as POST /operator/disconnect of the admin address takes it, such as \
         {\"user\": \"ann\", \"until\": 1790000000}. Clients that a changed file refuses are closed with 1008.",
    ),
    Setting::count(
        "revoked",
        (1, 1_000_000),
        &With::<Limits, u64> {
            set: |limits, max| limits.revoked = Revoked::new(usize::try_from(max).unwrap_or(usize::MAX)),
            get: |limits| limits.revoked.max() as u64,
        },
        "Users, tokens and addresses that are refused at once",
    )
    .more("From --revoked-file and from POST /operator/disconnect together. Entries that have ended make room.")
    .constant()
    .limit(
        "507: the clients are disconnected and may come back; a file is not taken. A list that forgets would let a user back",
        Shows::Elsewhere("`revoked` of `/operator/state`"),
        "src/hub/revoked/tests.rs::a_full_list_refuses_and_forgets_nobody",
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
    .more("For clients behind networks that break WebSockets, and for curl."),
    Setting::bytes(
        "message-bytes-max",
        (125, 64 * MIB),
        field!(Limits, message_bytes_max),
        "Bytes of one message from a client, all fragments together, inflated",
    )
    .limit(
        "close 1009",
        Shows::Reason(CloseReason::MessageTooBig),
        "tests/blackbox/test_limits_turns.py::test_a_message_over_its_limit_is_closed_with_1009",
    ),
]);
