//! Where the simulated future trades: a random walk with regimes, held near its anchor.

use super::random::Random;

/// The smallest price step of the ES future, in points.
pub(super) const TICK: f64 = 0.25;
/// The spot never leaves this distance from [`OPEN`], in points.
pub(super) const BAND: f64 = 120.0;
/// Where the session opens, in points.
pub(super) const OPEN: f64 = 6_850.0;

/// Pull towards the anchor, per second: a move is half undone after about four minutes.
const REVERSION_PER_S: f64 = 1.0 / 350.0;
/// The velocity that is shown is a mean over about this time.
const VELOCITY_TAU_S: f64 = 6.0;

/// What the market is up to for half a minute or so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regime {
    Quiet,
    Up,
    Down,
    Wild,
}

impl Regime {
    /// Drift in points per second, volatility in points per square root of a second.
    const fn drift_and_volatility(self) -> (f64, f64) {
        match self {
            Self::Quiet => (0.0, 0.4),
            Self::Up => (0.2, 0.6),
            Self::Down => (-0.2, 0.6),
            Self::Wild => (0.0, 1.15),
        }
    }

    /// Trading volume against the usual.
    const fn activity(self) -> f64 {
        match self {
            Self::Quiet => 0.6,
            Self::Up | Self::Down => 1.1,
            Self::Wild => 2.0,
        }
    }
}

/// The simulated spot and what follows from it alone.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    mid: f64,
    regime: Regime,
    regime_left_s: f64,
    /// Points per second, smoothed.
    pub(super) velocity: f64,
    /// The trade last seen was a buyer's: it printed at the ask.
    at_ask: bool,
    pub(super) session_high: f64,
    pub(super) session_low: f64,
    /// A slow mean of the spot, in points.
    pub(super) slow_mean: f64,
}

impl Spot {
    pub(super) fn new(random: &mut Random) -> Self {
        let mid = OPEN + random.between(-6.0, 6.0);
        Self {
            mid,
            regime: Regime::Quiet,
            regime_left_s: 5.0,
            velocity: 0.0,
            at_ask: true,
            session_high: OPEN + 7.75,
            session_low: OPEN - 8.5,
            slow_mean: OPEN - 3.0,
        }
    }

    /// Moves on by `dt_s` seconds; `imbalance` (−1 to 1) says who the aggressor tends to be.
    pub(super) fn advance(&mut self, dt_s: f64, imbalance: f64, random: &mut Random) {
        self.regime_left_s -= dt_s;
        if self.regime_left_s <= 0.0 {
            self.change_regime(random);
        }
        let (drift, volatility) = self.regime.drift_and_volatility();
        let pull = (OPEN - self.mid) * REVERSION_PER_S;
        let step = (drift + pull) * dt_s + volatility * dt_s.sqrt() * random.normal();
        let before = self.mid;
        self.mid = (self.mid + step).clamp(OPEN - BAND, OPEN + BAND);
        if dt_s > 0.0 {
            let keep = (-dt_s / VELOCITY_TAU_S).exp();
            let moved = (self.mid - before) / dt_s;
            self.velocity = self.velocity * keep + moved * (1.0 - keep);
        }
        if random.chance(0.5) {
            self.at_ask = random.chance(0.5 + imbalance / 2.0);
        }
        self.slow_mean += (self.mid - self.slow_mean) * (dt_s / 900.0);
        self.session_high = self.session_high.max(self.last());
        self.session_low = self.session_low.min(self.last());
    }

    fn change_regime(&mut self, random: &mut Random) {
        // A stretched market turns rather than runs on, which keeps it off the edge of the band.
        let stretch = (self.mid - OPEN) / 40.0;
        let draw = random.uniform();
        self.regime = if draw < 0.15 {
            Regime::Quiet
        } else if draw < 0.35 {
            Regime::Wild
        } else if random.chance((0.5 - stretch / 2.0).clamp(0.05, 0.95)) {
            Regime::Up
        } else {
            Regime::Down
        };
        self.regime_left_s = random.between(12.0, 50.0);
    }

    /// The best bid, on the tick grid.
    pub(super) fn bid(&self) -> f64 {
        (self.mid / TICK).floor() * TICK
    }

    /// The best ask: one tick above the bid.
    pub(super) fn ask(&self) -> f64 {
        self.bid() + TICK
    }

    /// The last trade's price.
    pub(super) fn last(&self) -> f64 {
        if self.at_ask { self.ask() } else { self.bid() }
    }

    /// Trading volume against the usual, by regime.
    pub(super) const fn activity(&self) -> f64 {
        self.regime.activity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spot_moves_but_stays_in_its_band_and_on_the_grid() {
        let mut random = Random::new(3);
        let mut spot = Spot::new(&mut random);
        for _ in 0..200_000 {
            spot.advance(0.25, 0.0, &mut random);
            assert!((spot.last() - OPEN).abs() <= BAND + TICK);
            assert_eq!(spot.last() % TICK, 0.0);
            assert_eq!(spot.ask() - spot.bid(), TICK);
            assert!(spot.velocity.abs() < 20.0);
        }
        assert!(spot.session_high - spot.session_low > 40.0);
        assert!(spot.session_high - spot.session_low < 2.0 * BAND);
    }

    #[test]
    fn no_time_moves_nothing() {
        let mut random = Random::new(3);
        let mut spot = Spot::new(&mut random);
        let bid = spot.bid();
        spot.advance(0.0, 0.0, &mut random);
        assert_eq!(spot.bid(), bid);
        assert!(spot.velocity.abs() < f64::EPSILON);
    }
}
