//! The fuzz targets. A target takes any bytes, feeds them to weirgate, and panics if an independent reader of
//! the same bytes sees a difference.
//!
//! Two programs call the targets: `tests/fuzz` of this crate on a stable compiler, over the corpus
//! in `fuzz/corpus` and then over mutations of the corpus; and `cargo fuzz run NAME` (`fuzz/` beside
//! `src`) with libFuzzer. The independent readers are crates (hyper, tungstenite, redis, url), a
//! matcher that tries everything, and the programs in `oracles`, for Python and Node.

mod bodies;
mod client;
mod deflate;
mod frames;
mod gate;
mod globs;
mod heads;
mod oracle;
mod paths;
mod payloads;
mod replies;
mod requests;
mod senders;
mod settings;
mod tls;
mod tokens;
mod windows;

use std::hash::{DefaultHasher, Hash, Hasher};

/// A part of weirgate to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Feeds the bytes. Returns a number for the path taken: an input with a new number took a new path, and
    /// is worth mutating. Panics at a difference.
    pub run: fn(&[u8]) -> u64,
}

const fn target(name: &'static str, run: fn(&[u8]) -> u64) -> Target {
    Target { name, run }
}

/// All targets.
pub const TARGETS: [Target; 19] = [
    target("heads", heads::run),
    target("gate", gate::run),
    target("frames", frames::run),
    target("senders", senders::run),
    target("deflate", deflate::run),
    target("windows", windows::run),
    target("channels_requests", requests::channels),
    target("trades_requests", requests::trades),
    target("events_requests", requests::events),
    target("broadcasts", requests::broadcasts),
    target("levels", payloads::levels),
    target("trades", payloads::trades),
    target("channels", payloads::channels),
    target("redis_replies", replies::run),
    target("globs", globs::run),
    target("proxy_paths", paths::run),
    target("tokens", tokens::run),
    target("settings", settings::run),
    target("tls", tls::run),
];

/// Runs a target by its name.
///
/// # Panics
/// The target finds a difference, or there is no target of this name.
pub fn run(name: &str, data: &[u8]) -> u64 {
    let found = TARGETS.iter().find(|target| target.name == name);
    let target = found.unwrap_or_else(|| panic!("there is no target {name}"));
    (target.run)(data)
}

/// Returns a number for an outcome.
fn outcome(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Splits off the first bytes of an input, which choose how the rest is fed.
fn choices<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    match data.split_first_chunk() {
        Some((choices, rest)) => (*choices, rest),
        None => ([0; N], &[]),
    }
}
