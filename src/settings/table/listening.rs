//! Where a gateway listens.

use super::super::kind::Kind;
use super::super::limit::Shows;
use super::super::setting::Heading::Listening;
use super::super::setting::Setting;
use super::super::setting::Subcommand::{Channels, Demo, Events, Levels, Trades};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Listening,
        "listen",
        Kind::Addr,
        "0.0.0.0",
        "Address to listen on",
    )
    .more("[::] listens on IPv6, and on IPv4 where the system maps it.")
    .on(&[Levels, Events]),
    Setting::new(
        Listening,
        "listen",
        Kind::Addr,
        "127.0.0.1",
        "Address to listen on",
    )
    .more("The demo is for this machine only; 0.0.0.0 shows it to the network.")
    .on(&[Demo]),
    Setting::new(
        Listening,
        "listen",
        Kind::Addr,
        "0.0.0.0",
        "Address to listen on",
    )
    .more("[::] listens on IPv6, and on IPv4 where the system maps it.")
    .original_env(&["REDIS_WS_GATEWAY_HOST"])
    .on(&[Channels]),
    Setting::new(
        Listening,
        "listen",
        Kind::Addr,
        "[::]",
        "Address to listen on",
    )
    .more("[::] listens on IPv6, and on IPv4 where the system maps it.")
    .on(&[Trades]),
    Setting::new(
        Listening,
        "port",
        Kind::Port,
        "8000",
        "Port for WebSocket and HTTP",
    )
    .more("PORT is read when GATEWAY_PORT is not set.")
    .original_env(&["GATEWAY_PORT", "PORT"])
    .on(&[Levels, Events, Demo]),
    Setting::new(
        Listening,
        "port",
        Kind::Port,
        "8889",
        "Port for WebSocket and HTTP",
    )
    .original_env(&["REDIS_WS_GATEWAY_PORT"])
    .on(&[Channels]),
    Setting::new(
        Listening,
        "port",
        Kind::Port,
        "8080",
        "Port for WebSocket and HTTP",
    )
    .original_env(&["WS_PORT"])
    .on(&[Trades]),
    Setting::count(
        Listening,
        "listen-backlog",
        (1, 65_535),
        "4096",
        "Connections that may wait to be accepted",
    )
    .more("The system may lower it (net.core.somaxconn).")
    .limit(
        "the kernel drops the handshake, and the client's kernel tries again",
        Shows::Elsewhere("`nstat TcpExtListenOverflows`"),
        "tests/blackbox/test_limits_turns.py::test_a_full_backlog_is_served_once_there_is_time",
    ),
    Setting::new(
        Listening,
        "admin-addr",
        Kind::SocketAddr,
        "",
        "Address for /metrics, /stats, /ready and /internal/*, off the public port",
    )
    .more("Answers even when the event loop hangs. Unset: they are on the public port."),
];
