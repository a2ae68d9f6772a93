//! Threads that look at the process beside its loop, each where it is asked for.
//!
//! [`BusAway`] ends the process when the bus has been away for too long (`--bus-away-exit-s`). Nothing else
//! ends with the bus: clients stay and `/ready` tells of it. [`StatsLine`] logs how things are, again and
//! again. [`after_storms`] gives memory of clients that have left back to the system.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use crate::base::{Clock, detached};
use crate::telemetry::{LoopNumbers, Telemetry};

/// Between two looks at the bus.
const BUS_LOOK: Duration = Duration::from_millis(200);

/// Whether the process stops because of the bus.
#[derive(Default)]
pub(super) struct BusAway(Arc<AtomicBool>);

impl BusAway {
    /// Looks at the bus from a thread of its own. When it was away for `limit_s` seconds, stops the
    /// process as a signal would, so that clients are told to come back. A stop that has begun
    /// already goes on as it is.
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

    /// Whether this is why the process stops.
    pub(super) fn stops(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What the line says, and how often.
pub struct StatsLine {
    /// Milliseconds between two lines; the first comes after as many.
    pub interval_ms: u64,
    /// Logs one line.
    pub log: Box<dyn Fn(&Telemetry) + Send>,
}

impl StatsLine {
    /// Logs from a thread of its own, which ends with the process.
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

/// How often the connections are counted.
const MEMORY_LOOK: Duration = Duration::from_secs(3);

/// Fewer connections than this leave nothing that is worth a look.
const CONNECTIONS_MIN: u64 = 128;

/// The most connections since memory was given back the last time.
#[derive(Debug, Default)]
struct Ebb {
    most: u64,
}

impl Ebb {
    /// Takes the number of connections now; true once most of many have left.
    fn has_come(&mut self, connections: u64) -> bool {
        self.most = self.most.max(connections);
        let has_come = self.most >= CONNECTIONS_MIN && connections <= self.most / 2;
        if has_come {
            self.most = connections;
        }
        has_come
    }
}

/// Gives memory of clients that have left back to the system, from a thread of its own, which ends with
/// the process.
///
/// glibc returns freed memory at the end of its heap by itself. After a storm a few small blocks that
/// are in use lie there, and what is free before them stays with the process: 7 MiB of 25 after 400
/// uploads that never ended. Asked to, glibc returns that too.
pub(super) fn after_storms(telemetry: Arc<Telemetry>) -> io::Result<()> {
    let run = move || {
        let mut ebb = Ebb::default();
        loop {
            thread::sleep(MEMORY_LOOK);
            let count = |numbers: &LoopNumbers| numbers.connections().map(|(_, n)| n).sum();
            if ebb.has_come(telemetry.event_loop.read(count)) {
                // Those that left last are freed by then.
                thread::sleep(MEMORY_LOOK);
                give_back();
            }
        }
    };
    detached("freed-memory", run)
}

/// Returns what is free in all heaps to the system. The loop waits for the heap meanwhile, if it
/// needs memory: for less than a millisecond with some MiB.
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
