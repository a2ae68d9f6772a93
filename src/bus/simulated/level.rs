//! A price level: how the market approaches it, and the signal whether it will break.

use super::barrier::Barrier;
use super::spot::Spot;
use super::tape::{Sweep, Tape};
use weirgate_wire::base::SplitMix64;

/// The largest distance at which the market is at the level, in points.
const TOUCH: f64 = 0.75;
/// Beyond this distance, the market has left a level, in points.
const LEFT: f64 = 3.0;
/// Beyond this distance, a level signals nothing, in points.
pub(super) const REACH: f64 = 12.0;
/// Within this distance a sweep runs into a level, points.
const SWEEP_REACH: f64 = 5.0;

/// A price level that the market watches, and its state.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub(super) id: String,
    pub(super) kind: &'static str,
    /// Points.
    pub(super) price: f64,
    /// Whether the level is below the spot, and so is a support. Changes once the spot is clearly on the other side.
    pub(super) is_support: bool,
    /// Points from the spot, never negative.
    pub(super) distance: f64,
    pub(super) barrier: Barrier,
    /// Net gamma of the dealers at the level, in contracts' delta per point.
    pub(super) gamma: f64,
    /// The imbalance of the trades near this level: −1 (all sellers) to 1 (all buyers).
    pub(super) imbalance: f64,
    pub(super) touches: i64,
    has_left: bool,
    /// The distance at which the present approach began, in points.
    farthest: f64,
    /// Points per second towards the level.
    pub(super) approach_velocity: f64,
    pub(super) approach_s: f64,
    /// 0 to 100.
    pub(super) score_raw: f64,
    pub(super) score_smooth: f64,
    pub(super) signal: &'static str,
}

impl Level {
    pub(super) fn new(id: String, kind: &'static str, price: f64, random: &mut SplitMix64) -> Self {
        Self {
            id,
            kind,
            price,
            is_support: false,
            distance: 0.0,
            barrier: Barrier::new(random),
            gamma: 120_000.0 * random.normal(),
            imbalance: 0.0,
            touches: random.between(0.0, 3.0) as i64,
            has_left: false,
            farthest: 0.0,
            approach_velocity: 0.0,
            approach_s: 0.0,
            score_raw: 50.0,
            score_smooth: 50.0,
            signal: "NEUTRAL",
        }
    }

    /// Sets the side and the distance without hysteresis: for a level that just appeared.
    pub(super) fn set_side(&mut self, spot: f64) {
        self.is_support = self.price < spot;
        self.distance = (self.price - spot).abs();
        self.farthest = self.distance;
    }

    /// Advances by `dt_s` seconds, after the spot and the tape.
    pub(super) fn advance(&mut self, dt_s: f64, spot: &Spot, tape: &Tape, random: &mut SplitMix64) {
        let last = spot.last();
        self.distance = (self.price - last).abs();
        if self.distance > TOUCH {
            self.is_support = self.price < last;
        }
        self.barrier.advance(dt_s, self.distance, random);
        self.gamma =
            (self.gamma + 4_000.0 * dt_s.sqrt() * random.normal()).clamp(-400_000.0, 400_000.0);
        let local = 0.12 * random.normal() * dt_s.sqrt().min(1.0);
        self.imbalance = (self.imbalance * 0.8 + tape.imbalance * 0.2 + local).clamp(-1.0, 1.0);
        self.follow_approach(dt_s, spot);
        self.score(dt_s, tape, random);
        self.signal = self.next_signal();
    }

    /// Updates how the spot approaches the level. A touch counts only if the spot was farther than [`LEFT`] before.
    fn follow_approach(&mut self, dt_s: f64, spot: &Spot) {
        self.approach_velocity = self.outward() * spot.velocity;
        if self.distance <= TOUCH && self.has_left {
            self.touches += 1;
            self.has_left = false;
        } else if self.distance > LEFT {
            self.has_left = true;
        }
        if self.approach_velocity > 0.02 {
            self.approach_s += dt_s;
            self.farthest = self.farthest.max(self.distance);
        } else if self.approach_velocity < -0.02 {
            self.approach_s = 0.0;
            self.farthest = self.distance;
        }
    }

