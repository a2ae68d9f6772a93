//! A market simulated inside the process, for the demo, tests and load: no broker needed.
//!
//! `SimulatedMarket` is pure and writes the messages that a bus would carry; [`SimulatedSource`] sends them at a
//! steady rate. While the loop's channel is full, the source waits, and leaves out the messages that it missed: the
//! next one has the newest state.
//!
//! The numbers of the model (rates, weights, thresholds) are made up, so that the messages look plausible.

mod barrier;
mod level;
mod messages;
mod spot;
mod tape;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use self::level::Level;
use self::spot::{OPEN, Spot, TICK};
use self::tape::Tape;
use weirgate_core::{BusEvent, BusMessage, StreamPosition};
use weirgate_runtime::{BusStatus, LoopGone, Source, SourceLink};
use weirgate_wire::base::SplitMix64;

/// The subjects of the source, in turn.
pub(crate) const SUBJECTS: [&str; 2] = ["levels.signals", "market.flow"];

/// The slowest rate, in messages of each subject a second.
pub(crate) const RATE_HZ_MIN: f64 = 0.1;
/// The fastest rate, in messages of each subject a second.
pub(crate) const RATE_HZ_MAX: f64 = 10_000.0;

/// Sends a simulated market: `rate_hz` messages a second of `levels.signals`, and as many of
/// `market.flow` half-way between them.
pub struct SimulatedSource {
    market: SimulatedMarket,
    rate_hz: f64,
    status: Arc<BusStatus>,
}

impl SimulatedSource {
    /// Creates a source. `rate_hz` is clamped to `RATE_HZ_MIN` to `RATE_HZ_MAX` (NaN: the minimum);
    /// `status` is set to up when the source runs.
    pub fn new(settings: SimulatedSettings, rate_hz: f64, status: Arc<BusStatus>) -> Self {
        Self {
            market: SimulatedMarket::new(settings),
            rate_hz: if rate_hz.is_nan() {
                RATE_HZ_MIN
            } else {
                rate_hz.clamp(RATE_HZ_MIN, RATE_HZ_MAX)
            },
            status,
        }
    }

    /// Sends messages of the two subjects in turn until the loop has ended. Each start is an epoch of its own, the time
    /// in Unix nanoseconds, as if the stream had been recreated.
    fn send_all(mut self, link: &SourceLink) -> Result<(), LoopGone> {
        let start = link.now();
        self.status.set_up(true);
        for consumer in self.status.consumers() {
            consumer.set_lag(Some(0));
        }
        link.send(BusEvent::Up)?;
        link.send(BusEvent::CaughtUp)?;
        let epoch = start.unix_ms().saturating_mul(1_000_000);
        let subjects: [Arc<str>; 2] = SUBJECTS.map(Arc::from);
        let mut schedule = Schedule::new(start.mono_us, 2.0 * self.rate_hz);
        for sent in 0_u64.. {
            let wait_us = schedule.wait_us(link.now().mono_us);
            if wait_us > 0 {
                thread::sleep(Duration::from_micros(wait_us));
            }
            let received = link.now();
            let is_flow = sent % 2 == 1;
            let position = StreamPosition {
                epoch,
                // The two subjects are sent in turn, and each counts its own messages from 1.
                sequence: sent / 2 + 1,
            };
            let payload = match is_flow {
                true => self.market.market_flow(received.unix_ms()),
                false => self.market.levels_signals(received.unix_ms()),
            };
            link.send(BusEvent::Message(BusMessage {
                position: Some(position),
                ..BusMessage::new(
                    Arc::clone(&subjects[usize::from(is_flow)]),
                    payload,
                    received,
                )
            }))?;
        }
        Ok(())
    }
}

impl Source for SimulatedSource {
    fn run(self: Box<Self>, link: SourceLink) {
        // The only error is that the loop is gone, and then this thread is done.
        let _ = self.send_all(&link);
    }
}

