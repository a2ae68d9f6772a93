//! What every process does first, and what it says of itself.

use std::hash::{BuildHasher, RandomState};

use super::RunError;
use crate::clock::Clock;
use crate::settings::Checked;
use crate::telemetry::Build;
use crate::telemetry::logging::{self, LogFormat};

/// Sets up the log, says there what was odd about the settings, raises the limit on open files, and
/// starts the clock that all threads of the process share.
///
/// # Errors
/// Logging was set up before, or the system refuses a thread.
pub fn start_process(checked: &Checked) -> Result<Clock, RunError> {
    let format = match checked.choice("log-format") {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    logging::init(format, &checked.text("log-filter"))?;
    for warning in checked.warnings() {
        tracing::warn!("{warning}");
    }
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    Ok(Clock::start())
}

pub(super) fn build(gateway: &'static str) -> Build {
    let features = [
        cfg!(feature = "nats").then_some("nats"),
        cfg!(feature = "redis").then_some("redis"),
    ];
    Build {
        version: env!("CARGO_PKG_VERSION"),
        gateway,
        features: features.into_iter().flatten().collect::<Vec<_>>().join(","),
    }
}

/// Jitter, and what connections and traces are called, differ from process to process: in
/// containers that start together the clock and the process id do not.
pub(super) fn seed(clock: Clock) -> u64 {
    RandomState::new().hash_one(clock.now().mono_us)
}

/// For people who read standard output.
pub fn say(text: &str) {
    logging::say(text);
}
