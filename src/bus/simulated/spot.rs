//! The price of the simulated future: a random walk with changing regimes, pulled towards the opening price. The
//! numbers are made up.

use weirgate_wire::base::SplitMix64;

/// The smallest price step of the ES future, in points.
pub(super) const TICK: f64 = 0.25;
/// The largest distance of the spot from [`OPEN`], in points.
pub(super) const BAND: f64 = 120.0;
/// The opening price of the session, in points.
pub(super) const OPEN: f64 = 6_850.0;

/// The pull towards [`OPEN`], per second: half of a move is undone after about four minutes.
const REVERSION_PER_S: f64 = 1.0 / 350.0;
/// The time constant of the mean that is shown as the velocity, in seconds.
const VELOCITY_TAU_S: f64 = 6.0;

/// How long the slow mean follows the price, seconds.
const SLOW_MEAN_TAU_S: f64 = 900.0;

/// How the market behaves for half a minute or so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regime {
    Quiet,
    Up,
    Down,
    Wild,
}

/// What a regime means for price and volume.
struct Temper {
    /// Points per second.
    drift: f64,
    /// Points per square root of a second.
    volatility: f64,
    /// The trading volume as a multiple of the usual.
    activity: f64,
}

impl Regime {
    const fn temper(self) -> Temper {
        let (drift, volatility, activity) = match self {
            Self::Quiet => (0.0, 0.4, 0.6),
            Self::Up => (0.2, 0.6, 1.1),
            Self::Down => (-0.2, 0.6, 1.1),
            Self::Wild => (0.0, 1.15, 2.0),
        };
        Temper {
            drift,
            volatility,
            activity,
        }
    }
}

/// The simulated spot and the values derived from the spot alone.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    mid: f64,
    regime: Regime,
    regime_left_s: f64,
    /// Points per second, smoothed.
    pub(super) velocity: f64,
    /// The last trade was a buyer's, at the ask.
    at_ask: bool,
    pub(super) session_high: f64,
    pub(super) session_low: f64,
    /// A slow mean of the spot, in points.
    pub(super) slow_mean: f64,
}

impl Spot {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
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

    /// Advances by `dt_s` seconds. `imbalance` says whether sellers (−1) or buyers (1) are the aggressors.
    pub(super) fn advance(&mut self, dt_s: f64, imbalance: f64, random: &mut SplitMix64) {
        self.regime_left_s -= dt_s;
        if self.regime_left_s <= 0.0 {
            self.change_regime(random);
        }
        let Temper {
            drift, volatility, ..
        } = self.regime.temper();
        let pull = (OPEN - self.mid) * REVERSION_PER_S;
        let step = (drift + pull) * dt_s + volatility * dt_s.sqrt() * random.normal();
        let before = self.mid;
        self.mid = (self.mid + step).clamp(OPEN - BAND, OPEN + BAND);
        if dt_s > 0.0 {
            let keep = (-dt_s / VELOCITY_TAU_S).exp();
            let moved = (self.mid - before) / dt_s;
            self.velocity = self.velocity * keep + moved * (1.0 - keep);
        }
        // In about half of the steps there is a trade, more often of the side that is the aggressor.
        if random.chance(0.5) {
            self.at_ask = random.chance(0.5 + imbalance / 2.0);
        }
        self.slow_mean += (self.mid - self.slow_mean) * (dt_s / SLOW_MEAN_TAU_S);
        self.session_high = self.session_high.max(self.last());
        self.session_low = self.session_low.min(self.last());
    }

    /// Draws the next regime, and for how many seconds it lasts.
    fn change_regime(&mut self, random: &mut SplitMix64) {
        // A stretched market tends to turn, which keeps the spot off the edge of the band.
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

    /// The best ask: a tick above the bid.
    pub(super) fn ask(&self) -> f64 {
        self.bid() + TICK
    }

    /// The last trade's price.
    pub(super) fn last(&self) -> f64 {
        if self.at_ask { self.ask() } else { self.bid() }
    }

    /// The trading volume as a multiple of the usual, by regime.
    pub(super) const fn activity(&self) -> f64 {
        self.regime.temper().activity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spot_moves_but_stays_in_its_band_and_on_the_grid() {
        let mut random = SplitMix64::new(3);
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
        let mut random = SplitMix64::new(3);
        let mut spot = Spot::new(&mut random);
        let bid = spot.bid();
        spot.advance(0.0, 0.0, &mut random);
        assert_eq!(spot.bid(), bid);
        assert!(spot.velocity.abs() < f64::EPSILON);
    }
}
