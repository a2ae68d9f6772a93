//! The clock by which a hub ends its work in time: it counts the looks at it, so a seed gives the same turns again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Each look takes a microsecond.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps(Arc<AtomicU64>);

impl Steps {
    /// Ends the part of the turn that is under way.
    pub(crate) fn end_part(&self) {
        self.0.fetch_add(1 << 40, Ordering::Relaxed);
    }

    /// Takes a look.
    pub(crate) fn mono_us(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
