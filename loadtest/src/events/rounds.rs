//! Two kinds of parts in turn, and what sets them apart.

use crate::fault::Fault;
use crate::stats::{Spread, spread};

/// The parts of all rounds, in pairs.
pub(super) struct Rounds<P> {
    /// Those that are looked at.
    pub(super) seen: Vec<P>,
    /// Those that they are compared with.
    pub(super) base: Vec<P>,
}

impl<P> Rounds<P> {
    /// Measures both parts of each round; `part` is told the round, from 1, and whether its part is
    /// one of those that are looked at. Who is first alternates, so that a drift of the machine
    /// falls on both alike.
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

    /// A figure over that of the same round's other part.
    pub(super) fn ratio(&self, of: impl Fn(&P) -> f64) -> Option<Spread> {
        self.pairs(|seen, base| of(seen) / of(base))
    }

    /// A figure less that of the same round's other part.
    pub(super) fn added(&self, of: impl Fn(&P) -> f64) -> Option<Spread> {
        self.pairs(|seen, base| of(seen) - of(base))
    }

    fn pairs(&self, of: impl Fn(&P, &P) -> f64) -> Option<Spread> {
        let pairs = self.seen.iter().zip(&self.base);
        let values: Vec<f64> = pairs.map(|(seen, base)| of(seen, base)).collect();
        spread(&values)
    }

    /// All parts, those that are looked at first.
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
