//! A start under a limit on address space (`ulimit -v`).
//!
//! glibc's malloc reserves addresses for an arena of each thread, 64 MiB at a time, so nine threads without a client
//! reserve half a gibibyte. Under a limit, an allocation would fail long before memory is short, and end the process. If
//! there are no addresses for a second arena, each block of its threads takes a page of its own. The number of arenas can
//! be set only in the environment of a program that starts (or by a call that Rust has no safe form for), so the program
//! starts itself once more, with the same process id.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, getrlimit};

use super::RunError;

/// One arena serves all threads. The loop allocates most of what there is.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// Settings of glibc, `NAME=VALUE` between colons. The number of arenas here overrides [`ARENAS`].
const TUNABLES: &str = "GLIBC_TUNABLES";

/// The number of arenas in [`TUNABLES`].
const ARENAS_TUNABLE: &[u8] = b"glibc.malloc.arena_max=";

/// The address space of the stack of a thread, bytes: half of the default.
const STACK: (&str, &str) = ("RUST_MIN_STACK", "1048576");

/// The least address space of a gateway, bytes: a start without clients takes two thirds.
const ADDRESS_SPACE_MIN: u64 = 64 * 1024 * 1024;

/// Starts the program once more if a limit on address space needs it. Called before any thread begins.
pub(super) fn fit_address_space() {
    if !cfg!(target_env = "gnu") || limit_bytes().is_none() {
        return;
    }
    let changes = changes_to_fit(|name| env::var_os(name));
    let mut args = env::args_os();
    if let (Ok(program), Some(name), false) = (env::current_exe(), args.next(), changes.is_empty())
    {
        // Returns only if it fails. Then the program goes on as it is.
        let _ = Command::new(program)
            .arg0(name)
            .args(args)
            .envs(changes)
            .exec();
    }
}

/// The variables that an environment needs changed to fit into a limit on address space. With them it fits, so a program that
/// starts itself once more does so once. All other settings of glibc stay.
fn changes_to_fit(environment: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, OsString)> {
    let mut changes = Vec::new();
    if environment(ARENAS.0).as_deref() != Some(OsStr::new(ARENAS.1)) {
        changes.push((ARENAS.0, ARENAS.1.into()));
    }
    let tunables = environment(TUNABLES).unwrap_or_default();
    let sets_arenas = |tunable: &&[u8]| tunable.starts_with(ARENAS_TUNABLE);
    let (arenas, others): (Vec<_>, Vec<_>) = (tunables.as_bytes())
        .split(|byte| *byte == b':')
        .partition(sets_arenas);
    if !arenas.is_empty() {
        changes.push((TUNABLES, OsString::from_vec(others.join(&b':'))));
    }
    if environment(STACK.0).is_none() {
        changes.push((STACK.0, STACK.1.into()));
    }
    changes
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The changed variables; afterwards nothing is left to change.
    fn changed(set: &[(&'static str, &str)]) -> BTreeMap<&'static str, OsString> {
        let mut all: BTreeMap<_, OsString> = set.iter().map(|(k, v)| (*k, (*v).into())).collect();
        let changes = changes_to_fit(|name| all.get(name).cloned());
        all.extend(changes.clone());
        assert_eq!(changes_to_fit(|name| all.get(name).cloned()), []);
        changes.into_iter().collect()
    }

    #[test]
    fn one_arena_whatever_the_environment_says_and_its_other_settings_stay() {
        let (arena, stack) = ((ARENAS.0, ARENAS.1.into()), (STACK.0, STACK.1.into()));
        assert_eq!(changed(&[]), [arena.clone(), stack.clone()].into());
        let own = [("RUST_MIN_STACK", "2000000")];
        assert_eq!(changed(&own), [arena.clone()].into());
        let one = [("MALLOC_ARENA_MAX", "1"), own[0]];
        assert_eq!(changed(&one), BTreeMap::new());
        let unit = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0";
        let of_unit = [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", unit)];
        assert_eq!(changed(&of_unit), [arena.clone(), stack.clone()].into());
        for (text, rest) in [
            ("glibc.malloc.arena_max=8", ""),
            (
                "glibc.malloc.arena_max=2:a.b=1:glibc.malloc.arena_max=1",
                "a.b=1",
            ),
            (
                "a.b=1:glibc.malloc.arena_max=0x2:c.d=glibc.malloc.arena_max=",
                "a.b=1:c.d=glibc.malloc.arena_max=",
            ),
        ] {
            let kept = ("GLIBC_TUNABLES", rest.into());
            let set = [one[0], one[1], ("GLIBC_TUNABLES", text)];
            assert_eq!(changed(&set), [kept].into(), "{text}");
        }
    }
}
