//! Polling without sleeping, for some time after the last work (`--spin-us`).
//!
//! Waking a sleeping thread takes tens of microseconds if the CPU has to leave an idle state. A polling
//! thread finds its work at once, and no thread makes a system call to wake the polling thread. The price is
//! a whole CPU.

use std::thread;

use super::Clock;

/// The spinning of a thread after work, and its counts.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    for_us: u64,
    until_us: u64,
    counts: SpinCounts,
}

/// The cost and the benefit of spinning. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpinCounts {
    /// Microseconds spent.
    pub spun_us: u64,
    /// Times that spinning found work: each time saved a wake-up.
    pub found: u64,
}

impl Spin {
    /// Spins for `for_us` microseconds after the last work; 0 for never.
    pub fn new(for_us: u64) -> Self {
        Self {
            for_us,
            until_us: 0,
            counts: SpinCounts::default(),
        }
    }

    /// Notes work at `now_us` of the monotonic clock.
    pub fn worked(&mut self, now_us: u64) {
        self.until_us = now_us + self.for_us;
    }

    /// Calls `has_work` repeatedly until the result is true or an error, the time since the last work is
    /// over, or `due_us` has come. Returns the last result, or false without a call if the time is over
    /// already. Other threads on this CPU run between two calls: one of them may bring the work.
    ///
    /// # Errors
    /// The errors of `has_work`.
    pub fn poll<E>(
        &mut self,
        clock: Clock,
        due_us: u64,
        mut has_work: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if self.for_us == 0 {
            return Ok(false);
        }
        let until_us = self.until_us.min(due_us);
        let began_us = clock.now().mono_us;
        let mut now_us = began_us;
        let mut found = false;
        while now_us < until_us && !found {
            found = has_work()?;
            if !found {
                // Costs little while this thread has its CPU alone.
                thread::yield_now();
            }
            now_us = clock.now().mono_us;
        }
        self.counts.spun_us += now_us - began_us;
        self.counts.found += u64::from(found);
        Ok(found)
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> SpinCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn polled(spin: &mut Spin, due_us: u64, mut looks: u32) -> (bool, u32) {
        let clock = Clock::start();
        let mut made = 0;
        let found = spin.poll(clock, due_us, || {
            made += 1;
            looks -= 1;
            Ok::<_, Infallible>(looks == 0)
        });
        let Ok(found) = found;
        (found, made)
    }

    #[test]
    fn it_looks_until_there_is_work_and_counts_that() {
        let mut spin = Spin::new(60_000_000);
        spin.worked(Clock::start().now().mono_us);
        assert_eq!(polled(&mut spin, u64::MAX, 100), (true, 100));
        assert_eq!(polled(&mut spin, u64::MAX, 1), (true, 1));
        assert_eq!(spin.counts().found, 2);
    }

    #[test]
    fn it_ends_after_its_time_or_when_something_is_due() {
        let now_us = Clock::start().now().mono_us;
        // Long enough for a busy machine.
        let long_us = 300_000;
        let mut spin = Spin::new(long_us);
        spin.worked(now_us);
        let (found, looks) = polled(&mut spin, u64::MAX, u32::MAX);
        assert!(!found && looks > 1);
        assert!(spin.counts().spun_us > 0 && spin.counts().found == 0);

        let mut spin = Spin::new(60_000_000);
        spin.worked(now_us);
        assert!(!polled(&mut spin, now_us + long_us, u32::MAX).0);
        let spun_us = spin.counts().spun_us;
        assert!((1..30_000_000).contains(&spun_us), "{spun_us}");
    }

    #[test]
    fn without_a_time_and_long_after_the_last_work_it_does_not_look() {
        let mut spin = Spin::new(0);
        spin.worked(Clock::start().now().mono_us);
        assert_eq!(polled(&mut spin, u64::MAX, 1), (false, 0));
        let mut spin = Spin::new(500);
        spin.worked(1_000);
        assert_eq!(polled(&mut spin, u64::MAX, 1), (false, 0));
        assert_eq!(spin.counts(), SpinCounts::default());
    }

    #[test]
    fn an_error_ends_it() {
        let mut spin = Spin::new(60_000_000);
        spin.worked(Clock::start().now().mono_us);
        assert_eq!(
            spin.poll(Clock::start(), u64::MAX, || Err("gone")),
            Err("gone")
        );
    }
}
