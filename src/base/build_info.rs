//! What this build is. The commit, the target and the compiler come from `build.rs`.

/// The version of weirgate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit: 12 hexadecimal digits, with `-modified` behind them if the source was not as
/// committed; `unknown` in debug builds, and in builds without git whose source does not say it.
pub const COMMIT: &str = env!("WEIRGATE_BUILD_COMMIT");

/// The platform that the program runs on, as the compiler calls it: `x86_64-unknown-linux-gnu`.
pub const TARGET: &str = env!("WEIRGATE_BUILD_TARGET");

/// The compiler: `rustc 1.95.0 (59807616e 2026-04-14)`.
pub const RUSTC: &str = env!("WEIRGATE_BUILD_RUSTC");

/// The buses that the program speaks to, for scripts that ask `weirgate version`.
pub const FEATURES: [&str; 2] = ["nats", "redis"];
