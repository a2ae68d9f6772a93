//! What systemd is told of this process (sd_notify(3)): that it listens, that its loop turns, that
//! it stops. Where no NOTIFY_SOCKET is set, nothing at all happens.
//!
//! `READY=1` comes when the gateway listens, not when the bus is reached: with the bus away it
//! serves the last state and keeps trying, and a start that systemd gives up on would end that.
//! Whether it should get traffic is what `/ready` says.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::base::{Clock, detached};
use crate::telemetry::Telemetry;

/// A stop is told within this time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Says that the gateway listens, and from then on what becomes of it. `stop_at_most` is how long a
/// stop may take.
pub(super) fn listening(telemetry: &Arc<Telemetry>, clock: Clock, stop_at_most: Duration) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
        return;
    }
    tell(&[NotifyState::Ready]);
    let telemetry = Arc::clone(telemetry);
    let watch = move || watch(&telemetry, clock, stop_at_most);
    if let Err(error) = detached("systemd", watch) {
        // A unit with WatchdogSec= starts it again then.
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
            // The unit's TimeoutStopSec= need not know how long a drain was asked for.
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

/// When the watchdog is to be fed: four times in its interval, as long as the loop has turned
/// within half of it. The loop turns at least every 500 ms, so an interval of 2 s or more holds.
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
