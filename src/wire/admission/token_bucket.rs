//! The bucket of all rates: so many at once, and so many a second. Pure: callers pass the time.

/// Billionths in a token.
const NANOS_PER_TOKEN: u64 = 1_000_000_000;

/// A bucket that is full at the start, holds at most `burst` tokens and gains `per_second` tokens a second.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Billionths of a token: at a rate in thousandths of a token a second, each microsecond brings a whole number of them.
    nano_tokens: u64,
    capacity_nano_tokens: u64,
    per_second_milli: u64,
    filled_at_us: u64,
}

impl TokenBucket {
    /// A full bucket for `per_second` tokens a second, and as many at once.
    pub fn new(per_second: u32, now_us: u64) -> Self {
        Self::with_burst(per_second, per_second, now_us)
    }

    /// A full bucket for `per_second` tokens a second, and `burst` at once.
    pub fn with_burst(per_second: u32, burst: u32, now_us: u64) -> Self {
        Self::with_rate(u64::from(per_second) * 1000, burst, now_us)
    }

    /// A full bucket for `per_second_milli` thousandths of a token a second, and `burst` tokens at
    /// once.
    pub fn with_rate(per_second_milli: u64, burst: u32, now_us: u64) -> Self {
        let capacity_nano_tokens = u64::from(burst) * NANOS_PER_TOKEN;
        Self {
            nano_tokens: capacity_nano_tokens,
            capacity_nano_tokens,
            per_second_milli,
            filled_at_us: now_us,
        }
    }

    /// Takes a token; returns false if there is none.
    pub fn take(&mut self, now_us: u64) -> bool {
        self.fill(now_us);
        let Some(left) = self.nano_tokens.checked_sub(NANOS_PER_TOKEN) else {
            return false;
        };
        self.nano_tokens = left;
        true
    }

    /// Takes one of `parts` equal parts of a full bucket, or what is left.
    pub fn take_part(&mut self, parts: u64, now_us: u64) {
        self.fill(now_us);
        self.nano_tokens = self
            .nano_tokens
            .saturating_sub(self.capacity_nano_tokens / parts);
    }

    /// Whether the bucket holds `tokens` tokens, with those that have come back by now.
    pub fn holds(&mut self, tokens: usize, now_us: u64) -> bool {
        self.fill(now_us);
        self.nano_tokens / NANOS_PER_TOKEN >= tokens as u64
    }

    /// Whether all tokens that were taken have come back.
    pub fn is_full(&mut self, now_us: u64) -> bool {
        self.fill(now_us);
        self.nano_tokens == self.capacity_nano_tokens
    }

    /// Adds the tokens since the last call. Microseconds times thousandths of a token per second are billionths of a
    /// token.
    fn fill(&mut self, now_us: u64) {
        let gained = now_us
            .saturating_sub(self.filled_at_us)
            .saturating_mul(self.per_second_milli);
        self.nano_tokens = self
            .nano_tokens
            .saturating_add(gained)
            .min(self.capacity_nano_tokens);
        self.filled_at_us = self.filled_at_us.max(now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gives_exactly_its_tokens() {
        let mut bucket = TokenBucket::new(10, 0);
        assert_eq!((0..100).filter(|_| bucket.take(0)).count(), 10);
        assert!(!bucket.take(99_999) && !bucket.holds(1, 99_999));
        assert!(bucket.holds(1, 100_000) && !bucket.holds(2, 100_000));
        assert!(bucket.take(100_000));
        let taken = (0..1_000_000)
            .step_by(1_000)
            .filter(|us| bucket.take(100_000 + us))
            .count();
        assert_eq!(taken, 9);
    }

    #[test]
    fn a_burst_is_there_at_once_and_comes_back_at_its_rate() {
        let mut bucket = TokenBucket::with_burst(1, 5, 0);
        assert!(bucket.is_full(0));
        assert_eq!((0..9).filter(|_| bucket.take(0)).count(), 5);
        assert!(!bucket.is_full(4_999_999));
        assert!(bucket.is_full(5_000_000));
    }

    #[test]
    fn a_part_is_of_the_whole_and_at_most_what_is_left() {
        let mut bucket = TokenBucket::new(8, 0);
        bucket.take_part(4, 0);
        assert!(bucket.holds(6, 0) && !bucket.holds(7, 0));
        (0..9).for_each(|_| bucket.take_part(4, 0));
        assert!(!bucket.take(0) && bucket.take(125_000));
    }

    #[test]
    fn never_holds_more_than_a_second_and_zero_gives_none() {
        let mut bucket = TokenBucket::new(3, 0);
        assert_eq!((0..9).filter(|_| bucket.take(u64::MAX / 2)).count(), 3);
        assert!(!TokenBucket::new(0, 0).take(u64::MAX));
    }
}
