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

/// The features of Cargo that are built in.
pub fn features() -> impl Iterator<Item = &'static str> {
    let features = [
        ("nats", cfg!(feature = "nats")),
        ("redis", cfg!(feature = "redis")),
    ];
    let on = features.into_iter().filter(|(_, is_on)| *is_on);
    on.map(|(name, _)| name)
}
