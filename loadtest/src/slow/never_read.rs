//! Clients that never read, among readers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use super::{Common, Stage};
use crate::clock;
use crate::drive::drive;
use crate::fault::Fault;
use crate::fleet::{Kind, Percentiles};
use crate::metrics;
use crate::publish::Pace;
use crate::report::{self, mib, row, spread_text, table, unless_refused};
use crate::stats::{Spread, spread};

/// Options of `loadtest slow never-read`.
#[derive(Debug, Args)]
pub(crate) struct NeverReadArgs {
    #[command(flatten)]
    common: Common,
    /// Clients in all
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Clients that never read
    #[arg(long, default_value_t = 10)]
    stuck: usize,
    /// Messages per second
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Length of a part: longer than the server's stall limit
    #[arg(long, default_value_t = 45.0)]
    seconds: f64,
    /// Rounds; each has a part with and a part without the stuck clients, on a fresh server
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// A part of a round.
#[derive(Serialize)]
struct Part {
    stuck: usize,
    /// Latency for the readers; percentiles are `None` (refused) if loadtest itself was late.
    latency: Percentiles,
    lost: u64,
    readers_closed: u64,
    /// From the first message until the server's sockets were fewer by the stuck clients, seconds.
    gone_after_s: Option<f64>,
    /// Resident memory with all clients connected.
    rss_before_bytes: u64,
    rss_peak_bytes: u64,
    /// Closes counted by the server during the part, by reason.
    closes: BTreeMap<String, f64>,
}

/// The result of `loadtest slow never-read`.
#[derive(Serialize)]
struct Outcome {
    /// p99 of the readers, with over without, of the parts of the same round.
    p99_ratio: Option<Spread>,
    /// Growth of resident memory to the peak, with minus without, MiB.
    more_memory_mib: Option<Spread>,
    parts: Vec<Part>,
}

/// Runs the scenario; fails when a reader lost something or was closed, or a stuck client stayed.
pub(super) fn run(a: &NeverReadArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.stuck > a.clients {
        return Err(Fault::Usage("--stuck is more than --clients".into()));
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..a.rounds {
        let first_with = round % 2 == 0;
        for stuck in [first_with, !first_with] {
            let part = part(a, if stuck { a.stuck } else { 0 }, stop)?;
            eprintln!(
                "round {}: {} stuck, p99 {} ms, closes {:?}",
                round + 1,
                part.stuck,
                unless_refused(part.latency.p99_ms),
                part.closes
            );
            if stuck {
                with.push(part)
            } else {
                without.push(part)
            }
        }
    }
    let pairs = || with.iter().zip(&without);
    let growth = |p: &Part| p.rss_peak_bytes as f64 - p.rss_before_bytes as f64;
    let ratios: Vec<f64> = pairs()
        .filter_map(|(w, o)| Some(w.latency.p99_ms? / o.latency.p99_ms?))
        .collect();
    let more: Vec<f64> = pairs()
        .map(|(w, o)| (growth(w) - growth(o)) / (1024.0 * 1024.0))
        .collect();
    let outcome = Outcome {
        p99_ratio: spread(&ratios),
        more_memory_mib: spread(&more),
        parts: with.into_iter().chain(without).collect(),
    };
    println!("{}", outcome.text());
    report::write_json(a.common.json.as_deref(), &outcome)?;
    outcome.verdict()
}

fn part(a: &NeverReadArgs, stuck: usize, stop: &Arc<AtomicBool>) -> Result<Part, Fault> {
    let mut stage = Stage::set(&a.common, 0, stop)?;
    let process = stage.server.process()?;
    let readers = a.clients - a.stuck;
    stage.fleet.open(Kind::Stuck, stuck)?;
    stage.fleet.open(Kind::Reader, readers)?;
    stage.fleet.run(1_000_000, |_| false)?;
    let before = metrics::by_label(stage.server.addr, metrics::CLOSES, "reason")?;
    stage.fleet.run(500_000, |_| false)?;
    let (rss_before_bytes, sockets) = (process.rss_bytes()?, process.sockets()?);
    let count = (a.seconds * a.rate) as u64;
    let (start, mut look_at, mut gone_at) = (clock::now_us(), 0, None);
    let mut late_at = u64::MAX;
    let pace = Pace::Rate(a.rate);
    drive(
        &mut stage.fleet,
        &mut stage.publisher,
        1..count + 1,
        &pace,
        stop,
        |f, published| {
            let now = clock::now_us();
            if stuck > 0 && gone_at.is_none() && now >= look_at {
                look_at = now + 500_000;
                let gone = process.sockets().is_ok_and(|s| s + stuck <= sockets);
                gone_at = gone.then_some(now);
            }
            if published && late_at == u64::MAX {
                late_at = now + 3_000_000;
            }
            (published && f.readers.deliveries >= count * readers as u64) || now >= late_at
        },
    )?;
    let after = metrics::by_label(stage.server.addr, metrics::CLOSES, "reason")?;
    let late = stage.publisher.take_late();
    let tally = &stage.fleet.readers;
    let part = Part {
        stuck,
        latency: Percentiles::judged(&tally.latency, &[&late, &stage.fleet.late]),
        lost: (count * readers as u64).saturating_sub(tally.deliveries),
        readers_closed: tally.ends.values().sum(),
        gone_after_s: gone_at.map(|at| (at - start) as f64 / 1e6),
        rss_before_bytes,
        rss_peak_bytes: process.rss_peak_bytes()?,
        closes: metrics::risen(&before, &after),
    };
    stage.fleet.close();
    Ok(part)
}

impl Outcome {
    fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"stuck",
            &"p50 ms",
            &"p99 ms",
            &"max ms",
            &"lost",
            &"closed",
            &"gone after s",
            &"MiB before",
            &"MiB peak",
            &"closes by reason",
        ])];
        for p in &self.parts {
            rows.push(row(&[
                &p.stuck,
                &unless_refused(p.latency.p50_ms),
                &unless_refused(p.latency.p99_ms),
                &unless_refused(p.latency.max_ms),
                &p.lost,
                &p.readers_closed,
                &p.gone_after_s
                    .map_or_else(|| "-".into(), |s| format!("{s:.1}")),
                &mib(p.rss_before_bytes),
                &mib(p.rss_peak_bytes),
                &format!("{:?}", p.closes),
            ]));
        }
        format!(
            "{}p99 with over without: {}\nmore memory with, MiB: {}\n",
            table(&rows),
            spread_text(self.p99_ratio),
            spread_text(self.more_memory_mib)
        )
    }

    fn verdict(&self) -> Result<(), Fault> {
        let lost: u64 = self.parts.iter().map(|p| p.lost).sum();
        let closed: u64 = self.parts.iter().map(|p| p.readers_closed).sum();
        let stayed = self
            .parts
            .iter()
            .filter(|p| p.stuck > 0 && p.gone_after_s.is_none())
            .count();
        if lost + closed + stayed as u64 > 0 {
            return Err(Fault::Failed(format!(
                "{lost} messages lost, {closed} readers closed, stuck clients stayed in {stayed} parts"
            )));
        }
        Ok(())
    }
}
