//! Limits of files that settings name, and of the keys in them.

use super::fixed::Fixed;
use weirgate::settings::Shows;
use weirgate::telemetry::names;

pub(crate) const FILES: &[Fixed] = &[
    Fixed {
        what: "A file with keys, with the table of roles, or with the log filter",
        value: "1 MiB",
        beyond: "the start ends with status 2; a changed file is not taken",
        shows: Shows::Metric(names::RELOADS),
        code: ("src/files/mod.rs", "FILE_BYTES_MAX: u64 = 1024 * 1024;"),
        test: "src/files/mod.rs::a_file_that_is_too_large_or_no_file_is_refused",
    },
    Fixed {
        what: "Remembered key ids that no key has",
        value: "1,024",
        beyond: "clients with a further key id are asked to try again, and never refused for good",
        shows: Shows::Metric(names::AUTH_REFUSALS),
        code: ("src/auth/key_ring.rs", "UNKNOWN_IDS_MAX: usize = 1024;"),
        test: "src/auth/key_ring.rs::the_remembered_key_ids_are_bounded",
    },
    Fixed {
        what: "Time for files that are read again: keys, roles, the log filter, certificates",
        value: "5 s",
        beyond: "the part counts as failed, the log names it, and it is read when its files answer; the other parts do not wait",
        shows: Shows::Metric(names::RELOADS_FAILING),
        code: (
            "src/run/reload.rs",
            "READ_TIMEOUT: Duration = Duration::from_secs(5);",
        ),
        test: "src/run/reload.rs::a_part_whose_files_do_not_answer_keeps_no_other_from_being_read",
    },
];
