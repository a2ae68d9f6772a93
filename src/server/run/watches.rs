//! The threads that watch a running gateway beside the loop.
//!
//! [`BusAway`] ends the process when the bus has been away for too long (`--bus-away-exit-s`). Without this setting the
//! gateway survives a lost bus: clients stay, and `/ready` reports the loss. [`StatsLine`] logs numbers periodically.
//! [`watch_history`] warns of a history that is too short. `watchdog`, `freed_memory` and `systemd` have files of their
//! own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use super::common::CommonSettings;
use super::{RunError, freed_memory, systemd, watchdog};
use crate::telemetry::Telemetry;
use weirgate_core::ShortHistory;
use weirgate_runtime::{Clock, detached};

/// Starts the threads that watch the running loop; called by the thread of the loop.
pub(super) fn start(
    common: &CommonSettings,
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    stats_line: Option<StatsLine>,
    turn_max: Duration,
) -> Result<BusAway, RunError> {
    systemd::start(telemetry, clock, &common.reactor);
    let stop_timeout = Duration::from_micros(common.reactor.stop_timeout_us);
    let supervisor = common.supervisor();
    watchdog::watch(Arc::clone(telemetry), turn_max, stop_timeout, supervisor)?;
    if let Some(line) = stats_line {
        let started = line.start(Arc::clone(telemetry));
        started.map_err(RunError::Thread)?;
    }
    freed_memory::start(Arc::clone(telemetry)).map_err(RunError::Thread)?;
    if common.limits.history.keep_us > 0 {
        watch_history(Arc::clone(telemetry), clock).map_err(RunError::Thread)?;
    }
    let bus_away = BusAway::default();
    if let Some(limit_s) = common.bus_away_exit_s {
        let watching = bus_away.watch(Arc::clone(telemetry), clock, limit_s);
        watching.map_err(RunError::Thread)?;
    }
    Ok(bus_away)
}

/// The time between two checks of the bus.
const BUS_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Whether the process stops because of the bus.
#[derive(Default)]
pub(super) struct BusAway(Arc<AtomicBool>);

impl BusAway {
    /// Starts a thread that watches the bus. When the bus has been away for `limit_s` seconds, the thread stops the
    /// process with SIGTERM, so that clients get a close frame and reconnect. A stop that has begun already continues
    /// unchanged.
    pub(super) fn watch(
        &self,
        telemetry: Arc<Telemetry>,
        clock: Clock,
        limit_s: u64,
    ) -> io::Result<()> {
        let limit_ms = limit_s.saturating_mul(1_000);
        let stops = Arc::clone(&self.0);
        let away_ms = move |telemetry: &Telemetry| telemetry.bus()?.away_ms(clock.now());
        let watch = move || {
            while away_ms(&telemetry).is_none_or(|ms| ms < limit_ms) {
                thread::sleep(BUS_CHECK_INTERVAL);
            }
            if telemetry.event_loop.draining() {
                return;
            }
            tracing::error!(limit_s, "the bus was away for too long; stopping");
            stops.store(true, Relaxed);
            if let Err(error) = raise(SIGTERM) {
                tracing::error!(%error, "cannot stop");
            }
        };
        detached("bus-away", watch)
    }

    /// Returns the error after a stop whose reason was a bus that was away for `limit_s` seconds.
    pub(super) fn outcome(&self, limit_s: Option<u64>) -> Result<(), RunError> {
        match limit_s {
            Some(limit_s) if self.0.load(Relaxed) => Err(RunError::BusAway { limit_s }),
            _ => Ok(()),
        }
    }
}

/// The time between two checks of the history.
const HISTORY_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Starts a thread that warns once the limit on bytes leaves less than half of `--history-ms`, and ends with the process.
fn watch_history(telemetry: Arc<Telemetry>, clock: Clock) -> io::Result<()> {
    let run = move || {
        let mut is_warned = false;
        loop {
            thread::sleep(HISTORY_CHECK_INTERVAL);
            let stats = telemetry.event_loop.numbers().hub.history;
            let reach = stats.and_then(|stats| stats.reach(clock.now().unix_us).zip(Some(stats)));
            let Some((reach, stats)) = reach else {
                // No kept message has a position yet.
                continue;
            };
            let is_short = reach.short == Some(ShortHistory::Bytes) && reach.us < stats.keep_us / 2;
            if is_short && !is_warned {
                tracing::warn!(
                    holds_ms = reach.us / 1_000,
                    history_ms = stats.keep_us / 1_000,
                    bytes_max = stats.bytes_max,
                    "the history holds less than half of --history-ms: no more fits in --history-bytes-max; clients that \
                     were away longer are not recovered"
                );
            }
            // After the history was whole again, another warning may come.
            is_warned = is_short || is_warned && reach.short.is_some();
        }
    };
    detached("history", run)
}

/// A function that logs a line of numbers, and how often to call it.
pub(super) struct StatsLine {
    /// Milliseconds between two lines, and before the first line.
    pub(super) interval_ms: u64,
    /// Logs one line.
    pub(super) log: Box<dyn Fn(&Telemetry) + Send>,
}

impl StatsLine {
    /// Starts a thread that logs, and ends with the process.
    fn start(self, telemetry: Arc<Telemetry>) -> io::Result<()> {
        let interval = Duration::from_millis(self.interval_ms);
        detached("stats-line", move || {
            loop {
                thread::sleep(interval);
                (self.log)(&telemetry);
            }
        })
    }
}
