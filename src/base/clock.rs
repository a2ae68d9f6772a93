//! The clocks of the process: read only here, handed to the pure core as [`Now`].

use rustix::time::{ClockId, clock_gettime};

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

    /// The Unix time of an earlier moment of the monotonic clock, milliseconds: right for people who read it now, even
    /// if the wall clock was set since.
    #[must_use]
    pub const fn unix_ms_at(self, mono_us: u64) -> i64 {
        (self.unix_us - self.mono_us.saturating_sub(mono_us) as i64) / 1_000
    }
}

/// The process's clocks. One origin for all threads, so that stamps can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin_us: i64,
}

impl Clock {
    /// Starts the monotonic clock at one second, so that subtracting a short time never underflows.
    pub fn start() -> Self {
        Self {
            origin_us: micros(ClockId::Monotonic) - 1_000_000,
        }
    }

    /// Reads both clocks. A time before 1970 is 1970.
    pub fn now(&self) -> Now {
        Now {
            mono_us: self.mono_us(),
            unix_us: micros(ClockId::Realtime).max(0),
        }
    }

    /// Reads the monotonic clock alone, as [`Now::mono_us`]: half the cost.
    pub fn mono_us(&self) -> u64 {
        (micros(ClockId::Monotonic) - self.origin_us) as u64
    }
}

/// Reads a clock of the kernel, in microseconds. This takes a third of the instructions of `Instant` and `Duration`,
/// and the loop reads the clock ten times a turn.
fn micros(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}
