//! Tools for every thread: time, chance, waking, spinning, budgets. Knows no other module.
//!
//! The pure modules use only the pure part: [`Now`], [`SplitMix64`], [`LogBudget`] (checked by
//! `scripts/arrows.py`).

pub mod build_info;
mod clock;
mod finding;
mod log_budget;
pub mod memory_limit;
mod plain_text;
mod queue_bytes;
mod random;
mod spin;
pub mod tls_roots;
mod wake;

pub use clock::{Clock, Now};
pub use finding::Finding;
pub use log_budget::{LogBudget, LogLine};
pub use plain_text::{escaped, escaped_bytes};
pub use queue_bytes::{QueueBytes, TakenBytes};
pub use random::SplitMix64;
pub use spin::{Spin, SpinCounts};
pub use wake::{LateWake, Wake};

use std::{io, thread};

/// Runs `work` on a thread of this name without a join: the thread ends after `work`, or with the process.
///
/// # Errors
/// The system has no thread left.
pub fn detached(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(work).map(drop)
}
