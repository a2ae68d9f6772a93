//! The liquidity at a price level: how resting orders build up, are used up, and come again. The
//! numbers are made up.

use weirgate_wire::base::SplitMix64;

/// The rates of added, cancelled and filled contracts are means over about this time, in seconds.
const RATE_TAU_S: f64 = 4.0;
/// How long a state stays at least, so that people can read it, in seconds.
const DWELL_S: f64 = 2.0;

/// The resting orders at a level.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    /// Usual number of contracts.
    base: f64,
    /// Contracts now.
    pub(super) depth: f64,
    /// The depth that the resting orders tend to, as a multiple of the base.
    intent: f64,
    /// Contracts per second.
    pub(super) added: f64,
    pub(super) canceled: f64,
    pub(super) filled: f64,
    pub(super) state: &'static str,
    state_age_s: f64,
}

impl Barrier {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
        let base = random.between(2_500.0, 7_500.0);
        Self {
            base,
            depth: base * random.between(0.6, 1.4),
            intent: 1.0,
            added: 0.0,
            canceled: 0.0,
            filled: 0.0,
            state: "NEUTRAL",
            state_age_s: DWELL_S,
        }
    }

    /// Advances by `dt_s` seconds with the spot at `distance` points.
    pub(super) fn advance(&mut self, dt_s: f64, distance: f64, random: &mut SplitMix64) {
        // Every 14 seconds on average, the orders begin to be withdrawn, to return to the usual depth, or to pile up.
        if random.chance(dt_s / 14.0) {
            let draw = random.uniform();
            self.intent = if draw < 0.3 {
                random.between(0.1, 0.35)
            } else if draw < 0.65 {
                random.between(0.7, 1.3)
            } else {
                random.between(1.8, 2.8)
            };
        }
        let step = (dt_s / 5.0).min(1.0);
        let change = (self.base * self.intent - self.depth) * step
            + self.base * 0.05 * dt_s.sqrt() * random.normal();
        // 1 at the level, 0 from 3 points on.
        let near = (1.0 - distance / 3.0).max(0.0);
        // Trading at the level eats up to a tenth of the usual depth a second.
        let fills = (self.base * 0.10 * near * dt_s * random.between(0.5, 1.5)).min(self.depth);
        self.depth = (self.depth + change - fills).clamp(20.0, self.base * 4.0);
        self.measure(dt_s, change, fills);
        self.state_age_s += dt_s;
        let state = self.classify(near > 0.2);
        if state != self.state && self.state_age_s >= DWELL_S {
            self.state = state;
            self.state_age_s = 0.0;
        }
    }

    /// Updates the rates after a step of `dt_s` seconds, in which `change` contracts were added (below 0: canceled) and
    /// `fills` were traded.
    fn measure(&mut self, dt_s: f64, change: f64, fills: f64) {
        if dt_s <= 0.0 {
            return;
        }
        let keep = (-dt_s / RATE_TAU_S).exp();
        let mean = |old: f64, new: f64| old * keep + new / dt_s * (1.0 - keep);
        // Orders come and go even while the depth stays the same.
        let turnover = self.base * 0.02 * dt_s;
        self.added = mean(self.added, change.max(0.0) + turnover);
        self.canceled = mean(self.canceled, (-change).max(0.0) + turnover);
        self.filled = mean(self.filled, fills);
    }

    /// Returns the state that the thresholds give, which are made up. `near`: the spot is near the level.
    fn classify(&self, near: bool) -> &'static str {
        let ratio = self.ratio();
        if near && ratio < 0.65 && self.filled > self.added {
            "CONSUMED"
        } else if ratio < 0.42 {
            "VACUUM"
        } else if near && self.replenishment_ratio() > 0.9 && ratio > 0.8 {
            "ABSORPTION"
        } else if ratio > 1.55 {
            "WALL"
        } else {
            "NEUTRAL"
        }
    }

    /// The depth against the usual depth.
    pub(super) fn ratio(&self) -> f64 {
        self.depth / self.base
    }

    /// Added against cancelled and filled.
    pub(super) fn replenishment_ratio(&self) -> f64 {
        (self.added / (self.canceled + self.filled).max(1.0)).min(9.99)
    }

    /// The contracts gained or lost over [`RATE_TAU_S`].
    pub(super) fn delta_liq(&self) -> f64 {
        (self.added - self.canceled - self.filled) * RATE_TAU_S
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn states(distance: f64) -> BTreeSet<&'static str> {
        let mut random = SplitMix64::new(11);
        let mut barrier = Barrier::new(&mut random);
        (0..40_000)
            .map(|_| {
                barrier.advance(0.25, distance, &mut random);
                assert!(barrier.depth > 0.0 && barrier.ratio() <= 4.0);
                assert!((0.0..10.0).contains(&barrier.replenishment_ratio()));
                barrier.state
            })
            .collect()
    }

    #[test]
    fn liquidity_builds_and_breaks_far_from_the_spot() {
        assert_eq!(states(20.0), BTreeSet::from(["NEUTRAL", "VACUUM", "WALL"]));
    }

    #[test]
    fn trading_at_the_level_absorbs_and_consumes() {
        let seen = states(0.5);
        assert!(
            seen.contains("ABSORPTION") && seen.contains("CONSUMED"),
            "{seen:?}"
        );
    }
}
