//! How late the loop is: by long turns, messages that wait for a turn, and sleeps that end too late.

/// A shorter delay does not count as lateness.
const LATE_FROM_US: u64 = 20_000;

/// The length of a window. The lateness of a window is the longest delay in it.
const WINDOW_US: u64 = 250_000;

/// The lateness of the loop.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// The longest delay in this window.
    longest_us: u64,
    window_began_us: u64,
    /// The lateness of the last windows, which are a second together.
    windows_us: [u64; 4],
    total_us: u64,
}

impl Lateness {
    /// Records how long a turn took, how long a message waited for its turn, or by how much a sleep ended too late.
    pub(super) fn observe_us(&mut self, us: u64) {
        self.longest_us = self.longest_us.max(us);
    }

    /// Ends the window if its time is over, and returns its lateness, microseconds; `None` while it lasts.
    pub(super) fn tick(&mut self, now_us: u64) -> Option<u64> {
        if now_us < self.window_began_us + WINDOW_US {
            return None;
        }
        self.window_began_us = now_us;
        let longest_us = std::mem::take(&mut self.longest_us);
        let late_us = if longest_us >= LATE_FROM_US {
            longest_us
        } else {
            0
        };
        self.windows_us.rotate_left(1);
        self.windows_us[3] = late_us;
        self.total_us += late_us;
        Some(late_us)
    }

    /// The lateness of the last second, microseconds.
    pub(super) fn last_second_us(&self) -> u64 {
        self.windows_us.iter().sum()
    }

    /// The lateness since the start, microseconds.
    pub(super) fn total_us(&self) -> u64 {
        self.total_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_each_window_counts_for_a_second() {
        let mut lateness = Lateness::default();
        let mut second = |at_ms: u64, observed_ms: &[u64]| {
            observed_ms
                .iter()
                .for_each(|ms| lateness.observe_us(ms * 1_000));
            lateness.tick(at_ms * 1_000);
            [
                lateness.last_second_us() / 1_000,
                lateness.total_us() / 1_000,
            ]
        };
        assert_eq!(second(250, &[19]), [0, 0]);
        assert_eq!(second(300, &[100, 300]), [0, 0], "the window is open");
        assert_eq!(second(500, &[20]), [300, 300]);
        assert_eq!(second(750, &[40]), [340, 340]);
        assert_eq!(second(1_000, &[]), [340, 340]);
        assert_eq!(second(1_250, &[]), [340, 340]);
        assert_eq!(second(1_500, &[]), [40, 340]);
        assert_eq!(second(1_750, &[]), [0, 340]);
    }
}
