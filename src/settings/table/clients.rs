//! Who may connect, and what a client may send.

use super::super::kind::Kind;
use super::super::setting::Heading::Clients;
use super::super::setting::Setting;
use super::super::setting::Subcommand::{Channels, Demo, Levels};
use super::{HOUR_MS, MIB};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Clients,
        "allowed-origins",
        Kind::Origins,
        "",
        "Origins that browsers may come from; empty or * for any",
    )
    .more("As browsers write them, with commas between them: https://example.com,http://a:8080."),
    Setting::count(
        Clients,
        "connections-max",
        (0, 10_000_000),
        "0",
        "Connections at once, HTTP included; 0 for no limit",
    )
    .more("The limit on open files counts as well."),
    Setting::ms(
        Clients,
        "handshake-timeout-ms",
        (100, HOUR_MS),
        "10000",
        "From accepting a connection to its whole request head",
    ),
    Setting::bytes(
        Clients,
        "head-bytes-max",
        (256, MIB),
        "16384",
        "Request head; 431 beyond",
    ),
    Setting::count(
        Clients,
        "head-headers-max",
        (8, 1024),
        "100",
        "Header lines in a request head; 431 beyond",
    ),
    Setting::bytes(
        Clients,
        "message-bytes-max",
        (125, 64 * MIB),
        "1048576",
        "One message from a client, inflated; closed with 1009 beyond",
    )
    .on(&[Levels, Demo]),
    Setting::bytes(
        Clients,
        "message-bytes-max",
        (125, 64 * MIB),
        "2097152",
        "One message from a client, inflated; closed with 1009 beyond",
    )
    .on(&[Channels]),
];
