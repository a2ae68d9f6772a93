//! `loadtest deploy`: starts a new instance beside the old instance behind nginx, then stops the old
//! instance. Meanwhile, reconnecting clients watch a state with steady updates. Clients of trades and
//! channels resume, and count lost and double messages.

mod outcome;
mod resume;
mod roll;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::outcome::{Outcome, RollOutcome};
use self::roll::{Rolled, Stage, next_instance};
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind};
use crate::launch;
use crate::publish::{Pace, Publisher};
use crate::report;

/// States published in a second.
const RATE: f64 = 10.0;
/// Seconds before each roll.
const PAUSE_S: f64 = 3.0;
/// Longest wait after a roll until all clients are open and up to date.
const SETTLE_US: u64 = 20_000_000;

/// The gateways that can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Gateway {
    /// States from NATS: each message is the whole state
    Levels,
    /// Trades from Redis by symbol: clients resume
    Trades,
    /// Redis channels and patterns: clients resume
    Channels,
}

/// Options of `loadtest deploy`.
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// Gateway of the server
    #[arg(long, value_enum, default_value_t = Gateway::Levels)]
    gateway: Gateway,
    /// Server: a command with {port} and {nats} (trades, channels: {redis}) replaced; NATS_URL
    /// (REDIS_URL) and the variable of the port are set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Server for every other roll, if another command
    #[arg(long, value_name = "COMMAND")]
    next_server: Option<String>,
    /// Path of the server's WebSocket [default: /ws/stream; trades: /; channels: /ws]
    #[arg(long)]
    path: Option<String>,
    /// Subject to publish on, levels only
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Clients, all through nginx
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Messages published in a second [default: 10; trades and channels: 20]
    #[arg(long)]
    rate: Option<f64>,
    /// Size of a payload, levels only
    #[arg(long, default_value_t = 2048)]
    bytes: usize,
    /// Instances that are replaced, one after the other
    #[arg(long, default_value_t = 2)]
    rolls: usize,
    /// Time between two rolls, and before the first, seconds; 0 rolls on (or back) at once [default:
    /// 3; kills of trades and channels: 12, so that the other instance knows every position]
    #[arg(long)]
    pause: Option<f64>,
    /// Time for which the new instance runs before the old instance is stopped, seconds; trades and
    /// channels only [default: 2]
    #[arg(long)]
    up: Option<f64>,
    /// The old instance is killed (SIGKILL) instead of stopped (SIGTERM)
    #[arg(long)]
    kill: bool,
    /// With --kill: all instances at once, trades and channels only; needs --stream
    #[arg(long, requires_all = ["kill", "stream"])]
    all: bool,
    /// Publish to this Redis stream, for a server with --stream; trades and channels only
    #[arg(long, value_name = "KEY")]
    stream: Option<String>,
    /// A resume that is not recovered is not a failure
    #[arg(long)]
    allow_false: bool,
    /// Repetitions of the whole run, each with fresh processes
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Longest time of a client without a newer state; trades and channels: from the end of a
    /// connection to the first message after the resume; seconds
    #[arg(long, default_value_t = 2.0)]
    gap_max: f64,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl DeployArgs {
    /// The server for the roll with this number, from 0.
    fn command(&self, number: usize) -> &str {
        match (&self.next_server, number % 2) {
            (Some(next), 0) => next,
            _ => &self.server,
        }
    }
}

/// Runs `loadtest deploy`; fails when a client was without fresh data for too long, saw an older
/// state after a newer state, or is not back at the end.
pub(crate) fn run(a: &DeployArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.gateway != Gateway::Levels {
        return resume::run(a, stop);
    }
    let mut outcome = Outcome::new(a.clients, a.gap_max);
    for round in 0..a.repeat {
        let rolls = round_of(a, round as u64, stop)?;
        for roll in rolls {
            eprintln!("round {}: {}", round + 1, roll.text());
            outcome.rolls.push(roll);
        }
    }
    println!("{}", outcome.text());
    report::write_json(a.json.as_deref(), &outcome)?;
    outcome.verdict()
}

/// Runs all rolls of a repetition.
fn round_of(a: &DeployArgs, seed: u64, stop: &Arc<AtomicBool>) -> Result<Vec<RollOutcome>, Fault> {
    let mut stage = Stage::set(a, stop)?;
    let mut publisher = Publisher::connect(&stage.nats_url, &a.subject, a.bytes)?;
    let pace = Pace::Rate(a.rate.unwrap_or(RATE));
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let publishing = scope.spawn(|| publisher.publish(1, u64::MAX, &pace, &enough));
        let rolls = rolls(a, &mut stage, seed);
        enough.store(true, Ordering::Relaxed);
        let published = publishing.join();
        published.unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())))?;
        rolls
    })
}

fn rolls(a: &DeployArgs, stage: &mut Stage, seed: u64) -> Result<Vec<RollOutcome>, Fault> {
    let fleet = &mut stage.fleet;
    fleet.open(Kind::Reader, a.clients)?;
    fleet.let_come_back(seed);
    let mut outcomes = Vec::new();
    for number in 0..a.rolls {
        fleet.run(clock::seconds_us(a.pause.unwrap_or(PAUSE_S)), |_| false)?;
        fleet.forget_gaps();
        let command = a.command(number);
        let (addr, url) = (stage.free, stage.nats_url.as_str());
        let old = stage.instance.take();
        let start = || launch::server_at(command, url, addr);
        let (next, rolled) =
            while_watched(fleet, || next_instance(start, Duration::ZERO, old, a.kill))?;
        stage.free = rolled.left;
        stage.instance = Some(next);
        outcomes.push(settle(fleet, a.clients, rolled)?);
    }
    Ok(outcomes)
}

/// Runs `work` on another thread while the clients read.
fn while_watched<T: Send>(
    fleet: &mut Fleet,
    work: impl FnOnce() -> Result<T, Fault> + Send,
) -> Result<T, Fault> {
    thread::scope(|scope| {
        let working = scope.spawn(work);
        let read = fleet.run(u64::MAX / 2, |_| working.is_finished());
        let worked = working.join();
        read?;
        worked.unwrap_or_else(|_| Err(Fault::Server("the roll panicked".into())))
    })
}

/// Waits until every client is open and up to date, and returns the figures of the roll.
fn settle(fleet: &mut Fleet, clients: usize, rolled: Rolled) -> Result<RollOutcome, Fault> {
    let newest = fleet.newest();
    let up_to_date = |f: &Fleet| f.at_least(Kind::Reader, newest + 1) == clients;
    fleet.run(SETTLE_US, up_to_date)?;
    let back = fleet.at_least(Kind::Reader, newest + 1);
    Ok(RollOutcome::of(fleet, back, &rolled))
}
