//! Notifies systemd of the start, the turns of the loop, and the stop (sd_notify(3)).

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::reactor::ReactorSettings;
use crate::telemetry::{LoopNumbers, Telemetry};
use weirgate_runtime::{Clock, detached};

/// The longest delay of the notification of a stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Notifies systemd that the gateway listens, and later of turns and of the stop (sd_notify(3)). Does nothing without
/// NOTIFY_SOCKET.
///
/// `READY=1` is sent when the gateway listens, even without a bus. The gateway then serves the last state and retries;
/// a start timeout of systemd would end it. `/ready` says whether the gateway should get traffic.
pub(super) fn start(telemetry: &Arc<Telemetry>, clock: Clock, reactor: &ReactorSettings) {
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

/// Runs until the process ends: notifies of the stop once, and feeds the watchdog of systemd while the loop turns.
fn notify_of_turns(telemetry: &Telemetry, clock: Clock, reactor: &ReactorSettings) {
    let mut pulse = sd_notify::watchdog_enabled().map(Pulse::new);
    let mut is_stop_reported = false;
    loop {
        thread::sleep(STOP_CHECK_INTERVAL);
        if telemetry.event_loop.draining() && !is_stop_reported {
            is_stop_reported = true;
            // The unit's TimeoutStopSec= may be shorter than the drain that is set.
            let connections = telemetry.event_loop.read(LoopNumbers::all_connections);
            let micros = u32::try_from(reactor.longest_stop_us(connections)).unwrap_or(u32::MAX);
            notify(&[
                NotifyState::Stopping,
                NotifyState::ExtendTimeoutUsec(micros),
            ]);
        }
        let now = clock.now();
        let age_ms = telemetry.event_loop.last_turn_age_ms(now);
        if pulse
            .as_mut()
            .is_some_and(|p| p.take_due(now.mono_us, age_ms))
        {
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

    /// Whether to notify now; then the next notification is due in a quarter of the interval.
    fn take_due(&mut self, now_us: u64, last_turn_age_ms: u64) -> bool {
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
            .filter(|&now_us| pulse.take_due(now_us, 500))
            .collect();
        assert_eq!(beats, [0, 2_000_000, 4_000_000, 6_000_000, 8_000_000]);
    }

    #[test]
    fn a_loop_that_hangs_is_not_covered_up() {
        let mut pulse = Pulse::new(Duration::from_secs(8));
        assert!(pulse.take_due(0, 4_000));
        assert!(
            !pulse.take_due(3_000_000, 4_001),
            "half of the interval is over"
        );
        assert!(pulse.take_due(4_000_000, 20), "it turns again");
    }
}
