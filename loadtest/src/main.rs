//! loadtest: load, latency and memory of WebSocket servers: relays of a NATS subject or a Redis channel, compared
//! with the raw limit of one send(2) per client and message.

mod bus;
mod clients;
mod clock;
mod compare;
mod deploy;
mod drive;
mod fault;
mod fleet;
mod http;
mod launch;
mod limit;
mod machine;
mod memory;
mod metrics;
mod payload;
mod process;
mod progress;
mod publish;
mod report;
mod slow;
mod stamp;
mod stats;
mod storm;
mod syscalls;
mod tail;
mod tls;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use fault::{Fault, Tried};

/// Measures WebSocket servers and compares them with the raw limit. See docs/contributing/loadtest.md.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connect WebSocket clients and report latency, loss, order, CPU and memory
    Clients(clients::ClientsArgs),
    /// Publish stamped messages
    #[command(subcommand)]
    Publish(publish::PublishCommand),
    /// Serve as the raw limit: one non-blocking send per client and message
    Limit(limit::LimitArgs),
    /// Measure servers and the raw limits in turn, round by round
    Compare(compare::CompareArgs),
    /// Measure the slowest deliveries at a rate, and where they lost their time
    Tail(tail::TailArgs),
    /// Make the page of an earlier `compare --json`
    Report(compare::ReportArgs),
    /// Measure a server's resident memory per idle client
    Memory(memory::MemoryArgs),
    /// Measure the effect of slow clients on a server and on the other clients
    #[command(subcommand)]
    Slow(slow::SlowCommand),
    /// Measure the effect of thousands of simultaneous connects on a server and on another client
    #[command(subcommand)]
    Storm(storm::StormCommand),
    /// Replace a server behind nginx while clients watch
    Deploy(deploy::DeployArgs),
    /// Count the system calls of a running process
    Syscalls(syscalls::SyscallsArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("loadtest: {fault}");
            ExitCode::from(if matches!(fault, Fault::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

fn run(command: Command) -> Result<(), Fault> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second signal exits immediately; the first leaves time to stop child processes in order.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .tried("signals")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).tried("signals")?;
    }
    raise_open_files();
    match command {
        Command::Clients(args) => clients::run(&args, &stop),
        Command::Publish(command) => publish::run(command, &stop),
        Command::Limit(args) => limit::run(&args, stop),
        Command::Compare(args) => compare::run(&args, &stop),
        Command::Tail(args) => tail::run(&args, &stop),
        Command::Report(args) => compare::report(&args),
        Command::Memory(args) => memory::run(&args, &stop),
        Command::Slow(command) => slow::run(command, &stop),
        Command::Storm(command) => storm::run(command, &stop),
        Command::Deploy(args) => deploy::run(&args, &stop),
        Command::Syscalls(args) => syscalls::run(&args),
    }
}

/// Raises the limit of open files: a descriptor per connection; child processes inherit the limit.
/// Root can exceed the hard limit, other users cannot; a lack of descriptors fails at socket(2).
fn raise_open_files() {
    const WANTED: Option<u64> = Some(65_536);
    let set = |current, maximum| setrlimit(Resource::Nofile, Rlimit { current, maximum });
    if set(WANTED, WANTED).is_err() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let _ = set(hard, hard);
    }
}
