//! Ends the process when the bus has been away for too long, for those who ask for that
//! (`--bus-away-exit-s`). Nothing else ends with the bus: clients stay and `/ready` tells of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use crate::base::{Clock, detached};
use crate::telemetry::Telemetry;

/// Between two looks at the bus.
const INTERVAL: Duration = Duration::from_millis(200);

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
                thread::sleep(INTERVAL);
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