/// When to send messages: at equal intervals from a start. The times are multiples from the start, so that late
/// wake-ups do not add up; missed times are left out, so that no burst follows a pause.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start_us: u64,
    step_us: f64,
    /// The number of the next message: its time is so many steps after the start.
    slot: u64,
}

impl Schedule {
    /// The first message is due at `start_us` (monotonic microseconds), and then `per_s` a second.
    fn new(start_us: u64, per_s: f64) -> Self {
        Self {
            start_us,
            step_us: 1_000_000.0 / per_s,
            slot: 0,
        }
    }

    /// Returns how long to wait at `now_us` for the next message, in microseconds, and moves on to the message after
    /// it. Returns 0 if the message is due now, or was due less than an interval ago.
    fn wait_us(&mut self, now_us: u64) -> u64 {
        let elapsed_us = now_us.saturating_sub(self.start_us);
        let current = (elapsed_us as f64 / self.step_us) as u64;
        self.slot = self.slot.max(current);
        let due_us = (self.slot as f64 * self.step_us) as u64;
        self.slot += 1;
        due_us.saturating_sub(elapsed_us)
    }
}

/// The most levels of a market.
const LEVELS_MAX: usize = 1_000;
/// Points between strikes.
const STRIKE_STEP: f64 = 5.0;
/// A shown level is replaced only by one that is nearer by this distance, in points, so that levels do not flicker.
const STAY: f64 = 4.0;
/// A level that is not a strike counts as nearer by this distance, in points.
const NAMED: f64 = 9.0;
/// The longest step of the market, in seconds. After a longer pause it continues from its last state.
const STEP_MAX_S: f64 = 1.0;

/// The settings of a simulated market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedSettings {
    /// The number of levels in a message, clamped to 1 to 1,000.
    pub levels: usize,
    /// The seed of the random numbers: the same seed and the same times give the same messages.
    pub seed: u64,
}

/// A plausible session of the ES future, as the JSON messages of the subjects `levels.signals` and `market.flow`
/// (docs/reference/publish-levels.md). Pure: time and seed are arguments. The floating-point functions are those of the
/// platform, so the messages for a seed may differ between platforms in the last digit.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedMarket {
    levels_shown: usize,
    random: SplitMix64,
    last_unix_ms: Option<i64>,
    spot: Spot,
    tape: Tape,
    /// In place of the volume-weighted average price: a slow mean of the price, points.
    vwap: f64,
    /// Sorted by price.
    levels: Vec<Level>,
}

/// A possible level.
struct Candidate {
    kind: &'static str,
    price: f64,
}

impl Candidate {
    fn id(&self) -> String {
        match self.kind {
            "STRIKE" => format!("STRIKE_{:.0}", self.price),
            kind => kind.to_owned(),
        }
    }
}

impl SimulatedMarket {
    /// A market just before its first message.
    pub(crate) fn new(settings: SimulatedSettings) -> Self {
        let mut random = SplitMix64::new(settings.seed);
        let spot = Spot::new(&mut random);
        let tape = Tape::new(&mut random);
        Self {
            levels_shown: settings.levels.clamp(1, LEVELS_MAX),
            random,
            last_unix_ms: None,
            spot,
            tape,
            vwap: OPEN - 1.5,
            levels: Vec::new(),
        }
    }

    /// Advances to `unix_ms` (Unix milliseconds) and writes the `levels.signals` message of that moment. The market
    /// does not move if the clock has stopped or went back.
    pub(crate) fn levels_signals(&mut self, unix_ms: i64) -> Vec<u8> {
        self.advance(unix_ms);
        messages::levels_signals(unix_ms, &self.spot, &self.tape, &self.levels).into_bytes()
    }

    /// Advances to `unix_ms` (Unix milliseconds) and writes the `market.flow` message of that
    /// moment.
    pub(crate) fn market_flow(&mut self, unix_ms: i64) -> Vec<u8> {
        self.advance(unix_ms);
        messages::market_flow(unix_ms, &self.spot, &self.tape, self.vwap, &self.levels).into_bytes()
    }

