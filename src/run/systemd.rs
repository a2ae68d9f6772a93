//! Notifications to systemd about this process (sd_notify(3)): the listening, the turns of the loop, the
//! stop. Without NOTIFY_SOCKET nothing happens.
//!
//! `READY=1` is sent when the gateway listens, even without a bus: the gateway serves the last state and
//! retries, and a start timeout of systemd would end this. `/ready` tells whether the gateway should get
//! traffic.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::base::{Clock, detached};
use crate::telemetry::Telemetry;

/// The longest delay of the notification of a stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Notifies systemd that the gateway listens, and later of turns and stop. `stop_at_most` is the longest
/// duration of a stop.
pub(super) fn listening(telemetry: &Arc<Telemetry>, clock: Clock, stop_at_most: Duration) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
        return;
    }
    tell(&[NotifyState::Ready]);
    let telemetry = Arc::clone(telemetry);
    let watch = move || watch(&telemetry, clock, stop_at_most);
    if let Err(error) = detached("systemd", watch) {
        // A unit with WatchdogSec= restarts the gateway then.
        tracing::warn!(%error, "systemd cannot be told of the loop");
    }
}

fn watch(telemetry: &Telemetry, clock: Clock, stop_at_most: Duration) {
    let mut pulse = sd_notify::watchdog_enabled().map(Pulse::new);
    let mut stop_told = false;
    loop {
        thread::sleep(LOOK_EVERY);
        if telemetry.event_loop.draining() && !stop_told {
            stop_told = true;
            // The unit's TimeoutStopSec= may be shorter than the configured drain.
            let micros = u32::try_from(stop_at_most.as_micros()).unwrap_or(u32::MAX);
            tell(&[
                NotifyState::Stopping,
                NotifyState::ExtendTimeoutUsec(micros),
            ]);
        }
        let now = clock.now();
        let age_ms = telemetry.event_loop.last_turn_age_ms(now);
        if pulse.as_mut().is_some_and(|p| p.beats(now.mono_us, age_ms)) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// The times of watchdog notifications: four in an interval, while the last turn of the loop is less than
/// half an interval ago. The loop turns at least every 500 ms, so an interval of 2 s or more is enough.
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
