//! Thousands of simultaneous connects, beside a client with a feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::Args;
use serde::Serialize;

use super::Common;
use super::swarm::{Swarm, Times};
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Latency, Target};
use crate::launch;
use crate::publish::{Pace, Publisher};
use crate::report::{self, row, table};

/// Longest duration of a storm.
const STORM_US: u64 = 30_000_000;
/// The feed alone, before the storm.
const CALM_US: u64 = 1_000_000;

/// Options of `loadtest storm connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    common: Common,
    /// Clients that connect at once
    #[arg(short = 'n', long, default_value_t = 10_000)]
    clients: usize,
    /// WebSocket path of these clients; a path without the feed measures connecting, not the feed
    #[arg(long, default_value = "/ws/quiet")]
    quiet_path: String,
    /// Messages per second to the bystander
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Bound of the bystander's p99, ms
    #[arg(long, default_value_t = 15.0)]
    p99_max: f64,
    /// Bound of the time until all are open, s
    #[arg(long, default_value_t = 3.0)]
    open_max: f64,
    /// Bound of the slowest connect(2), s; a lost SYN costs a second
    #[arg(long, default_value_t = 1.0)]
    connect_max: f64,
}

/// The figures of a storm.
#[derive(Serialize)]
struct Storm {
    /// From the first connect(2) until all were open, seconds; `None` if some did not open.
    open_s: Option<f64>,
    /// Clients that opened.
    opened: usize,
    refused: u64,
    /// Longest connect(2), seconds.
    connect_max_s: f64,
    /// Longest time from a client's connect(2) to its 101, seconds.
    handshake_max_s: f64,
    /// The bystander's messages during the storm.
    bystander: Latency,
    messages: u64,
    bystander_closed: u64,
}

/// Runs the storms; fails when a bound was exceeded.
pub(super) fn run(a: &ConnectArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let mut storms = Vec::new();
    for _ in 0..a.common.rounds {
        storms.push(round(a, stop)?);
    }
    println!("{}", text(&storms));
    report::write_json(a.common.json.as_deref(), &storms)?;
    verdict(a, &storms)
}

fn round(a: &ConnectArgs, stop: &Arc<AtomicBool>) -> Result<Storm, Fault> {
    let nats = launch::nats_server()?;
    let url = launch::nats_url(&nats);
    let server = launch::server(&a.common.server, &url)?;
    let target = Target {
        tls: a.common.tls()?,
        addr: server.addr,
        path: a.common.path.clone(),
        deflate: None,
        send: None,
        throttle_kbit: 0,
    };
    let mut fleet = Fleet::new(target, Arc::clone(stop))?;
    let mut publisher = Publisher::connect(&url, &a.common.subject, a.common.bytes)?;
    fleet.open(Kind::Reader, 1)?;
    let halt = AtomicBool::new(false);
    let swarm = Swarm::new(server.addr, &a.quiet_path, a.common.tls()?)?;
    thread::scope(|scope| {
        let feed = scope.spawn(|| publisher.publish(1, u64::MAX, &Pace::Rate(a.rate), &halt));
        let storm = beside(&mut fleet, swarm, a.clients, stop);
        halt.store(true, Ordering::Relaxed);
        let fed = feed
            .join()
            .unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())));
        fed.and(storm)
    })
}

/// Runs the storm on a separate thread while the fleet reads the feed.
fn beside(
    fleet: &mut Fleet,
    mut swarm: Swarm,
    clients: usize,
    stop: &AtomicBool,
) -> Result<Storm, Fault> {
    fleet.run(CALM_US, |_| false)?;
    fleet.count_from(fleet.newest() + 1);
    thread::scope(|scope| {
        let storm = scope.spawn(move || -> Result<Swarm, Fault> {
            let end = clock::now_us() + STORM_US;
            swarm.call(clients)?;
            while swarm.open_count() + (swarm.refused as usize) < clients
                && clock::now_us() < end
                && !stop.load(Ordering::Relaxed)
            {
                swarm.turn(2_000)?;
            }
            Ok(swarm)
        });
        fleet.run(2 * STORM_US, |_| storm.is_finished())?;
        let (bystander, messages) = (fleet.readers.latency(), fleet.readers.deliveries);
        let swarm = storm
            .join()
            .unwrap_or_else(|_| Err(Fault::Server("the storm panicked".into())))?;
        let closed = fleet.readers.ends.values().sum();
        Ok(figures(&swarm, bystander, messages, closed))
    })
}

fn figures(swarm: &Swarm, bystander: Latency, messages: u64, bystander_closed: u64) -> Storm {
    let all: Vec<Times> = swarm.times().collect();
    let opened = swarm.open_count();
    let s = |us: u64| us as f64 / 1e6;
    let first = all.iter().map(|t| t.began_us).min().unwrap_or(0);
    let last = all.iter().map(|t| t.opened_us).max().unwrap_or(0);
    let longest = |to: fn(&Times) -> u64| {
        let took = all.iter().map(|t| to(t).saturating_sub(t.began_us));
        s(took.max().unwrap_or(0))
    };
    Storm {
        open_s: (opened == all.len()).then(|| s(last.saturating_sub(first))),
        opened,
        refused: swarm.refused,
        connect_max_s: longest(|t| t.connected_us),
        handshake_max_s: longest(|t| t.opened_us),
        bystander,
        messages,
        bystander_closed,
    }
}

fn text(storms: &[Storm]) -> String {
    let mut rows = vec![row(&[
        &"all open s",
        &"opened",
        &"refused",
        &"connect max s",
        &"handshake max s",
        &"messages",
        &"p50 ms",
        &"p99 ms",
        &"max ms",
    ])];
    for s in storms {
        rows.push(row(&[
            &s.open_s
                .map_or_else(|| "never".into(), |s| format!("{s:.2}")),
            &s.opened,
            &s.refused,
            &format!("{:.3}", s.connect_max_s),
            &format!("{:.3}", s.handshake_max_s),
            &s.messages,
            &format!("{:.2}", s.bystander.p50_ms),
            &format!("{:.2}", s.bystander.p99_ms),
            &format!("{:.2}", s.bystander.max_ms),
        ]));
    }
    table(&rows)
}

fn verdict(a: &ConnectArgs, storms: &[Storm]) -> Result<(), Fault> {
    let worst = |of: fn(&Storm) -> f64| storms.iter().map(of).fold(0.0, f64::max);
    let p99 = worst(|s| s.bystander.p99_ms);
    let open = worst(|s| s.open_s.unwrap_or(f64::INFINITY));
    let connect = worst(|s| s.connect_max_s);
    let closed = storms.iter().map(|s| s.bystander_closed).sum::<u64>();
    if p99 > a.p99_max || open > a.open_max || connect > a.connect_max || closed > 0 {
        return Err(Fault::Failed(format!(
            "p99 {p99:.1} ms (at most {}), all open after {open:.2} s (at most {}), slowest connect {connect:.2} s \
             (at most {}), {closed} bystanders closed",
            a.p99_max, a.open_max, a.connect_max
        )));
    }
    Ok(())
}
