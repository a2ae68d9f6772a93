//! Clients that read a few kbit/s.

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

/// Options of `loadtest slow throttled`.
#[derive(Debug, Args)]
pub(crate) struct ThrottledArgs {
    #[command(flatten)]
    common: Common,
    /// Clients that read everything
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Clients that read slowly
    #[arg(long, default_value_t = 1)]
    throttle: usize,
    /// Reading rate of a slow client, kbit/s
    #[arg(long, default_value_t = 64)]
    throttle_kbit: u32,
    /// Messages per second
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Length of the run: longer than the server's stall limit
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Highest age of a message to a slow client, seconds
    #[arg(long, default_value_t = 5.0)]
    age_max: f64,
}

/// The result of `loadtest slow throttled`.
#[derive(Serialize)]
struct Outcome {
    throttled: usize,
    open_at_end: usize,
    messages: u64,
    /// Messages omitted for the slow clients.
    skipped: u64,
    /// Age of a message at the read of the last byte.
    age: Latency,
    readers: Latency,
    readers_lost: u64,
}

/// Runs the scenario; fails when a slow client was dropped, got nothing, or got an old message.
pub(super) fn run(a: &ThrottledArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let mut stage = Stage::set(&a.common, a.throttle_kbit, stop)?;
    stage.fleet.open(Kind::Throttled, a.throttle)?;
    stage.fleet.open(Kind::Reader, a.clients)?;
    let count = (a.seconds * a.rate) as u64;
    let expected = count * a.clients as u64;
    let end_us = clock::now_us() + clock::seconds_us(a.seconds + 2.0);
    let pace = Pace::Rate(a.rate);
    drive(
        &mut stage.fleet,
        &mut stage.publisher,
        1..count + 1,
        &pace,
        stop,
        |_, published| published && clock::now_us() >= end_us,
    )?;
    let outcome = Outcome {
        throttled: a.throttle,
        open_at_end: stage.fleet.open_count(Kind::Throttled),
        messages: stage.fleet.throttled.deliveries,
        skipped: stage.fleet.throttled.skipped,
        age: stage.fleet.throttled.latency(),
        readers: stage.fleet.readers.latency(),
        readers_lost: expected.saturating_sub(stage.fleet.readers.deliveries),
    };
    println!(
        "{} of {} slow clients open at the end; {} messages, {} left out; age p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n\
         readers: p99 {:.2} ms, {} lost",
        outcome.open_at_end,
        outcome.throttled,
        outcome.messages,
        outcome.skipped,
        outcome.age.p50_ms,
        outcome.age.p99_ms,
        outcome.age.max_ms,
        outcome.readers.p99_ms,
        outcome.readers_lost
    );
    stage.fleet.close();
    report::write_json(a.common.json.as_deref(), &outcome)?;
    let good = outcome.open_at_end == a.throttle
        && outcome.messages >= a.throttle as u64
        && outcome.age.max_ms <= a.age_max * 1e3
        && outcome.readers_lost == 0;
    if good {
        Ok(())
    } else {
        Err(Fault::Failed(
            "a slow client was dropped or saw old messages, or a reader lost some".into(),
        ))
    }
}
