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

/// Sleeps until `deadline_us` of [`now_us`]; at once when it is past.
pub(crate) fn sleep_until(deadline_us: u64) {
    let now = now_us();
    if deadline_us > now {
        std::thread::sleep(Duration::from_micros(deadline_us - now));
    }
}

/// Seconds as microseconds; negative and absurd values become 0.
pub(crate) fn seconds_us(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e6) as u64
}
