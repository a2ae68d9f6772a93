//! Threads that watch the process beside the loop.
//!
//! [`BusAway`] ends the process when the bus has been away for too long (`--bus-away-exit-s`). Without this setting the
//! gateway survives a lost bus: clients stay, and `/ready` reports the loss. [`StatsLine`] logs numbers periodically.
//! The [watchdog](super::watchdog) ends a process whose loop hangs. [`after_storms`] returns memory of ended clients to
//! the system. [`notify_systemd`] notifies systemd of the start, the turns of the loop, and the stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use super::common::CommonSettings;
use super::{RunError, watchdog};
use crate::reactor::ReactorSettings;
use crate::telemetry::{LoopNumbers, Telemetry};
use weirgate_bus::runtime::{Clock, detached};
use weirgate_core::Short;

/// Starts the threads that watch the running loop; called by the thread of the loop.
pub(super) fn start(
    common: &CommonSettings,
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    stats_line: Option<StatsLine>,
    turn_max: Duration,
) -> Result<BusAway, RunError> {
    notify_systemd(telemetry, clock, &common.reactor);
    let stop_timeout = Duration::from_micros(common.reactor.stop_timeout_us);
    watchdog::watch(Arc::clone(telemetry), turn_max, stop_timeout)?;
    if let Some(line) = stats_line {
        let started = line.start(Arc::clone(telemetry));
        started.map_err(RunError::Thread)?;
    }
    after_storms(Arc::clone(telemetry)).map_err(RunError::Thread)?;
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

/// The time between two looks at the bus.
const BUS_LOOK: Duration = Duration::from_millis(200);

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
                thread::sleep(BUS_LOOK);
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

    /// Whether the lost bus is the reason for the stop.
    pub(super) fn stops(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The interval between two looks at the history.
const HISTORY_LOOK: Duration = Duration::from_secs(2);

/// Starts a thread that warns once the limit on bytes leaves less than half of `--history-ms`, and ends with the process.
fn watch_history(telemetry: Arc<Telemetry>, clock: Clock) -> io::Result<()> {
    let run = move || {
        let mut is_warned = false;
        loop {
            thread::sleep(HISTORY_LOOK);
            let stats = telemetry.event_loop.numbers().hub.history;
            let reach = stats.and_then(|stats| stats.reach(clock.now().unix_us).zip(Some(stats)));
            let Some((reach, stats)) = reach else {
                continue;
            };
            let is_short = reach.short == Some(Short::Bytes) && reach.us < stats.keep_us / 2;
            if is_short && !is_warned {
                tracing::warn!(
                    holds_ms = reach.us / 1_000,
                    history_ms = stats.keep_us / 1_000,
                    bytes_max = stats.bytes_max,
                    "the history holds less than half of --history-ms: no more fits in --history-bytes-max; clients that \
                     were away longer are not recovered"
                );
            }
            is_warned = is_short || is_warned && reach.short.is_some();
        }
    };
    detached("history", run)
}

/// A function that logs a line of numbers, and how often to call it.
pub struct StatsLine {
    /// Milliseconds between two lines, and before the first line.
    pub interval_ms: u64,
    /// Logs one line.
    pub log: Box<dyn Fn(&Telemetry) + Send>,
}

impl StatsLine {
    /// Starts a thread that logs, and ends with the process.
    pub(super) fn start(self, telemetry: Arc<Telemetry>) -> io::Result<()> {
        let interval = Duration::from_millis(self.interval_ms);
        detached("stats-line", move || {
            loop {
                thread::sleep(interval);
                (self.log)(&telemetry);
            }
        })
    }
}

/// The interval between two counts of the connections.
const MEMORY_LOOK: Duration = Duration::from_secs(3);

/// With fewer connections, the freed memory is too little to matter.
const CONNECTIONS_MIN: u64 = 128;

/// The most connections since the last time that memory was returned.
#[derive(Debug, Default)]
struct Decline {
    most: u64,
}

impl Decline {
    /// Takes the current number of connections. Returns true once at least half of many connections have ended.
    fn has_begun(&mut self, connections: u64) -> bool {
        self.most = self.most.max(connections);
        let has_begun = self.most >= CONNECTIONS_MIN && connections <= self.most / 2;
        if has_begun {
            self.most = connections;
        }
        has_begun
    }
}

/// Starts a thread that returns memory of ended clients to the system, and ends with the process.
///
/// glibc returns freed memory at the end of its heap by itself. After a storm, a few small blocks in use remain at the
/// end and keep the free memory before them in the process: 7 MiB of 25 after 400 uploads that never ended. With
/// `malloc_trim(3)` glibc returns this memory too.
fn after_storms(telemetry: Arc<Telemetry>) -> io::Result<()> {
    let run = move || {
        let mut decline = Decline::default();
        loop {
            thread::sleep(MEMORY_LOOK);
            let connections = telemetry.event_loop.read(LoopNumbers::all_connections);
            if decline.has_begun(connections) {
                // By then the connections that ended last are freed too.
                thread::sleep(MEMORY_LOOK);
                give_back();
            }
        }
    };
    detached("freed-memory", run)
}

/// Returns the free memory of all heaps to the system. A loop that needs memory meanwhile waits for the heap: with some
/// MiB, for less than a millisecond.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library without a safe form")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time, and moves no block in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The longest delay of the notification of a stop.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// Notifies systemd that the gateway listens, and later of turns and of the stop (sd_notify(3)). Does nothing without
/// NOTIFY_SOCKET.
///
/// `READY=1` is sent when the gateway listens, even without a bus. The gateway then serves the last state and retries;
/// a start timeout of systemd would end it. `/ready` says whether the gateway should get traffic.
fn notify_systemd(telemetry: &Arc<Telemetry>, clock: Clock, reactor: &ReactorSettings) {
    if !has_systemd() {
        return;
    }
    notify(&[NotifyState::Ready]);
    let (telemetry, reactor) = (Arc::clone(telemetry), reactor.clone());
    let notify = move || notify_of_turns(&telemetry, clock, &reactor);
    if let Err(error) = detached("systemd", notify) {
        // If its unit has WatchdogSec=, systemd then restarts the gateway.
        tracing::warn!(%error, "systemd cannot be notified of the loop");
    }
}

fn notify_of_turns(telemetry: &Telemetry, clock: Clock, reactor: &ReactorSettings) {
    let mut pulse = sd_notify::watchdog_enabled().map(Pulse::new);
    let mut is_stop_reported = false;
    loop {
        thread::sleep(STOP_LOOK);
        if telemetry.event_loop.draining() && !is_stop_reported {
            is_stop_reported = true;
            // The unit's TimeoutStopSec= may be shorter than the drain that is set.
            let connections = telemetry.event_loop.read(LoopNumbers::all_connections);
            let micros = u32::try_from(reactor.stop_us_max(connections)).unwrap_or(u32::MAX);
            notify(&[
                NotifyState::Stopping,
                NotifyState::ExtendTimeoutUsec(micros),
            ]);
        }
        let now = clock.now();
        let age_ms = telemetry.event_loop.last_turn_age_ms(now);
        if pulse.as_mut().is_some_and(|p| p.beats(now.mono_us, age_ms)) {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether systemd started the process and waits to be notified.
fn has_systemd() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// Notifies systemd, if it started the process (sd_notify(3)).
pub(crate) fn notify(state: &[NotifyState<'_>]) {
    if !has_systemd() {
        return;
    }
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// When to notify the watchdog of systemd: four times in an interval, while the last turn of the loop is less than half
/// an interval ago. The loop turns at least every 500 ms, so an interval of 2 s or more is enough.
struct Pulse {
    interval_us: u64,
    due_us: u64,
}

impl Pulse {
    fn new(interval: Duration) -> Self {
        Self {
            interval_us: u64::try_from(interval.as_micros()).unwrap_or(u64::MAX),
            due_us: 0,
        }
    }

    fn beats(&mut self, now_us: u64, last_turn_age_ms: u64) -> bool {
        let hangs = last_turn_age_ms.saturating_mul(1_000) > self.interval_us / 2;
        if hangs || now_us < self.due_us {
            return false;
        }
        self.due_us = now_us + self.interval_us / 4;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(counts: &[u64]) -> Vec<bool> {
        let mut decline = Decline::default();
        counts
            .iter()
            .map(|count| decline.has_begun(*count))
            .collect()
    }

    #[test]
    fn memory_is_given_back_once_after_each_storm() {
        let storm = [0, 400, 390, 200, 199, 90, 80];
        let expected = [false, false, false, true, false, true, false];
        assert_eq!(looks(&storm), expected);
        assert_eq!(looks(&[1_000, 3, 900, 4]), [false, true, false, true]);
    }

    #[test]
    fn few_clients_are_no_storm() {
        assert_eq!(looks(&[100, 0, 127, 0]), [false; 4]);
    }

    #[test]
    fn the_watchdog_is_fed_four_times_in_its_interval_while_the_loop_turns() {
        let mut pulse = Pulse::new(Duration::from_secs(8));
        let beats: Vec<u64> = (0..=80)
            .map(|tenths| tenths * 100_000)
            .filter(|&now_us| pulse.beats(now_us, 500))
            .collect();
        assert_eq!(beats, [0, 2_000_000, 4_000_000, 6_000_000, 8_000_000]);
    }

    #[test]
    fn a_loop_that_hangs_is_not_covered_up() {
        let mut pulse = Pulse::new(Duration::from_secs(8));
        assert!(pulse.beats(0, 4_000));
        assert!(
            !pulse.beats(3_000_000, 4_001),
            "half of the interval is over"
        );
        assert!(pulse.beats(4_000_000, 20), "it turns again");
    }
}
