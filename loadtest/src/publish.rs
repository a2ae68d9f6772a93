//! `loadtest publish`: stamped messages on a subject or channel, by an absolute schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;

use crate::bus::Outlet;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::histogram;
use crate::payload::Payload;

/// The bus to publish on.
#[derive(Debug, Subcommand)]
pub(crate) enum PublishCommand {
    /// Publish to a NATS subject (core publish; a stream on the subject stores the messages)
    Nats(PublishNats),
    /// Publish to a Redis channel
    Redis(PublishRedis),
}

/// Options of `loadtest publish nats`.
#[derive(Debug, Args)]
pub(crate) struct PublishNats {
    /// NATS server
    #[arg(long, default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    nats: String,
    #[command(flatten)]
    messages: Messages,
}

/// Options of `loadtest publish redis`.
#[derive(Debug, Args)]
pub(crate) struct PublishRedis {
    /// Redis server
    #[arg(long, default_value = "redis://127.0.0.1:6379", value_name = "URL")]
    redis: String,
    #[command(flatten)]
    messages: Messages,
}

/// The messages to publish.
#[derive(Debug, Args)]
struct Messages {
    /// Subject or channel to publish on
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Size of a payload (at least 128)
    #[arg(long, default_value_t = 8192)]
    bytes: usize,
    /// Messages per second
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Messages in all
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Sequence number of the first message
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// All at once instead of at the rate
    #[arg(long)]
    burst: bool,
}

/// Runs `loadtest publish`.
pub(crate) fn run(command: PublishCommand, stop: &AtomicBool) -> Result<(), Fault> {
    let (url, a) = match command {
        PublishCommand::Nats(args) => (args.nats, args.messages),
        PublishCommand::Redis(args) => (args.redis, args.messages),
    };
    let mut publisher = Publisher::connect(&url, &a.subject, a.bytes)?;
    let pace = if a.burst {
        Pace::Burst
    } else {
        Pace::Rate(a.rate)
    };
    let sent = publisher.publish(a.from, a.count, &pace, stop)?;
    println!(
        "published {sent} messages of {} bytes on {}",
        a.bytes, a.subject
    );
    Ok(())
}

/// The times at which messages are published.
pub(crate) enum Pace {
    /// By the clock, messages per second; a late message does not delay the following messages.
    Rate(f64),
    /// All at once.
    Burst,
    /// As soon as fewer than `window` messages are under way, each with a write of its own.
    InFlight {
        /// Most messages under way.
        window: u64,
        /// Number of the newest message received by all clients.
        arrived: Arc<AtomicU64>,
    },
}

/// Most bytes of a write of [`Pace::Burst`].
const BURST_BYTES: usize = 64 * 1024;

/// A connection for stamped payloads.
pub(crate) struct Publisher {
    outlet: Outlet,
    subject: String,
    payload: Payload,
    /// See [`Self::waking_up`].
    wake_up_us: u64,
    /// Delay of each message after the intended time, microseconds.
    late: Histogram<u64>,
    /// The same of each message, if kept.
    delays: Option<Vec<Sent>>,
}

/// When a message was due, and how late it was sent, microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) due_us: u64,
    pub(crate) late_us: u64,
}

impl Publisher {
    /// Connects to NATS or Redis, by the URL.
    pub(crate) fn connect(url: &str, subject: &str, bytes: usize) -> Result<Self, Fault> {
        Ok(Self {
            outlet: Outlet::connect(url)?,
            subject: subject.to_owned(),
            payload: Payload::new(bytes),
            wake_up_us: 0,
            late: histogram(),
            delays: None,
        })
    }

    /// Makes this share of each payload differ from the previous payload.
    pub(crate) fn changing(mut self, share: f64) -> Self {
        self.payload = self.payload.changing(share);
        self
    }

    /// Allows the publisher so many microseconds to wake up: a message sent within this time is due when sent, and a later
    /// message is due at the end of this time.
    pub(crate) fn waking_up(mut self, us: u64) -> Self {
        self.wake_up_us = us;
        self
    }

    /// Makes every payload a trade.
    pub(crate) fn of_trades(mut self) -> Self {
        self.payload = self.payload.of_trades();
        self
    }

    /// Sets the payload size of later messages.
    pub(crate) fn resize(&mut self, bytes: usize) {
        self.payload = self.payload.resized(bytes);
    }

    /// Keeps the delay of each later message.
    pub(crate) fn keep_delays(&mut self) {
        self.delays = Some(Vec::new());
    }

    /// Takes the kept delays.
    pub(crate) fn take_delays(&mut self) -> Vec<Sent> {
        self.delays.take().unwrap_or_default()
    }

    /// Takes the delays of messages since the last call, microseconds.
    pub(crate) fn take_late(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.late, histogram())
    }

    /// Publishes `count` messages numbered from `from`, each stamped with the due time; returns the
    /// number published before `stop`.
    pub(crate) fn publish(
        &mut self,
        from: u64,
        count: u64,
        pace: &Pace,
        stop: &AtomicBool,
    ) -> Result<u64, Fault> {
        clock::sleep_punctually();
        // Answers a ping received meanwhile.
        self.outlet.send()?;
        let start = clock::now_us();
        let end = from.saturating_add(count);
        let mut next = from;
        while next < end && !stop.load(Ordering::Relaxed) {
            match pace {
                Pace::Rate(rate) => {
                    let due_us = start + clock::due_after_us(next - from, *rate);
                    clock::sleep_until(due_us);
                    self.add(next, due(due_us, clock::now_us(), self.wake_up_us));
                    next += 1;
                }
                Pace::Burst => {
                    while next < end && self.outlet.waiting_bytes() < BURST_BYTES {
                        self.add(next, start);
                        next += 1;
                    }
                }
                Pace::InFlight { window, arrived } => {
                    let until = (arrived.load(Ordering::Acquire) + window + 1).min(end);
                    if next >= until {
                        std::thread::sleep(Duration::from_micros(50));
                        continue;
                    }
                    self.add(next, clock::now_us());
                    next += 1;
                }
            }
            self.outlet.send()?;
        }
        self.outlet.settle()?;
        Ok(next - from)
    }

    /// Adds a message to the next write, stamped with the due time: if the publisher cannot keep up, the stamp is
    /// older and the latency includes the delay.
    fn add(&mut self, n: u64, due_us: u64) {
        let late_us = clock::now_us().saturating_sub(due_us);
        self.late.saturating_record(late_us);
        if let Some(delays) = &mut self.delays {
            delays.push(Sent { due_us, late_us });
        }
        let payload = self.payload.stamped(due_us, n);
        self.outlet.add(&self.subject, payload);
    }
}

/// The time at which a message is due: when sent at `now_us`, but at most `wake_up_us` after the schedule.
fn due(scheduled_us: u64, now_us: u64, wake_up_us: u64) -> u64 {
    now_us.clamp(scheduled_us, scheduled_us + wake_up_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_counts_from_the_end_of_the_time_for_the_wake_up() {
        assert_eq!(
            [1_000, 1_030].map(|now_us| due(1_000, now_us, 0)),
            [1_000; 2]
        );
        let due = [1_000, 1_030, 1_100, 9_000].map(|now_us| due(1_000, now_us, 100));
        assert_eq!(due, [1_000, 1_030, 1_100, 1_100]);
    }
}
