//! Puts source, feed, hub and reactor together from resolved settings, and runs them.

use crate::settings::{DemoSettings, LevelsSettings};

/// Why a gateway ended without a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// This build has no gateway.
    #[error("not wired")]
    NotWired,
}

/// Runs the levels gateway until a signal.
///
/// # Errors
/// It could not start, or failed.
pub fn levels(_settings: LevelsSettings) -> Result<(), RunError> {
    Err(RunError::NotWired)
}

/// Runs the demo until a signal.
///
/// # Errors
/// It could not start, or failed.
pub fn demo(_settings: DemoSettings) -> Result<(), RunError> {
    Err(RunError::NotWired)
}
