//! The version of this build. The commit, the target and the compiler come from `src/server/build.rs`.

/// The version of weirgate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit: 12 hexadecimal digits, followed by `-modified` for uncommitted changes; `unknown` in debug
/// builds, and in builds without git and without a commit in the source.
pub const COMMIT: &str = env!("WEIRGATE_BUILD_COMMIT");

/// The platform in the compiler's notation: `x86_64-unknown-linux-gnu`.
pub const TARGET: &str = env!("WEIRGATE_BUILD_TARGET");

/// The compiler: `rustc 1.95.0 (59807616e 2026-04-14)`.
pub const RUSTC: &str = env!("WEIRGATE_BUILD_RUSTC");

/// The supported buses, for scripts that call `weirgate version`.
pub const FEATURES: [&str; 2] = ["nats", "redis"];
