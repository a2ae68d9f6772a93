//! Two kinds of parts in turn, and their comparison.

use crate::fault::Fault;
use crate::stats::{Spread, spread};

/// The parts of all rounds, in pairs.
pub(super) struct Rounds<P> {
    /// The parts under test.
    pub(super) seen: Vec<P>,
    /// The parts to compare with.
    pub(super) base: Vec<P>,
}

impl<P> Rounds<P> {
    /// Measures both parts of each round. `part` gets the round, from 1, and whether to measure the part
    /// under test. The order alternates, so drift of the machine affects both kinds alike.
    pub(super) fn measure(
        rounds: usize,
        mut part: impl FnMut(usize, bool) -> Result<P, Fault>,
    ) -> Result<Self, Fault> {
        let (mut seen, mut base) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let first = round % 2 == 1;
            for is_seen in [first, !first] {
                let parts = if is_seen { &mut seen } else { &mut base };
                parts.push(part(round, is_seen)?);
            }
        }
        Ok(Self { seen, base })
    }

    /// A figure divided by the same figure of the base part, per round.
    pub(super) fn ratio(&self, of: impl Fn(&P) -> f64) -> Option<Spread> {
        self.pairs(|seen, base| of(seen) / of(base))
    }

    /// A figure minus the same figure of the base part, per round.
    pub(super) fn added(&self, of: impl Fn(&P) -> f64) -> Option<Spread> {
        self.pairs(|seen, base| of(seen) - of(base))
    }

    fn pairs(&self, of: impl Fn(&P, &P) -> f64) -> Option<Spread> {
        let pairs = self.seen.iter().zip(&self.base);
        let values: Vec<f64> = pairs.map(|(seen, base)| of(seen, base)).collect();
        spread(&values)
    }

    /// All parts, the parts under test first.
    pub(super) fn into_parts(self) -> Vec<P> {
        self.seen.into_iter().chain(self.base).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_swap_their_order_and_are_compared_within_their_round() {
        let mut order = Vec::new();
        let rounds = Rounds::measure(3, |round, seen| {
            order.push(seen);
            Ok(round as f64 * if seen { 4.0 } else { 2.0 })
        });
        let rounds = rounds.unwrap();
        assert_eq!(order, [true, false, false, true, true, false]);
        let ratio = rounds.ratio(|part| *part).unwrap();
        assert_eq!((ratio.n, ratio.min, ratio.max), (3, 2.0, 2.0));
        assert_eq!(rounds.added(|part| *part).unwrap().median, 4.0);
        assert_eq!(rounds.into_parts(), [4.0, 8.0, 12.0, 2.0, 4.0, 6.0]);
    }
}
