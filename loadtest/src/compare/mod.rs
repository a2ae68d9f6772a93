//! `loadtest compare`: measures servers and the raw limits in turn, round by round, each on a
//! bus of its own.

mod contestants;
mod measured;
mod pace;
mod page;
mod relayed;
mod result;
mod round;
mod table;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};

use crate::bus::Bus;
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::limit::Gateway;
use crate::machine::Machine;
use crate::process;
use crate::progress::Progress;
use crate::wire::deflate::DeflateArgs;
pub(crate) use contestants::ServerCommand;
use contestants::{Contestant, Role, ServerText};
use measured::Measured;
use relayed::Relayed;
use result::{Case, Comparison};
use round::Load;

/// Options of `loadtest compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Server under test, repeatable: a command with {port} and {nats} or {redis} replaced, NATS_URL and
    /// GATEWAY_PORT set, or the variables of the gateway; NAME= in front names it in the results
    #[arg(
        long,
        value_name = "[NAME=]COMMAND",
        required_unless_present = "aa",
        verbatim_doc_comment
    )]
    server: Vec<ServerCommand>,
    /// Also a second instance of the limit, which shows the noise
    #[arg(long)]
    aa: bool,
    /// Limits in each round
    #[arg(long, value_enum, default_value_t = Limits::Both)]
    limits: Limits,
    /// Ratios in the table are to the limit with joined frames (all frames of a turn in one send)
    #[arg(long)]
    limit_batched: bool,
    /// The limits speak TLS: TLS 1.3 with AES-128-GCM; TLS_CERT and TLS_KEY name the files of the certificates and the key
    /// (PEM), as for the servers in loadtest/peers
    #[arg(long, requires = "ca_file")]
    limit_tls: bool,
    /// Gateway of the servers: what is published, what the clients ask for, and what the limits send
    #[arg(long, value_enum, default_value_t = Gateway::Levels)]
    gateway: Gateway,
    /// Bus of the servers: nats or jetstream for levels (the way of the limits; weirgate reads from JetStream), nats or redis for
    /// channels, redis for trades [default: nats for levels, redis for the others]
    #[arg(long, value_enum, verbatim_doc_comment)]
    bus: Option<Bus>,
    /// Path of the servers' WebSocket [default: the path of the gateway, /ws/stream for levels]
    #[arg(long)]
    path: Option<String>,
    /// Subject of all servers of levels [default: market.flow]
    #[arg(long)]
    subject: Option<String>,
    /// Run only the measured server: start it and its bus for each part, and stop both after it
    #[arg(long)]
    solo: bool,
    /// Measure a part again if loadtest itself was late (p50 or p99 refused), at most this often
    #[arg(long, default_value_t = 0, value_name = "TIMES")]
    repeat_late: usize,
    /// Time for the publisher to wake up, microseconds: within this time a message is due when it is sent, later at the end
    /// of this time. A latency loses so much at most
    #[arg(
        long,
        default_value_t = 0,
        value_name = "MICROSECONDS",
        conflicts_with = "in_flight"
    )]
    wake_up_us: u64,
    /// Run clients and publisher before all other programs, so that they are late less often (root, or CAP_SYS_NICE)
    #[arg(long)]
    ahead: bool,
    /// Rounds (each has one part per server, number of clients and size)
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Clients of each part; several numbers are measured in turn
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    clients: Vec<usize>,
    /// Size of a payload; several sizes are measured in turn
    #[arg(long, value_delimiter = ',', default_value = "8192")]
    bytes: Vec<usize>,
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
    #[command(flatten)]
    deflate: DeflateArgs,
    /// The clients of this server offer no compression, repeatable: compare a server with itself
    #[arg(long, value_name = "NAME", requires = "deflate")]
    plain: Vec<String>,
    /// The clients of this server speak TLS, repeatable: its command listens with TLS on {port}
    #[arg(long, value_name = "NAME", requires = "ca_file")]
    tls: Vec<String>,
    /// Text that each client of this server sends once open, repeatable; \r and \n stand for themselves: a server that
    /// sends nothing before it is asked
    #[arg(long, value_name = "NAME=TEXT")]
    send: Vec<ServerText>,
    /// Path of the WebSocket of this server, repeatable
    #[arg(long, value_name = "NAME=PATH")]
    path_of: Vec<ServerText>,
    /// Certificates to trust (PEM), for --tls and --limit-tls; the certificate has to name 127.0.0.1
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Share of a payload that differs from the payload before it, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    changed: f64,
    /// One more part per server in which its system calls are counted
    #[arg(long)]
    syscalls: bool,
    /// Fail when a server's median CPU ratio is above this
    #[arg(long, value_name = "RATIO")]
    cpu_ratio_max: Option<f64>,
    /// Fail when a server's median p99 ratio is above this
    #[arg(long, value_name = "RATIO")]
    p99_ratio_max: Option<f64>,
    /// Fail when a server's system calls per delivery are above this (needs --syscalls)
    #[arg(long, value_name = "CALLS", requires = "syscalls")]
    calls_max: Option<f64>,
    /// Servers on CPU 0, clients, publisher and NATS on CPU 1
    #[arg(long)]
    pin: bool,
    /// Write the result with all samples as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots, the table for a Markdown document, and the JSON
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// The limits in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Limits {
    /// One send per client and message, and the limit with joined frames
    Both,
    /// One send per client and message
    Raw,
    /// All frames of a turn in one send per client
    Coalescing,
    /// The raw limit, of one thread, and the floor, with a second thread for the bus; both join the frames of a turn
    Threads,
    /// None: servers against the first server
    None,
}

