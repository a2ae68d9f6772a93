//! What every thread of the process uses, whatever it does: clocks, waking and spinning, detached threads, TLS
//! authorities. And what the thread of a bus and the loop share: the channel between them, and the state of the bus.
//!
//! The process's clocks are read only here ([`Clock`]), and handed to the pure crates as [`Now`]. Knows no bus and no
//! client. Begin with `lib.rs`, then [`Wake`] and [`SourceLink`].
//!
//! | file | owns |
//! | --- | --- |
//! | `lib` | [`Clock`], detached threads, files |
//! | `wake` | waking a loop that sleeps, and polling without sleep |
//! | `source`, `queue_bytes` | [`Source`], the channel to the loop, and its bound in bytes; a stream, and the names beside it: two sources for one loop |
//! | `status` | the state of the bus, for pages and metrics |
//! | `durations` | counted durations |
//! | `failed_addresses` | which address of a server to try next; pure |
//! | `lookup` | the lookup of a host name, with or without a limit on its time |
//! | [`tls_roots`], `server_certificates` | the cryptography of TLS; the authorities and the certificates of servers that outgoing TLS trusts |

mod durations;
mod failed_addresses;
mod lookup;
mod queue_bytes;
mod server_certificates;
mod source;
mod status;
pub mod tls_roots;
mod wake;

pub use durations::{DurationCounts, Durations};
pub use failed_addresses::FailedAddresses;
pub use lookup::Lookup;
pub use queue_bytes::{QueueBytes, TakenBytes};
pub use source::{LoopGone, Source, SourceLink, Stopping};
pub use status::{BusStatus, ConsumerStatus, Stall, StreamReport};
pub use wake::{LateWake, Spin, SpinCounts, Wake};

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use rustix::time::{ClockId, clock_gettime};
use weirgate_wire::base::Now;

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

    /// The CPU time that this thread has had, microseconds.
    pub fn thread_cpu_us() -> u64 {
        micros(ClockId::ThreadCPUTime).max(0) as u64
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
