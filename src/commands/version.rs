//! `weirgate version` and `--version`: what this build is, for people and for programs.

use super::program::Program;
use crate::base::build_info::{COMMIT, FEATURES, RUSTC, TARGET, VERSION};
use crate::wire::object_writer::ObjectWriter;

/// Version and features, on one line.
pub(super) fn line() -> String {
    format!("{VERSION} (features: {})", FEATURES.join(", "))
}

/// The line of `--version`, and below it what a bug report needs too.
pub(super) fn text(program: &Program) -> String {
    let (name, line) = (program.name, line());
    format!("{name} {line}\n  commit: {COMMIT}\n  target: {TARGET}\n  rustc:  {RUSTC}")
}

/// The same as one JSON object.
pub(super) fn json(program: &Program) -> String {
    let mut object = ObjectWriter::new();
    object.string("name", program.name);
    object.string("version", VERSION);
    object.string("commit", COMMIT);
    object.string("target", TARGET);
    object.string("rustc", RUSTC);
    object.strings("features", FEATURES.into_iter());
    object.finish()
}
