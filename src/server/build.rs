//! Tells the compiler what the source cannot know of itself: commit, target, compiler
//! (`build_info.rs`).
//!
//! The commit is the first of these that there is: `WEIRGATE_COMMIT` in the environment (images), the
//! line below as `git archive` fills it in, the git repository of this folder. So an archive and a
//! clone of the same commit give the same bytes. Debug builds do not ask git: otherwise each commit
//! would build every test program again.

use std::env;
use std::path::Path;
use std::process::Command;

/// Filled in by `git archive` (.gitattributes).
const ARCHIVED: &str = "$Format:%H$";

/// Hexadecimal digits of the commit that are shown.
const DIGITS: usize = 12;

/// What the program is built from.
const SOURCES: [&str; 4] = ["src", "Cargo.toml", "Cargo.lock", "clients/js"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WEIRGATE_COMMIT");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    tell("COMMIT", commit());
    tell("TARGET", env::var("TARGET").ok());
    tell("RUSTC", output(&rustc, &["--version"]));
}

fn tell(name: &str, value: Option<String>) {
    let value = value.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=WEIRGATE_BUILD_{name}={value}");
}

fn commit() -> Option<String> {
    let named = env::var("WEIRGATE_COMMIT").ok();
    let is_debug = env::var("PROFILE").as_deref() == Ok("debug");
    digits(named.as_deref().unwrap_or_default())
        .or_else(|| digits(ARCHIVED))
        .or_else(|| if is_debug { None } else { of_git() })
}

/// The commit as it is shown, if `text` begins with as many hexadecimal digits.
fn digits(text: &str) -> Option<String> {
    let digits = text.trim().get(..DIGITS)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| digits.to_owned())
}

/// The commit of the git repository whose top this folder is; `None` if the folder is inside of a repository of
/// something else.
fn of_git() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    // The folder of the workspace: this crate is in `src/server`.
    let here = Path::new(&env::var("CARGO_MANIFEST_DIR").ok()?).join("../..");
    if Path::new(&root).canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    // Each commit, checkout and reset adds a line to `logs/HEAD`. Only paths that exist: a missing one
    // would build the program again every time.
    let log = git(&[
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "logs/HEAD",
    ])?;
    for path in [log.as_str()].into_iter().chain(SOURCES) {
        let path = here.join(path);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let commit = digits(&git(&["rev-parse", "HEAD"])?)?;
    // `:/` is the top of the repository.
    let sources = SOURCES.map(|path| format!(":/{path}"));
    let mut args = vec!["status", "--porcelain", "--"];
    args.extend(sources.iter().map(String::as_str));
    Some(match git(&args) {
        Some(_) => format!("{commit}-modified"),
        None => commit,
    })
}

fn git(args: &[&str]) -> Option<String> {
    output("git", args)
}

/// What the program prints, trimmed; `None` if it fails or prints nothing.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    let text = text.trim().to_owned();
    (done.status.success() && !text.is_empty()).then_some(text)
}
