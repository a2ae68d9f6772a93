//! A start under a limit on address space (`ulimit -v`).
//!
//! glibc's malloc reserves addresses for an arena of each thread, 64 MiB at a time, so nine threads without a client
//! reserve half a gibibyte. Under a limit, an allocation would fail long before memory is short, and end the process. The
//! number of arenas can be set only in the environment of a program that starts (or by a call that Rust has no safe form
//! for), so the program starts itself once more, with the same process id.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, getrlimit};

use super::RunError;

/// One arena serves all threads. The loop allocates most of what there is.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// The address space of the stack of a thread, bytes: half of the default.
const STACK: (&str, &str) = ("RUST_MIN_STACK", "1048576");

/// The least address space of a gateway, bytes: a start without clients takes two thirds.
const ADDRESS_SPACE_MIN: u64 = 64 * 1024 * 1024;

/// Starts the program once more if a limit on address space needs it. Called before any thread begins.
pub(super) fn fit_address_space() {
    let is_set = env::var_os(ARENAS.0).is_some() || env::var_os("GLIBC_TUNABLES").is_some();
    if !cfg!(target_env = "gnu") || is_set || limit_bytes().is_none() {
        return;
    }
    let mut args = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), args.next()) {
        let stack = env::var_os(STACK.0).unwrap_or_else(|| STACK.1.into());
        // Returns only if it fails. Then the program goes on as it is.
        let _ = Command::new(program)
            .arg0(name)
            .args(args)
            .env(ARENAS.0, ARENAS.1)
            .env(STACK.0, stack)
            .exec();
    }
}

/// Checks that the limit on address space leaves room for a gateway.
///
/// # Errors
/// It does not.
pub(super) fn check_address_space() -> Result<(), RunError> {
    match limit_bytes() {
        Some(bytes) if bytes < ADDRESS_SPACE_MIN => Err(RunError::Settings(format!(
            "the limit on address space (ulimit -v, RLIMIT_AS) is {bytes} bytes; allowed: at least {ADDRESS_SPACE_MIN}, and \
             more than --memory-max"
        ))),
        _ => Ok(()),
    }
}

/// The limit on the address space of the process.
pub(super) fn limit_bytes() -> Option<u64> {
    getrlimit(Resource::As).current
}
