//! Tools for every thread: time, chance, waking, spinning, budgets. Knows no other module.
//!
//! The pure modules use only the pure part: [`Now`], [`SplitMix64`], [`LogBudget`] (checked by
//! `scripts/arrows.py`).

pub mod build_info;
mod clock;
mod left_addresses;
mod log_budget;
pub mod memory_limit;
mod plain_text;
mod queue_bytes;
mod random;
pub mod tls_roots;
mod wake;

pub use clock::{Clock, Now};
pub use left_addresses::{Left, LeftAddresses};
pub use log_budget::{LogBudget, LogLine};
pub use plain_text::Finding;
pub use plain_text::{escaped, escaped_bytes, is_host, unix_socket_url, without_mark};
pub use queue_bytes::{QueueBytes, TakenBytes};
pub use random::SplitMix64;
pub use wake::{LateWake, Wake};
pub use wake::{Spin, SpinCounts};

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

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
