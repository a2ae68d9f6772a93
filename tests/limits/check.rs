//! Limits of `--check --connect`.

use weirgate::settings::Shows;

use crate::fixed::Fixed;

pub(crate) const CHECK: &[Fixed] = &[
    Fixed {
        what: "Time of one question of `--check --connect`",
        value: "5,000 ms, or `--connect-timeout-ms`",
        beyond: "an error names the server and the flag, and the exit status is 1",
        shows: Shows::Elsewhere("the output of `--check`"),
        code: ("src/commands/check.rs", "CONNECT_TIMEOUT_MS: u64 = 5_000;"),
        test: "src/run/prepared.rs::a_question_without_an_answer_ends_with_its_time",
    },
    Fixed {
        what: "Names for which `--check --connect` asks NATS or Redis",
        value: "1,000",
        beyond: "a warning has the number of the other names",
        shows: Shows::Elsewhere("the output of `--check`"),
        code: ("src/sources/asked.rs", "NAMES_MAX: usize = 1_000;"),
        test: "tests/nats_source/ask.rs::many_requests_are_bounded",
    },
];
