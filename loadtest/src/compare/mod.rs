//! `loadtest compare`: a server and the raw limit on the same NATS subject, in turn, round by round.

mod result;
mod round;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use crate::fault::Fault;
use crate::launch::{self, Program};
use crate::process;
use crate::report;
use result::{Comparison, Measured};
use round::Load;

/// Options of `loadtest compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Server under test: a command with {port} and {nats} replaced, NATS_URL and GATEWAY_PORT set
    #[arg(long, value_name = "COMMAND", required_unless_present = "aa")]
    server: Option<String>,
    /// Also a second instance of the limit, which shows the noise
    #[arg(long)]
    aa: bool,
    /// Compare with the limit that joins the frames of a turn
    #[arg(long)]
    limit_batched: bool,
    /// Path of the server's WebSocket
    #[arg(long, default_value = "/ws/stream")]
    path: String,
    /// Subject that both read
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Rounds (each has one part per server)
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Clients of each part
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Size of a payload
    #[arg(long, default_value_t = 8192)]
    bytes: usize,
    /// Messages of each part
    #[arg(long, default_value_t = 100)]
    messages: u64,
    /// Messages per second
    #[arg(long, default_value_t = 20.0, conflicts_with = "in_flight")]
    rate: f64,
    /// Saturation: as fast as they arrive, with this many messages under way
    #[arg(long, value_name = "MESSAGES")]
    in_flight: Option<u64>,
    /// Messages before each part that are not counted
    #[arg(long, default_value_t = 10)]
    warm_up: u64,
    /// Wait after the handshakes and after the last message, seconds
    #[arg(long, default_value_t = 0.5)]
    settle: f64,
    /// Clients offer permessage-deflate (the limit declines it)
    #[arg(long)]
    deflate: bool,
    /// One more part per server in which its system calls are counted
    #[arg(long)]
    syscalls: bool,
    /// Fail when the median CPU ratio is above this
    #[arg(long, value_name = "RATIO")]
    cpu_ratio_max: Option<f64>,
    /// Fail when the median p99 ratio is above this
    #[arg(long, value_name = "RATIO")]
    p99_ratio_max: Option<f64>,
    /// Fail when the system calls per delivery are above this (needs --syscalls)
    #[arg(long, value_name = "CALLS", requires = "syscalls")]
    calls_max: Option<f64>,
    /// Servers on CPU 0, clients, publisher and NATS on CPU 1
    #[arg(long)]
    pin: bool,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `loadtest compare`; fails when a message was lost.
pub(crate) fn run(args: &CompareArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if args.rounds == 0 || args.clients == 0 || args.messages == 0 {
        return Err(Fault::Usage(
            "--rounds, --clients and --messages must be at least 1".into(),
        ));
    }
    let nats = launch::nats_server()?;
    let programs = programs(args, &nats)?;
    if args.pin {
        pin(&nats, &programs)?;
    }
    let load = Load {
        nats: &nats,
        stop: Arc::clone(stop),
        args,
    };
    let mut measured: Vec<Measured> = programs.iter().map(|p| Measured::new(&p.name)).collect();
    let mut publisher = load.publisher()?;
    let mut next_n = 1;
    for index in 0..args.rounds {
        for which in order(index, programs.len()) {
            let round = load.round(&programs[which], &mut publisher, &mut next_n, false)?;
            eprintln!(
                "round {}/{} {}: {}",
                index + 1,
                args.rounds,
                programs[which].name,
                round.line()
            );
            measured[which].add(round);
        }
    }
    if args.syscalls {
        for (program, measured) in programs.iter().zip(&mut measured) {
            let counted = load.round(program, &mut publisher, &mut next_n, true)?;
            measured.syscalls_per_delivery = counted.syscalls_per_delivery();
            measured.syscalls = counted.syscalls;
        }
    }
    let result = Comparison::of(args, measured);
    println!("{}", result.text());
    report::write_json(args.json.as_deref(), &result)?;
    result.verdict(args)
}

/// The limit first: the others are compared with it.
fn programs(args: &CompareArgs, nats: &Program) -> Result<Vec<Program>, Fault> {
    let url = launch::nats_url(nats);
    let mut programs = vec![launch::limit(&url, &args.subject, args.limit_batched)?];
    if let Some(template) = &args.server {
        programs.push(launch::server(template, &url)?);
    }
    if args.aa {
        let mut second = launch::limit(&url, &args.subject, args.limit_batched)?;
        second.name += " again";
        programs.push(second);
    }
    Ok(programs)
}

fn pin(nats: &Program, programs: &[Program]) -> Result<(), Fault> {
    for program in programs {
        program.process()?.pin(0)?;
    }
    nats.process()?.pin(1)?;
    // The publisher's threads start later and inherit it.
    process::pin_self(1)
}

/// Who goes first alternates, so that a drift of the machine falls on all alike.
fn order(round: usize, programs: usize) -> Vec<usize> {
    let forward = 0..programs;
    if round.is_multiple_of(2) {
        forward.collect()
    } else {
        forward.rev().collect()
    }
}
