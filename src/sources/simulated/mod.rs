//! A market simulated inside the process, for the demo, tests and load: no broker needed.
//!
//! [`SimulatedMarket`] is pure and writes the texts that a bus would carry; [`SimulatedSource`]
//! sends them at a steady rate. If the channel is full, the source waits and never makes up for missed
//! messages: the next message is the newest state. Called by `kinds`.

mod level;
mod market;
mod messages;
mod spot;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use market::{SimulatedMarket, SimulatedSettings};

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
                sequence: sent / 2 + 1,
            };
            let payload = match is_flow {
                true => self.market.market_flow(received.unix_ms()),
                false => self.market.levels_signals(received.unix_ms()),
            };
            link.send(BusEvent::Message(BusMessage {
                subject: Arc::clone(&subjects[usize::from(is_flow)]),
                pattern: None,
                payload,
                position: Some(position),
                place: Place::Outside,
                received,
                quiet: false,
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::base::Clock;

    const SETTINGS: SimulatedSettings = SimulatedSettings {
        levels: 12,
        seed: 42,
    };

    fn start(
        rate_hz: f64,
        room: usize,
    ) -> (Receiver<BusEvent>, Arc<BusStatus>, thread::JoinHandle<()>) {
        let (tx, rx) = bounded(room);
        let status = Arc::new(BusStatus::new(&[("a", SUBJECTS[0]), ("b", SUBJECTS[1])], 1));
        let source = Box::new(SimulatedSource::new(SETTINGS, rate_hz, Arc::clone(&status)));
        let link = SourceLink::new(tx, Box::new(|| {}), Clock::start());
        (rx, status, thread::spawn(move || source.run(link)))
    }

    fn next_message(rx: &Receiver<BusEvent>) -> BusMessage {
        match rx.recv_timeout(Duration::from_secs(10)) {
            Ok(BusEvent::Message(message)) => message,
            other => panic!("no message but {other:?}"),
        }
    }

    #[test]
    fn the_source_comes_up_and_alternates_the_subjects() {
        let (rx, status, thread) = start(500.0, 8);
        assert!(matches!(rx.recv(), Ok(BusEvent::Up)));
        assert!(matches!(rx.recv(), Ok(BusEvent::CaughtUp)));
        assert!(status.subscribed());
        assert_eq!(status.consumers()[1].lag(), Some(0));
        let first = next_message(&rx);
        let created = first.position.expect("a position").epoch;
        let mut before = first;
        for n in 1..40_u64 {
            let message = next_message(&rx);
            let expected = SUBJECTS[(n % 2) as usize];
            assert_eq!(&*message.subject, expected);
            let position = message.position.expect("a position");
            assert_eq!(position.epoch, created);
            assert_eq!(position.sequence, n / 2 + 1);
            assert!(!message.quiet && message.received >= before.received);
            sonic_rs::from_slice::<sonic_rs::Value>(&message.payload).expect("valid JSON");
            before = message;
        }
        drop(rx);
        thread.join().expect("ends when the loop is gone");
    }

    #[test]
    fn the_rate_holds_and_a_full_channel_is_not_made_up_for() {
        let (rx, _status, thread) = start(100.0, 2);
        // Up and CaughtUp fill the channel: the source waits.
        thread::sleep(Duration::from_millis(400));
        let began = Instant::now();
        assert!(matches!(rx.recv(), Ok(BusEvent::Up)));
        assert!(matches!(rx.recv(), Ok(BusEvent::CaughtUp)));
        for _ in 0..40 {
            next_message(&rx);
        }
        // 40 messages at 200 a second are 200 ms; made up for, they would come at once.
        assert!(
            began.elapsed() >= Duration::from_millis(170),
            "{:?}",
            began.elapsed()
        );
        drop(rx);
        thread.join().expect("ends when the loop is gone");
    }

    #[test]
    fn rates_out_of_range_are_brought_into_it() {
        let rate = |hz| {
            let status = Arc::new(BusStatus::new(&[("a", SUBJECTS[0]), ("b", SUBJECTS[1])], 1));
            SimulatedSource::new(SETTINGS, hz, status).rate_hz
        };
        assert_eq!(rate(4.0), 4.0);
        assert_eq!(rate(0.0), RATE_HZ_MIN);
        assert_eq!(rate(f64::NAN), RATE_HZ_MIN);
        assert_eq!(rate(f64::INFINITY), RATE_HZ_MAX);
    }

    #[test]
    fn late_wake_ups_do_not_add_up() {
        let mut schedule = Schedule::new(1_000, 8.0);
        let mut now_us = 1_000;
        for slot in 0..1_000_u64 {
            now_us += schedule.wait_us(now_us);
            assert!(now_us >= 1_000 + slot * 125_000);
            now_us += 40_000;
            assert!(now_us <= 1_000 + slot * 125_000 + 40_000);
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut schedule = Schedule::new(0, 10.0);
        assert_eq!(schedule.wait_us(0), 0);
        assert_eq!(schedule.wait_us(5_030_000), 0);
        assert_eq!(schedule.wait_us(5_030_000), 70_000);
        assert_eq!(schedule.wait_us(5_100_000), 100_000);
    }

    #[test]
    fn uneven_steps_keep_the_rate() {
        let mut schedule = Schedule::new(0, 3.0);
        let mut now_us = 0;
        for _ in 0..=3_000 {
            now_us += schedule.wait_us(now_us);
        }
        assert!(now_us.abs_diff(1_000_000_000) <= 1, "{now_us}");
    }
}
