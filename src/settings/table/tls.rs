//! TLS towards clients.

use super::super::kind::Kind;
use super::super::setting::{Heading, Setting, Shows};
use super::{GIB, KIB};
use crate::hub::CloseReason;
use crate::telemetry::names;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::TLS,
        "tls-port",
        Kind::PortOrOff,
        "off",
        "Port for WebSocket and HTTP over TLS, or off",
    )
    .more("Beside --port, on the IP addresses of --listen; --port off leaves TLS alone."),
    Setting::new(
        Heading::TLS,
        "tls-cert",
        Kind::Text,
        "",
        "PEM file with the certificate chain, the server's first",
    )
    .more(
        "Several files are separated by commas: a client gets the certificate with the name that it \
         asks for, else the first. Changed files are read again.",
    ),
    Setting::new(
        Heading::TLS,
        "tls-key",
        Kind::Text,
        "",
        "PEM file with the key of --tls-cert",
    )
    .more("As many files as --tls-cert, in the same order."),
    Setting::new(
        Heading::TLS,
        "tls-client-ca",
        Kind::Path,
        "",
        "PEM file with authorities: each client has to show a certificate of theirs",
    ),
    Setting::new(
        Heading::TLS,
        "tls-min",
        Kind::Choice(&["1.2", "1.3"]),
        "1.2",
        "Oldest version of TLS that clients may speak",
    ),
    Setting::count(
        Heading::TLS,
        "tls-handshakes-max",
        (1, 100_000),
        "1024",
        "Handshakes under way at once",
    )
    .limit(
        "further clients wait; addresses take turns, and for an address without a handshake the oldest \
         of the address with the most ends",
        Shows::Metric(names::TLS_HANDSHAKES_OPEN),
        "tests/blackbox/test_tls_limits.py::test_handshakes_under_way_are_bounded_and_others_wait",
    ),
    Setting::count(
        Heading::TLS,
        "tls-handshakes-per-ip-max",
        (1, 100_000),
        "64",
        "Handshakes under way at once of one address",
    )
    .limit(
        "further clients of the address wait",
        Shows::Metric(names::TLS_HANDSHAKES_OPEN),
        "tests/blackbox/test_tls_limits.py::test_an_address_that_begins_handshakes_delays_no_other",
    ),
    Setting::bytes(
        Heading::TLS,
        "tls-held-bytes-max",
        (64 * KIB, 1024 * GIB),
        "67108864",
        "Bytes that TLS holds for all clients together",
    )
    .more(
        "Unfinished records of clients, and records that the kernel does not take: at most a record of \
         16 KiB in each direction for a client, and four for a client that was not slow before; unfinished \
         handshakes.",
    )
    .limit(
        "clients are dropped, first those whose bytes have stood still the longest; of plain HTTP and of \
         handshakes, those that wait with bytes",
        Shows::Reason(CloseReason::TlsMemory),
        "tests/blackbox/test_tls_limits.py::test_what_tls_holds_for_clients_that_do_not_read_is_bounded",
    ),
];