/// Options of `loadtest report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Result of `compare --json`
    json: PathBuf,
    /// Folder of the page
    dir: PathBuf,
}

/// Runs `loadtest report`.
pub(crate) fn report(args: &ReportArgs) -> Result<(), Fault> {
    let name = args.json.display().to_string();
    let text = std::fs::read(&args.json).tried(&name)?;
    let result = serde_json::from_slice(&text)
        .map_err(|error| Fault::Usage(format!("{name} is no result of compare: {error}")))?;
    page::write(&args.dir, &result)
}

/// Runs `loadtest compare`; fails when a message was lost, or a server failed.
pub(crate) fn run(args: &CompareArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let cases = cases(args)?;
    let relayed = Relayed::of(args)?;
    let mut field = Field::new(contestants::all(args)?, cases.len());
    for contestant in field.contestants.iter_mut().filter(|_| !args.solo) {
        contestant.running(args, &relayed)?;
    }
    if args.pin {
        // All threads: the publishers' threads run already. Later threads inherit the CPU.
        process::Process::new(std::process::id())?.pin(1)?;
    }
    if args.ahead && process::Ahead::of_this_thread().is_none() {
        eprintln!("loadtest: --ahead has no effect: the kernel refuses the priority");
    }
    let load = Load {
        stop: Arc::clone(stop),
        args,
        relayed,
        machine: Machine::new()?,
        progress: Progress::new(args.rounds * cases.len() * field.contestants.len()),
        start_us: clock::now_us(),
    };
    let end = field.measure(&load, &cases)?;
    if args.syscalls && end.is_ok() {
        field.count_syscalls(&load, &cases)?;
    }
    load.progress.end();
    let cases = cases.into_iter().zip(field.measured);
    let result = Comparison::of(
        (args, &load.relayed),
        field.rounds,
        &field.contestants,
        cases,
    );
    drop(field.contestants);
    println!("{}", table::text(&result));
    result.write(args.json.as_deref(), args.report.as_deref())?;
    end?;
    result.verdict(args)?;
    match field.left_out.is_empty() {
        true => Ok(()),
        false => Err(Fault::Failed(format!(
            "left out: {}",
            field.left_out.join("; ")
        ))),
    }
}

/// The contestants, and their figures so far.
struct Field {
    contestants: Vec<Contestant>,
    /// For each case, in the order of the contestants.
    measured: Vec<Vec<Measured>>,
    /// Whole rounds.
    rounds: usize,
    /// Failed servers, with the faults.
    left_out: Vec<String>,
}

