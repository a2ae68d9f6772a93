//! The simulated future. Its price is a random walk with changing regimes, pulled towards the opening price; its tape
//! has volumes, imbalance, sweeps and the top of the book.

use std::collections::VecDeque;

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

impl Regime {
    /// The drift in points per second, the volatility in points per square root of a second, and the trading volume as
    /// a multiple of the usual.
    const fn temper(self) -> (f64, f64, f64) {
        match self {
            Self::Quiet => (0.0, 0.4, 0.6),
            Self::Up => (0.2, 0.6, 1.1),
            Self::Down => (-0.2, 0.6, 1.1),
            Self::Wild => (0.0, 1.15, 2.0),
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
        let (drift, volatility, _) = self.regime.temper();
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
        self.slow_mean += (self.mid - self.slow_mean) * (dt_s / SLOW_MEAN_TAU_S);
        self.session_high = self.session_high.max(self.last());
        self.session_low = self.session_low.min(self.last());
    }

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
        self.regime.temper().2
    }
}

/// Contracts per second in an ordinary market.
const VOLUME_PER_S: f64 = 55.0;
/// The time constant of the decaying sums of the volumes, in seconds.
const WINDOW_S: f64 = 30.0;
const TRADES_KEPT: usize = 12;
/// Prices shown on each side of the book.
pub(super) const BOOK_DEPTH: usize = 8;

/// A run of aggressive trades through several prices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    pub(super) up: bool,
    /// US dollars.
    pub(super) notional: f64,
    pub(super) prints: i64,
    left_s: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Trade {
    pub(super) unix_ms: i64,
    pub(super) price: f64,
    pub(super) size: i64,
    pub(super) buy: bool,
}

/// The tape of a session.
#[derive(Clone, Debug)]
pub(super) struct Tape {
    /// −1 (all sellers) to 1 (all buyers), smoothed.
    pub(super) imbalance: f64,
    /// Contracts in the window.
    pub(super) buy_window: f64,
    pub(super) sell_window: f64,
    /// Contracts since the session began.
    pub(super) buy_session: f64,
    pub(super) sell_session: f64,
    pub(super) sweep: Option<Sweep>,
    pub(super) trades: VecDeque<Trade>,
    pub(super) bid_sizes: [f64; BOOK_DEPTH],
    pub(super) ask_sizes: [f64; BOOK_DEPTH],
}

impl Tape {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
        Self {
            imbalance: 0.0,
            buy_window: VOLUME_PER_S * WINDOW_S / 2.0,
            sell_window: VOLUME_PER_S * WINDOW_S / 2.0,
            buy_session: random.between(200_000.0, 260_000.0).floor(),
            sell_session: random.between(200_000.0, 260_000.0).floor(),
            sweep: None,
            trades: VecDeque::with_capacity(TRADES_KEPT),
            bid_sizes: std::array::from_fn(|_| random.between(20.0, 120.0)),
            ask_sizes: std::array::from_fn(|_| random.between(20.0, 120.0)),
        }
    }

    /// Advances by `dt_s` seconds, after the spot.
    pub(super) fn advance(
        &mut self,
        dt_s: f64,
        unix_ms: i64,
        spot: &Spot,
        random: &mut SplitMix64,
    ) {
        let keep = (-dt_s / 4.0).exp();
        let pressure = (spot.velocity * 1.1).tanh() * 0.7 + random.normal() * 0.25;
        self.imbalance = (self.imbalance * keep + pressure * (1.0 - keep)).clamp(-1.0, 1.0);
        self.advance_sweep(dt_s, spot, random);
        let burst = if self.sweep.is_some() { 3.0 } else { 1.0 };
        let volume = VOLUME_PER_S * spot.activity() * burst * dt_s * random.between(0.4, 1.6);
        self.trade(volume, dt_s);
        // The first call fills the list, so that it is never short.
        let prints = if self.trades.is_empty() {
            TRADES_KEPT
        } else {
            2
        };
        for _ in 0..prints {
            self.print(volume, unix_ms, spot, random);
        }
        for size in self.bid_sizes.iter_mut().chain(&mut self.ask_sizes) {
            let pull = (70.0 - *size) * (dt_s / 5.0).min(1.0);
            *size =
                (*size + pull + 28.0 * dt_s.min(1.0).sqrt() * random.normal()).clamp(1.0, 400.0);
        }
    }

    fn advance_sweep(&mut self, dt_s: f64, spot: &Spot, random: &mut SplitMix64) {
        if let Some(sweep) = &mut self.sweep {
            sweep.left_s -= dt_s;
            if sweep.left_s <= 0.0 {
                self.sweep = None;
            }
        }
        let per_s = 0.02 * spot.activity() * (1.0 + 2.0 * spot.velocity.abs().min(2.0));
        if self.sweep.is_none() && random.chance((per_s * dt_s).min(0.5)) {
            let prints = random.between(8.0, 40.0).floor();
            self.sweep = Some(Sweep {
                up: random.chance(0.5 + self.imbalance / 2.0),
                notional: (prints * random.between(30_000.0, 110_000.0)).round(),
                prints: prints as i64,
                left_s: random.between(1.0, 2.5),
            });
        }
    }

    fn trade(&mut self, volume: f64, dt_s: f64) {
        let buys = volume * (1.0 + self.imbalance) / 2.0;
        let sells = volume - buys;
        let keep = (-dt_s / WINDOW_S).exp();
        self.buy_window = self.buy_window * keep + buys;
        self.sell_window = self.sell_window * keep + sells;
        self.buy_session += buys;
        self.sell_session += sells;
    }

    fn print(&mut self, volume: f64, unix_ms: i64, spot: &Spot, random: &mut SplitMix64) {
        let buy = random.chance(0.5 + self.imbalance / 2.0);
        let price = if buy { spot.ask() } else { spot.bid() };
        let size = (volume * random.between(0.1, 0.6)).ceil().max(1.0) as i64;
        self.trades.truncate(TRADES_KEPT - 1);
        self.trades.push_front(Trade {
            unix_ms,
            price,
            size,
            buy,
        });
    }

    /// A side of the book from the best price outwards: price in points, size in contracts.
    pub(super) fn book(&self, spot: &Spot, bids: bool) -> [(f64, f64); BOOK_DEPTH] {
        std::array::from_fn(|i| {
            let away = TICK * i as f64;
            if bids {
                (spot.bid() - away, self.bid_sizes[i])
            } else {
                (spot.ask() + away, self.ask_sizes[i])
            }
        })
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
