//! A secret that was given as a flag is moved out of the list of processes.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::program::complain;
use crate::settings::{Rows, SecretText, Setting};

/// Starts the program again with the secret in the environment, which other users cannot see, under
/// the name of the row of `flag`. If that fails, the flag stays visible.
pub(super) fn hide(flag: &str, rows: Rows, secret: &SecretText) {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let rows = rows.settings();
    let row = rows.iter().find(|row| format!("--{}", row.flag) == flag);
    let name = row.map(Setting::weirgate_env).unwrap_or_default();
    let args = without(flag, std::env::args_os().skip(1));
    let error = Command::new(program)
        .args(args)
        .env(name, secret.expose())
        .exec();
    complain(&format!(
        "the value of {flag} stays visible in the list of processes: {error}"
    ));
}

/// The arguments without `FLAG VALUE` and `FLAG=VALUE`.
fn without(flag: &str, args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut is_value = false;
    for arg in args {
        let is_flag = arg == flag;
        let with_value = arg.to_string_lossy().starts_with(&format!("{flag}="));
        if !is_flag && !is_value && !with_value {
            kept.push(arg);
        }
        is_value = is_flag;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_taken_out_of_the_arguments() {
        let args = ["tail", "trades", "--token", "s", "--rate", "--token=t", "x"];
        let kept = without("--token", args.into_iter().map(OsString::from));
        assert_eq!(kept, ["tail", "trades", "--rate", "x"]);
        let end = without("--token", ["--token"].into_iter().map(OsString::from));
        assert!(end.is_empty());
    }
}
