//! Parse, run one subcommand, exit code.
fn main() {}