impl Field {
    fn new(contestants: Vec<Contestant>, cases: usize) -> Self {
        let nobody: Vec<Measured> = contestants.iter().map(Measured::new).collect();
        Self {
            measured: vec![nobody; cases],
            contestants,
            rounds: 0,
            left_out: Vec::new(),
        }
    }

    /// Measures all rounds. The inner result is [`Fault::Interrupted`] if the user stopped the run
    /// after at least a whole round; the figures so far are valid.
    fn measure(&mut self, load: &Load<'_>, cases: &[Case]) -> Result<Result<(), Fault>, Fault> {
        while self.rounds < load.args.rounds {
            match load.round(&mut self.contestants, cases, self.rounds) {
                Ok(parts) => {
                    for part in parts {
                        self.measured[part.case_index][part.which].add(part);
                    }
                    self.rounds += 1;
                }
                // A terminal also interrupts the started programs, so their fault may arrive first.
                Err(_) if self.rounds > 0 && load.stop.load(Ordering::Relaxed) => {
                    return Ok(Err(Fault::Interrupted));
                }
                Err((which, fault)) => self.leave_out(which, fault)?,
            }
        }
        Ok(Ok(()))
    }

    /// Leaves out a failed server with all its rounds; the current round starts again. Other faults, and
    /// faults of a limit or of the first server, are returned: the ratios need those contestants.
    fn leave_out(&mut self, which: usize, fault: Fault) -> Result<(), Fault> {
        let is_server = |c: &Contestant| c.role == Role::Server;
        let is_peer =
            is_server(&self.contestants[which]) && self.contestants[..which].iter().any(is_server);
        if !is_peer || !matches!(fault, Fault::Server(_)) {
            return Err(fault);
        }
        let name = self.contestants.remove(which).name;
        for of_case in &mut self.measured {
            of_case.remove(which);
        }
        eprintln!("loadtest: {name} is left out: {fault}");
        self.left_out.push(format!("{name} ({fault})"));
        Ok(())
    }

    /// Runs a further part with each contestant, to count system calls.
    fn count_syscalls(&mut self, load: &Load<'_>, cases: &[Case]) -> Result<(), Fault> {
        for (case_index, measured) in self.measured.iter_mut().enumerate() {
            for (which, measured) in measured.iter_mut().enumerate() {
                let case = (case_index, cases[case_index]);
                measured.syscalls_counted(load.part(&mut self.contestants, which, case, true)?);
            }
        }
        Ok(())
    }
}

/// Each size with each number of clients.
fn cases(args: &CompareArgs) -> Result<Vec<Case>, Fault> {
    if args.rounds == 0 || args.messages == 0 || args.clients.contains(&0) {
        return Err(Fault::Usage(
            "--rounds, --clients and --messages must be at least 1".into(),
        ));
    }
    let of_size = |bytes: &usize| {
        let bytes = *bytes;
        let with = move |clients: &usize| Case::new(*clients, bytes);
        args.clients.iter().map(with).collect::<Vec<_>>()
    };
    if !(0.0..=1.0).contains(&args.changed) {
        return Err(Fault::Usage("--changed must be from 0 to 1".into()));
    }
    Ok(args.bytes.iter().flat_map(of_size).collect())
}

/// The order of a round. Each round starts with another contestant; after a cycle the order is
/// reversed. Drift of the machine and after-effects of a part thus affect all contestants alike.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let backwards = (round / count) % 2 == 1;
    (0..count).map(move |position| {
        let turned = (position + round) % count;
        if backwards {
            count - 1 - turned
        } else {
            turned
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_at_every_place_and_after_every_other() {
        let rounds: Vec<Vec<usize>> = (0..6).map(|round| order(round, 3).collect()).collect();
        assert_eq!(rounds[..3], [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(rounds[3..], [[2, 1, 0], [1, 0, 2], [0, 2, 1]]);
        assert_eq!(order(7, 1).collect::<Vec<_>>(), [0]);
    }
}
