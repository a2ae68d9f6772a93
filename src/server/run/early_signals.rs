//! What signals do before the loop, or a command, handles them itself.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::reload::HangUps;

/// The switches of the handlers.
#[derive(Default)]
struct EarlySignals {
    /// Whether a stop signal ends the process at once with status 0.
    stop_ends: Arc<AtomicBool>,
    /// Whether stop signals have their default action.
    stop_is_default: Arc<AtomicBool>,
    /// Whether SIGHUP has its default action.
    hang_up_is_default: Arc<AtomicBool>,
}

static EARLY: LazyLock<EarlySignals> = LazyLock::new(EarlySignals::default);

/// Takes signals from the first steps of the process on: a stop signal ends it with status 0, as it does later, and
/// after SIGHUP the files are read again as soon as the gateway runs. Called before the command is known.
///
/// # Errors
/// The system refuses a handler.
pub(super) fn take_early_signals() -> io::Result<()> {
    EARLY.stop_ends.store(true, Relaxed);
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&EARLY.stop_is_default))?;
        flag::register_conditional_shutdown(signal, 0, Arc::clone(&EARLY.stop_ends))?;
    }
    flag::register_conditional_default(SIGHUP, Arc::clone(&EARLY.hang_up_is_default))?;
    HangUps::of_process().map(drop)
}

/// Gives the signals their default actions, for a command that is not a gateway.
pub fn default_signals() {
    EARLY.stop_is_default.store(true, Relaxed);
    EARLY.hang_up_is_default.store(true, Relaxed);
}

/// Records that the loop, or a command, handles stop signals itself from here on.
pub fn stop_signals_are_taken() {
    EARLY.stop_ends.store(false, Relaxed);
    EARLY.stop_is_default.store(false, Relaxed);
}
