//! The usual gap between the messages of a topic or of a subject of the bus, and when a silence is longer than usual.

/// A topic or subject is quiet after so many of its usual gaps, and after this time at least.
const QUIET_GAPS: u64 = 10;
const QUIET_MIN_US: u64 = 5_000_000;
/// A long gap is half forgotten after some 45 shorter ones.
const GAPS_KEPT: u64 = 64;
/// Before so many gaps, of ten messages, none is usual.
const GAPS_MIN: u8 = 9;

/// The usual time between the messages of a source, and from when on a silence is longer than usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// The longest gap of late, microseconds. A longer gap counts at once; with shorter ones it is forgotten by and by.
    usual_us: u64,
    /// How many gaps were recorded; counts no further than [`GAPS_MIN`].
    recorded: u8,
}

impl Gaps {
    /// Records the time between a message and the one before it, microseconds.
    pub fn record(&mut self, gap_us: u64) {
        self.usual_us = gap_us.max(self.usual_us - self.usual_us / GAPS_KEPT);
        self.recorded = GAPS_MIN.min(self.recorded + 1);
    }

    /// The usual gap, microseconds.
    pub const fn usual_us(self) -> u64 {
        self.usual_us
    }

    /// The silence after which the topic or subject counts as quiet, microseconds; `None` before ten messages.
    pub fn quiet_after_us(self) -> Option<u64> {
        let is_known = self.recorded >= GAPS_MIN;
        is_known.then(|| QUIET_MIN_US.max(QUIET_GAPS.saturating_mul(self.usual_us)))
    }

    /// `silent_us` again, if a silence of so many microseconds is longer than usual.
    pub fn quiet_us(self, silent_us: u64) -> Option<u64> {
        let is_quiet = self.quiet_after_us().is_some_and(|after| silent_us > after);
        is_quiet.then_some(silent_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    #[test]
    fn a_source_is_quiet_after_ten_of_its_usual_gaps_and_five_seconds() {
        let mut gaps = Gaps::default();
        for _ in 1..9 {
            gaps.record(100_000);
        }
        assert_eq!(gaps.quiet_us(60 * SECOND_US), None, "too few to know");
        gaps.record(100_000);
        assert_eq!(gaps.quiet_us(5 * SECOND_US), None);
        assert_eq!(
            gaps.quiet_us(5 * SECOND_US + 1_000),
            Some(5 * SECOND_US + 1_000)
        );
        // A pause is usual from then on, until many shorter gaps have come.
        gaps.record(60 * SECOND_US);
        assert_eq!(gaps.quiet_us(600 * SECOND_US), None);
        for _ in 0..400 {
            gaps.record(100_000);
        }
        assert!(gaps.quiet_us(60 * SECOND_US).is_some());
    }
}
