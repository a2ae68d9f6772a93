//! The tape of the simulated future: volumes, imbalance, sweeps, trades and the top of the book. The
//! numbers are made up.

use std::collections::VecDeque;

use weirgate_wire::base::SplitMix64;

use super::spot::{Spot, TICK};

/// Contracts per second in an ordinary market.
const VOLUME_PER_S: f64 = 55.0;
/// The time constant of the decaying sums of the volumes, in seconds.
const WINDOW_S: f64 = 30.0;
/// The trades that a message lists, the newest first.
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
    /// Seconds until it ends.
    left_s: f64,
}

/// A trade on the tape.
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
        self.add_volume(volume, dt_s);
        // The first call fills the list, so that it is never short.
        let prints = if self.trades.is_empty() {
            TRADES_KEPT
        } else {
            2
        };
        for _ in 0..prints {
            self.push_trade(volume, unix_ms, spot, random);
        }
        for size in self.bid_sizes.iter_mut().chain(&mut self.ask_sizes) {
            // The size at each price tends to 70 contracts.
            let pull = (70.0 - *size) * (dt_s / 5.0).min(1.0);
            *size =
                (*size + pull + 28.0 * dt_s.min(1.0).sqrt() * random.normal()).clamp(1.0, 400.0);
        }
    }

    /// Ends a sweep whose time is over. Without one, a sweep may begin, more often in an active regime and while the
    /// spot moves fast.
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

    /// Adds the volume of the last `dt_s` seconds, in contracts, to the sums of buyers and sellers.
    fn add_volume(&mut self, volume: f64, dt_s: f64) {
        let buys = volume * (1.0 + self.imbalance) / 2.0;
        let sells = volume - buys;
        let keep = (-dt_s / WINDOW_S).exp();
        self.buy_window = self.buy_window * keep + buys;
        self.sell_window = self.sell_window * keep + sells;
        self.buy_session += buys;
        self.sell_session += sells;
    }

    /// Puts a trade of a part of `volume` at the head of the list.
    fn push_trade(&mut self, volume: f64, unix_ms: i64, spot: &Spot, random: &mut SplitMix64) {
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
