//! Where a gateway listens.

use super::super::kind::Kind;
use super::super::setting::{Heading, Setting, Shows};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::LISTENING,
        "listen",
        Kind::Addr,
        "0.0.0.0",
        "Address to listen on",
    )
    .more("[::] listens on IPv6, and on IPv4 if the system maps IPv4 addresses."),
    Setting::new(
        Heading::LISTENING,
        "port",
        Kind::Port,
        "8000",
        "Port for WebSocket and HTTP",
    )
    .more("PORT is read when GATEWAY_PORT is not set.")
    .original_env(&["GATEWAY_PORT", "PORT"]),
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
        Kind::SocketAddr,
        "",
        "Address for /metrics, /stats, /ready and /internal/*, off the public port",
    )
    .more(
        "This address responds even while the event loop hangs. Unset: these pages are on the \
        public port.",
    ),
];