    /// Advances to `unix_ms` (Unix milliseconds) without writing anything.
    fn advance(&mut self, unix_ms: i64) {
        let last = self.last_unix_ms.replace(unix_ms);
        let gap_s = last.map_or(0.0, |at| unix_ms.saturating_sub(at) as f64 / 1_000.0);
        let dt_s = gap_s.clamp(0.0, STEP_MAX_S);
        self.spot
            .advance(dt_s, self.tape.imbalance, &mut self.random);
        self.tape
            .advance(dt_s, unix_ms, &self.spot, &mut self.random);
        self.vwap += (self.spot.last() - self.vwap) * (dt_s / 600.0);
        self.choose_levels();
        for level in &mut self.levels {
            level.advance(dt_s, &self.spot, &self.tape, &mut self.random);
        }
    }

    /// Chooses the candidates nearest to the spot as the levels. A level that stays keeps its state, and takes the
    /// candidate's new price.
    fn choose_levels(&mut self) {
        let spot = self.spot.last();
        let mut ranked: Vec<(f64, Candidate, Option<usize>)> = self
            .candidates()
            .into_iter()
            .map(|candidate| {
                let shown = self.position(&candidate);
                let named = if candidate.kind == "STRIKE" {
                    0.0
                } else {
                    NAMED
                };
                let stay = if shown.is_some() { STAY } else { 0.0 };
                (
                    (candidate.price - spot).abs() - named - stay,
                    candidate,
                    shown,
                )
            })
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.truncate(self.levels_shown);
        let mut old: Vec<Option<Level>> = self.levels.drain(..).map(Some).collect();
        for (_, candidate, shown) in ranked {
            let kept = shown.and_then(|i| old.get_mut(i)).and_then(Option::take);
            let level = match kept {
                Some(mut level) => {
                    level.price = candidate.price;
                    level
                }
                None => self.appear(&candidate),
            };
            self.levels.push(level);
        }
        self.levels
            .sort_by(|a, b| a.price.total_cmp(&b.price).then_with(|| a.id.cmp(&b.id)));
    }

    fn appear(&mut self, candidate: &Candidate) -> Level {
        let id = candidate.id();
        let mut level = Level::new(id, candidate.kind, candidate.price, &mut self.random);
        level.set_side(self.spot.last());
        level
    }

    fn position(&self, candidate: &Candidate) -> Option<usize> {
        let strike = candidate.kind == "STRIKE";
        self.levels
            .iter()
            .position(|l| l.kind == candidate.kind && (!strike || l.price == candidate.price))
    }

    /// Returns all levels that may be shown: those with a name, and strikes on both sides of the spot, more than are
    /// shown.
    fn candidates(&self) -> Vec<Candidate> {
        let on_grid = |price: f64| (price / TICK).round() * TICK;
        let named = [
            ("PM_HIGH", OPEN + 17.25),
            ("PM_LOW", OPEN - 21.5),
            ("OR_HIGH", OPEN + 6.5),
            ("OR_LOW", OPEN - 7.25),
            ("PRIOR_CLOSE", OPEN + 2.25),
            ("SESSION_HIGH", self.spot.session_high),
            ("SESSION_LOW", self.spot.session_low),
            ("VWAP", on_grid(self.vwap)),
            ("SMA_200", on_grid(self.spot.slow_mean)),
        ];
        let middle = (self.spot.last() / STRIKE_STEP).round();
        let each_side = self.levels_shown as i32 / 2 + 2;
        let strikes =
            (-each_side..=each_side).map(|i| ("STRIKE", (middle + f64::from(i)) * STRIKE_STEP));
        named
            .into_iter()
            .chain(strikes)
            .map(|(kind, price)| Candidate { kind, price })
            .collect()
    }
}

#[cfg(test)]
mod tests;
