//! The bill of a client for the time that its input takes.

/// A client costs little if its input takes at most one `LITTLE_PART`th of the time...
const LITTLE_PART: u64 = 512;

/// ... and at most this much of it at once, microseconds.
const LITTLE_US_MAX: u64 = 200;

/// After a pause of this long, a client costs little again, microseconds. The input that ends the pause is still read
/// with that of costly clients, because the bill changes only after a read.
const COSTLY_US_MAX: u64 = 1_000_000;

/// The time that a client costs the loop: its reads, and its shares of later turns. A single read says little: a
/// hundred addresses that send without a pause have reads as short as those of a client that sends a ping now and then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bill {
    /// When the client has paid for all of its time, with a [`LITTLE_PART`]th of the time, microseconds of the monotonic
    /// clock.
    paid_us: u64,
}

impl Bill {
    /// Adds work of `took_us` microseconds that ended at `now_us` of the monotonic clock. Returns whether the client costs
    /// much.
    pub fn add(&mut self, now_us: u64, took_us: u64) -> bool {
        let paid_us = self.paid_us.max(now_us) + took_us * LITTLE_PART;
        self.paid_us = paid_us.min(now_us + COSTLY_US_MAX);
        paid_us > now_us + LITTLE_US_MAX * LITTLE_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    /// Whether a client that has a read of `took_us` each `every_us` for a second costs much at its end.
    fn costs_much(every_us: u64, took_us: u64) -> bool {
        let mut bill = Bill::default();
        let reads = (0..S).step_by(every_us as usize);
        reads.fold(false, |_, at_us| bill.add(S + at_us, took_us))
    }

    #[test]
    fn a_client_costs_much_by_the_time_of_all_its_reads() {
        assert!(!costs_much(20_000, 30), "50 pings a second");
        assert!(!costs_much(S, LITTLE_US_MAX), "a request now and then");
        assert!(costs_much(S, LITTLE_US_MAX + 1), "one long read");
        assert!(
            costs_much(5_000, 40),
            "a hundredth of the time in short reads"
        );
    }

    #[test]
    fn a_client_that_has_cost_much_costs_little_after_a_second() {
        let mut bill = Bill::default();
        assert!(bill.add(S, 50_000));
        assert!(bill.add(S + S / 2, 10));
        assert!(!bill.add(2 * S + S / 2, 10));
    }
}
