//! The program: the list of gateways, and the command line made from the list.

use std::process::ExitCode;

use weirgate::{commands, gateways};

fn main() -> ExitCode {
    commands::main(&gateways::WEIRGATE)
}
