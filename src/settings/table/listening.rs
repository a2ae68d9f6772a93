//! Where a gateway listens.

use super::super::kind::Kind;
use super::super::listen::{ADMIN, LISTEN, MODE, OWNER};
use super::super::setting::{Heading, Setting, Shows};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::LISTENING,
        "listen",
        Kind::Form(&LISTEN),
        "0.0.0.0",
        "Address to listen on, or unix:PATH",
    )
    .more(
        "May be repeated. [::] listens on IPv6, and on IPv4 if the system maps IPv4 addresses. A \
         unix socket is for a proxy on the same machine: nginx or HAProxy. In the environment: \
         addresses separated by spaces or commas.",
    )
    .in_short_help(),
    Setting::new(
        Heading::LISTENING,
        "port",
        Kind::Port,
        "8000",
        "Port for WebSocket and HTTP",
    )
    .more("PORT is read when GATEWAY_PORT is not set.")
    .original_env(&["GATEWAY_PORT", "PORT"])
    .in_short_help(),
    Setting::new(
        Heading::LISTENING,
        "reuse-port",
        Kind::Switch,
        "false",
        "Share the port with other processes of the same user (SO_REUSEPORT)",
    )
    .more(
        "The system spreads new clients over the processes. Limits by address and all other limits \
         apply to each process.",
    ),
    Setting::new(
        Heading::LISTENING,
        "unix-socket-mode",
        Kind::Form(&MODE),
        "0660",
        "Mode of unix sockets: connecting needs the right to write",
    ),
    Setting::new(
        Heading::LISTENING,
        "unix-socket-owner",
        Kind::Form(&OWNER),
        "",
        "Owner of unix sockets: USER, USER:GROUP or :GROUP",
    )
    .more(
        "Names are looked up in /etc/passwd and /etc/group. Without root rights: a group of the \
         process.",
    ),
    Setting::count(
        Heading::LISTENING,
        "listen-backlog",
        (1, 65_535),
        "4096",
        "Connections that may wait in the kernel to be accepted",
    )
    .more("The system may lower this number (net.core.somaxconn).")
    .limit(
        "the kernel drops the handshake, and the client's kernel tries again",
        Shows::Elsewhere("`nstat TcpExtListenOverflows`"),
        "tests/blackbox/test_limits_turns.py::test_a_full_backlog_is_served_once_there_is_time",
    ),
    Setting::new(
        Heading::LISTENING,
        "admin-addr",
        Kind::Form(&ADMIN),
        "",
        "Address for the operator's page, /metrics, /stats and /ready",
    )
    .more(
        "And for /internal/*. This address responds even while the event loop hangs. Unset: there \
        is no operator's page, and the other pages are on the public port.",
    )
    .in_short_help(),
    Setting::new(
        Heading::LISTENING,
        "admin-tail",
        Kind::Switch,
        "false",
        "Show the newest messages of a topic on the operator's page",
    )
    .more(
        "Off by default: who reaches the admin address then reads the messages of every topic \
         without a token.",
    ),
];