    /// 1 where a break means up, −1 where it means down.
    pub(super) const fn outward(&self) -> f64 {
        if self.is_support { -1.0 } else { 1.0 }
    }

    /// 1 at the level, towards 0 away from it.
    pub(super) fn proximity(&self) -> f64 {
        (-self.distance / 6.0).exp()
    }

    /// The points that the present approach has covered.
    pub(super) fn approach_distance(&self) -> f64 {
        (self.farthest - self.distance).max(0.0)
    }

    /// Whether the present sweep runs into this level.
    pub(super) fn is_swept(&self, tape: &Tape) -> bool {
        let is_towards = |sweep: Sweep| sweep.up != self.is_support;
        self.distance < SWEEP_REACH && tape.sweep.is_some_and(is_towards)
    }

    /// Updates the scores, from 0 to 100: the higher, the more likely the spot breaks through the level. The weights
    /// are made up.
    fn score(&mut self, dt_s: f64, tape: &Tape, random: &mut SplitMix64) {
        let barrier = match self.barrier.state {
            "VACUUM" => 16.0,
            "CONSUMED" => 22.0,
            "WALL" => -20.0,
            "ABSORPTION" => -16.0,
            _ => 0.0,
        };
        let fuel = match self.fuel_effect() {
            "AMPLIFY" => 8.0,
            "DAMPEN" => -8.0,
            _ => 0.0,
        };
        let flow = self.imbalance * self.outward() * 18.0;
        let approach = (self.approach_velocity * 1.5).tanh() * 26.0;
        let sweep = if self.is_swept(tape) { 10.0 } else { 0.0 };
        // A level that was touched several times breaks more easily.
        let worn = (self.touches.min(4) as f64) * 1.5;
        let lean = barrier + fuel + worn + (flow + approach + sweep) * (0.3 + self.proximity());
        let raw = 47.5 + lean * (0.5 + 0.5 * self.proximity()) + 2.0 * random.normal();
        self.score_raw = raw.clamp(0.0, 100.0);
        self.score_smooth += (self.score_raw - self.score_smooth) * (1.0 - (-dt_s / 2.5).exp());
    }

    /// The next signal. A signal begins and ends at different scores, so that it does not flicker.
    fn next_signal(&self) -> &'static str {
        let score = self.score_smooth;
        match self.signal {
            _ if self.distance > REACH + 1.0 => "NEUTRAL",
            "BREAK" if score > 58.0 => "BREAK",
            "REJECT" if score < 44.0 => "REJECT",
            _ if score > 65.0 && self.distance < REACH => "BREAK",
            _ if score < 38.0 && self.distance < REACH => "REJECT",
            "CONTESTED" if self.distance < 6.0 => "CONTESTED",
            _ if self.distance < 5.0 => "CONTESTED",
            _ => "NEUTRAL",
        }
    }

    /// Returns how sure the score is: the farther the score is from 50 and the nearer the spot is, the surer.
    pub(super) fn confidence(&self) -> &'static str {
        let conviction = (self.score_smooth - 50.0).abs() * (0.5 + 0.5 * self.proximity());
        if conviction > 19.0 {
            "HIGH"
        } else if conviction > 9.0 {
            "MEDIUM"
        } else {
            "LOW"
        }
    }

    /// Returns what the hedging of dealers does to a move at the level: with negative gamma they trade in its
    /// direction.
    pub(super) fn fuel_effect(&self) -> &'static str {
        if self.gamma < -60_000.0 {
            "AMPLIFY"
        } else if self.gamma > 60_000.0 {
            "DAMPEN"
        } else {
            "NEUTRAL"
        }
    }

    /// A remark for people.
    pub(super) fn note(&self) -> Option<&'static str> {
        match (self.signal, self.barrier.state) {
            ("BREAK", "VACUUM") => Some("Thin book ahead"),
            ("BREAK", "CONSUMED") => Some("Orders used up"),
            ("REJECT", "WALL") => Some("Large orders hold"),
            ("REJECT", "ABSORPTION") => Some("Orders refill"),
            _ => None,
        }
    }
}
