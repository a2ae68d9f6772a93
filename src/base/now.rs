//! The clock as the core sees it: handed in, never read.

/// One instant on both clocks. The shell takes it once per turn; a simulation makes it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic microseconds since an arbitrary start. All deadlines are counted on it.
    pub mono_us: u64,
    /// Unix time in milliseconds, for what is shown to people and clients.
    pub unix_ms: i64,
}

impl Now {
    /// The instant `us` microseconds later on both clocks.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self {
            mono_us: self.mono_us + us,
            unix_ms: self.unix_ms + (us / 1_000) as i64,
        }
    }
}
