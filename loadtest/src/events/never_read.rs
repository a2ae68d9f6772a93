//! The effect of devices that never read on the other devices.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use super::pusher::Pusher;
use super::rounds::Rounds;
use super::service::Service;
use super::{ANSWER_AFTER_US, Common, LATE_US, SETTLE_US, devices, judge, server, verdict};
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Latency};
use crate::launch::Program;
use crate::metrics;
use crate::report::{self, mib, row, spread_text, table};
use crate::stats::{Spread, median};

/// Size of the events for filling the sockets of the stuck devices.
const FILL_BYTES: usize = 16 * 1024;
/// Events that must be enough to fill a socket.
const FILL_MAX: u64 = 500;

/// Options of `loadtest events never-read`.
#[derive(Debug, Args)]
pub(crate) struct NeverReadArgs {
    #[command(flatten)]
    common: Common,
    /// Devices in all
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Devices that never read
    #[arg(long, default_value_t = 10)]
    stuck: usize,
    /// Pushes per second; each names all devices
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Size of an event's data (at least 128)
    #[arg(long, default_value_t = 2048)]
    bytes: usize,
    /// Length of a part: shorter than the server's limit for a client that never reads
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Rounds; each has a part with and a part without the stuck devices, on a fresh server
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Fail when the median of the others' p99, with over without, is above this
    #[arg(long, default_value_t = 1.2)]
    ratio_max: f64,
}

/// A part of a round.
#[derive(Serialize)]
struct Part {
    stuck: usize,
    /// Latency of each delivery to the other devices, from the due time of the push.
    latency: Latency,
    /// Time until the last of the other devices had a push, median.
    last_ms: f64,
    /// Deliveries to the other devices: missing, and received again.
    missing: u64,
    twice: u64,
    /// Stuck devices still connected.
    stuck_at_end: u64,
    /// Bytes in the queues at the end; a frame counts once for each queue.
    queued_bytes: u64,
    /// Memory of all frames at the end; a frame counts once.
    frame_bytes: u64,
}

/// The result of `loadtest events never-read`.
#[derive(Serialize)]
struct Outcome {
    /// Figures of the other devices, with over without, of the parts of the same round.
    p99_ratio: Option<Spread>,
    last_ratio: Option<Spread>,
    parts: Vec<Part>,
}

/// Runs the scenario; fails when an event to another device is missing or late.
pub(super) fn run(a: &NeverReadArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.stuck == 0 || a.stuck >= a.devices || a.rate <= 0.0 {
        return Err(Fault::Usage(
            "--stuck must be from 1 to less than --devices, --rate above 0".into(),
        ));
    }
    let rounds = Rounds::measure(a.rounds, |round, stuck| {
        let part = part(a, if stuck { a.stuck } else { 0 }, stop)?;
        eprintln!(
            "round {round}, {} never read: p99 {:.2} ms, last {:.2} ms, {} still connected",
            part.stuck, part.latency.p99_ms, part.last_ms, part.stuck_at_end
        );
        Ok(part)
    })?;
    let outcome = Outcome {
        p99_ratio: rounds.ratio(|part| part.latency.p99_ms),
        last_ratio: rounds.ratio(|part| part.last_ms),
        parts: rounds.into_parts(),
    };
    println!("{}", outcome.text());
    report::write_json(a.common.json.as_deref(), &outcome)?;
    outcome.verdict(a)
}

