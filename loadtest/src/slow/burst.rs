//! Many messages at once to clients that read.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use super::{Common, Stage};
use crate::clock;
use crate::drive::drive;
use crate::fault::Fault;
use crate::fleet::{Kind, Latency};
use crate::publish::Pace;
use crate::report;

/// Options of `loadtest slow burst`.
#[derive(Debug, Args)]
pub(crate) struct BurstArgs {
    #[command(flatten)]
    common: Common,
    /// Clients that read everything
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Messages at once
    #[arg(long, default_value_t = 400)]
    messages: u64,
    /// Longest wait for the newest message everywhere, seconds
    #[arg(long, default_value_t = 30.0)]
    wait: f64,
}

/// The result of `loadtest slow burst`.
#[derive(Serialize)]
struct Outcome {
    clients: usize,
    open_at_end: usize,
    /// Clients with the newest message as the last message.
    newest: usize,
    /// From the first publication until all clients had the newest message, seconds.
    newest_after_s: f64,
    deliveries: u64,
    /// Omitted messages (conflated), over all clients.
    skipped: u64,
    not_rising: u64,
    latency: Latency,
    rss_peak_bytes: u64,
}

/// Runs the scenario; fails when a client was dropped or does not end with the newest message.
pub(super) fn run(a: &BurstArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let mut stage = Stage::set(&a.common, 0, stop)?;
    stage.fleet.open(Kind::Reader, a.clients)?;
    let start = clock::now_us();
    let end_us = start + clock::seconds_us(a.wait);
    let numbers = 1..a.messages + 1;
    drive(
        &mut stage.fleet,
        &mut stage.publisher,
        numbers,
        &Pace::Burst,
        stop,
        |f, published| {
            let all = published && f.at_least(Kind::Reader, a.messages) == a.clients;
            all || clock::now_us() >= end_us
        },
    )?;
    let newest_after_s = (clock::now_us() - start) as f64 / 1e6;
    // A server that drops clients because of queued messages would do so now.
    stage.fleet.run(1_000_000, |_| false)?;
    let (fleet, process) = (&stage.fleet, stage.server.process()?);
    let outcome = Outcome {
        clients: a.clients,
        open_at_end: fleet.open_count(Kind::Reader),
        newest: fleet.at_least(Kind::Reader, a.messages),
        newest_after_s,
        deliveries: fleet.readers.deliveries,
        skipped: fleet.readers.skipped,
        not_rising: fleet.readers.not_rising,
        latency: fleet.readers.latency(),
        rss_peak_bytes: process.rss_peak_bytes()?,
    };
    println!(
        "{} of {} clients open, {} with the newest after {:.2} s; {} messages, {} left out, {} out of order; \
         max {:.0} ms; {} MiB at most",
        outcome.open_at_end,
        outcome.clients,
        outcome.newest,
        outcome.newest_after_s,
        outcome.deliveries,
        outcome.skipped,
        outcome.not_rising,
        outcome.latency.max_ms,
        report::mib(outcome.rss_peak_bytes)
    );
    report::write_json(a.common.json.as_deref(), &outcome)?;
    stage.fleet.close();
    let good =
        outcome.open_at_end == a.clients && outcome.newest == a.clients && outcome.not_rising == 0;
    if good {
        Ok(())
    } else {
        Err(Fault::Failed(
            "a client was dropped or does not have the newest message".into(),
        ))
    }
}
