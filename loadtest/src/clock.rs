//! The clock of all stamps: CLOCK_MONOTONIC in microseconds, the same for every process of one
//! machine (clock_gettime(2)) and never set back, unlike the wall clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since a fixed point of this machine, the boot.
pub(crate) fn now_us() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    // Neither part of CLOCK_MONOTONIC is ever negative.
    t.tv_sec.cast_unsigned() * 1_000_000 + t.tv_nsec.cast_unsigned() / 1_000
}

/// Sleeps until `deadline_us` of [`now_us`]; returns at once if the deadline is past.
pub(crate) fn sleep_until(deadline_us: u64) {
    let now = now_us();
    if deadline_us > now {
        std::thread::sleep(Duration::from_micros(deadline_us - now));
    }
}

/// Lets sleeps of this thread end when they are due; the kernel may otherwise add 50 us to each, to
/// join wake-ups (prctl(2), `PR_SET_TIMERSLACK`).
pub(crate) fn sleep_punctually() {
    // If the kernel refuses, the delay is part of the publisher's measured delay.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// When a message is due, microseconds after the message with the number 0, at `rate` messages a second.
pub(crate) fn due_after_us(number: u64, rate: f64) -> u64 {
    // A rate of 0 becomes one in eleven days.
    (number as f64 * 1e6 / rate.max(1e-6)) as u64
}

/// Seconds as microseconds; negative and absurd values become 0.
pub(crate) fn seconds_us(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e6) as u64
}