fn part(a: &NeverReadArgs, stuck: usize, stop: &Arc<AtomicBool>) -> Result<Part, Fault> {
    // Never called; the server requires a service.
    let service = Service::start(Some(ANSWER_AFTER_US))?;
    let server = server(&a.common, &service, &service)?;
    let others = a.devices - a.stuck;
    let mut fleet = devices(&server, "device", Kind::Reader, others, stop)?;
    let stuck_devices = devices(&server, "stuck", Kind::Stuck, stuck, stop)?;
    let stuck_ids = || (0..a.stuck).map(|n| format!("stuck-{n}"));
    if stuck > 0 {
        fill(&server, &mut fleet, stuck_ids(), stuck)?;
    }
    let ids = (0..others).map(|n| format!("device-{n}"));
    let mut pusher = Pusher::connect(server.addr, ids.chain(stuck_ids()), a.bytes)?;
    // An uncounted push.
    last_of(&mut fleet, &mut pusher, clock::now_us(), 1, others)?;
    fleet.count_from(2);
    let count = (a.seconds * a.rate).max(1.0) as u64;
    let start_us = clock::now_us() + SETTLE_US;
    let mut lasts_ms = Vec::new();
    for i in 0..count {
        let due_us = start_us + clock::due_after_us(i, a.rate);
        fleet.run_until(due_us)?;
        let want = (i + 1) * others as u64;
        let last_us = last_of(&mut fleet, &mut pusher, due_us, i + 2, want as usize)?;
        lasts_ms.push((last_us - due_us) as f64 / 1e3);
    }
    fleet.run(SETTLE_US, |_| false)?;
    let read = |name| metrics::value(server.addr, name).map(|value| value.unwrap_or(0.0) as u64);
    let tally = &fleet.readers;
    let part = Part {
        stuck,
        latency: tally.latency(),
        last_ms: median(&lasts_ms),
        missing: (count * others as u64).saturating_sub(tally.deliveries),
        twice: tally.not_rising,
        stuck_at_end: read("weirgate_clients")?.saturating_sub(others as u64),
        queued_bytes: read("weirgate_send_queue_bytes")?,
        frame_bytes: read("weirgate_frame_bytes_alive")?,
    };
    stuck_devices.close();
    fleet.close();
    Ok(part)
}

/// Pushes, and reads until the other devices have `want` deliveries; returns the time of the last.
fn last_of(
    fleet: &mut Fleet,
    pusher: &mut Pusher,
    due_us: u64,
    n: u64,
    want: usize,
) -> Result<u64, Fault> {
    pusher.push(due_us, n)?;
    fleet.run(LATE_US, |f| f.readers.deliveries >= want as u64)?;
    let last_us = clock::now_us();
    pusher.sent()?;
    Ok(last_us)
}

/// Pushes to the stuck devices until each has a waiting push.
fn fill(
    server: &Program,
    others: &mut Fleet,
    ids: impl Iterator<Item = String>,
    stuck: usize,
) -> Result<(), Fault> {
    const WAITING: &str = "weirgate_messages_waiting";
    let mut pusher = Pusher::connect(server.addr, ids, FILL_BYTES)?;
    let mut waiting = 0.0;
    for n in 0..FILL_MAX {
        pusher.push(clock::now_us(), n)?;
        pusher.sent()?;
        // The response comes before the server has tried to write.
        others.run(20_000, |_| false)?;
        let now = metrics::value(server.addr, WAITING)?;
        let now = now.ok_or_else(|| Fault::Server(format!("no {WAITING} in /metrics")))?;
        if now - waiting >= stuck as f64 {
            return Ok(());
        }
        waiting = now;
    }
    Err(Fault::Server("those who never read take everything".into()))
}

impl Outcome {
    fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"never read",
            &"p50 ms",
            &"p99 ms",
            &"max ms",
            &"last ms",
            &"missing",
            &"twice",
            &"connected",
            &"queued MiB",
            &"frames MiB",
        ])];
        for part in &self.parts {
            rows.push(row(&[
                &part.stuck,
                &format!("{:.2}", part.latency.p50_ms),
                &format!("{:.2}", part.latency.p99_ms),
                &format!("{:.2}", part.latency.max_ms),
                &format!("{:.2}", part.last_ms),
                &part.missing,
                &part.twice,
                &part.stuck_at_end,
                &mib(part.queued_bytes),
                &mib(part.frame_bytes),
            ]));
        }
        format!(
            "{}p99 with over without: {}\nlast with over without: {}\n",
            table(&rows),
            spread_text(self.p99_ratio),
            spread_text(self.last_ratio)
        )
    }

    fn verdict(&self, a: &NeverReadArgs) -> Result<(), Fault> {
        let mut wrong = Vec::new();
        let missing: u64 = self.parts.iter().map(|part| part.missing).sum();
        let twice: u64 = self.parts.iter().map(|part| part.twice).sum();
        if missing + twice > 0 {
            wrong.push(format!(
                "{missing} deliveries are missing, {twice} came twice"
            ));
        }
        judge(&mut wrong, "p99 ratio", self.p99_ratio, a.ratio_max);
        judge(&mut wrong, "last ratio", self.last_ratio, a.ratio_max);
        verdict(&wrong)
    }
}
