//! The program: the list of gateways, on the command line that is made from it.

use std::process::ExitCode;

use weirgate::{commands, kinds};

fn main() -> ExitCode {
    commands::main(&kinds::WEIRGATE)
}
