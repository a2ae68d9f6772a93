//! A market simulated inside the process, for the demo, tests and load: no broker needed.
//!
//! [`SimulatedMarket`] is pure and writes the texts that a bus would carry; [`SimulatedSource`]
//! sends them at a steady rate. If the channel is full, the source waits and never makes up for missed
//! messages: the next message is the newest state. Called by `kinds`.

mod level;
mod market;
mod messages;
mod spot;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use market::{SimulatedMarket, SimulatedSettings};

use crate::base::Now;
use crate::feeds::{BusEvent, BusMessage, Place, StreamPosition};
use crate::sources::{LoopGone, Source, SourceLink};
use crate::telemetry::BusStatus;

/// The subjects of the source, in turn.
pub const SUBJECTS: [&str; 2] = ["levels.signals", "market.flow"];

/// The slowest rate, in messages of each subject a second.
pub const RATE_HZ_MIN: f64 = 0.1;
/// The fastest rate, in messages of each subject a second.
pub const RATE_HZ_MAX: f64 = 10_000.0;

/// Sends a simulated market: `rate_hz` messages a second of `levels.signals`, and as many of
/// `market.flow` half-way between them.
pub struct SimulatedSource {
    market: SimulatedMarket,
    rate_hz: f64,
    status: Arc<BusStatus>,
}

impl SimulatedSource {
    /// Creates a source. `rate_hz` is clamped to [`RATE_HZ_MIN`] to [`RATE_HZ_MAX`] (NaN: the minimum);
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

    fn send_all(mut self, link: &SourceLink) -> Result<(), LoopGone> {
        let start = link.now();
        self.status.set_up(true);
        for consumer in self.status.consumers() {
            consumer.set_lag(Some(0));
        }
        link.send(BusEvent::Up)?;
        link.send(BusEvent::CaughtUp)?;
        let epoch = start.unix_ms.saturating_mul(1_000_000);
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
                sequence: sent / 2 + 1,
            };
            let subject = &subjects[usize::from(is_flow)];
            let message = self.message(is_flow, Arc::clone(subject), position, received);
            link.send(BusEvent::Message(message))?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        is_flow: bool,
        subject: Arc<str>,
        position: StreamPosition,
        received: Now,
    ) -> BusMessage {
        let payload = if is_flow {
            self.market.market_flow(received.unix_ms)
        } else {
            self.market.levels_signals(received.unix_ms)
        };
        BusMessage {
            subject,
            pattern: None,
            payload,
            position: Some(position),
            place: Place::Outside,
            received,
            quiet: false,
        }
    }
}

impl Source for SimulatedSource {
    fn run(self: Box<Self>, link: SourceLink) {
        // The only error is that the loop is gone, and then this thread is done.
        let _ = self.send_all(&link);
    }
}

/// The times of messages: instants at equal distances from a start. Counted from the start, so that
/// late wake-ups do not add up; missed instants are left out, so that no burst follows a pause.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start_us: u64,
    step_us: f64,
    slot: u64,
}

impl Schedule {
    /// The first instant is `start_us` (monotonic microseconds), then `per_s` a second.
    fn new(start_us: u64, per_s: f64) -> Self {
        Self {
            start_us,
            step_us: 1_000_000.0 / per_s,
            slot: 0,
        }
    }

    /// The time to wait at `now_us` for the next instant, in microseconds; the instant is then used up.
    /// 0 if the instant is now, or was missed by less than a step.
    fn wait_us(&mut self, now_us: u64) -> u64 {
        let elapsed_us = now_us.saturating_sub(self.start_us);
        let current = (elapsed_us as f64 / self.step_us) as u64;
        self.slot = self.slot.max(current);
        let due_us = (self.slot as f64 * self.step_us) as u64;
        self.slot += 1;
        due_us.saturating_sub(elapsed_us)
    }
}
