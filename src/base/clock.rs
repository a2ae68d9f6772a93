//! The clocks of the process: read only here, handed to the pure core as [`Now`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One instant on both clocks. The shell reads the clocks once per turn; a simulation makes instants up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic microseconds since an arbitrary start, for all deadlines.
    pub mono_us: u64,
    /// Unix time in microseconds, for people and clients.
    pub unix_us: i64,
}

impl Now {
    /// The instant `us` microseconds later on both clocks.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self {
            mono_us: self.mono_us + us,
            unix_us: self.unix_us + us as i64,
        }
    }

    /// The Unix time in milliseconds.
    #[must_use]
    pub const fn unix_ms(self) -> i64 {
        self.unix_us / 1_000
    }

    /// The Unix time of an earlier moment of the monotonic clock, milliseconds: right for people who look now, also if
    /// the wall clock was set since.
    #[must_use]
    pub const fn unix_ms_at(self, mono_us: u64) -> i64 {
        (self.unix_us - self.mono_us.saturating_sub(mono_us) as i64) / 1_000
    }
}

/// The process's clocks. One origin for all threads, so that stamps can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts the monotonic clock at one second, so that subtracting a short time never underflows.
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono_us: self.mono_us(),
            unix_us: unix.map_or(0, |d| micros(d) as i64),
        }
    }

    /// Reads the monotonic clock alone, as [`Now::mono_us`]: half the cost.
    pub fn mono_us(&self) -> u64 {
        1_000_000 + micros(self.origin.elapsed())
    }
}

/// `Duration::as_micros` without its 128 bits.
fn micros(passed: Duration) -> u64 {
    passed.as_secs() * 1_000_000 + u64::from(passed.subsec_micros())
}
