//! `loadtest publish nats`: stamped messages on a subject, by an absolute schedule.
#![allow(
    deprecated,
    reason = "every entry point of the nats crate is marked so in favour of async-nats"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;

use crate::clock;
use crate::fault::Fault;
use crate::fleet::histogram;
use crate::payload::Payload;

/// The bus to publish on.
#[derive(Debug, Subcommand)]
pub(crate) enum PublishCommand {
    /// Publish to a NATS subject (core publish; a stream on the subject stores the messages)
    Nats(PublishNats),
}

/// Options of `loadtest publish nats`.
#[derive(Debug, Args)]
pub(crate) struct PublishNats {
    /// NATS server
    #[arg(long, default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    nats: String,
    /// Subject to publish on
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
    /// All at once instead of at the rate, with one flush at the end
    #[arg(long)]
    burst: bool,
}

/// Runs `loadtest publish`.
pub(crate) fn run(command: PublishCommand, stop: &AtomicBool) -> Result<(), Fault> {
    let PublishCommand::Nats(a) = command;
    let mut publisher = Publisher::connect(&a.nats, &a.subject, a.bytes)?;
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
    /// All at once, one flush at the end.
    Burst,
    /// As soon as fewer than `window` messages are under way.
    InFlight {
        /// Most messages under way.
        window: u64,
        /// Number of the newest message received by all clients.
        arrived: Arc<AtomicU64>,
    },
}

/// A connection for stamped payloads.
pub(crate) struct Publisher {
    connection: nats::Connection,
    subject: String,
    payload: Payload,
    changed: f64,
    /// Delay of each message after the intended time, microseconds.
    late: Histogram<u64>,
}

impl Publisher {
    /// Connects to NATS.
    pub(crate) fn connect(url: &str, subject: &str, bytes: usize) -> Result<Self, Fault> {
        let connection = nats::Options::new()
            .with_name("loadtest publisher")
            .connect(url)
            .map_err(|e| Fault::Bus(format!("connect {url}: {e}")))?;
        Ok(Self {
            connection,
            subject: subject.to_owned(),
            payload: Payload::new(bytes),
            changed: 0.0,
            late: histogram(),
        })
    }

    /// Makes this share of each payload differ from the previous payload.
    pub(crate) fn changing(mut self, share: f64) -> Self {
        self.changed = share;
        self.payload = self.payload.changing(share);
        self
    }

    /// Sets the payload size of later messages.
    pub(crate) fn resize(&mut self, bytes: usize) {
        self.payload = Payload::new(bytes).changing(self.changed);
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
        let start = clock::now_us();
        for i in 0..count {
            if stop.load(Ordering::Relaxed) {
                return Ok(i);
            }
            let due_us = match pace {
                Pace::Rate(rate) => start + (i as f64 * 1e6 / rate.max(1e-6)) as u64,
                Pace::Burst => start,
                Pace::InFlight { window, arrived } => {
                    while from + i > arrived.load(Ordering::Acquire) + window
                        && !stop.load(Ordering::Relaxed)
                    {
                        std::thread::sleep(std::time::Duration::from_micros(50));
                    }
                    clock::now_us()
                }
            };
            clock::sleep_until(due_us);
            self.one(from + i, due_us)?;
            if !matches!(pace, Pace::Burst) {
                self.flush()?;
            }
        }
        self.flush()?;
        Ok(count)
    }

    /// Publishes a message, stamped with the due time: if the publisher cannot keep up, the stamp is
    /// older and the latency includes the delay.
    fn one(&mut self, n: u64, due_us: u64) -> Result<(), Fault> {
        self.late
            .saturating_record(clock::now_us().saturating_sub(due_us));
        let payload = self.payload.stamped(due_us, n);
        self.connection
            .publish(&self.subject, payload)
            .map_err(|e| Fault::Bus(format!("publish: {e}")))
    }

    /// Flushes the connection: otherwise the flush thread of the crate sends up to 5 ms later.
    fn flush(&self) -> Result<(), Fault> {
        self.connection
            .flush()
            .map_err(|e| Fault::Bus(format!("flush: {e}")))
    }
}
