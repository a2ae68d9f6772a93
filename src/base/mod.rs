//! Tools for every thread: the version of the build, time, chance, waking, spinning, budgets. Knows no other module.
//!
//! The pure modules use only what is in `pure.rs`: [`Now`], [`SplitMix64`], [`LogBudget`], [`allocated_bytes`] (checked by
//! `scripts/arrows.py`). The process's clocks are read only here ([`Clock`]), and handed to the pure core as [`Now`].

mod left_addresses;
mod plain_text;
mod pure;
mod queue_bytes;
pub mod tls_roots;
mod wake;

pub use left_addresses::{Left, LeftAddresses};
pub use plain_text::Finding;
pub use plain_text::{escaped, escaped_bytes, is_host, unix_socket_url, without_mark};
pub use pure::{LogBudget, LogLine, Now, SplitMix64, allocated_bytes};
pub use queue_bytes::{QueueBytes, TakenBytes};
pub use wake::{LateWake, Wake};
pub use wake::{Spin, SpinCounts};

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use rustix::time::{ClockId, clock_gettime};

/// The version of this build. The commit, the target and the compiler come from `build.rs`.
pub mod build_info {
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
}

/// The process's clocks. One origin for all threads, so that stamps can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin_us: i64,
}

impl Clock {
    /// Starts the monotonic clock at one second, so that subtracting a short time never underflows.
    pub fn start() -> Self {
        Self {
            origin_us: micros(ClockId::Monotonic) - 1_000_000,
        }
    }

    /// Reads both clocks. A time before 1970 is 1970.
    pub fn now(&self) -> Now {
        Now {
            mono_us: self.mono_us(),
            unix_us: micros(ClockId::Realtime).max(0),
        }
    }

    /// Reads the monotonic clock alone, as [`Now::mono_us`]: half the cost.
    pub fn mono_us(&self) -> u64 {
        (micros(ClockId::Monotonic) - self.origin_us) as u64
    }
}

/// Reads a clock of the kernel, in microseconds. This takes a third of the instructions of `Instant` and `Duration`,
/// and the loop reads the clock ten times a turn.
fn micros(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

/// Runs `work` on a thread of this name without a join: the thread ends after `work`, or with the process.
///
/// # Errors
/// The system has no thread left.
pub fn detached(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(work).map(drop)
}

/// Reads a regular file. Never waits for a writer: a pipe is refused at once.
///
/// # Errors
/// An error of the system, or the path names something else.
pub fn regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NONBLOCK;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        let what = "not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}
