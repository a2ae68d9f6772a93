//! Where weirgate listens, its processes, and TLS towards clients.
//!
//! A pair of numbers is the range of a value. `limit` has the effect beyond the limit, where an operator sees it, and a
//! test that exceeds it. `memory_thousandths` is the part of `--memory-max`.

use super::super::field::With;
use super::super::groups::TlsSettings;
use super::super::kind::Kind;
use super::super::listen::{
    ADMIN, ADMIN_FIELD, LISTEN, LISTEN_FIELD, ListenSettings, MODE, MODE_FIELD, OWNER, OWNER_FIELD,
};
use super::super::processes::{PROCESSES, PROCESSES_FIELD};
use super::super::setting::{Heading, Setting, Shows};
use super::{GIB, KIB};
use crate::field;
use crate::listening::tls::OldestVersion;
use crate::telemetry::MetricName;
use weirgate_core::CloseReason;

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
        "SIGUSR2 replaces all of them. A limit over all clients is divided between the processes.",
    ),
    Setting::new(
        "reuse-port",
        Kind::Switch,
        field!(ListenSettings, options.reuse_port),
        "Share the port with other processes of the same user (SO_REUSEPORT)",
    )
    .more(
        "The kernel spreads new clients over the processes. A process that ends resets those that are just connecting \
         to it, unless `sysctl net.ipv4.tcp_migrate_req=1` is set. Every limit applies to each process alone.",
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
        "It also serves /internal/*. Examples: 127.0.0.1:9100, unix:PATH. If unset, there is no operator's \
         page, and the other pages are on the public port.",
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
         send it too. If unset, everybody who reaches the address may use the page and disconnect clients.",
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
        "It is open in addition to --port, on the IP addresses of --listen.",
    ),
    Setting::new(
        "tls-cert",
        Kind::Paths,
        field!(TlsSettings, certificates),
        "PEM file with the certificate chain, the server's own first",
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
        "PEM file with authorities: each client must have a certificate from one of them",
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
        Shows::Metric(MetricName::TLS_HANDSHAKES_OPEN),
        "tests/blackbox/test_tls_limits.py::test_handshakes_under_way_are_bounded_and_others_wait",
    ),
    Setting::bytes(
        "tls-held-bytes-max",
        (64 * KIB, 1024 * GIB),
        field!(TlsSettings, held_bytes_max),
        "Bytes that TLS holds for all clients together",
    )
    .memory_thousandths(60)
    .limit(
        "weirgate drops the clients that [held the most for the longest](#shares)",
        Shows::Reason(CloseReason::TlsMemory),
        "tests/blackbox/test_tls_limits.py::test_unfinished_records_of_plain_http_are_bounded_and_have_the_time_of_a_head",
    ),
]);
