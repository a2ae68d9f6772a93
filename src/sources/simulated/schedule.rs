//! When the next message is due.

/// Instants at equal distances from a start. Counted from the start, so that late wake-ups do not
/// add up; after a pause the missed ones are left out, so that nothing comes in a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start_us: u64,
    step_us: f64,
    slot: u64,
}

impl Schedule {
    /// The first instant is `start_us` (monotonic microseconds), then `per_s` a second.
    pub(super) fn new(start_us: u64, per_s: f64) -> Self {
        Self {
            start_us,
            step_us: 1_000_000.0 / per_s,
            slot: 0,
        }
    }

    /// How long to wait at `now_us` for the next instant, in microseconds; that one is then used
    /// up. 0 when it is now, or was missed by less than one step.
    pub(super) fn wait_us(&mut self, now_us: u64) -> u64 {
        let elapsed_us = now_us.saturating_sub(self.start_us);
        let current = (elapsed_us as f64 / self.step_us) as u64;
        self.slot = self.slot.max(current);
        let due_us = (self.slot as f64 * self.step_us) as u64;
        self.slot += 1;
        due_us.saturating_sub(elapsed_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_wake_ups_do_not_add_up() {
        let mut schedule = Schedule::new(1_000, 8.0);
        let mut now_us = 1_000;
        for slot in 0..1_000_u64 {
            now_us += schedule.wait_us(now_us);
            assert!(now_us >= 1_000 + slot * 125_000);
            now_us += 40_000;
            assert!(now_us <= 1_000 + slot * 125_000 + 40_000);
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut schedule = Schedule::new(0, 10.0);
        assert_eq!(schedule.wait_us(0), 0);
        assert_eq!(schedule.wait_us(5_030_000), 0);
        assert_eq!(schedule.wait_us(5_030_000), 70_000);
        assert_eq!(schedule.wait_us(5_100_000), 100_000);
    }

    #[test]
    fn uneven_steps_keep_the_rate() {
        let mut schedule = Schedule::new(0, 3.0);
        let mut now_us = 0;
        for _ in 0..=3_000 {
            now_us += schedule.wait_us(now_us);
        }
        assert!(now_us.abs_diff(1_000_000_000) <= 1, "{now_us}");
    }
}
