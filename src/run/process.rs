//! What every process does first, and what it says of itself.

use std::hash::{BuildHasher, RandomState};

use super::RunError;
use crate::clock::Clock;
use crate::settings::{CommonSettings, LogFormat};
use crate::telemetry::Build;
use crate::telemetry::logging;

/// What every process has before it has a gateway.
pub(super) struct Process {
    pub(super) clock: Clock,
}

impl Process {
    pub(super) fn start(common: &CommonSettings) -> Result<Self, RunError> {
        let format = match common.log_format {
            LogFormat::Text => logging::LogFormat::Text,
            LogFormat::Json => logging::LogFormat::Json,
        };
        logging::init(format, &common.log_filter)?;
        for warning in &common.warnings {
            tracing::warn!("{warning}");
        }
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            tracing::warn!(%error, "the limit on open files could not be raised");
        }
        Ok(Self {
            clock: Clock::start(),
        })
    }
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
pub(super) fn say(text: &str) {
    logging::say(text);
}
