//! The version of this build. The commit, the target and the compiler come from `src/server/build.rs`.

/// The version, the commit and the compiler of a build.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// The version of weirgate.
    pub version: &'static str,
    /// The commit: 12 hexadecimal digits, followed by `-modified` for uncommitted changes; `unknown` in debug
    /// builds, and in builds without git and without a commit in the source.
    pub commit: &'static str,
    /// The platform in the compiler's notation: `x86_64-unknown-linux-gnu`.
    pub target: &'static str,
    /// The compiler: `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub rustc: &'static str,
    /// The supported buses, with commas, for scripts that call `weirgate version`.
    pub features: &'static str,
}

impl BuildInfo {
    /// This build.
    pub const THIS: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("WEIRGATE_BUILD_COMMIT"),
        target: env!("WEIRGATE_BUILD_TARGET"),
        rustc: env!("WEIRGATE_BUILD_RUSTC"),
        features: "nats,redis",
    };
}
