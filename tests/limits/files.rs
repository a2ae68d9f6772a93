//! Limits of files that settings name.

use super::fixed::Fixed;
use weirgate::settings::Shows;
use weirgate::telemetry::names;

pub(crate) const FILES: &[Fixed] = &[Fixed {
    what: "A file with keys, with the table of roles, or with the log filter",
    value: "1 MiB",
    beyond: "the start ends with status 2; a changed file is not taken",
    shows: Shows::Metric(names::RELOADS),
    code: ("src/files/mod.rs", "FILE_BYTES_MAX: u64 = 1024 * 1024;"),
    test: "src/files/mod.rs::a_file_that_is_too_large_or_no_file_is_refused",
}];
