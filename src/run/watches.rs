//! Threads that watch the process beside its loop.
//!
//! [`BusAway`] ends the process when the bus has been away for too long (`--bus-away-exit-s`). Otherwise the
//! gateway survives a lost bus: clients stay, and `/ready` reports the loss. [`StatsLine`] logs numbers
//! periodically. [`after_storms`] returns memory of ended clients to the system.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use crate::base::{Clock, detached};
use crate::telemetry::{LoopNumbers, Telemetry};

/// The time between two looks at the bus.
const BUS_LOOK: Duration = Duration::from_millis(200);

/// Whether the process stops because of the bus.
#[derive(Default)]
pub(super) struct BusAway(Arc<AtomicBool>);

impl BusAway {
    /// Starts a thread that watches the bus. When the bus has been away for `limit_s` seconds, the thread
    /// stops the process as a signal would, so clients get a close frame and reconnect. A stop that has begun
    /// already continues unchanged.
    pub(super) fn watch(
        &self,
        telemetry: Arc<Telemetry>,
        clock: Clock,
        limit_s: u64,
    ) -> io::Result<()> {
        let limit_ms = i64::try_from(limit_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let stops = Arc::clone(&self.0);
        let away_ms = move |telemetry: &Telemetry| {
            let since = telemetry.bus()?.away_since_unix_ms()?;
            Some(clock.now().unix_ms.saturating_sub(since))
        };
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

/// The function that logs a line, and the interval.
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

/// With fewer connections the freed memory does not matter.
const CONNECTIONS_MIN: u64 = 128;

/// The most connections since memory was returned the last time.
#[derive(Debug, Default)]
struct Ebb {
    most: u64,
}

impl Ebb {
    /// Takes the current number of connections. Returns true once most of many connections have ended.
    fn has_come(&mut self, connections: u64) -> bool {
        self.most = self.most.max(connections);
        let has_come = self.most >= CONNECTIONS_MIN && connections <= self.most / 2;
        if has_come {
            self.most = connections;
        }
        has_come
    }
}

/// Starts a thread that returns memory of ended clients to the system, and ends with the process.
///
/// glibc returns freed memory at the end of its heap automatically. After a storm, a few small blocks in use
/// remain there and keep the free memory before them in the process: 7 MiB of 25 after 400 uploads that never
/// ended. With `malloc_trim(3)` glibc returns this memory too.
pub(super) fn after_storms(telemetry: Arc<Telemetry>) -> io::Result<()> {
    let run = move || {
        let mut ebb = Ebb::default();
        loop {
            thread::sleep(MEMORY_LOOK);
            let connections = telemetry.event_loop.read(LoopNumbers::all_connections);
            if ebb.has_come(connections) {
                // The connections that ended last are freed by then.
                thread::sleep(MEMORY_LOOK);
                give_back();
            }
        }
    };
    detached("freed-memory", run)
}

/// Returns the free memory of all heaps to the system. If the loop needs memory, the loop waits for the heap:
/// for less than a millisecond with some MiB.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library without a safe form")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time, and moves no block in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(counts: &[u64]) -> Vec<bool> {
        let mut ebb = Ebb::default();
        counts.iter().map(|count| ebb.has_come(*count)).collect()
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
}
