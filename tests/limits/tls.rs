//! Limits of TLS towards clients.

use weirgate::hub::CloseReason;
use weirgate::settings::Shows;
use weirgate::telemetry::names;

use crate::fixed::Fixed;

pub(crate) const TLS: &[Fixed] = &[
    Fixed {
        what: "Certificates that a client shows beside its own (`--tls-client-ca`), one key for each name",
        value: "8",
        beyond: "the handshake ends with an alert, before a search among them",
        shows: Shows::Reason(CloseReason::TlsError),
        code: (
            "src/listening/tls/client_certificates.rs",
            "INTERMEDIATES_MAX: usize = 8;",
        ),
        test: "src/listening/tls/client_certificates.rs::certificates_that_make_the_search_long_are_refused_before_it",
    },
    Fixed {
        what: "Unread bytes of a TLS handshake in which the client shows certificates (`--tls-client-ca`); otherwise a record, 16 KiB",
        value: "32 KiB",
        beyond: "the connection ends",
        shows: Shows::Reason(CloseReason::TlsError),
        code: (
            "src/listening/tls/session.rs",
            "CERTIFICATES_BYTES_MAX: usize = 32 * 1024;",
        ),
        test: "src/listening/tls/session/tests.rs::an_unfinished_record_is_bounded",
    },
    Fixed {
        what: "Records of TLS without data, such as key updates, at once; a second gives one back, and so do 64 KiB of data",
        value: "10",
        beyond: "the connection ends",
        shows: Shows::Reason(CloseReason::TlsError),
        code: (
            "src/listening/tls/session.rs",
            "DATALESS_RECORDS: u32 = 10;",
        ),
        test: "src/listening/tls/session/tests/costs.rs::key_updates_are_permitted_by_data_and_time",
    },
    Fixed {
        what: "Bytes that a record of TLS counts as at least, where records are opened",
        value: "256",
        beyond: "the step ends: further records are opened in the next turn",
        shows: Shows::Metric(names::TLS_HELD_BYTES),
        code: (
            "src/listening/tls/session.rs",
            "RECORD_COST_BYTES: usize = 256;",
        ),
        test: "src/listening/tls/session/tests/costs.rs::a_step_opens_as_many_records_as_large_ones_would_cost",
    },
    Fixed {
        what: "Plain bytes of a client in sealed records that the kernel does not take",
        value: "64 KiB, and 16 KiB once a write was short",
        beyond: "nothing more is sealed: frames wait in the send queue",
        shows: Shows::Metric(names::TLS_HELD_BYTES),
        code: (
            "src/reactor/sockets/buffers.rs",
            "BURST_BYTES: usize = 4 * RECORD_BYTES_MAX;",
        ),
        test: "tests/blackbox/test_tls_limits.py::test_what_tls_holds_for_clients_that_do_not_read_is_bounded",
    },
    Fixed {
        what: "Time for which a TLS handshake stands still before it gives way to another client, once all places are taken; each byte \
               of the client counts as a tenth of a second",
        value: "1 s",
        beyond: "those that have stood still for the longest end, one for each address that waits",
        shows: Shows::Reason(CloseReason::TlsError),
        code: (
            "src/reactor/handshakes/worker.rs",
            "STILL_US: u64 = 1_000_000;",
        ),
        test: "tests/blackbox/test_tls_limits.py::test_handshakes_that_stand_still_give_way_and_one_that_moves_does_not",
    },
    Fixed {
        what: "Steps of TLS handshakes between two looks for new clients",
        value: "16",
        beyond: "the next steps follow; addresses take turns",
        shows: Shows::Metric(names::TLS_HANDSHAKES_OPEN),
        code: ("src/reactor/handshakes/worker.rs", "STEPS: usize = 16;"),
        test: "tests/blackbox/test_tls_limits.py::test_an_address_that_begins_handshakes_delays_no_other",
    },
];
