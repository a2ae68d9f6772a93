//! An instant, seeded random numbers, the memory of an allocation, and a budget of log lines. The caller passes the
//! time and the seed, so the same input gives the same result.

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

/// The memory that an allocation of `bytes` takes in the allocator, in bytes; 0 without an allocation. Beside the bytes it
/// has a header, and its size is rounded up (glibc's malloc: 8 bytes, a multiple of 16, at least 32; other allocators
/// need about as much). Every sum of memory counts by this function, so that small values do not look cheaper than they
/// are.
pub const fn allocated_bytes(bytes: usize) -> usize {
    const HEADER_BYTES: usize = 8;
    const ALIGN_BYTES: usize = 16;
    const LEAST_BYTES: usize = 32;
    match bytes {
        0 => 0,
        _ => {
            let whole = (bytes + HEADER_BYTES).next_multiple_of(ALIGN_BYTES);
            if whole < LEAST_BYTES {
                LEAST_BYTES
            } else {
                whole
            }
        }
    }
}

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the same seed
/// always gives the same numbers. Not for secrets: each number reveals all later numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Any seed is good; neighbouring seeds give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number of the sequence, evenly over all of `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in `0.0..1.0`.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Evenly in `low..high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Mean 0, variance 1, never beyond ±3.47: the sum of four uniforms. Bounded tails keep every
    /// value of a long run plausible.
    pub fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 3.0_f64.sqrt()
    }
}

const SECOND_US: u64 = 1_000_000;

/// A limit on the log lines per second of one place in the code: a flood of faults does not become a flood of lines. Never
/// logs anything itself.
#[derive(Clone, Debug)]
pub struct LogBudget {
    lines_per_second: u32,
    second_began_us: u64,
    lines: u32,
    suppressed: u64,
}

impl Default for LogBudget {
    /// One line a second.
    fn default() -> Self {
        Self::new(1)
    }
}

impl LogBudget {
    /// A full budget.
    pub const fn new(lines_per_second: u32) -> Self {
        Self {
            lines_per_second,
            second_began_us: 0,
            lines: 0,
            suppressed: 0,
        }
    }

    /// Requests one line. Returns the number of lines that were suppressed since the last line, for a field of this line;
    /// `None`, and counts a suppressed line, if the lines of this second are used up.
    pub fn line(&mut self, now: Now) -> Option<u64> {
        if self.second_is_over(now) {
            self.second_began_us = now.mono_us;
            self.lines = 0;
        }
        if self.lines >= self.lines_per_second {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Returns the number of suppressed lines once their second is over. A place that calls this periodically logs the
    /// number even if no line follows.
    pub fn left_out(&mut self, now: Now) -> Option<u64> {
        if self.suppressed == 0 || !self.second_is_over(now) {
            return None;
        }
        self.left_out_at_end()
    }

    /// Returns the number of suppressed lines at once, for a place that ends.
    pub fn left_out_at_end(&mut self) -> Option<u64> {
        let lines = std::mem::take(&mut self.suppressed);
        (lines > 0).then_some(lines)
    }

    fn second_is_over(&self, now: Now) -> bool {
        now.mono_us.saturating_sub(self.second_began_us) >= SECOND_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now {
        mono_us: 5_000_000,
        unix_us: 0,
    };

    #[test]
    fn lines_beyond_the_budget_are_told_with_the_next_one() {
        let mut budget = LogBudget::new(2);
        let whole = Some(0);
        assert_eq!(budget.line(START), whole);
        assert_eq!(budget.line(START.plus_us(10)), whole);
        for us in [20, 500_000, 999_999] {
            assert_eq!(budget.line(START.plus_us(us)), None);
        }
        let next = Some(3);
        assert_eq!(budget.line(START.plus_us(1_000_000)), next);
        assert_eq!(budget.line(START.plus_us(1_000_001)), whole);
        assert_eq!(budget.line(START.plus_us(1_000_002)), None);
    }

    #[test]
    fn lines_left_out_are_told_without_a_next_one() {
        let mut budget = LogBudget::new(1);
        assert_eq!(budget.left_out(START), None);
        for us in 0..4 {
            budget.line(START.plus_us(us));
        }
        assert_eq!(budget.left_out(START.plus_us(999_999)), None);
        assert_eq!(budget.left_out(START.plus_us(1_000_000)), Some(3));
        assert_eq!(budget.left_out(START.plus_us(1_000_000)), None);
        let next = Some(0);
        assert_eq!(budget.line(START.plus_us(1_000_001)), next);
        assert_eq!(budget.line(START.plus_us(1_000_002)), None);
        assert_eq!(budget.left_out_at_end(), Some(1));
        assert_eq!(budget.left_out_at_end(), None);
    }

    #[test]
    fn a_budget_of_nothing_logs_nothing() {
        let mut budget = LogBudget::new(0);
        assert_eq!(budget.line(START), None);
        assert_eq!(budget.line(START.plus_us(9_000_000)), None);
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one_within_bounds() {
        let mut random = SplitMix64::new(7);
        let draws: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        assert!(draws.iter().all(|x| x.abs() < 3.47));
    }

    #[test]
    fn gives_the_published_sequence() {
        let mut random = SplitMix64::new(1_234_567);
        let first: [u64; 5] = std::array::from_fn(|_| random.next_u64());
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ]
        );
    }
}
