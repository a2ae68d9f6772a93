//! A server that stops while the clients reconnect at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use rustix::process::Signal;
use serde::Serialize;

use super::Common;
use super::swarm::Swarm;
use crate::clock;
use crate::fault::Fault;
use crate::launch;
use crate::publish::{Pace, Publisher};
use crate::report::{self, row, table};

/// Longest wait until all clients are open.
const OPEN_US: u64 = 20_000_000;
/// Longest wait for the server to stop.
const STOP_US: u64 = 30_000_000;

/// Options of `loadtest storm stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    common: Common,
    /// Clients
    #[arg(short = 'n', long, default_value_t = 1_000)]
    clients: usize,
    /// Bound of the time from SIGTERM to the end of the process, s
    #[arg(long, default_value_t = 1.2)]
    stop_max: f64,
}

/// The figures of a stop.
#[derive(Serialize)]
struct Stopped {
    /// From SIGTERM to the end of the process, seconds; `None` if the process did not end.
    stop_s: Option<f64>,
    /// Exit status of the process, or a text if the process did not end.
    end: String,
    /// Reconnect attempts of clients meanwhile.
    returns: u64,
    refused: u64,
}

/// Runs the stops; fails when a stop took too long or ended with another status than 0.
pub(super) fn run(a: &StopArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let mut stops = Vec::new();
    for _ in 0..a.common.rounds {
        stops.push(round(a, stop)?);
    }
    let mut rows = vec![row(&[&"stop s", &"returns", &"refused", &"end"])];
    for s in &stops {
        let took = s
            .stop_s
            .map_or_else(|| "never".into(), |s| format!("{s:.3}"));
        rows.push(row(&[&took, &s.returns, &s.refused, &s.end]));
    }
    println!("{}", table(&rows));
    report::write_json(a.common.json.as_deref(), &stops)?;
    let late = |s: &&Stopped| s.stop_s.is_none_or(|s| s > a.stop_max);
    let wrong = |s: &&Stopped| late(s) || s.end != "exit status: 0";
    match stops.iter().filter(wrong).count() {
        0 => Ok(()),
        n => Err(Fault::Failed(format!(
            "{n} of {} stops took more than {} s or ended with another status than 0",
            stops.len(),
            a.stop_max
        ))),
    }
}

fn round(a: &StopArgs, stop: &Arc<AtomicBool>) -> Result<Stopped, Fault> {
    let nats = launch::nats_server()?;
    let url = launch::nats_url(&nats);
    let mut server = launch::server(&a.common.server, &url)?;
    let mut publisher = Publisher::connect(&url, &a.common.subject, a.common.bytes)?;
    let mut swarm = Swarm::new(server.addr, &a.common.path, a.common.tls()?)?;
    publisher.publish(1, 1, &Pace::Burst, stop)?;
    swarm.call(a.clients)?;
    let end = clock::now_us() + OPEN_US;
    while swarm.open_count() < a.clients {
        swarm.turn(10_000)?;
        if clock::now_us() > end || swarm.refused > 0 {
            return Err(Fault::Server("not all clients could open".into()));
        }
    }
    swarm.let_come_back();
    server.signal(Signal::TERM)?;
    let asked = clock::now_us();
    let mut ended = None;
    while ended.is_none() && clock::now_us() < asked + STOP_US && !stop.load(Ordering::Relaxed) {
        swarm.turn(1_000)?;
        ended = server.wait(0)?;
    }
    let took = clock::now_us() - asked;
    Ok(Stopped {
        stop_s: ended.is_some().then_some(took as f64 / 1e6),
        end: ended.map_or_else(|| "it does not end".into(), |status| status.to_string()),
        returns: swarm.returns,
        refused: swarm.refused,
    })
}
