//! The program: the list of gateways, and the command line made from the list.

use std::process::ExitCode;

use weirgate::gateways::WEIRGATE;

fn main() -> ExitCode {
    WEIRGATE.main()
}
