//! What signals do before the loop, or a command, handles them itself.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::flag;

use super::reload::HangUps;

/// The switches of the handlers. `stop_is_default` overrides `stop_ends`, because its handler is registered first. With
/// neither, the loop or a command handles stop signals itself.
#[derive(Default)]
struct EarlySignals {
    /// Whether a stop signal ends the process at once with status 0.
    stop_ends: Arc<AtomicBool>,
    /// Whether stop signals have their default action.
    stop_is_default: Arc<AtomicBool>,
    /// Whether SIGHUP and SIGUSR2 have their default actions.
    others_are_default: Arc<AtomicBool>,
    /// Whether SIGUSR2 has come since the last call of [`roll_has_come`].
    roll_has_come: Arc<AtomicBool>,
}

static EARLY: LazyLock<EarlySignals> = LazyLock::new(EarlySignals::default);

/// Takes signals from the first steps of the process on: a stop signal ends it with status 0, as it does later, and
/// after SIGHUP the files are read again as soon as the gateway runs. SIGUSR2 ends no gateway. Called before the command is
/// known.
///
/// # Errors
/// The system refuses a handler.
pub(super) fn take_early_signals() -> io::Result<()> {
    EARLY.stop_ends.store(true, Relaxed);
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&EARLY.stop_is_default))?;
        flag::register_conditional_shutdown(signal, 0, Arc::clone(&EARLY.stop_ends))?;
    }
    for signal in [SIGHUP, SIGUSR2] {
        flag::register_conditional_default(signal, Arc::clone(&EARLY.others_are_default))?;
    }
    flag::register(SIGUSR2, Arc::clone(&EARLY.roll_has_come))?;
    HangUps::of_process().map(drop)
}

/// Gives the signals their default actions, for a command that is not a gateway.
pub fn default_signals() {
    EARLY.stop_is_default.store(true, Relaxed);
    EARLY.others_are_default.store(true, Relaxed);
}

/// Whether SIGUSR2, which only a supervisor carries out, has come since the last call.
pub(super) fn roll_has_come() -> bool {
    EARLY.roll_has_come.swap(false, Relaxed)
}

/// Records that the loop, or a command, handles stop signals itself from here on.
pub fn stop_signals_are_taken() {
    EARLY.stop_ends.store(false, Relaxed);
    EARLY.stop_is_default.store(false, Relaxed);
}
