//! How long to wait before the next attempt: doubling, bounded, with jitter. Pure: the seed comes in.

use std::time::Duration;

/// An hour: whatever is set, the bus is tried again, and the sums below cannot overflow.
const DELAY_MAX_MS: u64 = 3_600_000;

/// The delays between attempts to reach the bus.
#[derive(Debug)]
pub(super) struct Backoff {
    min_ms: u64,
    max_ms: u64,
    step_ms: u64,
    random: u64,
}

impl Backoff {
    /// Delays from `min_ms`, doubling up to `max_ms`. Processes that lost the same server should
    /// have different seeds, so that they do not all come back in one moment.
    pub(super) fn new(min_ms: u64, max_ms: u64, seed: u64) -> Self {
        let min_ms = min_ms.clamp(1, DELAY_MAX_MS);
        Self {
            min_ms,
            max_ms: max_ms.clamp(min_ms, DELAY_MAX_MS),
            step_ms: min_ms,
            random: seed | 1,
        }
    }

    /// The delay before the next attempt: between three quarters of the step and the whole step,
    /// so that the jitter never makes it longer than what the settings say.
    pub(super) fn next_delay(&mut self) -> Duration {
        let step_ms = self.step_ms;
        self.step_ms = (step_ms * 2).min(self.max_ms);
        let jitter_us_max = step_ms * 250;
        let jitter_us = self.next_random() % (jitter_us_max + 1);
        Duration::from_micros(step_ms * 1_000 - jitter_us)
    }

    /// The bus was there for a while: the next outage starts with the shortest delay.
    pub(super) fn reset(&mut self) {
        self.step_ms = self.min_ms;
    }

    /// xorshift64: any state but 0 goes round all others.
    fn next_random(&mut self) -> u64 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_limit_and_never_over_it() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(100, 2_000, seed);
            for step_ms in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
                let delay = backoff.next_delay();
                assert!(delay <= Duration::from_millis(step_ms), "{delay:?}");
                assert!(delay >= Duration::from_millis(step_ms * 3 / 4), "{delay:?}");
            }
            backoff.reset();
            assert!(backoff.next_delay() <= Duration::from_millis(100));
        }
    }

    #[test]
    fn seeds_differ() {
        let first = |seed| Backoff::new(100, 2_000, seed).next_delay();
        let delays: std::collections::HashSet<_> =
            (1..50u64).map(|n| first(n * 7_919_000_003)).collect();
        assert!(delays.len() > 30, "{delays:?}");
    }

    #[test]
    fn odd_settings_are_made_sound() {
        let mut backoff = Backoff::new(0, 0, 0);
        assert!(backoff.next_delay() <= Duration::from_millis(1));
        let mut backoff = Backoff::new(u64::MAX, 5, 0);
        assert!(backoff.next_delay() <= Duration::from_secs(3_600));
    }
}
